"""Spot machines of a live run: they join, are taken away in the middle of a step, and others come in their place.

    chaos = Chaos(fleet, nodes=2, kills=3, how="mixed", steps=6)
    Live(fleet, plan, world=chaos)          before each step and between its turns the run asks it what happens

Which zone a node comes to and who is given back is the market's choice, as in the simulator; "a/spot-1" is of zone a.
A kill is a kill: SIGKILL of the engine's process or of its raylet; with a notice the instance drains first and its node
is killed then. It hits when responses of that instance have begun and have not ended, so that something can be lost.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

from workbench.rlboost.fleet import Fleet, FleetError
from workbench.rlboost.market import Market

if TYPE_CHECKING:
    from workbench.rlboost.live import Live

How = Literal["mixed", "actor", "node", "notice"]
TURN: tuple[How, ...] = ("node", "notice", "actor")  # of mixed
START_S = 60.0  # for a raylet to stand, before its engine is started
LOOK_S = 0.5  # between two looks for notices
DRAIN_S = 30.0  # from notice to kill
CALL_S = 30.0


class Chaos:
    """`asked` takes what a user wants done meanwhile: "kill NAME", "notice NAME", "add". For the thread of the run.

    nodes: instances at work before a step in which one is killed (every: before each). kills are spread over `steps`.
    zones: where new nodes can come to, in turn unless the market chooses.
    """

    def __init__(
        self,
        fleet: Fleet,
        nodes: int = 0,
        kills: int = 0,
        how: How = "mixed",
        steps: int = 1,
        *,
        every: bool = False,
        market: Market | None = None,
        zones: Sequence[str] = ("",),
    ) -> None:
        self.fleet, self.nodes, self.how, self.every = fleet, nodes, how, every
        self.market, self.zones = market or Market(), zones
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.due = schedule(kills, steps) if nodes else {}
        self.done: list[tuple[int, str, str]] = []  # (step, instance, how)
        self._number = self._scheduled = 0
        self._looked_s = self._began_s = 0.0  # the last look at notices, the last step's begin
        self._round_s = 0.0  # from one step's begin to the next's
        self._hit: set[str] = set()  # killed, and perhaps not missed yet
        self._going: set[str] = set()  # nodes that have had their notice
        self._coming: dict[str, Future[None]] = {}
        self._draining: dict[str, float] = {}  # instance -> when it is killed, s of the manager
        self._starts = ThreadPoolExecutor(1, "rlboost-nodes")  # a raylet takes seconds: the run goes on meanwhile

    # -- what the run calls ------------------------------------------------------------------------------------

    def before(self, live: Live) -> None:
        """A step begins: replace who is gone, wait for them where the step has a kill. FleetError: they are late."""
        now = live.manager.now()
        self._round_s, self._began_s = now - self._began_s, now
        self._meet(live)
        self._carry(live.trainer.version)
        wanted = self._wanted(live)
        self._release(live, wanted)
        for _ in range(max(0, wanted - len(self._there(live)) - len(self._coming))):
            self._add(live)
        if not self.every and not self.due.get(live.trainer.version) and live.trainer.version:
            return
        self._await(live, wanted)

    def between(self, live: Live) -> None:
        """A turn of the run: what is due, and what was asked for."""
        self._meet(live)
        for _ in range(self.asked.qsize()):  # what cannot be done yet is asked again, for the next turn
            self._do(live, self.asked.get())
        self._notices(live)
        for name, at in list(self._draining.items()):
            one = live.manager.instances.get(name)
            if one is None or (one.draining and not one.requests) or live.manager.now() > at:
                del self._draining[name]
                if one is not None and name not in self._hit:
                    self._kill(live, name, "node")
        step = live.trainer.version
        while self.due.get(step):
            victim = self._victim(live)
            if victim is None:
                return
            how = TURN[self._scheduled % len(TURN)] if self.how == "mixed" else self.how
            if not self._kill(live, victim, how):
                return
            self._scheduled += 1
            self.due[step] -= 1
            self.done.append((step, victim, how))

    def close(self) -> None:
        """Wait for a node that is being started: it is the fleet's to end."""
        self._starts.shutdown(wait=True, cancel_futures=True)

    # -- machines ----------------------------------------------------------------------------------------------

    def _await(self, live: Live, wanted: int) -> None:
        """Until so many are at work. FleetError: they are late; it says who is there and who is coming."""
        patience_s = START_S + live.manager.join_s
        end = time.perf_counter() + patience_s
        while len(ready := live.manager.ready()) < wanted and not live.stop():
            if time.perf_counter() > end:
                raise FleetError(
                    f"{wanted} instances were not at work within {patience_s:.0f} s; at work: {_listed(ready)}, "
                    f"joining: {_listed(set(live.manager.instances) - set(ready))}, "
                    f"nodes that start: {_listed(self._coming)}"
                )
            self._meet(live)
            if len(self._there(live)) + len(self._coming) < wanted:  # one was lost while it joined
                self._add(live)
            live.manager.hear(0.05)

    def _wanted(self, live: Live) -> int:
        """No more than pay, where the plan has a cap (N_prem of Algorithm 1)."""
        there = self.nodes if self.fleet.cluster is not None else len(live.manager.instances) or self.nodes
        return min(there, live.seeding.allowed()) if live.plan.cap else there

    def _release(self, live: Live, wanted: int) -> None:
        """Give back what does not pay, of a zone the newest first: it drains, and its node ends."""
        there, now = self._there(live), live.manager.now()
        kept = self.market.take(there, wanted, now, self._round_s)
        for name in [name for name in there if name not in kept]:
            self._going.add(name)
            self.market.left(name, now)
            live.manager.notice(name)
            self._draining[name] = now + DRAIN_S

    def _carry(self, step: int) -> None:
        """Kills that found nobody with something to lose are due in this step."""
        for earlier in [s for s in self.due if s < step]:
            if missed := self.due.pop(earlier):
                self.due[step] = self.due.get(step, 0) + missed

    @staticmethod
    def _there(live: Live) -> list[str]:
        return [name for name, one in live.manager.instances.items() if not one.draining]

    def _add(self, live: Live) -> None:
        """A node whose engine alone was killed gets another one; else a new node."""
        taken = {*live.manager.instances, *self._coming, *self._going}
        spare = [name for name in self.fleet.nodes if name not in taken]
        if spare:
            name = self._place(live, spare)
            self._hit.discard(name)
            live.manager.join(name)
            return
        self._number += 1
        turn = [self.zones[(self._number - 1 + at) % len(self.zones)] for at in range(len(self.zones))]
        name = self._place(live, [f"{zone}/spot-{self._number}" if zone else f"spot-{self._number}" for zone in turn])
        start = self.fleet.add if self.fleet.cluster is not None else lambda _: None
        self._coming[name] = self._starts.submit(start, name)

    def _place(self, live: Live, offered: Sequence[str]) -> str:
        """Which of these comes next: as the market says, for a step about as long as the last."""
        held = [*self._there(live), *self._coming]
        return self.market.take(offered, 1, live.manager.now(), self._round_s, held)[0]

    def _lives(self, live: Live) -> None:
        """Tell the market who came and who was lost since the last look."""
        now, there = live.manager.now(), live.manager.instances
        for name in [name for name in self.market.since_s if name not in there]:
            self.market.went(name, now)
        for name in there:
            if name not in self._going:
                self.market.came(name, now)

    def _notices(self, live: Live) -> None:
        """Nodes that Ray says are draining: a cloud's notice, or ours."""
        if live.manager.now() - self._looked_s < LOOK_S:
            return
        self._looked_s = live.manager.now()
        gone = self.fleet.draining()
        for name, one in live.manager.instances.items():
            if one.node in gone and not one.draining:
                live.manager.notice(name)

    def _meet(self, live: Live) -> None:
        """Nodes that have started become instances; one whose raylet ended by itself is cleared away."""
        for name in self.fleet.fallen():
            self.fleet.kill(name)
            live.manager.gone(name)
        for name, coming in list(self._coming.items()):
            if coming.done():
                del self._coming[name]
                coming.result()  # FleetError: no raylet, twice
                live.manager.join(name)
        self._lives(live)

    def _victim(self, live: Live) -> str | None:
        """Who has most to lose now: responses that have begun and have not ended."""
        entries = live.manager.ledger.entries
        begun = {
            name: sum(bool(entries[r].ids) and not entries[r].ended for r in one.requests)
            for name, one in live.manager.active().items()
            if name not in self._hit
        }
        return max(begun, key=lambda name: (begun[name], name)) if any(begun.values()) else None

    def _do(self, live: Live, asked: str) -> None:
        """What a user asked for; an instance that is gone meanwhile is no error."""
        what, _, name = asked.partition(" ")
        if what == "add":
            self._add(live)
        elif name in live.manager.instances and name not in self._hit:
            if self._kill(live, name, "notice" if what == "notice" else "node"):
                self.done.append((live.trainer.version, name, what))
            else:
                self.asked.put(asked)  # at the next turn again

    def _kill(self, live: Live, name: str, how: str) -> bool:
        """False: it cannot be killed now, for nobody knows its process yet."""
        one = live.manager.instances[name]
        if how == "notice":
            self._going.add(name)
            if self.fleet.cluster is not None:
                self.fleet.drain(name, DRAIN_S)  # the manager hears of it as of a cloud's: from Ray
            else:
                live.manager.notice(name)
            self._draining[name] = live.manager.now() + DRAIN_S
            return True
        if how == "actor" or self.fleet.cluster is None:
            pid = _process(one)
            if pid is None:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        else:
            self.fleet.kill(name)
        self._hit.add(name)
        return True


class Storm(Chaos):
    """Kills at random: every step has a schedule of its own, drawn from (seed, step).

    One or two kills a step, each when a drawn share of the step's tokens is there, of a drawn instance and kind. Who
    is at work then is hit, also while it joins or pulls; others come in their place. A kill
    that found nobody in its step opens the next one.
    """

    def __init__(self, fleet: Fleet, nodes: int, seed: int) -> None:
        super().__init__(fleet, nodes)
        self.seed, self._step = seed, -1
        self._drawn: list[tuple[float, How]] = []  # (share of the tokens, how), soonest last
        self._lot = random.Random()

    def before(self, live: Live) -> None:
        """One instance is enough to begin with: the others join meanwhile, and may be killed while they do."""
        self._meet(live)
        for _ in range(self.nodes - len(self._there(live)) - len(self._coming)):
            self._add(live)
        self._await(live, 1)

    def between(self, live: Live) -> None:
        if live.trainer.version != self._step:
            self._step = live.trainer.version
            self._lot = random.Random(f"{self.seed}|{self._step}")
            count = self._lot.choice((1, 1, 1, 2))
            kinds: tuple[How, ...] = ("actor", "actor", "actor", "actor", "node", "notice")
            drawn = [(self._lot.random() * 0.9, self._lot.choice(kinds)) for _ in range(count)]
            self._drawn = sorted([*drawn, *((0.0, how) for _, how in self._drawn)], reverse=True)
        super().between(live)
        whole = live.plan.responses * live.plan.most
        while self._drawn and live.manager.ledger.tokens() >= self._drawn[-1][0] * whole:
            names = [name for name in self._there(live) if name not in self._hit]
            if not names:
                return
            self._lot.shuffle(names)
            how = self._drawn[-1][1]
            name = next((each for each in names if self._kill(live, each, how)), None)
            if name is None:
                return
            self._drawn.pop()
            self.done.append((self._step, name, how))


def _process(one: Any) -> int | None:
    """The pid of an engine, None while it starts or where it is gone: a run does not wait for it."""
    import ray

    if not ray.wait([one.process], timeout=0)[0]:
        return None
    try:
        return int(ray.get(one.process, timeout=CALL_S))
    except ray.exceptions.RayError:
        return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def schedule(kills: int, steps: int) -> dict[int, int]:
    """How many in which step: spread evenly, none before the second step where there is one."""
    first = 1 if steps > 1 else 0
    found: dict[int, int] = {}
    for number in range(kills):
        step = first + (number * max(1, steps - first)) // kills
        found[step] = found.get(step, 0) + 1
    return found

"""RLBoost and its rivals on a virtual clock (simpy): modelled, with the policies that a live run would use.

    for row in simulate(Setting(...), trace, steps=20): ...        a StepRow for each step of training

A step: requests are dealt to active engines; the reserved engines roll out for T_seed and hand on what is unfinished;
the trainer takes what has ended in micro-batches of at least m_b, in order of arrival; when all is trained, weights of
the next version are pulled by every instance, and those that come later pull when they come. Instances come and go by
the trace; of more than pay the market chooses. Cost is the integral of prices over the time that machines are held.

    co-located    no instances: rollout, then training, on the reserved machines (veRL)
    doubled       the same on twice the reserved machines (veRL.2x)
    disaggregated twice the machines, split between rollout and training for equal times, streaming (Disagg.BAL)
    rlboost       with switches for each of its parts
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import simpy

from workbench.rlboost.balance import Plateau, rebalance, select
from workbench.rlboost.engines import Engine, Link, Request
from workbench.rlboost.events import Trace
from workbench.rlboost.market import Market
from workbench.rlboost.rates import MODELS, PROMPT
from workbench.rlboost.seeding import Seeding, StepSeen
from workbench.rlboost.setting import Setting, StepRow
from workbench.system import Span

THETA = 4  # requests that wait at an instance beyond its batch
BALANCE_S = 5.0


def simulate(
    setting: Setting, trace: Trace, steps: int | None = None, told: Callable[[Span], None] | None = None
) -> Iterator[StepRow]:
    """Steps until `steps` are done or the trace ends. The same setting and trace give the same rows.

    `told` hears of spans: what each machine did when, with the decision behind it.
    """
    world = _World(setting, trace, told or (lambda _: None))
    number = 0
    while steps is None or number < steps:
        done = world.env.process(world.step(number))
        world.env.run(until=done)
        row = done.value
        if steps is None and row.end_s > trace.end_s:
            return
        yield row
        number += 1


class _World:
    """The machines of one run."""

    def __init__(self, setting: Setting, trace: Trace, told: Callable[[Span], None]) -> None:
        self.setting, self.told = setting, told
        self.env = simpy.Environment()
        self.model = setting.profile or MODELS[setting.model]
        double = setting.system in ("doubled", "disaggregated")
        self.curve = self.model.engine(setting.lengths)
        engines = self.model.local_engines * (2 if double else 1)
        self.nodes = max(1, engines // 4)
        self.local_count = self._rolling(engines) if setting.system == "disaggregated" else engines
        training = engines - self.local_count if setting.system == "disaggregated" else engines
        self.train_token_s = self.model.train_token_s * self.model.local_engines / training
        options = replace(setting.seeding, memory=setting.seeding.memory and "memory" not in setting.without)
        self.seeding = Seeding(options)
        self.plateau = Plateau()
        self.link = Link(self.env, setting.sender_gb_s * self.nodes, setting.instance_gb_s)
        self.central: deque[Request] = deque()
        self.ready: deque[Request] = deque()
        self.arrived = self.env.event()
        self.local: list[Engine] = []
        self.remote: dict[str, Engine] = {}  # active
        self.held: dict[str, float] = {}  # instance -> since when it is paid
        self.there: dict[str, None] = {}  # that the trace offers
        self.market = Market(setting.choice, dict(setting.prices))
        self.last_s = 0.0  # how long the last step took
        self.pulls: dict[str, simpy.Process] = {}
        self.members: dict[str, None] = {}  # active, or pulling the next version
        self._member_s, self._members_at = 0.0, 0.0
        self.version = 0
        self.next_version = self.env.event()
        self.instance_s = self.priced_s = 0.0  # of instances that are gone; weighted by the prices of their zones
        self.changed = False  # whether a member came or went in this step
        self.migrations, self.recomputed, self.wasted = 0, 0.0, 0.0
        self.last_remote_s = 0.0
        self.open = 0
        if setting.system == "rlboost":
            self.env.process(self._weather(trace))
            self.env.process(self._balance())

    def _rolling(self, engines: int) -> int:
        """How many of these roll out while the rest trains: where the slower of the two is fastest."""
        mean = self.setting.lengths.drawn_mean()
        tok_s = self.curve.slots / self.curve.step_s(self.curve.slots, PROMPT + mean / 2)
        train = self.model.train_token_s * self.model.local_engines
        return min(range(1, engines), key=lambda n: max(1 / (n * tok_s), train / (engines - n)))

    # -- instances -----------------------------------------------------------------------------------------------

    def _weather(self, trace: Trace) -> Generator[Any, Any, None]:
        """The trace, and the notice before each removal."""
        agenda: list[tuple[float, str, str]] = [(e.time_s, e.kind, e.instance) for e in trace.events]
        if self.setting.notice_s:
            gone = [e for e in trace.events if e.kind == "remove"]
            agenda += [(max(0.0, e.time_s - self.setting.notice_s), "notice", e.instance) for e in gone]
        agenda.sort(key=lambda row: row[0])
        one_by_one = self.setting.choice == "first"  # who chooses looks at all that come at one time
        for (at, kind, name), (later, _, _) in pairwise([*agenda, (math.inf, "", "")]):
            if at > self.env.now:
                yield self.env.timeout(at - self.env.now)
            if kind == "add":
                self.there[name] = None
                self.market.came(name, at)
            elif kind == "remove":
                self.there.pop(name, None)
                self.market.went(name, at)
                self._lose(name)
            else:  # drain: it is paid until it goes, its requests move while it still stands
                self.there.pop(name, None)
                self._stop(name, "notice")
            if kind != "notice" if one_by_one else later > at:
                self._take_up()

    def _member(self, name: str) -> None:
        if name in self.members:
            return
        if not self.members:
            self.last_remote_s = self.env.now  # nobody answers before there is somebody
        self._count_members()
        self.members[name] = None
        self.changed = True

    def _no_member(self, name: str) -> None:
        if name in self.members:
            self._count_members()
            del self.members[name]
            self.changed = True

    def _count_members(self) -> float:
        """Member-seconds so far."""
        self._member_s += len(self.members) * (self.env.now - self._members_at)
        self._members_at = self.env.now
        return self._member_s

    def _take_up(self) -> None:
        """Hold instances that are offered, as many as are worth having."""
        cap = self.seeding.allowed()
        if math.isinf(self.seeding.n_prem):
            cap = self.local_count  # Algorithm 1: N_prem begins at N_resv
        if "cap" in self.setting.without:
            cap = 10**9
        free = [name for name in self.there if name not in self.held]
        horizon_s = self.setting.boot_s + self.last_s  # who boots pays if it is there to the end of a step's work
        for name in self.market.take(free, cap - len(self.held), self.env.now, horizon_s, self.held):
            self.held[name] = self.env.now
            self.pulls[name] = self.env.process(self._join(name, self.setting.boot_s))

    def _join(self, name: str, boot_s: float) -> Generator[Any, Any, None]:
        """Boot, pull the weights of now, be active; a version that became old meanwhile is pulled again."""
        try:
            yield self.env.timeout(boot_s)
            if "pull" in self.setting.without and name not in self.members:
                yield self.next_version  # weights are given out to all at once, between steps
            while True:
                version, began = self.version, self.env.now
                yield from self.link.pull(name, self.model.weights_gb)
                self.told(Span(name, began, self.env.now, "pull weights", "transfer", {"version": float(version)}))
                if version == self.version:
                    break
        except simpy.Interrupt:
            return
        self.pulls.pop(name, None)
        engine = Engine(self.env, name, self.curve, self._finished)
        engine.plateau = self.plateau
        self.remote[name] = engine
        self._member(name)
        self._deal()

    def _lose(self, name: str) -> None:
        """Taken away: its requests go on elsewhere with their tokens, or begin again."""
        if name in self.held:
            held_s = self.env.now - self.held.pop(name)
            self.instance_s += held_s
            self.priced_s += held_s * self.market.price(name)
            if name not in self.remote:  # it drained, pulled or booted
                self.told(Span(name, self.env.now, self.env.now, "kill: 0 requests", "kill", {"requests": 0.0}))
        self._stop(name, "kill")

    def _stop(self, name: str, why: str) -> None:
        process = self.pulls.pop(name, None)
        if process is not None and process.is_alive:
            process.interrupt(why)
        self._no_member(name)
        engine = self.remote.pop(name, None)
        if engine is not None:
            self._hand_on(engine.die(), name, why)

    def _hand_on(self, requests: list[Request], source: str, why: str) -> None:
        """Requests without a place, at the front of the queue; without migration they begin again."""
        kept = "migration" not in self.setting.without or why == "seeds"
        for request in requests:
            if request.done and kept:
                self.migrations += 1
                self.recomputed += request.prompt + request.done
                request.moves += 1
            elif request.done:
                self.wasted += request.done
                request.done = 0.0
        if requests or why != "seeds":
            label = f"{why}: {len(requests)} requests"
            self.told(Span(source, self.env.now, self.env.now, label, why, {"requests": float(len(requests))}))
        self.central.extendleft(reversed(requests))
        self._deal()

    # -- dealing -------------------------------------------------------------------------------------------------

    def _deal(self) -> None:
        """Requests to the shortest queue that has room; the rest waits here."""
        if not self.central:
            return
        engines = self.local + list(self.remote.values())
        while self.central:
            best, fewest, queues = None, (1 << 30, ""), False
            for engine in engines:
                waiting = len(engine.pending)
                held = waiting + len(engine.batch)
                if held < engine.slots and (held, engine.name) < fewest:
                    best, fewest = engine, (held, engine.name)
                queues = queues or waiting < THETA
            if best is None and queues:  # nobody computes it at once: the policy's choice of a queue
                name = select({e.name: e.load for e in engines if len(e.pending) < THETA}, THETA)
                best = next(e for e in engines if e.name == name)
            if best is None:
                return
            best.give(self.central.popleft())

    def _balance(self) -> Generator[Any, Any, None]:
        """Algorithm 2's second half, every few seconds."""
        while True:
            yield self.env.timeout(BALANCE_S)
            if "balance" in self.setting.without or not self.remote or self.local:
                continue
            engines = self.remote
            contexts = [e._mean_context() for e in engines.values() if e.batch]
            mean = sum(contexts) / len(contexts) if contexts else 0.0
            for move in rebalance({n: e.load for n, e in engines.items()}, self.plateau.batch(mean)):
                for request in engines[move.source].take(move.count, executing=move.executing):
                    if move.executing:
                        self.migrations += 1
                        self.recomputed += request.prompt + request.done
                    engines[move.target].give(request)

    def _finished(self, request: Request) -> None:
        self.open -= 1
        if request.made and request.made[-1][0] in self.remote:
            self.last_remote_s = self.env.now
        self.ready.append(request)
        if not self.arrived.triggered:
            self.arrived.succeed()
        self._deal()

    # -- a step --------------------------------------------------------------------------------------------------

    def step(self, number: int) -> Generator[Any, Any, StepRow]:
        """Roll out, train, hand out the weights."""
        setting, begin = self.setting, self.env.now
        before = (self.migrations, self.recomputed, self.wasted)
        (paid, priced), members = self._paid(), self._count_members()
        self.changed = False
        self.last_remote_s = begin
        lengths = setting.lengths.draw(setting.responses, setting.seed * 10_007 + number)
        requests = [Request(n, PROMPT, length) for n, length in enumerate(lengths)]
        self.open = len(requests)
        self.ready.clear()
        self.central = deque(requests)
        self._take_up()
        window_s = self.seeding.window_s(len(self.held))
        if "seeding" in setting.without and self.held:
            window_s = 0.0
        self._locals_on()
        self._deal()
        if setting.system == "rlboost":
            yield from self._seed(window_s)
        elif setting.system in ("co-located", "doubled"):
            yield from self._roll_out_all()
        waited, trained_s = yield from self._train(len(requests))
        self._locals_off()
        length = self.env.now - begin
        mean = (self._count_members() - members) / length
        remote_s = self.last_remote_s - begin if mean else 0.0
        if setting.system == "rlboost":
            self._learn(length, waited, trained_s, remote_s, mean)
        self.plateau.next_step()
        self._new_weights()
        if "pull" in setting.without:  # synchronous: nobody goes on before all have the weights
            yield self.env.all_of([self.pulls[name] for name in self.members if name in self.pulls])
        end = self.env.now
        length = self.last_s = end - begin
        held_s, priced_s = (now - then for now, then in zip(self._paid(), (paid, priced)))
        return StepRow(
            number, begin, end, window_s, self.seeding.n_prem, held_s / length,
            float(sum(lengths)), self.wasted - before[2], self.migrations - before[0], self.recomputed - before[1],
            waited, length - remote_s if mean else 0.0, self.nodes * length, held_s,
            priced_s / held_s if held_s else 1.0,
        )  # fmt: skip

    def _paid(self) -> tuple[float, float]:
        """Instance-seconds so far, and the same weighted by the prices of their zones."""
        now = [(self.env.now - since, self.market.price(name)) for name, since in self.held.items()]
        return self.instance_s + sum(s for s, _ in now), self.priced_s + sum(s * price for s, price in now)

    def _locals_on(self) -> None:
        names = [f"reserved {n + 1}" for n in range(self.local_count)]
        self.local = [Engine(self.env, name, self.curve, self._finished) for name in names]

    def _locals_off(self) -> list[Request]:
        rest = [request for engine in self.local for request in engine.die()]
        self.local = []
        return rest

    def _seed(self, window_s: float) -> Generator[Any, Any, None]:
        """The reserved engines generate for the window, or until nothing is left; then they hand on their seeds.

        While no instance is active there is nobody to hand them to: the reserved engines go on, as co-located ones do.
        """
        begin = self.env.now
        until = begin + (self.seeding.t_seed_s if math.isinf(window_s) else window_s)
        while self.open and (self.env.now < until or not self.remote):
            limit = until - self.env.now if self.env.now < until else BALANCE_S
            yield self.env.any_of([self.env.timeout(max(1e-6, limit)), self._arrival()])
        self.told(Span("reserved", begin, self.env.now, "roll out", "seed", {"t_seed_s": self.seeding.t_seed_s}))
        if self.open:
            self._hand_on(self._locals_off(), "reserved", "seeds")

    def _roll_out_all(self) -> Generator[Any, Any, None]:
        while self.open:
            yield self._arrival()

    def _arrival(self) -> simpy.Event:
        if self.arrived.triggered:
            self.arrived = self.env.event()
        return self.arrived

    def _train(self, total: int) -> Generator[Any, Any, tuple[float, float]]:
        """Micro-batches in order of arrival; (s that the trainer waited for one, s that it trained)."""
        trained, waited, trained_s = 0, 0.0, 0.0
        while trained < total:
            least = min(self.setting.micro_batch, total - trained)
            since = self.env.now
            while len(self.ready) < least:
                if not self.remote and not self.local:  # all gone: the reserved machines roll out, only that
                    waited += self.env.now - since
                    self._locals_on()
                    self._deal()
                    yield from self._seed(0.0)
                    since = self.env.now
                else:
                    yield self.env.any_of([self.env.timeout(BALANCE_S), self._arrival()])
            waited += self.env.now - since
            batch = [self.ready.popleft() for _ in range(len(self.ready))]
            began = self.env.now
            yield self.env.timeout(sum(r.length for r in batch) * self.train_token_s)
            self.told(Span("trainer", began, self.env.now, f"train {len(batch)} responses", "compute", {}))
            trained += len(batch)
            trained_s += self.env.now - began
        return waited, trained_s

    def _new_weights(self) -> None:
        """Every active instance pulls the new version before it works again."""
        self.version += 1
        before, self.next_version = self.next_version, self.env.event()
        before.succeed()
        for name in list(self.remote):
            self.remote.pop(name).die()
            self.pulls[name] = self.env.process(self._join(name, 0.0))

    def _learn(self, length: float, waited: float, trained_s: float, remote_s: float, mean: float) -> None:
        """Algorithm 1 on what the step showed. Before the next version: the members are those of the next step."""
        seen = StepSeen(
            wait_train_s=waited,
            wait_remote_s=max(0.0, length - remote_s) if mean else 0.0,
            t_remote_s=max(0.0, remote_s),
            t_train_s=trained_s,
            mean_instances=mean,
            next_instances=len(self.members),
            changed=self.changed,
            reserved=0.0 if "seeding" in self.setting.without else float(self.local_count),
        )
        self.seeding.after(seen)

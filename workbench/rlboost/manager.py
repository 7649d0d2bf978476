"""The rollout manager: who is there, who works on what, and every token on the ledger once. No training here.

    manager = Manager(fleet, agent, config...)
    manager.join("spot-1")                       an engine on that node, which pulls the weights of now
    manager.begin(version, asks)                 a step's responses
    while manager.open: manager.turn(0.05)       tokens in, requests out; ends of responses in `finished`
    manager.notice("spot-1")                     drain: what it has goes on elsewhere while it still stands

An instance is joining (actor starts, weights are pulled), active, draining, or lost. It is lost when its stream breaks
or ends, for whatever cause; what it had goes on elsewhere from the ledger. Source: arXiv 2510.19225, sections 4.2, 4.3.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.lm.dtype import Dtype
from workbench.lm.sampler import Sampler
from workbench.rlboost.balance import Load, Plateau, rebalance, select
from workbench.rlboost.fleet import Fleet
from workbench.rlboost.ledger import Ledger, LedgerError
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.spot import Kind, Pulled, Said, SpotEngine

THETA = 2  # requests that wait at an engine beyond its batch
BALANCE_S = 1.0
JOIN_S: dict[Kind, float] = {"embedded": 180.0, "vllm": 600.0}  # for an actor to start and to pull
CALL_S = 30.0  # for a call of an active engine to be taken
SILENCE_S = 120.0  # without a token while responses are open
LOCAL = "reserved"


class Stalled(RuntimeError):
    """Responses are open and nobody says anything; the message names the engines and what they had."""


@dataclass(frozen=True)
class Happened:
    """Something that the timeline shows: join, pull, active, notice, lost, migrate, seeds, train.

    What took a while ended at `at_s` and took `seconds`.
    """

    at_s: float
    who: str
    what: str
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Pass:
    """One pass of an engine: when it was heard of, tokens made and computed (prompts too), how long it took."""

    at_s: float
    engine: str
    made: int
    computed: int
    seconds: float


@dataclass
class _Instance:
    """One engine elsewhere."""

    name: str
    actor: Any
    stream: Any = None
    pulling: Any = None  # the reference of a pull on its way
    since_s: float = 0.0
    version: int = -1
    node: str = ""  # Ray's id, known with the first pull
    draining: bool = False
    turn: int = 0  # of the next call that gives or takes
    process: Any = None  # the reference of its pid
    requests: dict[str, None] = field(default_factory=dict)  # that it has, in order
    leaving: set[str] = field(default_factory=set)  # that it was asked to give up


class Manager:
    """For one thread. `own` is the reserved machine's engine; it works while `seeding` is on.

    migrate: responses of a lost instance go on from their tokens; else they begin anew (the baseline of section 4.3).
    """

    def __init__(
        self,
        fleet: Fleet,
        agent: Any,
        own: Rollouts,
        *,
        model: str,
        dtype: Dtype,
        sampler: Sampler,
        slots: int,
        migrate: bool = True,
        balance: bool = True,
        engine: Kind = "embedded",
        told: Callable[[Happened], None] | None = None,
    ) -> None:
        self.fleet, self.agent, self.own = fleet, agent, own
        self.model, self.dtype, self.sampler, self.slots, self.migrate = model, dtype, sampler, slots, migrate
        self.balance, self.engine, self.join_s = balance, engine, JOIN_S[engine]
        self.told = told or (lambda _: None)
        self.began = time.perf_counter()
        self.instances: dict[str, _Instance] = {}
        self.ledger = Ledger()
        self.asks: dict[str, Ask] = {}
        self.central: deque[str] = deque()
        self.finished: deque[str] = deque()
        self.seeding = True
        self.version = 0
        self.counts = Counter[str]()
        self.plateau = Plateau()
        self._mine: dict[str, None] = {}  # requests of the own engine
        self._balanced = self._heard = 0.0
        self.last_remote_s = 0.0
        self.passes: list[Pass] = []  # of all engines; whoever reads them empties the list
        self.queues: list[tuple[float, str, int, int]] = []  # (s, engine, waiting, executing), every BALANCE_S

    # -- instances -----------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since the manager began."""
        return time.perf_counter() - self.began

    def join(self, name: str) -> None:
        """Start an engine on this node; it works as soon as it has the weights of now. Does not wait."""
        how = (name, self.model, self.dtype, self.sampler, self.slots, self.engine)
        actor = self.fleet.actor(SpotEngine, name, *how)
        self.instances[name] = _Instance(name, actor, process=actor.pid.remote())
        self.counts["joins"] += 1
        self.say(name, "join")
        self._pull(self.instances[name])

    def notice(self, name: str) -> None:
        """It will be taken away: no more work for it, what it has goes on elsewhere."""
        one = self.instances.get(name)
        if one is None:
            return
        one.draining = True
        self.counts["notices"] += 1
        self.say(name, "notice", f"{len(one.requests)} responses move")
        self._take(one, list(one.requests))

    def gone(self, name: str) -> None:
        """Its node is known to be gone: what it has goes on elsewhere, without waiting for its stream to break."""
        if one := self.instances.get(name):
            self._lost(one, "its node is gone")

    def active(self) -> dict[str, _Instance]:
        """Those that take requests of this version."""
        return {
            n: i for n, i in self.instances.items()
            if i.stream is not None and i.version == self.version and not i.draining
        }  # fmt: skip

    def ready(self) -> list[str]:
        """Those that are at work, or will be in the next step: they have started and have weights."""
        return [n for n, i in self.instances.items() if i.stream is not None and not i.draining]

    def _pull(self, one: _Instance) -> None:
        one.pulling, one.since_s = one.actor.pull.remote(self.agent), self.now()

    def _pulled(self, one: _Instance, pulled: Pulled) -> None:
        one.pulling, one.version, one.node = None, pulled.version, pulled.node
        self.counts["pulled bytes"] += pulled.size
        self.say(one.name, "pull", f"version {pulled.version}, {pulled.size} bytes", pulled.seconds)
        if one.version < self.version:
            self._pull(one)
            return
        if one.stream is None:
            one.stream = one.actor.stream.options(num_returns="streaming").remote()
        if one.version == self.version:  # else the trainer is ahead, and the step of these weights is yet to begin
            self.say(one.name, "active")

    def _lost(self, one: _Instance, why: str) -> None:
        self.instances.pop(one.name, None)
        self.counts["lost instances"] += 1
        self.say(one.name, "lost", f"{why}; it had {len(one.requests)} responses")
        self._again(list(one.requests), one.name)

    # -- requests ------------------------------------------------------------------------------------------------

    def begin(self, version: int, asks: Sequence[Ask], ledger: Ledger | None = None) -> None:
        """A step: these responses with these weights. A ledger of an interrupted step is gone on from."""
        self.version, self.asks = version, {a.request: a for a in asks}
        self.ledger = ledger or Ledger()
        for ask in asks:
            if ask.request not in self.ledger.entries:
                self.ledger.open(ask.request, len(ask.prompt))
        self.central = deque(self.ledger.unfinished())
        self.finished = deque(n for n, e in self.ledger.entries.items() if e.ended)
        self.seeding, self._heard = True, self.now()
        self.plateau.next_step()
        for one in self.instances.values():
            if one.pulling is None and one.version < version and not one.draining:
                self._pull(one)
            elif one.name in self.active():
                self.say(one.name, "active")

    @property
    def open(self) -> int:
        """Responses without an end."""
        return len(self.ledger.unfinished())

    def hand_on(self) -> None:
        """The end of seeding: the reserved engine's unfinished responses go on elsewhere, with their tokens."""
        self.seeding = False
        for request in self._mine:
            self.own.take(request)
        mine, self._mine = list(self._mine), {}
        if mine:
            self.say(LOCAL, "seeds", f"{len(mine)} responses")
        self._again(mine, LOCAL)

    def turn(self, wait_s: float) -> None:
        """Take in what was said, deal what has no place, run the own engine once. Stalled: nobody says anything."""
        if not self.seeding and not self.active() and self.open:
            self.seeding = True  # everybody is gone: as in a co-located system
        self._deal()
        if self.seeding and self._mine:
            began, before = self.now(), self.own.prefilled + self.own.decoded
            pieces = self.own.step()
            computed = self.own.prefilled + self.own.decoded - before
            self.passes.append(Pass(self.now(), LOCAL, len(pieces), computed, self.now() - began))
            for piece in pieces:
                self._add(piece, LOCAL, self.own.version)
                if piece.ended:
                    self._mine.pop(piece.request, None)
            wait_s = 0.0
        self.hear(wait_s)
        if self.now() - self._balanced > BALANCE_S:
            self._balanced = self.now()
            self._balance()
            self._look()
        if self.open and self.now() - self._heard > SILENCE_S:
            who = ", ".join(f"{n} with {len(i.requests)}" for n, i in self.instances.items()) or "no instance"
            raise Stalled(f"no token for {SILENCE_S:.0f} s and {self.open} responses open: {who}")

    def _deal(self) -> None:
        active = self.active()
        given: dict[str, list[Ask]] = {}
        while self.central:
            loads = {n: self._load(len(i.requests)) for n, i in active.items()}
            if self.seeding:
                loads[LOCAL] = self._load(len(self._mine))
            name = select(loads, THETA)
            if name is None:
                break
            request = self.central.popleft()
            first, entry = self.asks[request], self.ledger.entries[request]
            ask = Ask(request, first.prompt, tuple(entry.ids), first.most)
            if entry.ids:
                self.counts["recomputed tokens"] += len(first.prompt) + len(entry.ids)
            if name == LOCAL:
                self.own.give(ask)
                self._mine[request] = None
            else:
                given.setdefault(name, []).append(ask)
                active[name].requests[request] = None
        for name, asks in given.items():
            active[name].actor.give.remote(asks, self.version, self._turn_of(active[name]))

    def _load(self, requests: int) -> Load:
        return Load(max(0, requests - self.slots), min(requests, self.slots))

    def _again(self, requests: Sequence[str], source: str) -> None:
        """Requests without a place: to the front, with what the ledger has of them."""
        moved = 0
        for request in reversed(requests):
            entry = self.ledger.entries.get(request)
            if entry is None or entry.ended:
                continue
            if source != LOCAL and not self.migrate:
                self.counts["discarded tokens"] += self.ledger.restart(request)
            moved += bool(entry.ids)
            self.central.appendleft(request)
        self.counts["migrations"] += moved
        if moved:
            self.say(source, "migrate", f"{moved} responses with their tokens")

    def _look(self) -> None:
        """Keep how long the queues are."""
        held = {LOCAL: len(self._mine)} | {n: len(i.requests) for n, i in self.instances.items()}
        for name, requests in held.items():
            load = self._load(requests)
            self.queues.append((self.now(), name, load.pending, load.executing))

    def _take(self, one: _Instance, requests: Sequence[str]) -> None:
        wanted = [r for r in requests if r not in one.leaving]
        if wanted:
            one.leaving.update(wanted)
            one.actor.take.remote(wanted, self._turn_of(one))

    @staticmethod
    def _turn_of(one: _Instance) -> int:
        """Calls of an actor with threads may overtake each other: each has its number."""
        one.turn += 1
        return one.turn - 1

    def _balance(self) -> None:
        active = {n: i for n, i in self.active().items() if not i.leaving}
        if len(active) < 2 or not self.balance:
            return
        loads = {n: self._load(len(i.requests)) for n, i in active.items()}
        contexts = [self._context(r) for i in active.values() for r in i.requests]
        mean = sum(contexts) / len(contexts) if contexts else 0.0
        for move in rebalance(loads, self.plateau.batch(mean)):
            one = active[move.source]
            newest = list(one.requests)[-move.count :]
            self.counts["balanced"] += len(newest)
            self._take(one, newest)

    # -- what is said --------------------------------------------------------------------------------------------

    def hear(self, wait_s: float) -> None:
        """Take in what instances say, and weights that arrived; wait at most so long for the first of it."""
        import ray

        waiting: dict[Any, _Instance] = {}
        for one in list(self.instances.values()):
            if one.stream is not None:
                waiting[one.stream] = one
            if one.pulling is not None:
                if self.now() - one.since_s > self.join_s:
                    self._lost(one, f"did not join and pull in {self.join_s:.0f} s")
                    continue
                waiting[one.pulling] = one
        if not waiting:
            time.sleep(min(wait_s, 0.05))
            return
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=wait_s)
        if ready:  # and whatever else is there
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for reference in ready:
            one = waiting[reference]
            if one.name not in self.instances:
                continue
            try:
                if reference is one.pulling:
                    self._pulled(one, ray.get(reference, timeout=CALL_S))
                else:
                    self._said(one, ray.get(next(one.stream), timeout=CALL_S))
            except StopIteration:
                self._lost(one, "its stream ended")
            except Exception as error:  # noqa: BLE001  whatever ends an engine, its responses go on elsewhere
                self._lost(one, _reason(error))

    def _said(self, one: _Instance, said: Said) -> None:
        if said.computed:
            self.passes.append(Pass(self.now(), one.name, len(said.tokens), said.computed, said.seconds))
            if said.computed == len(said.tokens) and said.version == self.version:  # decoding alone
                contexts = [self._context(piece.request) for piece in said.tokens]
                self.plateau.observe(len(contexts), sum(contexts) / len(contexts), said.seconds)
        for piece in said.tokens:
            self._add(piece, one.name, said.version)
            if piece.ended:
                one.requests.pop(piece.request, None)
                one.leaving.discard(piece.request)
                self.last_remote_s = self.now()
        gone = [r for r in said.gone if r in one.requests]
        for request in said.gone:
            one.requests.pop(request, None)
            one.leaving.discard(request)
        self._again(gone, one.name)

    def _context(self, request: str) -> int:
        """Tokens of a response and its prompt so far."""
        return len(self.asks[request].prompt) + len(self.ledger.entries[request].ids)

    def _add(self, piece: Any, source: str, version: int) -> None:
        self._heard = self.now()
        try:
            self.ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, source, version)
        except LedgerError:
            self.counts["refused pieces"] += 1  # counted by kind in the ledger too
            return
        if piece.ended:
            self.ledger.close(piece.request, piece.ended)
            self.finished.append(piece.request)

    def say(self, who: str, what: str, detail: str = "", seconds: float = 0.0) -> None:
        """Tell the timeline."""
        self.told(Happened(self.now(), who, what, detail, seconds))


def _reason(error: Exception) -> str:
    """Cause and first line: of what failed in the actor itself where that is known, else of what Ray says."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0][:160]}"

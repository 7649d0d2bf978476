"""RLBoost and its rivals on a virtual clock (simpy): modelled, with the policies that a live run would use.

    for row in simulate(Setting(...), trace, steps=20): ...        a StepRow for each step of training

A step: requests are dealt to active engines; the reserved engines roll out for T_seed and hand on what is unfinished;
the trainer takes what has ended in micro-batches of at least m_b, in order of arrival; when all is trained, weights of
the next version are pulled by every instance, and those that come later pull when they come. Instances come and go by
the trace. Cost is the integral of prices over the time that machines are held.

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
from typing import Any

import simpy

from workbench.rlboost.balance import Plateau, rebalance, select
from workbench.rlboost.engines import Engine, Link, Request
from workbench.rlboost.rates import MODELS
from workbench.rlboost.seeding import Seeding, StepSeen
from workbench.rlboost.setting import Setting, StepRow
from workbench.rlboost.traces import Event, Trace
from workbench.system import Span

THETA = 4  # requests that wait at an instance beyond its batch
BALANCE_S = 5.0
PROMPT = 200


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
        self.model = MODELS[setting.model]
        double = setting.system in ("doubled", "disaggregated")
        self.nodes = (self.model.local_engines // 4) * (2 if double else 1)
        share = self._split() if setting.system == "disaggregated" else 1.0
        engines = self.model.local_engines * (2 if double else 1)
        self.local_count = max(1, round(engines * (1 - share))) if share < 1 else engines
        gpus_training = share * (2 if double else 1)
        self.train_token_s = self.model.train_s / (setting.responses * self._mean_length()) / gpus_training
        options = replace(setting.seeding, memory=setting.seeding.memory and "memory" not in setting.without)
        self.seeding = Seeding(options)
        self.plateau = Plateau()
        self.link = Link(self.env, setting.sender_gb_s, setting.instance_gb_s)
        self.central: deque[Request] = deque()
        self.ready: deque[Request] = deque()
        self.arrived = self.env.event()
        self.local: list[Engine] = []
        self.remote: dict[str, Engine] = {}  # active
        self.held: dict[str, float] = {}  # instance -> since when it is paid
        self.there: dict[str, None] = {}  # that the trace offers
        self.pulls: dict[str, simpy.Process] = {}
        self.version = 0
        self.instance_s = 0.0
        self.changed = False
        self.migrations, self.recomputed, self.wasted = 0, 0.0, 0.0
        self.last_remote_s = 0.0
        self.open = 0
        if setting.system == "rlboost":
            for event in trace.events:
                self.env.process(self._comes_or_goes(event))
            self.env.process(self._balance())

    def _mean_length(self) -> float:
        drawn = self.setting.lengths.draw(4096, 12345)
        return sum(drawn) / len(drawn)

    def _split(self) -> float:
        """Share of the GPUs that train, so that rollout on the rest takes as long: by the co-located times."""
        rollout_s = self.setting.responses * self._mean_length() / (self.model.local_engines * self._engine_tok_s())
        return self.model.train_s / (self.model.train_s + rollout_s)

    def _engine_tok_s(self) -> float:
        curve = self.model.curve
        return curve.slots / curve.step_s(curve.slots, PROMPT + self._mean_length() / 2)

    # -- instances -----------------------------------------------------------------------------------------------

    def _comes_or_goes(self, event: Event) -> Generator[Any, Any, None]:
        if event.kind == "add":
            yield self.env.timeout(event.time_s)
            self.there[event.instance] = None
            self._take_up()
            return
        yield self.env.timeout(max(0.0, event.time_s - self.setting.notice_s))
        if self.setting.notice_s and event.instance in self.remote:  # drain: move while it still stands
            self._hand_on(self.remote.pop(event.instance).die(), event.instance, "notice")
            self.changed = True
        yield self.env.timeout(max(0.0, event.time_s - self.env.now))
        self.there.pop(event.instance, None)
        self._lose(event.instance)

    def _take_up(self) -> None:
        """Hold instances that are offered, as many as are worth having."""
        cap = 10**9 if "cap" in self.setting.without else self.seeding.allowed()
        for name in self.there:
            if len(self.held) >= cap:
                return
            if name not in self.held:
                self.held[name] = self.env.now
                self.pulls[name] = self.env.process(self._join(name, self.setting.boot_s))

    def _join(self, name: str, boot_s: float) -> Generator[Any, Any, None]:
        """Boot, pull the weights of now, be active; a version that became old meanwhile is pulled again."""
        try:
            yield self.env.timeout(boot_s)
            while True:
                version, began = self.version, self.env.now
                yield self.env.process(self.link.pull(name, self.model.weights_gb))
                self.told(Span(name, began, self.env.now, "pull weights", "transfer", {"version": float(version)}))
                if version == self.version:
                    break
        except simpy.Interrupt:
            return
        self.pulls.pop(name, None)
        engine = Engine(self.env, name, self.model.curve, self._finished)
        engine.plateau = self.plateau
        self.remote[name] = engine
        self.changed = True
        self._deal()

    def _lose(self, name: str) -> None:
        """Taken away: its requests go on elsewhere with their tokens, or begin again."""
        if name in self.held:
            self.instance_s += self.env.now - self.held.pop(name)
        process = self.pulls.pop(name, None)
        if process is not None and process.is_alive:
            process.interrupt("taken away")
        engine = self.remote.pop(name, None)
        if engine is not None:
            self.changed = True
            self._hand_on(engine.die(), name, "kill")
        self._take_up()

    def _hand_on(self, requests: list[Request], source: str, why: str) -> None:
        """Requests without a place, at the front of the queue; without migration they begin again."""
        kept = "migration" not in self.setting.without or why == "seeds"
        for request in requests:
            if request.done and kept:
                self.migrations += 1
                self.recomputed += request.done
                request.moves += 1
            elif request.done:
                self.wasted += request.done
                request.done = 0.0
        if requests:
            label = f"{why}: {len(requests)} requests"
            self.told(Span(source, self.env.now, self.env.now, label, why, {"requests": float(len(requests))}))
        self.central.extendleft(reversed(requests))
        self._deal()

    # -- dealing -------------------------------------------------------------------------------------------------

    def _engines(self) -> dict[str, Engine]:
        return {e.name: e for e in self.local} | self.remote

    def _deal(self) -> None:
        """Requests to the shortest queue that has room; the rest waits here."""
        engines = self._engines()
        loads = {name: e.load for name, e in engines.items()}
        while self.central and loads:
            free = {n: e.curve.slots - len(e.batch) - len(e.pending) for n, e in engines.items()}
            open_ = [n for n, room in free.items() if room > 0]
            name = min(open_, key=lambda n: (engines[n].load.executing + engines[n].load.pending, n)) if open_ else None
            name = name or select(loads, THETA)
            if name is None:
                return
            engines[name].give(self.central.popleft())
            loads[name] = engines[name].load

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
                        self.recomputed += request.done
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
        paid = self._paid()
        self.changed = False
        self.last_remote_s = begin
        lengths = setting.lengths.draw(setting.responses, setting.seed * 10_007 + number)
        requests = [Request(n, PROMPT, length) for n, length in enumerate(lengths)]
        self.open = len(requests)
        self.ready.clear()
        self.central = deque(requests)
        self._take_up()
        window_s = 0.0 if "seeding" in setting.without and self.held else self.seeding.window_s(len(self.held))
        self._locals_on()
        self._deal()
        if setting.system == "rlboost":
            yield from self._seed(window_s)
        elif setting.system in ("co-located", "doubled"):
            yield from self._roll_out_all()
        waited = yield from self._train(len(requests))
        self._locals_off()
        end = self.env.now
        self.version += 1
        self.plateau.next_step()
        self._new_weights()
        if setting.system == "rlboost":
            yield from self._learn(begin, end, waited)
        held_s = self._paid() - paid
        length = end - begin
        return StepRow(
            number, begin, end, window_s, self.seeding.n_prem, held_s / length if length else 0.0,
            float(sum(lengths)), self.wasted - before[2], self.migrations - before[0], self.recomputed - before[1],
            waited, max(0.0, end - self.last_remote_s), self.nodes * length, held_s,
        )  # fmt: skip

    def _paid(self) -> float:
        """Instance-seconds so far."""
        return self.instance_s + sum(self.env.now - since for since in self.held.values())

    def _locals_on(self) -> None:
        names = [f"reserved {n + 1}" for n in range(self.local_count)]
        self.local = [Engine(self.env, name, self.model.curve, self._finished) for name in names]
        self.last_local_s = self.env.now

    def _locals_off(self) -> list[Request]:
        rest = [request for engine in self.local for request in engine.die()]
        self.local = []
        return rest

    def _seed(self, window_s: float) -> Generator[Any, Any, None]:
        """The reserved engines generate for the window, or until nothing is left; then they hand on their seeds."""
        begin, until = self.env.now, self.env.now + window_s
        while self.open and (self.env.now < until or not self.remote):
            limit = until - self.env.now if self.env.now < until and not math.isinf(until) else BALANCE_S
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

    def _train(self, total: int) -> Generator[Any, Any, float]:
        """Micro-batches in order of arrival; returns the seconds that the trainer waited for one."""
        trained, waited = 0, 0.0
        while trained < total:
            least = min(self.setting.micro_batch, total - trained)
            since = self.env.now
            while len(self.ready) < least:
                if not self.remote and not self.local and self.open:  # everybody is gone: the trainer rolls out itself
                    self._locals_on()
                    self._deal()
                yield self.env.any_of([self.env.timeout(BALANCE_S), self._arrival()])
                if self.remote and self.local and self.setting.system == "rlboost":
                    self._hand_on(self._locals_off(), "reserved", "seeds")
            waited += self.env.now - since
            batch = [self.ready.popleft() for _ in range(len(self.ready))]
            began = self.env.now
            yield self.env.timeout(sum(r.length for r in batch) * self.train_token_s)
            self.told(Span("trainer", began, self.env.now, f"train {len(batch)} responses", "compute", {}))
            trained += len(batch)
        return waited

    def _new_weights(self) -> None:
        """Every active instance pulls the new version before it works again."""
        for name in list(self.remote):
            self.remote.pop(name).die()
            self.pulls[name] = self.env.process(self._join(name, 0.0))

    def _learn(self, begin: float, end: float, waited: float) -> Generator[Any, Any, None]:
        remote_s = max(0.0, self.last_remote_s - begin)
        if "pull" in self.setting.without:  # synchronous: nobody goes on before all have the weights
            pulling = [p for p in self.pulls.values() if p.is_alive]
            if pulling:
                yield self.env.all_of(pulling)
        mean = len(self.held)
        trained_s = end - begin - waited - (self.seeding.t_seed_s if mean else 0.0)
        seen = StepSeen(
            wait_train_s=waited,
            wait_remote_s=max(0.0, end - self.last_remote_s) if mean else 0.0,
            t_remote_s=remote_s,
            t_train_s=max(1e-9, trained_s),
            mean_instances=float(mean),
            next_instances=mean,
            changed=self.changed,
            reserved=float(self.local_count),
        )
        self.seeding.after(seen)

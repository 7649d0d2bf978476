"""A step on a virtual clock: zebra, DistEP and expert parallelism, each stage as soon as its order and inputs allow.

    line = simulate(plan, profile, load)
    line.step_s, line.tokens_per_s, line.utilisation[rank], line.spans

Order (Theorem 1 of arXiv 2504.03871): attention ranks run layer by layer over the micro-batches, in the last stage
forward and backward of a micro-batch adjoin, then backward layer by layer. Each rank has one compute stream and two
communication streams, dispatch and combine, so that the two directions overlap. Offloaded experts (Asym-EA) run on
attention ranks after a layer's attention of all micro-batches; their rows travel among attention ranks on the same
streams, by themselves or in the same message (`Profile.joined`). DistEP is zebra with one micro-batch, EP is zebra with
every expert on attention ranks; with more than one micro-batch its messages overlap compute too. A message begins when
all of its ranks have what it carries. order.py holds the order against every other one. On CPUs messages are work of
the cores that compute (`Profile.core_share`): shared.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from workbench.hetermoe.costs import Costs, resolve
from workbench.hetermoe.plan import Plan
from workbench.hetermoe.profile import Load, Profile
from workbench.hetermoe.shared import Shared

Stream = Literal["compute", "dispatch", "combine"]
Stage = Literal["attention", "expert", "head", "dispatch", "combine", "update"]


@dataclass(frozen=True, slots=True)
class Slot:
    """What a rank did from start_s to end_s. layer: from 0; the head's is the number of layers."""

    rank: int
    stream: Stream
    stage: Stage
    layer: int
    micro_batch: int
    backward: bool
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Timeline:
    """A simulated step. utilisation: of each rank, compute over step. spans: empty unless they were asked for."""

    step_s: float
    tokens_per_s: float
    utilisation: tuple[float, ...]
    spans: tuple[Slot, ...] = ()


Emit = Callable[[tuple[int, ...], Stream, Stage, int, int, bool, float, float], None]


def simulate(plan: Plan, profile: Profile, load: Load, *, spans: bool = False, collapse: bool = True) -> Timeline:
    """One step of a plan. With `spans`, what every rank did when. PlanError where the three do not fit together."""
    return run(resolve(plan, profile, load, collapse=collapse), spans=spans)


def run(costs: Costs, *, spans: bool = False) -> Timeline:
    """The same from costs at hand."""
    found: list[Slot] = []

    def emit(
        ranks: tuple[int, ...], stream: Stream, stage: Stage, layer: int, micro: int, back: bool, start: float,
        end: float,
    ) -> None:  # fmt: skip
        found.extend(Slot(rank, stream, stage, layer, micro, back, start, end) for rank in ranks)

    if costs.core_share:
        step_s, busy = Shared(costs, emit if spans else None).run()
        work = [0.0] * costs.plan.world
        for part, seconds in zip(costs.parts, busy, strict=True):
            for rank in part.ranks:
                work[rank] = seconds
    else:
        step_s, work = step(costs, emit if spans else None), list(costs.work_s)
    used = tuple(seconds / step_s if step_s else 0.0 for seconds in work)
    return Timeline(step_s, costs.tokens / step_s if step_s else 0.0, used, tuple(found))


def step(costs: Costs, emit: Emit | None = None) -> float:
    """Seconds of a step; cheap, for searches."""
    if costs.core_share:
        return Shared(costs, emit).run()[0]
    clock = _Clock(costs, emit)
    clock.zebra()
    return clock.end()


class _Clock:
    """When each stream is free; stages are appended to their streams in the order of the calls."""

    def __init__(self, costs: Costs, emit: Emit | None) -> None:
        self.costs, self.emit = costs, emit
        self.layers, self.micro = costs.plan.layers, costs.plan.micro_batches
        self.free = [0.0] * len(costs.parts)
        self.attends = [at for at, part in enumerate(costs.parts) if part.attends]
        away = [at for at, part in enumerate(costs.parts) if not part.attends]
        self.links = [(costs.across, away), (costs.peers, self.attends)]
        if costs.joined:
            self.links = [(costs.across, away + self.attends)]
        self.dispatch_s = self.combine_s = 0.0
        self.everyone = tuple(range(costs.plan.world))

    def zebra(self) -> None:
        """Forward to the last layer's experts, head, and back."""
        ready = [0.0] * self.micro
        for layer in range(self.layers):
            ready = self.experts(layer, self.attention(layer, ready, back=False), back=False)
        ready = [self.head(micro, at) for micro, at in enumerate(ready)]
        for layer in reversed(range(self.layers)):
            ready = self.experts(layer, ready, back=True)
            ready = self.attention(layer, ready, back=True)

    def attention(self, layer: int, ready: list[float], back: bool) -> list[float]:
        """Ends of a layer's attention of each micro-batch, of all ranks that attend."""
        parts = self.costs.parts
        ends = [0.0] * self.micro
        for micro, at in enumerate(ready):
            for number in self.attends:
                part = parts[number]
                seconds = part.attention_back if back else part.attention
                ends[micro] = max(ends[micro], self._compute(number, "attention", layer, micro, back, at, seconds))
        return ends

    def experts(self, layer: int, ready: list[float], back: bool) -> list[float]:
        """When each micro-batch is back from its experts: dispatch, compute, combine, across and among peers."""
        links = [(seconds[layer], numbers) for seconds, numbers in self.links]
        came = [[self._dispatch(s, layer, micro, back, at) for s, _ in links] for micro, at in enumerate(ready)]
        leaving = []
        for (seconds, numbers), arrivals in zip(links, zip(*came, strict=True), strict=True):
            for micro, arrived in enumerate(arrivals):
                done = arrived
                for number in numbers:
                    part = self.costs.parts[number]
                    if work := (part.expert_back if back else part.expert)[layer]:
                        done = max(done, self._compute(number, "expert", layer, micro, back, arrived, work))
                leaving.append((done, micro, seconds))
        back_at = list(ready)
        for done, micro, seconds in sorted(leaving):  # one stream: who is ready first goes first
            start = max(self.combine_s, done) if seconds else done
            end = start + seconds
            if seconds:
                self.combine_s = end
                self._tell("combine", layer, micro, back, start, end)
            back_at[micro] = max(back_at[micro], end)
        return back_at

    def _dispatch(self, seconds: float, layer: int, micro: int, back: bool, ready: float) -> float:
        """End of a message; where there is none, rows are at once where they are needed."""
        if not seconds:
            return ready
        start = max(self.dispatch_s, ready)
        self.dispatch_s = start + seconds
        self._tell("dispatch", layer, micro, back, start, self.dispatch_s)
        return self.dispatch_s

    def head(self, micro: int, ready: float) -> float:
        """Forward and at once backward of the last stage."""
        ends = 0.0
        for number in self.attends:
            part = self.costs.parts[number]
            self._compute(number, "head", self.layers, micro, False, ready, part.head)
            ends = max(ends, self._compute(number, "head", self.layers, micro, True, ready, part.head_back))
        return ends

    def end(self) -> float:
        """After everyone's tail."""
        for number, part in enumerate(self.costs.parts):
            if part.tail:
                self._compute(number, "update", 0, 0, True, 0.0, part.tail)
        return max(self.free)

    def _compute(
        self, number: int, stage: Stage, layer: int, micro: int, back: bool, ready: float, seconds: float
    ) -> float:
        start = max(self.free[number], ready)
        end = self.free[number] = start + seconds
        if self.emit is not None and seconds:
            self.emit(self.costs.parts[number].ranks, "compute", stage, layer, micro, back, start, end)
        return end

    def _tell(self, stream: Literal["dispatch", "combine"], layer: int, micro: int, back: bool, start: float,
              end: float) -> None:  # fmt: skip
        if self.emit is not None and end > start:
            self.emit(self.everyone, stream, stream, layer, micro, back, start, end)

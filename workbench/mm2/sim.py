"""The schedule of one batch on a GPU, on a virtual clock: real segments, a modelled cost of each, blocks as workers.

    per micro-batch   short segments, a warp each; then mid ones, a block of 512 each: whoever is free takes the next
    per launch        long segments on a persistent grid, a block of 1024 to a compute unit: longest first, by a ticket
                      segments over a cut are shared by several blocks; the cut is the one that ends soonest

That is mm2-gb's design (kernels, classes and grids of its repository). Sharing is that of kernels/chain, and where long
segments are pooled, mid ones that would hold up their kernel may join them: classes by cost, not by size alone. Only
time is modelled: the segments come from anchors of real seeding. Cycles of one anchor's row of r successors on a block:

    barrier + ceil(r / block) * latency + ceil(r / warp) * instructions * warp / lanes

The constants are assumed, not fitted: no GPU was at hand. Look at ratios and at shapes, not at milliseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.mm2.shape import WIDTHS, Segments, joined, whole_reads
from workbench.system import Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DeviceName = Literal["MI210", "A100", "H200"]
MICRO_BATCHES = 4  # of a batch; mm2-gb ships 4 to 6
LAUNCH_S = 10e-6  # of a kernel
MOST_BLOCKS = 8  # that share a segment
SHARED_FROM = (1.0, 0.5, 0.25, 0.1, 0.0, np.inf)  # of an even share of the work: the best of these cuts is taken
TILE, SUB = 256, 32  # anchors of a tile of a shared segment, and of what one warp scores between two barriers
SPAN_LANES = 16  # compute units that the timeline shows


@dataclass(frozen=True)
class Device:
    """A GPU as the model sees it. Units, clock and warp are its data sheet's; the rest is assumed for all alike."""

    name: DeviceName
    units: int
    warp: int
    clock_hz: float
    lanes: int = 64  # 32-bit integer operations a unit does in a cycle
    instructions: int = 24  # of one pair: two loads, differences, penalty from a table, comparison
    latency: int = 200  # cycles until one pass over a row is done
    barrier: int = 60  # cycles, of a block of 16 warps; a warp alone needs none
    handover_s: float = 2e-6  # between blocks that share a segment, once a tile
    warps: int = 16  # of short segments that are at work on a unit at once
    blocks: int = 2  # of mid segments that are

    def row_cycles(self, parts: Segments, block: int, sharing: int = 1) -> Floats:
        """Cycles of each segment on a block of so many lanes, where `sharing` of them share the unit."""
        passes = parts.passes[:, WIDTHS.index(block)]
        issued = parts.passes[:, WIDTHS.index(self.warp)] * (self.instructions * self.warp / self.lanes)
        waiting = passes * float(self.latency) + parts.anchors * float(self.barrier if block > self.warp else 4)
        return np.maximum(issued * sharing, issued + waiting)

    def shared_s(self, anchors: Any, pairs: Any, blocks: int) -> Any:
        """Seconds of segments that so many blocks share, in tiles: one scores a tile, all of them what it passes on."""
        within = TILE * self.latency / 2 + TILE / SUB * 2 * self.barrier  # a warp's rounds, which wait on each other
        passed_on = pairs * self.instructions / (self.lanes * blocks)
        return (anchors / TILE * within + passed_on) / self.clock_hz + anchors / TILE * self.handover_s


DEVICES: dict[str, Device] = {
    "MI210": Device("MI210", units=104, warp=64, clock_hz=1.7e9),
    "A100": Device("A100", units=108, warp=32, clock_hz=1.41e9),
    "H200": Device("H200", units=132, warp=32, clock_hz=1.83e9),
}


@dataclass(frozen=True)
class Design:
    """Which of the design's parts are on."""

    segmented: bool = True
    pooled: bool = True
    persistent: bool = True
    longest_first: bool = True
    split: bool = True


ABLATIONS = {
    "full design": Design(),
    "not split": Design(split=False),
    "not sorted": Design(longest_first=False),
    "not persistent": Design(persistent=False),
    "not pooled": Design(pooled=False),
    "none of these": Design(pooled=False, persistent=False, longest_first=False, split=False),
    "no segmentation": Design(segmented=False),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A long segment as the grid sees it: it takes `blocks` workers at once for `seconds`."""

    number: int
    seconds: float
    blocks: int
    anchors: int
    pairs: int
    alone_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """A task with its ticket, when it starts, and the units that do it, each with since when it was free."""

    task: Task
    ticket: int
    start_s: float
    units: list[tuple[int, float]]


@dataclass
class Outcome:
    """What a schedule came to. `bound_s`: no order and no assignment of these blocks ends sooner."""

    makespan_s: float
    bound_s: float
    critical_s: float  # the longest single long segment
    phases_s: dict[str, float]  # short, mid, long, launches
    busy: float  # share of the long launches' time that units are at work
    spans: list[Span] = field(default_factory=list)
    busy_units: list[tuple[float, int]] = field(default_factory=list)  # (time, units at work from then on)


def schedule(parts: Segments, device: Device, design: Design | None = None, *, trace: bool = False) -> Outcome:
    """Work through the segments of one batch.

    With pooling, mid segments that would hold up their kernel may join the long ones: the better of both is taken.
    """
    design = design or Design()
    parts = parts if design.segmented else whole_reads(parts)
    tried = [_worked(parts, device, design, trace, promote) for promote in (False, True)[: 1 + design.pooled]]
    return min(tried, key=lambda outcome: outcome.makespan_s)


def _worked(parts: Segments, device: Device, design: Design, trace: bool, promote: bool) -> Outcome:
    clock, pool = _Clock(device, design, trace), list[Segments]()
    for part in _micro_batches(parts):
        kinds = part.kinds()
        if promote:
            kinds = np.where((kinds == 1) & _holds_up(part, kinds == 1, device), 2, kinds)
        clock.small("short", part.pick(kinds == 0), device.warp, device.warps)
        clock.small("mid", part.pick(kinds == 1), 512, device.blocks)
        pool.append(part.pick(kinds == 2))
        if not design.pooled:
            clock.long(pool[-1])
    if design.pooled:
        clock.long(joined(pool))
    return clock.outcome(joined(pool))


def _holds_up(part: Segments, mid: NDArray[np.bool_], device: Device) -> NDArray[np.bool_]:
    """Which segments take longer than an even share of all mid ones: their kernel ends when they do."""
    cost = device.row_cycles(part, 512, device.blocks)
    return cost > float(cost[mid].sum()) / (device.units * device.blocks)


def ablations(parts: Segments, device: Device) -> dict[str, Outcome]:
    """Each of ABLATIONS."""
    return {name: schedule(parts, device, design) for name, design in ABLATIONS.items()}


def _micro_batches(parts: Segments) -> Iterator[Segments]:
    """The batch in MICRO_BATCHES pieces of whole reads with about as many anchors."""
    if not len(parts):
        return
    before = np.cumsum(parts.anchors) - parts.anchors
    piece = before * MICRO_BATCHES // max(int(parts.anchors.sum()), 1)
    first = np.concatenate([[True], parts.read[1:] != parts.read[:-1]])
    of_read = piece[np.flatnonzero(first)][np.cumsum(first) - 1]
    for number in np.unique(of_read):
        yield parts.pick(of_read == number)


class _Clock:
    """Virtual time, one kernel after another on a stream."""

    def __init__(self, device: Device, design: Design, trace: bool) -> None:
        self.device, self.design, self.trace = device, design, trace
        self.now = 0.0
        self.phases = {"short": 0.0, "mid": 0.0, "long": 0.0, "launches": 0.0}
        self.work_s = 0.0  # unit-seconds of long segments
        self.small_bound_s = 0.0
        self.spans: list[Span] = []
        self.changes: list[tuple[float, int]] = []

    def small(self, name: str, parts: Segments, block: int, sharing: int) -> None:
        """A kernel whose blocks are many and short: the hardware gives a free place the next one."""
        if not len(parts):
            return
        cost = self.device.row_cycles(parts, block, sharing) / self.device.clock_hz
        places = self.device.units * sharing
        began = self._launch()
        took = _greedy(cost, places)
        self.small_bound_s += max(float(cost.max()), float(cost.sum()) / places)
        self.phases[name] += took
        self.now += took
        if self.trace:
            why: dict[str, Any] = {
                "reason": "small",
                "class": name,
                "segments": len(parts),
                "anchors": int(parts.anchors.sum()),
                "pairs": int(parts.pairs.sum()),
                "lanes": block,
            }
            label = f"{len(parts):,} {name} segments"
            kind = "mid" if name == "mid" else "short kernel"
            self.spans.append(Span(f"{name} kernel", began, self.now, label, kind, why))

    def long(self, parts: Segments) -> None:
        """A persistent grid, one block to a unit, that takes long segments by a ticket."""
        if not len(parts):
            return
        began = self._launch()
        alone = self.device.row_cycles(parts, 1024) / self.device.clock_hz
        cuts = (
            [float(alone.sum()) / self.device.units * part for part in SHARED_FROM] if self.design.split else [np.inf]
        )
        plans = [self._assigned(self._queue(parts, alone, cut), began) for cut in cuts]
        end, placed = min(plans, key=lambda plan: plan[0])
        for place in placed:
            self.work_s += place.task.seconds * place.task.blocks
            for unit, free in place.units:
                self._span(place, unit, free)
        self.phases["long"] += end - began
        self.now = end

    def _assigned(self, queue: list[Task], began: float) -> tuple[float, list[Place]]:
        """When the last task of the list ends, and who does each from when on."""
        free = [(began, unit) for unit in range(self.device.units)]
        end, at, placed = began, 0, list[Place]()
        for ticket, task in enumerate(queue):
            if self.design.persistent:
                mine = [heapq.heappop(free) for _ in range(task.blocks)]
            else:  # its place in the list decides who does it, free or not
                mine = [free[(at + k) % len(free)] for k in range(task.blocks)]
                at += task.blocks
            start = max(since for since, _ in mine)
            for _, unit in mine:
                if self.design.persistent:
                    heapq.heappush(free, (start + task.seconds, unit))
                else:
                    free[unit] = (start + task.seconds, unit)
            placed.append(Place(task, ticket, start, [(unit, since) for since, unit in mine]))
            end = max(end, start + task.seconds)
        return end, placed

    def outcome(self, long: Segments) -> Outcome:
        """What it came to; `long` are all long segments of the batch."""
        alone = self.device.row_cycles(long, 1024) / self.device.clock_hz
        shortest, least = alone, alone  # seconds, and unit-seconds, of each at best
        for blocks in range(2, MOST_BLOCKS + 1) if self.design.split else ():
            shared = self.device.shared_s(long.anchors, long.pairs, blocks)
            shortest, least = np.minimum(shortest, shared), np.minimum(least, shared * blocks)
        bound = self.small_bound_s + self.phases["launches"]
        bound += max(float(shortest.max()), float(least.sum()) / self.device.units) if len(long) else 0.0
        held = self.device.units * self.phases["long"]
        return Outcome(
            makespan_s=self.now,
            bound_s=bound,
            critical_s=float(alone.max()) if len(long) else 0.0,
            phases_s=dict(self.phases),
            busy=self.work_s / held if held else 1.0,
            spans=self.spans,
            busy_units=_levels(self.changes),
        )

    def _launch(self) -> float:
        self.phases["launches"] += LAUNCH_S
        self.now += LAUNCH_S
        return self.now

    def _queue(self, parts: Segments, alone: Floats, cut_s: float) -> list[Task]:
        """Long segments in the order of their tickets; what takes longer than the cut is shared if that helps."""
        sizes = zip(alone.tolist(), parts.anchors.tolist(), parts.pairs.tolist(), strict=True)
        tasks = [self._task(at, *size, cut_s) for at, size in enumerate(sizes)]
        return sorted(tasks, key=lambda t: (-t.seconds, t.number)) if self.design.longest_first else tasks

    def _task(self, number: int, alone_s: float, anchors: int, pairs: int, cut_s: float) -> Task:
        """On one block, or on as few as bring it under the cut."""
        seconds, blocks = alone_s, 1
        for k in range(2, MOST_BLOCKS + 1):
            if seconds <= cut_s:
                break
            if (shared := float(self.device.shared_s(anchors, pairs, k))) < 0.95 * seconds:
                seconds, blocks = shared, k
        return Task(number, seconds, blocks, anchors, pairs, alone_s)

    def _span(self, place: Place, unit: int, free: float) -> None:
        if not self.trace:
            return
        task, start, end = place.task, place.start_s, place.start_s + place.task.seconds
        self.changes += [(start, 1), (end, -1)]
        if unit >= SPAN_LANES:
            return
        why: dict[str, Any] = {
            "reason": "shared" if task.blocks > 1 else "ticket" if self.design.persistent else "fixed",
            "ticket": place.ticket,
            "order": "longest first" if self.design.longest_first else "as they came",
            "anchors": task.anchors,
            "pairs": task.pairs,
            "blocks": task.blocks,
            "waited_s": start - free,
            "alone_s": task.alone_s,
        }
        kind = "shared segment" if task.blocks > 1 else "long segment"
        self.spans.append(Span(f"unit {unit}", start, end, f"segment {task.number}", kind, why))


def _greedy(cost: Floats, places: int) -> float:
    """When the last of these ends, each starting on the place that is free first, in order."""
    if len(cost) <= places:
        return float(cost.max())
    free = [0.0] * places
    for seconds in cost.tolist():
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _levels(changes: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """How many units are at work, from each time at which that changes."""
    levels, level = list[tuple[float, int]](), 0
    for at, by in sorted(changes):
        level += by
        if levels and levels[-1][0] == at:
            levels[-1] = (at, level)
        else:
            levels.append((at, level))
    return levels


def design_of(config: Any) -> Design:
    """The design that a config asks for."""
    names = ("segmented", "pooled", "persistent", "longest_first", "split")
    return Design(**{name: getattr(config, name) for name in names})

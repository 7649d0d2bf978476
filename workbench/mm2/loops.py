"""The dynamic programme alone, on anchors that lie ready: every loop of this machine, timed in turn and compared.

minimap2's own loop stops a search after 25 predecessors in a row without gain; ours looks at all of them. All loops of
the second kind must give the same score, predecessor, peak and chain for every anchor; the first kind has one loop
here, which is compared with the definition and, where minimap2 is installed, with its PAF.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event as Flag
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.kernels import chain as kernel
from workbench.mm2.result import FULL, MINIMAP2, Checks, Timing, bin_of, bins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.kernels.chain import ChainParams

    Anchors = NDArray[np.uint64]

DEFINED_READS, DEFINED_ANCHORS = 12, 250  # how much of the reads the definition in Python goes through
MOST_ANCHORS, MOST_PAIRS = 5_000_000, 4_000_000_000  # kept for timing: 80 MB, some seconds of the scalar loop


@dataclass
class Kept:
    """Anchors of a read, kept to be chained again."""

    length: int
    anchors: Anchors
    pairs: int


@dataclass(frozen=True)
class Loop:
    """One way to run the dynamic programme."""

    name: str
    params: ChainParams
    backend: str

    def __call__(self, anchors: Anchors) -> tuple[Any, Any, Any]:
        """Score, predecessor and peak of every anchor."""
        return kernel.dp(anchors, self.params, backend=self.backend)

    def seconds(self, reads: Sequence[Kept], stop: Flag) -> float:
        """Of the processor on one thread; on a GPU, which takes all reads together, by the wall. nan when stopped."""
        if self.backend in kernel.GPU:
            began = perf_counter()
            kernel.dps([read.anchors for read in reads], self.params, backend=self.backend)
            return perf_counter() - began
        total = 0.0
        for read in reads:
            if stop.is_set():
                return float("nan")
            began = thread_time()
            self(read.anchors)
            total += thread_time() - began
        return total


def loops(params: ChainParams, where: str = "cpu") -> list[Loop]:
    """What this machine can run: minimap2's loop first, then exact ones, scalar first, a GPU's last."""
    full = replace(params, max_skip=None)
    there = [name for name in kernel.available(full) if name not in ("scalar", "reference")]
    names = ["scalar", *reversed(there), *(f"{name}_every_pair" for name in there[:1])]
    exact = [Loop(f"{FULL}, {name.replace('_every_pair', ' without pruning')}", full, name) for name in names]
    exact += [Loop(f"{FULL}, {where}", full, where)] if where in kernel.GPU else []
    return [Loop(MINIMAP2, replace(params, max_skip=25), "scalar"), *(each for each in exact if _runs(each))]


def _runs(loop: Loop) -> bool:
    try:
        loop(np.zeros((0, 2), np.uint64))
    except kernel.Unsupported:
        return False
    return True


def check(kept: Sequence[Kept], found: Sequence[Loop], stop: Flag, tell: Callable[[int], None]) -> Checks:
    """Every read through every loop: `equal` counts those on which all exact loops agree to the last bit."""
    exact = found[1:]
    equal = defined = defined_equal = 0
    for at, read in enumerate(kept):
        if stop.is_set():
            break
        truth = _chained(exact[0], read.anchors)
        equal += all(_same(truth, _chained(loop, read.anchors)) for loop in exact[1:])
        tell(at + 1)
    for read in kept[:: max(1, len(kept) // DEFINED_READS)][:DEFINED_READS]:
        if stop.is_set():
            break
        first = _densest(read.anchors)
        defined += 1
        defined_equal += all(
            _same(loop(first), kernel.dp(first, loop.params, backend="reference")) for loop in found[:2]
        )
    seen = list[bool]()
    for read in kept:  # the first reads that have a chain; most have
        if stop.is_set() or len(seen) == DEFINED_READS:
            break
        if (control := _moved_is_seen(exact, read.anchors)) is not None:
            seen.append(control)
    return Checks(
        reads=len(kept),
        equal=equal,
        defined=defined,
        defined_equal=defined_equal,
        moved=len(seen),
        caught=any(seen),
        against=[loop.name for loop in exact],
        auto=f"{FULL}, {kernel.available(exact[0].params)[0]}",
    )


def _chained(loop: Loop, anchors: Anchors) -> tuple[Any, ...]:
    """Scores, predecessors, peaks, and the chains that follow from them."""
    f, p, v = loop(anchors)
    return (f, p, v, *kernel.compact(anchors, *kernel.backtrack(f, p, v, loop.params)))


def _densest(anchors: Anchors) -> Anchors:
    """So many anchors in a row as the definition is asked for, where they stand closest on the reference."""
    count = min(DEFINED_ANCHORS, len(anchors))
    if count < 2:
        return anchors
    far = anchors[count - 1 :, 0] - anchors[: len(anchors) - count + 1, 0]
    begin = int(np.argmin(far))
    return np.ascontiguousarray(anchors[begin : begin + count])


def _moved_is_seen(exact: Sequence[Loop], anchors: Anchors) -> bool | None:
    """The control: one anchor in a chain moved by three bases changes what the compared loops give.

    None for a read without a chain.
    """
    truth = _chained(exact[0], anchors)
    if not len(truth[4]):
        return None
    moved = anchors.copy()
    moved[truth[4][len(truth[4]) // 2], 1] += np.uint64(3)
    return not any(_same(truth, _chained(loop, moved)) for loop in exact)


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Bench:
    """Times loops on kept reads, a bin of read lengths at a time, so that each row is of reads of one length."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        self.binned = {name: [k for k in kept if bin_of(k.length) == name] for name in bins()}
        self.rows: list[Timing] = []

    def time(self, loop: Loop, number: int, stop: Flag) -> float:
        """Processor seconds of one loop over all reads; nan, and no rows, when it was stopped on the way."""
        rows = list[Timing]()
        for name, kept in self.binned.items():
            if not kept:
                continue
            seconds = loop.seconds(kept, stop)
            if stop.is_set():
                return float("nan")
            rows.append(self._row(loop, number, name, seconds, kept))
        every = [read for kept in self.binned.values() for read in kept]
        total = sum(row.seconds for row in rows)
        self.rows += [self._row(loop, number, "all", total, every), *rows]
        return total

    def _row(self, loop: Loop, number: int, name: str, seconds: float, kept: Sequence[Kept]) -> Timing:
        return Timing(
            what="loop",
            name=loop.name,
            reads_kbp=name,
            round=number,
            seconds=round(seconds, 7),
            anchors=sum(len(k.anchors) for k in kept),
            pairs=sum(k.pairs for k in kept),
        )

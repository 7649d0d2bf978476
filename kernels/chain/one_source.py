"""The GPU kernels on the CPU: reads in micro-batches, segments by class, long ones pooled, giants split into tasks.

The text is one_source.h, the same that nvcc and hipcc compile, and the host is launch.h, the same that runs a GPU;
`workers` threads stand for the blocks of a device, driver_cpu.h for its driver, which checks every call. The build
"shuffled" runs independent bodies in another order than written and must give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.kernels import chain

if TYPE_CHECKING:
    from numpy.typing import NDArray

Build = Literal["auto", "portable", "avx2", "avx512", "shuffled"]


@dataclass(frozen=True)
class Limits:
    """What decides which way a segment goes: anchors of a micro-batch, micro-batches that share a pool, anchors of a
    short segment, pairs from which a segment is long, pairs from which it is split over blocks.
    """

    micro_batch: int = 1 << 20
    micro_batches: int = 4
    short_anchors: int = 256
    long_pairs: int = 1 << 18
    split_pairs: int = 1 << 22


@dataclass(frozen=True)
class Done:
    """(f, p, v) of every read; how much went which way: short, mid, long, split, tasks, pools, redone, calls.

    The first four count segments. `redone`: reads whose window max_iter cut; the exact loop did them again. `calls`: of
    the driver. `ms`: time on a GPU by kind of work, when asked for.
    """

    reads: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]]
    counts: dict[str, int]
    ms: dict[str, float] = field(default_factory=dict)


def run(
    reads: Sequence[NDArray[np.uint64]],
    params: chain.ChainParams,
    *,
    build: Build = "auto",
    workers: int = 1,
    limits: Limits | None = None,
    order: int = 1,
    dropped: int = 0,
) -> Done:
    """Scores of all reads. `order`: of the shuffled build, 1 backwards, 2 and up scattered by this seed.

    For tests: `dropped` is the call of the driver, counted from 1, that is left out. RuntimeError, in the words of the
    double (driver_cpu.h), when it notices one that is missing or wrong.
    Unsupported (a ValueError) for parameters that the kernels do not do, or a build this processor cannot run.
    """
    from workbench.kernels.chain import _chain

    if not params.simple or params.max_skip is not None:
        raise chain.Unsupported("chain: one_source does one read, no introns, no skip penalty and no limit on skips")
    if build == "auto":
        build = next((name for name in chain.VECTOR if _chain.has(_chain.Backend[name])), "portable")
    ways: Any = limits or Limits()
    figures = (ways.micro_batch, ways.micro_batches, ways.short_anchors, ways.long_pairs, ways.split_pairs)
    checked = [chain.checked(each) for each in reads]
    return Done(*_chain.one_source(checked, chain.native(params), build, workers, *figures, order, dropped))

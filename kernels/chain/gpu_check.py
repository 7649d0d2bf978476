"""A replay by which a build of the kernels shows that it computes what the CPU does: every score and predecessor.

A few thousand anchors with everything that can go wrong: repeats with many equal scores, gaps, two references, spans
that differ, a giant that is split, a window that max_iter cuts. Limits are small, so that every kernel takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.kernels import chain
from workbench.kernels.chain.one_source import Done, Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMITS = (Limits(micro_batch=2500, micro_batches=2, short_anchors=20, long_pairs=3000, split_pairs=20_000), Limits())
SIZES = (0, 1, 300, 1500, 2500, 900, 1800)
DEFINED = 2  # of the reads, the one that the definition in Python goes through
EVERY_WAY = ("short", "mid", "long", "split", "pools")


class Differs(RuntimeError):
    """The device computes something else than the CPU: it must not be used."""


def anchors() -> list[NDArray[np.uint64]]:
    """The reads of the replay, the same every time."""
    random = np.random.default_rng(20)
    return [_read(random, n, gaps=n != 2500) for n in SIZES]


def replay(run: Callable[..., Done]) -> int:
    """Give the reads to `run(reads, params, limits=)`; how many anchors were compared. Differs says where it errs."""
    reads, full = anchors(), chain.ChainParams(max_skip=None)
    compared = 0
    for params in (full, replace(full, max_iter=60)):
        wanted = [chain.dp(each, params, backend="scalar") for each in reads]
        wanted[DEFINED] = chain.dp(reads[DEFINED], params, backend="reference")
        for limits in LIMITS:
            done = run(reads, params, limits=limits)
            for number, (got, right) in enumerate(zip(done.reads, wanted, strict=True)):
                _compare(number, got, right)
                compared += len(reads[number])
        if params is full:
            idle = [way for way in EVERY_WAY if not run(reads, params, limits=LIMITS[0]).counts[way]]
            if idle:
                raise Differs(f"self-check: no segment went the way {', '.join(idle)}")
    return compared


def _compare(number: int, got: Any, right: Any) -> None:
    for what, one, other in zip(("score", "predecessor", "peak"), got, right, strict=True):
        differing = np.flatnonzero(np.asarray(one) != np.asarray(other))
        if len(differing):
            at = int(differing[0])
            raise Differs(
                f"self-check: {len(differing)} of {len(one)} anchors of read {number} differ from the CPU, first the "
                f"{what} of anchor {at}: {int(one[at])} for {int(other[at])}"
            )


def _read(random: Any, n: int, *, gaps: bool) -> NDArray[np.uint64]:
    x = np.sort(random.integers(0, 30_000, n))
    if gaps:
        x += 6000 * (x // 3000)
    y = (x + 171 * random.integers(-5, 6, n) + random.integers(-2, 3, n) + 2000) % 2**29
    place, span = np.sort(random.integers(0, 2, n)), random.integers(12, 18, n)
    packed = np.stack([place << 32 | x, span << 32 | y], 1).astype(np.uint64)
    return packed[np.argsort(packed[:, 0], kind="stable")]

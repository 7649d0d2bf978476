"""The shape of chaining work: windows of anchors, pairs, segments, and how unevenly work lies on them.

    window of anchor i   the earlier anchors that it may follow: same reference and strand, not farther than `reach`
    pairs                sum of the windows: what an exact loop looks at
    segment              anchors of which each but the first has the one before it in its window: no chain leaves it

mm2-gb cuts at some of these gaps (it looks at 10 of 512 anchors); here every gap is a cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.kernels.chain import ChainParams

    Ints = NDArray[np.int64]

UNIT = 512  # anchors of a cut unit of mm2-gb
SHORT, MID = 3 * UNIT, 20 * UNIT  # anchors of the largest short and mid segment (its shipped configuration)
CLASSES = ("short", "mid", "long")
WIDTHS = (32, 64, 512, 1024)  # lanes that may share a row of successors: warps and blocks


def windows(anchors: NDArray[np.uint64], params: ChainParams) -> Ints:
    """Size of each anchor's window."""
    x, own = anchors[:, 0], np.arange(len(anchors))
    reach = np.minimum(x & np.uint64(0xFFFFFFFF), np.uint64(max(params.max_dist_x, params.bw)))
    return own - np.maximum(np.searchsorted(x, x - reach, "left"), own - params.max_iter)


def successors(window: Ints) -> Ints:
    """How many later anchors have each anchor in their window: its row, in the forward form that a GPU computes."""
    own = np.arange(len(window))
    return np.searchsorted(own - window, own, "right") - 1 - own


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of reads, a column an array: anchors, pairs, the read's number, and passes over its rows.

    `passes[:, k]`: sum over anchors of ceil(successors / WIDTHS[k]), how often that many lanes go over the rows.
    """

    anchors: Ints
    pairs: Ints
    read: Ints
    passes: Ints

    def __len__(self) -> int:
        return len(self.anchors)

    def kinds(self) -> Ints:
        """Index into CLASSES."""
        return np.digitize(self.anchors, [SHORT + 1, MID + 1])

    def pick(self, which: Any) -> Segments:
        """Those chosen by a mask or by indices."""
        return Segments(self.anchors[which], self.pairs[which], self.read[which], self.passes[which])


def segments(window: Ints, read: int = 0) -> Segments:
    """Segments of one read."""
    if not len(window):
        return joined([])
    rows, begins = successors(window), np.flatnonzero(window == 0)
    anchors = np.diff([*begins, len(window)])
    passes = np.stack([np.add.reduceat(-(-rows // width), begins) for width in WIDTHS], axis=1)
    return Segments(anchors, np.add.reduceat(window, begins), np.full(len(begins), read), passes)


def joined(parts: Sequence[Segments]) -> Segments:
    """All of them as one, in order."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Segments(none, none, none, np.zeros((0, len(WIDTHS)), np.int64))
    columns = zip(*((p.anchors, p.pairs, p.read, p.passes) for p in parts), strict=True)
    return Segments(*(np.concatenate(column) for column in columns))


def whole_reads(parts: Segments) -> Segments:
    """A segment a read: what there would be without segmentation."""
    if not len(parts):
        return parts
    begins = np.flatnonzero(np.diff(parts.read, prepend=parts.read[0] - 1))
    columns = (np.add.reduceat(each, begins, axis=0) for each in (parts.anchors, parts.pairs, parts.passes))
    anchors, pairs, passes = columns
    return Segments(anchors, pairs, parts.read[begins], passes)


def drawn(parts: Segments, lengths: Ints, bases: float, seed: int) -> Segments:
    """Segments of reads drawn with replacement until `bases` bases; the reads are numbered anew."""
    if not len(lengths) or not lengths.sum():
        return parts
    rng = np.random.default_rng([seed, 7])
    count = max(1, round(bases / float(lengths.mean())))
    chosen = rng.integers(0, len(lengths), count)
    begins = np.searchsorted(parts.read, chosen, "left")
    sizes = np.searchsorted(parts.read, chosen, "right") - begins
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found = parts.pick(np.repeat(begins, sizes) + within)
    return Segments(found.anchors, found.pairs, np.repeat(np.arange(count), sizes), found.passes)


def lorenz(work: Ints, points: int = 80) -> tuple[list[float], list[float]]:
    """Share of segments, those with most work first, and the share of all work that they hold; both from 0 to 1."""
    total = int(work.sum())
    if not total:
        return [0.0, 1.0], [0.0, 1.0]
    held = np.concatenate([[0], np.cumsum(np.sort(work)[::-1])]) / total
    last = len(held) - 1
    at = np.unique(np.round(np.geomspace(1, last, points)).astype(int))
    at = np.concatenate([[0], at])
    return [round(float(v), 7) for v in at / last], [round(float(v), 5) for v in held[at]]


def half_of_work(work: Ints) -> int:
    """How many segments, those with most work first, hold half of all work."""
    held = np.cumsum(np.sort(work)[::-1])
    return int(np.searchsorted(held, held[-1] / 2)) + 1 if len(held) else 0

"""The dot plot of a read as data: anchors thinned to what a screen can tell apart, chains of both modes as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.mm2.result import Dots, Drawn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from workbench.kernels.chain import Chains

    Anchors = NDArray[np.uint64]

GRID = (360, 240)  # places over the width and the height of the plot
MOST_CHAINS = 60
CORNERS = 40  # of a chain's line


def placed(anchors: Anchors, length: int) -> tuple[Any, Any, Any, Any]:
    """Reference number, place on the reference, place on the read's forward strand, reverse: a row an anchor."""
    x, y = anchors[:, 0], anchors[:, 1]
    reverse = (x >> np.uint64(63)).astype(np.int64)
    target = (x >> np.uint64(32) & np.uint64(0x7FFFFFFF)).astype(np.int64)
    on_reference = (x & np.uint64(0xFFFFFFFF)).astype(np.int64)
    on_strand = (y & np.uint64(0xFFFFFFFF)).astype(np.int64)
    span = (y >> np.uint64(32) & np.uint64(0xFF)).astype(np.int64)
    return target, on_reference, np.where(reverse, length - 1 - on_strand + span - 1, on_strand), reverse


def thinned(x: Any, y: Any, frame: tuple[float, float, float, float], grid: tuple[int, int] = GRID) -> Any:
    """Indices of points such that every place of the grid that holds a point keeps exactly one."""
    x0, x1, y0, y1 = frame
    column = np.clip((x - x0) * grid[0] // max(x1 - x0, 1), 0, grid[0] - 1)
    row = np.clip((y - y0) * grid[1] // max(y1 - y0, 1), 0, grid[1] - 1)
    _, first = np.unique(column * grid[1] + row, return_index=True)
    return np.sort(first)


def dots(
    name: str, length: int, targets: Sequence[str], lengths: Sequence[int], full: Chains, skip25: Chains
) -> Dots | None:
    """The plot of one read; None where it has no chain. Shown is where its best chain lies, and half as much around."""
    best = max((full, skip25), key=len)
    if not len(best):
        return None
    _, members = max(best, key=lambda chain: chain[0])
    target, x, y, reverse = placed(best.anchors, length)
    own = int(target[members[0]])
    low, high = int(x[members].min()), int(x[members].max())
    around = max(length - (high - low), length // 5)
    begin, end = max(0, low - around), min(int(lengths[own]), high + around)
    seen = np.flatnonzero((target == own) & (x >= begin) & (x < end))
    kept = seen[thinned(x[seen], y[seen], (begin, end, 0, length))]
    chains, counts = _drawn(full, skip25, length, own, begin, end)
    return Dots(
        read=name,
        length=length,
        target=targets[own],
        begin=begin,
        end=end,
        x=x[kept].tolist(),
        y=y[kept].tolist(),
        reverse=reverse[kept].tolist(),
        anchors=len(x),
        shown=len(seen),
        chains=chains,
        counts=counts,
    )


def _drawn(
    full: Chains, skip25: Chains, length: int, own: int, begin: int, end: int
) -> tuple[list[Drawn], dict[str, int]]:
    """Chains by who finds them, equal to the last anchor or not, best first; those of the part that is shown."""
    sets = {"full": _keys(full), "exact_skip25": _keys(skip25)}
    both = sets["full"].keys() & sets["exact_skip25"].keys()
    counts = {"both": len(both)} | {mode: len(keys.keys() - both) for mode, keys in sets.items()}
    drawn = list[Drawn]()
    for mode, found in (("full", full), ("exact_skip25", skip25)):
        target, x, y, reverse = placed(found.anchors, length)
        for key, (score, members) in sets[mode].items():
            if key in both and mode != "full":
                continue
            if int(target[members[0]]) != own or x[members[0]] >= end or x[members[-1]] < begin:
                continue
            corners = members[np.unique(np.linspace(0, len(members) - 1, CORNERS).round().astype(int))]
            drawn.append(
                Drawn(
                    x=x[corners].tolist(),
                    y=y[corners].tolist(),
                    score=score,
                    anchors=len(members),
                    reverse=bool(reverse[members[0]]),
                    found_by="both" if key in both else mode,  # type: ignore[arg-type]
                )
            )
    differing = sorted((d for d in drawn if d.found_by != "both"), key=lambda d: -d.score)[: MOST_CHAINS * 2 // 3]
    shared = sorted((d for d in drawn if d.found_by == "both"), key=lambda d: -d.score)
    return [*differing, *shared[: MOST_CHAINS - len(differing)]], counts


def _keys(found: Chains) -> dict[tuple[int, bytes], tuple[int, NDArray[np.int64]]]:
    """Each chain by its score and anchors."""
    return {(score, found.anchors[members].tobytes()): (score, members) for score, members in found}


def differing(full: Chains, skip25: Chains) -> int:
    """How many chains only one of the two has."""
    return len(_keys(full).keys() ^ _keys(skip25).keys())

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

GRID = (240, 160)  # places over the width and the height of the plot
MOST = 4000  # places that may be drawn; where more are taken, the grid is made coarser
MOST_CHAINS = 60
CORNERS = 24  # of a chain's line


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


def few(x: Any, y: Any, frame: tuple[float, float, float, float]) -> Any:
    """Like `thinned`, on the finest grid that leaves no more than MOST."""
    columns, rows = GRID
    while len(kept := thinned(x, y, frame, (columns, rows))) > MOST:
        columns, rows = columns * 4 // 5, rows * 4 // 5
    return kept


def dots(
    name: str,
    length: int,
    targets: Sequence[str],
    lengths: Sequence[int],
    full: Chains,
    skip25: Chains,
    *,
    near: bool = False,
) -> Dots | None:
    """The plot of one read: where its best chain lies, or, `near`, where the chains lie that differ.

    None where there is no such chain.
    """
    target, x, y, reverse = placed(full.anchors, length)
    found = {"full": _keys(full), "exact_skip25": _keys(skip25)}
    both = found["full"].keys() & found["exact_skip25"].keys()
    chosen = [c for keys in found.values() for key, c in keys.items() if not near or key not in both]
    if not chosen:
        return None
    best = max(chosen, key=lambda chain: chain[0])[1]
    own = int(target[best[0]])
    frame = _frame(x[best], y[best], length, int(lengths[own]), near)
    begin, end, low, high = frame
    seen = np.flatnonzero((target == own) & (x >= begin) & (x < end) & (y >= low) & (y < high))
    kept = seen[few(x[seen], y[seen], frame)]
    lines = list[Drawn]()
    for mode, keys in found.items():
        for key, (score, members) in keys.items():
            inside = members[np.isin(members, seen, assume_unique=True)]
            if len(inside) < 2 or (key in both and mode != "full"):
                continue
            corners = inside[np.unique(np.linspace(0, len(inside) - 1, CORNERS).round().astype(int))]
            lines.append(
                Drawn(
                    x=x[corners].tolist(),
                    y=y[corners].tolist(),
                    score=score,
                    anchors=len(members),
                    reverse=bool(reverse[members[0]]),
                    found_by="both" if key in both else mode,
                )
            )
    lines.sort(key=lambda line: (line.found_by == "both", -line.score))
    return Dots(
        read=name,
        length=length,
        target=targets[own],
        begin=begin,
        end=end,
        low=low,
        high=high,
        x=x[kept].tolist(),
        y=y[kept].tolist(),
        reverse=reverse[kept].tolist(),
        anchors=len(x),
        shown=len(seen),
        chains=lines[:MOST_CHAINS],
        counts={"both": len(both)} | {mode: len(keys.keys() - both) for mode, keys in found.items()},
    )


def _frame(x: Any, y: Any, length: int, of: int, near: bool) -> tuple[int, int, int, int]:
    """What is shown around a chain: begin and end on the reference, of `of` bases, and on the read."""
    begin, end = int(x.min()), int(x.max())
    if near:
        around = max(500, (end - begin) // 5)
        low, high = max(0, int(y.min()) - around), min(length, int(y.max()) + around)
    else:
        around, low, high = max(length - (end - begin), length // 5), 0, length
    return max(0, begin - around), min(of, end + around), low, high


def _keys(found: Chains) -> dict[tuple[int, bytes], tuple[int, NDArray[np.int64]]]:
    """Each chain by its score and anchors; the two modes have the same anchors."""
    return {(score, found.anchors[members].tobytes()): (score, members) for score, members in found}


def differing(full: Chains, skip25: Chains) -> int:
    """How many chains only one of the two has."""
    return len(_keys(full).keys() ^ _keys(skip25).keys())

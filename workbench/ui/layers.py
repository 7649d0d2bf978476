"""Where the boxes of a graph stand: columns from left to right, few crossings, edges that bend around boxes.

needs -> columns (longest way, at most so many boxes in one) -> bends for long edges -> order (barycentres, Sugiyama et
al. 1981) -> rows (least squares with a least distance, by pooling)
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

MOST_BENDS = 120  # of all long edges together; what is beyond runs straight, behind the boxes
_SWEEPS = 12  # of ordering; the best seen is kept
_BEND = 0.4  # room of a bend, in boxes

Edge = tuple[str, str]  # (needed, needing)
Key = str | tuple[str, str, int]  # a box, or the bend of an edge in a column
Links = list[list[tuple[Key, Key]]]  # pieces of edges from each column to the next
Needs = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Layers:
    """`at`: box -> (column, row); `ways`: edge -> places, ends included. Rows count in boxes, from 0 to `rows` - 1."""

    at: Mapping[str, tuple[int, float]]
    ways: Mapping[Edge, Sequence[tuple[int, float]]]
    columns: int
    rows: float
    crossings: int


def arrange(needs: Mapping[str, Sequence[str]], most: int = 8) -> Layers:
    """Places for boxes in the order given, at most `most` in a column. Only needs that were named before count."""
    known: dict[str, tuple[str, ...]] = {}
    for name, wanted in needs.items():
        known[name] = tuple(dict.fromkeys(n for n in wanted if n in known))
    return _arrange(tuple(known.items()), most)


@lru_cache(maxsize=64)
def _arrange(needs: Needs, most: int) -> Layers:
    column: dict[Key, int] = {name: at for name, at in _columns(needs, most).items()}  # noqa: C416  of wider keys
    chains = _chains(needs, column)
    grid: list[list[Key]] = [[] for _ in range(1 + max(column.values(), default=-1))]
    for key, at in column.items():
        grid[at].append(key)
    links: Links = [[] for _ in grid]
    for chain in chains.values():
        for a, b in pairwise(chain):
            if column[b] == column[a] + 1:
                links[column[a]].append((a, b))
    grid, crossings = _ordered(grid, links)
    row = _rows(grid, links)
    return Layers(
        at={name: (column[name], row[name]) for name, _ in needs},
        ways={edge: [(column[key], row[key]) for key in chain] for edge, chain in chains.items()},
        columns=len(grid),
        rows=1 + max(row.values(), default=-1.0),
        crossings=crossings,
    )


def _columns(needs: Needs, most: int) -> dict[str, int]:
    """After everything that is needed, in the next column with room."""
    column: dict[str, int] = {}
    held: dict[int, int] = {}
    for name, wanted in needs:
        at = 1 + max((column[n] for n in wanted), default=-1)
        while held.get(at, 0) >= most:
            at += 1
        column[name] = at
        held[at] = held.get(at, 0) + 1
    return column


def _chains(needs: Needs, column: dict[Key, int]) -> dict[Edge, list[Key]]:
    """Each edge as the keys that it runs through, short edges first; gives its bends their columns."""
    left = MOST_BENDS
    chains: dict[Edge, list[Key]] = {}
    edges = [(need, name) for name, wanted in needs for need in wanted]
    for need, name in sorted(edges, key=lambda e: column[e[1]] - column[e[0]]):
        between = range(column[need] + 1, column[name])
        bends: list[Key] = [(need, name, at) for at in between] if len(between) <= left else []
        left -= len(bends)
        column.update(zip(bends, between, strict=False))
        chains[need, name] = [need, *bends, name]
    return chains


def _ordered(grid: list[list[Key]], links: Links) -> tuple[list[list[Key]], int]:
    """Columns sorted by the mean place of their neighbours, to and fro, and the crossings that are left."""
    best, least = [list(keys) for keys in grid], _crossings(grid, links)
    now = [list(keys) for keys in grid]
    for sweep in range(_SWEEPS):
        if least == 0:
            break
        forward = sweep % 2 == 0
        for at in range(1, len(now)) if forward else range(len(now) - 2, -1, -1):
            near = now[at - 1] if forward else now[at + 1]
            place = {key: float(i) for i, key in enumerate(near)}
            pairs = [(b, a) for a, b in links[at - 1]] if forward else links[at]
            wish = _means(pairs, place)
            own = {key: i * len(near) / max(len(now[at]), 1) for i, key in enumerate(now[at])}
            now[at].sort(key=lambda key: wish.get(key, own[key]))
        if (count := _crossings(now, links)) < least:
            best, least = [list(keys) for keys in now], count
    return best, least


def _means(pairs: Iterable[tuple[Key, Key]], place: Mapping[Key, float]) -> dict[Key, float]:
    """Of each key the mean place of those it is paired with."""
    found: dict[Key, list[float]] = {}
    for key, other in pairs:
        found.setdefault(key, []).append(place[other])
    return {key: sum(places) / len(places) for key, places in found.items()}


def _crossings(grid: list[list[Key]], links: Links) -> int:
    count = 0
    for at, pairs in enumerate(links[:-1]):
        left = {key: i for i, key in enumerate(grid[at])}
        right = {key: i for i, key in enumerate(grid[at + 1])}
        seen: list[int] = []
        for _, b in sorted((left[a], right[b]) for a, b in pairs):
            count += len(seen) - bisect_right(seen, b)
            insort(seen, b)
    return count


def _rows(grid: list[list[Key]], links: Links) -> dict[Key, float]:
    """Rows near those of the neighbours, in the order of each column and with room between."""
    row: dict[Key, float] = {}
    for keys in grid:
        row |= _spread(keys, dict.fromkeys(keys, 0.0))
    for sweep in range(8):
        forward = sweep % 2 == 0
        for at in range(1, len(grid)) if forward else range(len(grid) - 2, -1, -1):
            pairs = [(b, a) for a, b in links[at - 1]] if forward else links[at]
            wish = _means(pairs, row)
            row |= _spread(grid[at], {key: wish.get(key, row[key]) for key in grid[at]})
    top = min((r - (0.0 if isinstance(key, str) else 0.5 * (1 - _BEND)) for key, r in row.items()), default=0.0)
    return {key: round(r - top, 3) for key, r in row.items()}


def _spread(keys: Sequence[Key], wish: Mapping[Key, float]) -> dict[Key, float]:
    """The rows nearest to `wish` (least squares) that keep the order and leave each key its room."""
    offset, offsets = 0.0, list[float]()
    for at, key in enumerate(keys):
        offset += 0.5 * (_room(keys[at - 1]) + _room(key)) if at else 0.0
        offsets.append(offset)
    pools: list[tuple[float, float, int]] = []  # (mean, weight, keys in it), of what is free of the offsets
    for key, off in zip(keys, offsets, strict=True):
        mean, weight, size = wish[key] - off, 1.0 if isinstance(key, str) else 3.0, 1  # bends rather keep straight
        while pools and pools[-1][0] >= mean:
            before = pools.pop()
            mean = (mean * weight + before[0] * before[1]) / (weight + before[1])
            weight, size = weight + before[1], size + before[2]
        pools.append((mean, weight, size))
    means = [mean for mean, _, size in pools for _ in range(size)]
    return {key: mean + off for key, mean, off in zip(keys, means, offsets, strict=True)}


def _room(key: Key) -> float:
    return 1.0 if isinstance(key, str) else _BEND

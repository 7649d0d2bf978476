"""The definition of chaining, one pair at a time in plain Python: minimap2 2.24's mg_lchain_dp and what follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOW = 0xFFFFFFFF
F32 = np.float32


class Anchor(NamedTuple):
    """One anchor taken apart: `x` whole, positions on reference and read, span, which read of a pair."""

    x: int
    ref: int
    query: int
    span: int
    segment: int


def taken_apart(anchors: NDArray[np.uint64]) -> list[Anchor]:
    """Anchors of uint64 [n, 2]."""
    return [Anchor(x, x & LOW, y & LOW, y >> 32 & 0xFF, y >> 48 & 0xFF) for x, y in anchors.tolist()]


def rough_log2(value: int) -> np.float32:
    """minimap2's log2: exponent plus a parabola of the mantissa, in float32. For value >= 2."""
    bits = int(F32(value).view(np.uint32))
    mantissa = np.uint32(bits & 0x7FFFFF | 127 << 23).view(F32)
    curve = (F32(-0.34484843) * mantissa + F32(2.02466578)) * mantissa - F32(0.67487759)
    return F32(F32((bits >> 23 & 255) - 128) + curve)


def gain(params: Any, to: Anchor, frm: Anchor) -> int | None:
    """What anchor `to` adds to a chain that ended in `frm`; None where it cannot follow."""
    bw, window_x = params.bw, max(params.max_dist_x, params.bw)
    window_y = params.max_dist_y if params.is_cdna else max(params.max_dist_y, bw)
    same = to.segment == frm.segment
    dq, dr = to.query - frm.query, to.ref - frm.ref
    dd, dg = abs(dr - dq), min(dr, dq)
    if dq <= 0 or dq > window_x or (same and (dr == 0 or dq > window_y or dd > bw)):
        return None
    if params.n_seg > 1 and not params.is_cdna and same and dr > window_y:
        return None
    matched = min(frm.span, dg)
    if dd == 0 and dg <= frm.span:
        return matched
    if not same and dr == 0:
        return matched + 1
    per_gap, per_base = params.penalties
    linear = F32(F32(per_gap * F32(dd)) + F32(per_base * F32(dg)))
    log = rough_log2(dd + 1) if dd else F32(0)
    if not same or (params.is_cdna and dr > dq):
        return matched - int(min(linear, log))
    return matched - int(F32(linear + F32(F32(0.5) * log)))


def dp(anchors: NDArray[np.uint64], params: Any) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Score, predecessor and peak of every anchor. Where max_iter or skips end a search, the best anchor still in
    reach (the leader) is tried too.
    """
    if len(anchors) and (anchors[1:, 0] < anchors[:-1, 0]).any():
        raise ValueError("chain: anchors are not sorted by x")
    at, reach = taken_apart(anchors), max(params.max_dist_x, params.bw)
    f, p, v = [0] * len(at), [-1] * len(at), [0] * len(at)
    seen_by = [0] * len(at)
    start, leader = 0, -1
    for i, own in enumerate(at):
        while start < i and (at[start].x >> 32 != own.x >> 32 or own.x > at[start].x + reach):
            start += 1
        start = max(start, i - params.max_iter)
        f[i], p[i], end = _search(params, at, i, start, f, p, seen_by)
        if leader < 0 or own.x - at[leader].x > reach:
            leader = max(range(i - 1, start - 1, -1), key=f.__getitem__, default=-1)  # the nearest of the best
        if 0 <= leader < end:
            step = gain(params, own, at[leader])
            if step is not None and step + f[leader] > f[i]:
                f[i], p[i] = step + f[leader], leader
        v[i] = max(f[i], v[p[i]]) if p[i] >= 0 else f[i]
        if leader < 0 or (own.x - at[leader].x <= reach and f[leader] < f[i]):
            leader = i
    return np.array(f, np.int32), np.array(p, np.int64), np.array(v, np.int32)


def _search(
    params: Any, at: list[Anchor], i: int, start: int, f: list[int], p: list[int], seen_by: list[int]
) -> tuple[int, int, int]:
    """Best score of anchor i, its predecessor, and where the search ended, from i-1 back to `start` (then start - 1).

    `seen_by`: the last i on whose way an anchor was somebody's predecessor; meeting one without gain is a skip.
    """
    limit = len(at) if params.max_skip is None else params.max_skip
    best, best_j, skips = at[i].span, -1, 0
    for j in range(i - 1, start - 1, -1):
        step = gain(params, at[i], at[j])
        if step is None:
            continue
        if step + f[j] > best:
            best, best_j, skips = step + f[j], j, max(skips - 1, 0)
        elif seen_by[j] == i:
            skips += 1
            if skips > limit:
                return best, best_j, j
        if p[j] >= 0:
            seen_by[p[j]] = i
    return best, best_j, start - 1


def sort_order(keys: list[int]) -> list[int]:
    """Indices in the order that klib's radix sort leaves items with these 64-bit keys.

    Bytes from the top; items are carried round cycles of places, buckets in ascending order; 64 or fewer are sorted by
    insertion, which is stable. Not stable above that.
    """
    order = list(range(len(keys)))
    _sort(keys, order, 0, len(order), 56)
    return order


def _sort(keys: list[int], order: list[int], begin: int, end: int, shift: int) -> None:
    if end - begin <= 64:
        order[begin:end] = sorted(order[begin:end], key=keys.__getitem__)
        return
    digits = [keys[item] >> shift & 255 for item in order[begin:end]]
    stops = [begin + int(n) for n in np.cumsum(np.bincount(digits, minlength=256))]
    free = [begin, *stops[:-1]]
    for home in range(256):
        while free[home] < stops[home]:
            carried = order[free[home]]
            while (digit := keys[carried] >> shift & 255) != home:
                order[free[digit]], carried = carried, order[free[digit]]
                free[digit] += 1
            order[free[home]] = carried
            free[home] += 1
    if shift:
        for first, last in zip([begin, *stops[:-1]], stops):
            _sort(keys, order, first, last, shift - 8)


def backtrack(f: NDArray[np.int32], p: NDArray[np.int64], params: Any) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Chains from the best end down: along p until an anchor that is taken, cut where it fell by over bw."""
    score, previous = f.tolist(), p.tolist()
    drop = float("inf") if params.is_cdna else params.bw
    ends = [i for i, value in enumerate(score) if value >= params.min_score]
    ends = [ends[k] for k in sort_order([score[i] for i in ends])]
    taken = [False] * len(score)
    u: list[int] = []
    members: list[int] = []
    for last in reversed(ends):
        if taken[last]:
            continue
        i, stop, best = last, last, 0  # walk back; `stop` is the first anchor left out when the gain was best
        while True:
            i = previous[i]
            won = score[last] - (score[i] if i >= 0 else 0)
            if won > best:
                best, stop = won, i
            elif best - won > drop:
                break
            if i < 0 or taken[i]:
                break
        walk, i = [], last
        while i != stop:
            taken[i] = True
            walk.append(i)
            i = previous[i]
        won = score[last] - (score[i] if i >= 0 else 0)
        if won >= params.min_score and walk and len(walk) >= params.min_cnt:
            u.append(won << 32 | len(walk))
            members += reversed(walk)
    return np.array(u, np.uint64), np.array(members, np.int64)


def compact(
    anchors: NDArray[np.uint64], u: NDArray[np.uint64], members: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Chains by x of their first anchor, in the order of `sort_order`."""
    counts = [each & LOW for each in u.tolist()]
    starts = [int(s) for s in np.cumsum([0, *counts])]
    order = sort_order([int(anchors[members[s], 0]) for s in starts[:-1]])
    pieces = [members[starts[c] : starts[c + 1]] for c in order]
    return u[order], np.concatenate(pieces) if pieces else members

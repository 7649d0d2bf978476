"""The definition of sketch, index and anchors: one base after another, lists and dictionaries, slow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

CODE = {base: code for code, bases in enumerate(("Aa", "Cc", "Gg", "TtUu")) for base in bases.encode()}
NONE = (1 << 64) - 1
TANDEM = 1 << 42
RESCUED = 128  # at most, in one stretch of frequent minimizers


class Minimizer(NamedTuple):
    """`last` base of the k-mer in the sequence, `span` bases of it, and whether its reverse complement was hashed."""

    hash: int
    span: int
    last: int
    reverse: bool

    @property
    def x(self) -> int:
        return self.hash << 8 | self.span


def hash_bits(v: int, bits: int) -> int:
    """Thomas Wang's integer hash on `bits` bits: invertible, so that no two k-mers share a hash."""
    mask = (1 << bits) - 1
    v = (~v + (v << 21)) & mask
    v ^= v >> 24
    v = v * 265 & mask
    v ^= v >> 14
    v = v * 21 & mask
    v ^= v >> 28
    return (v + (v << 31)) & mask


def kmers(sequence: bytes, k: int, hpc: bool) -> Iterator[tuple[Minimizer | None, int]]:
    """What each base brings: a k-mer, or None, and the number of bases since the last ambiguous one.

    A k-mer that is its own reverse complement has no strand, and its base brings nothing at all. The last k bases are
    compared for that across ambiguous ones too, as minimap2 does.
    """
    forward, reverse, bases, runs, i = 0, 0, 0, deque([0], maxlen=k), 0
    while i < len(sequence):
        code = CODE.get(sequence[i])
        if code is None:
            bases, runs = 0, deque([0], maxlen=k)
            yield None, 0
            i += 1
            continue
        run = 1
        while hpc and i + run < len(sequence) and CODE.get(sequence[i + run]) == code:
            run += 1
        i += run
        runs.append(run)
        forward = (forward << 2 | code) & ((1 << 2 * k) - 1)
        reverse = reverse >> 2 | (3 - code) << 2 * (k - 1)
        if forward == reverse:
            continue
        bases += 1
        span = sum(runs) if hpc else k
        if bases >= k and span < 256:
            yield Minimizer(hash_bits(min(forward, reverse), 2 * k), span, i - 1, reverse < forward), bases
        else:
            yield None, bases


def minimizers(sequence: bytes, k: int, w: int, hpc: bool = False) -> Iterator[Minimizer]:
    """Of every w k-mers in a row the smallest; where several tie, all of them."""
    window: deque[Minimizer | None] = deque([None] * w, maxlen=w)  # oldest first
    best: Minimizer | None = None
    age = 0  # of the best, in places of the window

    def key(m: Minimizer | None) -> int:
        return NONE if m is None else m.x

    for now, bases in kmers(sequence, k, hpc):
        window.append(now)
        age += 1
        if bases == w + k - 1 and best:  # the first whole window: ties with the best were not given yet
            yield from (m for m in list(window)[:-1] if m and m.x == best.x and m != best)
        if key(now) <= key(best):
            if bases >= w + k and best:
                yield best
            best, age = now, 0
        elif age == w:  # the best has left
            if bases >= w + k - 1 and best:
                yield best
            smallest = min(key(m) for m in window)
            age = next(n for n, m in enumerate(reversed(window)) if key(m) == smallest)
            best = window[w - 1 - age]
            if bases >= w + k - 1 and best:
                yield from (m for m in window if m and m.x == best.x and m != best)
    if best:
        yield best


def sketch(sequence: bytes, k: int, w: int, hpc: bool = False) -> np.ndarray[Any, Any]:
    """Minimizers as the native version gives them, u64 [n, 2]."""
    if not (0 < k <= 28 and 0 < w < 256):
        raise ValueError("k must be 1 to 28 and w 1 to 255")
    rows = [(m.x, m.last << 1 | m.reverse) for m in minimizers(sequence, k, w, hpc)]
    return np.array(rows, np.uint64).reshape(-1, 2)


Places = list[tuple[int, int, bool]]  # sequence, last base, reverse; ascending


def index(sequences: Iterable[bytes], k: int, w: int, hpc: bool = False) -> dict[int, Places]:
    """Places of every minimizer."""
    found: dict[int, Places] = {}
    for number, sequence in enumerate(sequences):
        for m in minimizers(sequence, k, w, hpc):
            found.setdefault(m.hash, []).append((number, m.last, m.reverse))
    return {hash_: sorted(places) for hash_, places in found.items()}


def seeds(
    places: dict[int, Places],
    read: bytes,
    k: int,
    w: int,
    hpc: bool = False,
    *,
    mid_occ: int,
    max_max_occ: int = 4095,
    occ_dist: int = 500,
    q_occ_frac: float = 0.01,
) -> tuple[list[tuple[int, int]], list[int], int]:
    """Anchors in any order, the minimizers used (span << 32 | last), and the bases under those left out."""
    mine = list(minimizers(read, k, w, hpc))
    count = Counter(m.x for m in mine)
    most = max(mid_occ, float(np.float32(len(mine)) * np.float32(q_occ_frac)))
    if len(mine) > mid_occ > 0 and q_occ_frac > 0:
        mine = [m for m in mine if count[m.x] <= most]
    matches = [(i, m) for i, m in enumerate(mine) if m.hash in places]
    often = [len(places[m.hash]) for _, m in matches]
    keep = _kept(often, [m.last for _, m in matches], len(read), mid_occ, max_max_occ, occ_dist)
    anchors, used, repetitive = [], [], [0] * len(read)
    for (i, m), kept in zip(matches, keep):
        if not kept:
            repetitive[m.last + 1 - m.span : m.last + 1] = [1] * m.span
            continue
        used.append(m.span << 32 | m.last)
        neighbours = mine[max(i - 1, 0) : i] + mine[i + 1 : i + 2]
        flags = TANDEM if any(n.hash == m.hash for n in neighbours) else 0
        for number, last, reverse in places[m.hash]:
            other = reverse != m.reverse
            mirrored = len(read) - 1 - (m.last + 1 - m.span) if other else m.last
            anchors.append((int(other) << 63 | number << 32 | last, flags | m.span << 32 | mirrored))
    return anchors, used, sum(repetitive)


def _kept(
    often: Sequence[int], last: Sequence[int], length: int, mid_occ: int, max_max_occ: int, occ_dist: int
) -> list[bool]:
    """Which matches give anchors: the rare ones, and of each stretch of frequent ones the rarest few."""
    n = len(often)
    if occ_dist <= 0 or max_max_occ <= mid_occ:
        return [o <= mid_occ for o in often]
    if n == 1:
        return [True]
    keep = [o <= mid_occ for o in often]
    edges = [-1, *(i for i in range(n) if keep[i]), n]
    for before, after in pairwise(edges):
        stretch = range(before + 1, after)
        from_, to = (0 if before < 0 else last[before]), (length if after == n else last[after])
        room = min(RESCUED, int((to - from_) / occ_dist + 0.499))
        for i in sorted(stretch, key=lambda i: (often[i], i))[:room]:
            keep[i] = often[i] <= max_max_occ
    return keep

"""The definition of sketch, index, anchors and what is known of a hit: one base after another, slow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
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


@dataclass
class Hit:
    """A chain as a place of the read on the reference; `parent` is its own number where it is primary."""

    number: int
    first: int  # of its anchors
    anchors: int
    score: int
    reverse: int
    sequence: int
    query_start: int
    query_end: int
    start: int
    end: int
    matches: int
    block: int
    parent: int = -1
    second: int = 0  # best score of another hit over the same bases
    rivals: int = 0  # others with as many anchors
    divergence: float = -1.0
    mapq: int = 0
    strand_only: bool = False  # kept because it is on the other strand, until its divergence is known


def read_hash(name: bytes, length: int, seed: int = 11) -> int:
    """What orders hits of equal score: 32 bits of the read's name and length."""
    h = 0
    for char in name:
        h = h * 31 + (char - 256 if char > 127 else char)
    return _hash32((h & _M32) ^ (_hash32(length) + _hash32(seed) & _M32))


_M32 = (1 << 32) - 1


def _hash32(v: int) -> int:
    v = v + ~(v << 15) & _M32
    v ^= v >> 10
    v = v + (v << 3) & _M32
    v ^= v >> 6
    v = v + ~(v << 11) & _M32
    return v ^ v >> 16


def _low(v: int) -> int:
    return v & _M32


def _span(anchor: tuple[int, int]) -> int:
    return anchor[1] >> 32 & 0xFF


def hits_of(
    anchors: Sequence[tuple[int, int]], chains: Sequence[int], name: bytes, length: int, tie_seed: int = 11
) -> list[Hit]:
    """Hits from the best score down."""
    hash_, at, keyed = read_hash(name, length, tie_seed), 0, []
    for chain in chains:
        x, y = anchors[at]
        tie = hash_bits((hash_bits(x, 64) + hash_bits(y, 64) & NONE) ^ hash_, 64) & _M32
        keyed.append((chain ^ tie, at, _low(chain), chain >> 32))
        at += _low(chain)
    keyed.sort(key=lambda each: each[0])
    found = []
    for number, (key, first, count, _) in enumerate(reversed(keyed)):
        mine = anchors[first : first + count]
        (x, y), (last_x, last_y), span = mine[0], mine[-1], _span(mine[0])
        begin, end, reverse = _low(y) + 1 - span, _low(last_y) + 1, x >> 63
        matches = block = span
        for before, after in pairwise(mine):
            along, across = _low(after[0]) - _low(before[0]), _low(after[1]) - _low(before[1])
            block += max(along, across)
            matches += min(along, across, _span(after))
        query = (length - end, length - begin) if reverse else (begin, end)
        place = (max(_low(x) + 1 - span, 0), _low(last_x) + 1)
        found.append(
            Hit(number, first, count, key >> 32, reverse, x >> 32 & 0x7FFFFFFF, *query, *place, matches, block)
        )
    return found


def set_parents(hits: list[Hit], mask_level: float = 0.5) -> None:
    """Each hit, best first, belongs to the first better one that it shares most of the shorter's bases with.

    Bases that no primary covers count against it, as a share of the longer.
    """
    primaries: list[Hit] = []
    for hit in hits:
        mine = set(range(hit.query_start, hit.query_end))
        over = [p for p in primaries if mine & set(range(p.query_start, p.query_end))]
        bare = len(mine.difference(*(range(p.query_start, p.query_end) for p in over)))
        hit.parent = hit.number
        for p in over:
            theirs = p.query_end - p.query_start
            shared = np.float32(min(p.query_end, hit.query_end) - max(p.query_start, hit.query_start))
            share = shared / np.float32(min(theirs, len(mine))) - np.float32(bare) / np.float32(max(theirs, len(mine)))
            if share > np.float32(mask_level):
                hit.parent, p.second, p.rivals = (
                    p.number,
                    max(p.second, hit.score),
                    p.rivals + (hit.anchors >= p.anchors),
                )
                break
        else:
            primaries.append(hit)


def set_divergence(
    hits: list[Hit], anchors: Sequence[tuple[int, int]], used: Sequence[int], length: int, lengths: Sequence[int]
) -> None:
    """From the share of the read's minimizers between the ends of a hit that are in its chain."""
    if not used:
        return
    mean = np.float32(sum(u >> 32 for u in used)) / np.float32(len(used))
    place = {_low(u): i for i, u in enumerate(used)}
    for hit in hits:
        mine = anchors[hit.first : hit.first + hit.anchors]
        own = [length - 1 - (_low(y) + 1 - (y >> 32 & 0xFF)) if x >> 63 else _low(y) for x, y in mine]
        own = own[::-1] if hit.reverse else own
        if own[0] not in place:
            continue
        matched, at = 1, place[own[0]]
        total = 1
        for i in range(at + 1, len(used)):
            if matched < len(own) and own[matched] == _low(used[i]):
                matched, total = matched + 1, i - at + 1
        total += int(hit.query_start > mean and hit.start > mean)
        total += int(length - hit.query_start > mean and lengths[hit.sequence] - hit.end > mean)
        hit.divergence = 0.0 if matched >= total else float(np.float32(1.0 - (matched / total) ** (1.0 / float(mean))))


def set_mapq(hits: list[Hit], repetitive: int, min_chain_score: int = 40) -> None:
    """From 0 to 60, in single precision: 40 · ln(score) · (1 - second / score), less for few anchors and rivals."""
    f = np.float32
    total = sum(hit.score for hit in hits if hit.parent == hit.number)
    unique = f(total) / f(total + repetitive) if hits else f(0)
    for hit in hits:
        if hit.parent != hit.number:
            continue
        weight = min(f(min(f(1), f(0.01) * f(hit.score))) * unique, f(min(f(1), f(0.1) * f(hit.anchors))))
        lead = f(1) - f(max(hit.second, min_chain_score)) / f(hit.score)
        rivals = int(f(4.343) * f(log(hit.rivals + 1)) + f(0.499))
        hit.mapq = max(0, min(60, int(weight * f(40) * lead * f(log(hit.score))) - rivals))


def select(hits: list[Hit], best_n: int, min_diff: int, min_strand_score: int, pri_ratio: float = 0.8) -> list[Hit]:
    """Primaries, and the best secondaries that are nearly as good or long and on the other strand.

    What is kept moves up at once, and a parent is looked for where it was: it may be another hit's place by then.
    """
    if pri_ratio <= 0:
        return hits
    place, kept, secondaries = list(hits), 0, 0
    for i, hit in enumerate(hits):
        parent = place[hit.parent]
        near = hit.score >= np.float32(parent.score) * np.float32(pri_ratio) or hit.score + min_diff >= parent.score
        if hit.parent != i:
            if secondaries >= best_n or (near and _where(hit) == _where(parent)):
                continue
            if not near and not (hit.score > min_strand_score and hit.reverse != parent.reverse):
                continue
            hit.strand_only = not near
            secondaries += 1
        place[kept], kept = hit, kept + 1
    number = {hit.number: n for n, hit in enumerate(place[:kept])}
    for n, hit in enumerate(place[:kept]):
        hit.number, hit.parent = n, number.get(hit.parent, -1)
    return place[:kept]


def _where(hit: Hit) -> tuple[int, ...]:
    return hit.query_start, hit.query_end, hit.sequence, hit.start, hit.end


def drop_dissimilar(hits: list[Hit]) -> list[Hit]:
    """Hits kept for their strand alone stay if they are very similar, or not five times less than their parent."""
    place, kept = list(hits), 0
    for hit in hits:
        few = np.float32(place[hit.parent].divergence) * np.float32(5)
        if not hit.strand_only or hit.divergence < few or hit.divergence < np.float32(0.01):
            place[kept], kept = hit, kept + 1
    return place[:kept]


def regions(
    anchors: Sequence[tuple[int, int]],
    chains: Sequence[int],
    used: Sequence[int],
    name: bytes,
    length: int,
    repetitive: int,
    lengths: Sequence[int],
    *,
    k: int,
    max_gap: int = 5000,
    best_n: int = 5,
) -> list[Hit]:
    """Hits of a read from its chains, as the native version's table has them."""
    hits = hits_of(anchors, chains, name, length)
    set_parents(hits)
    hits = select(hits, best_n, 2 * k, int(max_gap * 0.8))
    set_divergence(hits, anchors, used, length, lengths)
    hits = drop_dissimilar(hits)
    set_mapq(hits, repetitive)
    return hits

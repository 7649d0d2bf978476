"""Thousands of small sequences and chains, so dense that every limit binds somewhere: native against the definition."""

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.kernels.seed import COLUMNS, SeedIndex, SeedParams, Seeds, reference, regions, sketch


def bases(rng, most, letters="ACGT"):
    return "".join(rng.choice(list(letters), int(rng.integers(0, most)))).encode()


@pytest.mark.parametrize("letters", ["ACGT", "AC", "ACGTN", "AN"])
def test_minimizers_of_tiny_windows(letters):
    rng = np.random.default_rng(len(letters))
    for number in range(500):
        sequence, k, w, hpc = bases(rng, 60, letters), *rng.integers(1, 6, 2).tolist(), bool(rng.integers(2))
        found, wanted = sketch(sequence, k, w, hpc), sketch(sequence, k, w, hpc, backend="reference")
        assert found.tolist() == wanted.tolist(), (number, sequence, k, w, hpc)


def test_spans_at_their_limit():
    """Runs so long that the span of a k-mer has 254 to 257 bases: 8 bits hold 255."""
    rng = np.random.default_rng(1)
    spans = set[int]()
    for _ in range(150):
        runs = [int(rng.choice([1, 84, 85, 86])) for _ in range(12)]
        sequence = b"".join(b"ACGT"[n % 4 : n % 4 + 1] * run for n, run in enumerate(runs))
        if rng.random() < 0.5:
            sequence = sequence[:300] + b"N" + sequence[300:]
        found = sketch(sequence, 3, 2, True)
        assert found.tolist() == sketch(sequence, 3, 2, True, backend="reference").tolist()
        spans |= set((found[:, 0] & np.uint64(255)).tolist())
    assert {254, 255} <= spans


def seeds_agree(rng, references, read, k, w, hpc, params):
    anchors, used, repetitive = reference.seeds(reference.index(references, k, w, hpc), read, k, w, hpc, **params)
    found = SeedIndex.build(references, k, w, hpc).seeds(read, SeedParams(**params))
    case = (references, read, k, w, hpc, params)
    assert sorted(map(tuple, found.anchors.tolist())) == sorted(anchors), case
    assert (found.used.tolist(), found.repetitive) == (used, repetitive), case
    return len(used)


def test_frequent_minimizers_of_tiny_k():
    """Counts at both cut-offs, stretches at both ends of a read, gaps of a few bases."""
    rng = np.random.default_rng(2)
    used = 0
    for _ in range(700):
        k, w = int(rng.choice([3, 4, 5])), int(rng.integers(1, 5))
        mid = int(rng.integers(1, 5))
        params = {
            "mid_occ": mid,
            "max_max_occ": mid + int(rng.integers(-1, 4)),
            "occ_dist": int(rng.choice([0, 1, 2, 5, 9, 20])),
            "q_occ_frac": float(rng.choice([0.0, 0.125, 0.25, 0.5])),
        }
        references = [bases(rng, 80, "ACGT"[: rng.integers(2, 5)]) for _ in range(rng.integers(1, 3))]
        read = b"".join([references[0][rng.integers(40) :][:50], bases(rng, 20)] * int(rng.integers(1, 3)))
        used += seeds_agree(rng, references, read, k, w, bool(rng.integers(2)), params)
    assert used > 1000


def test_of_many_frequent_minimizers_in_a_row_128_are_kept():
    rng = np.random.default_rng(3)
    reference_ = rng.choice(list(b"ACGT"), 900).astype(np.uint8).tobytes()
    kept = set()
    for room in (1, 2, 3):
        params = {"mid_occ": 1, "max_max_occ": 100, "occ_dist": room, "q_occ_frac": 0.0}
        kept.add(seeds_agree(rng, [reference_, reference_], reference_[:600], 9, 2, False, params))
    assert 128 in kept


def test_a_single_match_is_never_left_out():
    unit = b"ACGTTGCAATGGTTAACC"
    params = {"mid_occ": 1, "max_max_occ": 50, "occ_dist": 500, "q_occ_frac": 0.0}
    assert seeds_agree(None, [unit, unit, unit], unit[2:], 15, 1, False, params) == 0
    assert seeds_agree(None, [unit, unit, unit], unit[:15], 15, 1, False, params) == 1
    assert seeds_agree(None, [unit, unit, unit], unit[:15], 15, 1, False, params | {"occ_dist": 0}) == 0


def test_places_at_the_very_end_of_a_reference_are_fine_and_one_further_is_not():
    good = SeedIndex.build([b"ACGTTGCAATGGTTAACCGGTTT"], 5, 1)
    bucket, keys, start, places = good.arrays
    last = int((places & np.uint64(0xFFFFFFFF)).max() >> np.uint64(1))
    SeedIndex(good.arrays, np.array([last + 1], np.int32), 5, 1, False)
    with pytest.raises(ValueError, match="outside its sequence"):
        SeedIndex(good.arrays, np.array([last], np.int32), 5, 1, False)
    moved = places | np.uint64(1 << 32)
    SeedIndex((bucket, keys, start, moved), np.array([99, 99], np.int32), 5, 1, False)
    with pytest.raises(ValueError, match="outside its sequence"):
        SeedIndex((bucket, keys, start, moved), np.array([99], np.int32), 5, 1, False)
    shifted = bucket.copy()
    shifted[0] = 1
    with pytest.raises(ValueError, match="do not cover the keys"):
        SeedIndex((shifted, keys, start, places), good.lengths, 5, 1, False)


LENGTH, TARGETS = 400, [150, 5000]
SCORES = [40, 41, 78, 80, 81, 99, 100, 101, 110, 130, 131, 160, 300, 500]


def chains(rng):
    """Chains over few places of a short read, each a bit longer or shorter than another, and its minimizers."""
    anchors, table = [], []
    few = rng.random() < 0.5
    for _ in range(int(rng.integers(0, 9))):
        reverse, sequence = int(rng.integers(2)), int(rng.integers(2))
        span = 15 if few else int(rng.choice([14, 15, 20]))
        q, at = int(rng.choice([14, 20, 24, 60, 200])), int(rng.choice([10, 14, 29, 60, 100]))
        count, mine = int(rng.choice([1, 2, 3, 9, 10, 11, 12])), []
        step = int(rng.choice([2, 5, 10]))
        for _ in range(count):
            if q >= LENGTH or at >= TARGETS[sequence]:
                break
            mine.append((reverse << 63 | sequence << 32 | at, span << 32 | q))
            q, at = q + step + int(rng.integers(2)), at + step + int(rng.integers(3))
        if mine:
            anchors += mine
            table.append(int(rng.choice(SCORES)) << 32 | len(mine))
    own = {LENGTH - 1 - ((y & 0xFFFFFFFF) + 1 - (y >> 32)) if x >> 63 else y & 0xFFFFFFFF for x, y in anchors}
    more = rng.integers(14, LENGTH, int(rng.choice([0, 1, 3, 30]))).tolist()
    return anchors, table, [15 << 32 | q for q in sorted(own | set(more))]


def test_hits_of_few_places():
    """Equal places, shares of exactly a half, scores at every cut-off, hits kept for their strand alone."""
    rng = np.random.default_rng(6)
    lengths, strand_kept = np.array(TARGETS, np.int32), 0
    for number in range(2500):
        anchors, table, used = chains(rng)
        name, repetitive = bytes(rng.integers(1, 256, 3, dtype=np.uint8)), int(rng.choice([0, 10, 300]))
        options = {"k": 15, "max_gap": int(rng.choice([49, 100, 125])), "best_n": int(rng.integers(0, 5))}
        want = reference.regions(anchors, table, used, name, LENGTH, repetitive, TARGETS, **options)
        seeds = Seeds(np.zeros((0, 2), np.uint64), np.array(used, np.uint64), repetitive, 0)
        pairs = np.array(anchors, np.uint64).reshape(-1, 2)
        got, divergence = regions(pairs, np.array(table, np.uint64), seeds, name, LENGTH, lengths, **options)
        assert divergence.tolist() == [hit.divergence for hit in want], number
        for row, hit in zip(got.tolist(), want, strict=True):
            mine = SimpleNamespace(**dict(zip(COLUMNS, row, strict=True)))
            assert mine.primary == (hit.parent == hit.number), number
            assert abs(mine.mapq - hit.mapq) <= 1, number
            for column in set(COLUMNS) - {"primary", "mapq"}:
                assert getattr(mine, column) == getattr(hit, column), (number, column)
        strand_kept += any(hit.strand_only for hit in want)
    assert strand_kept > 30


def test_a_very_similar_hit_on_the_other_strand_is_kept():
    """Below a divergence of 0.01 minimap2 keeps it, even where its primary has none at all; not above."""
    own = list(range(20, 306, 15))  # minimizers of the read; the primary has all of them
    parent = [(1000 + q, 15 << 32 | q) for q in own]
    for missed, kept in ((1, True), (4, False)):
        turned = sorted(LENGTH - 1 - (q - 14) for q in own if q not in own[3 : 3 + missed])
        other = [(1 << 63 | 1 << 32 | 14 + y - turned[0], 15 << 32 | y) for y in turned]
        lengths = [1306, 15 + turned[-1] - turned[0]]  # both references end where the hits do
        chains_, used = [900 << 32 | len(parent), 300 << 32 | len(other)], [15 << 32 | q for q in own]
        want = reference.regions([*parent, *other], chains_, used, b"r", LENGTH, 0, lengths, k=15, max_gap=100)
        seeds = Seeds(np.zeros((0, 2), np.uint64), np.array(used, np.uint64), 0, 0)
        pairs, table = np.array([*parent, *other], np.uint64), np.array(chains_, np.uint64)
        ends = np.array(lengths, np.int32)
        found, divergence = regions(pairs, table, seeds, b"r", LENGTH, ends, k=15, max_gap=100)
        assert divergence[0] == 0.0
        assert len(found) == len(want) == 1 + kept, missed

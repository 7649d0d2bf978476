"""The seed kernel against its definition, and the definition against the plain meaning of a minimizer."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels.seed import COLUMNS, SeedIndex, SeedParams, Seeds, reference, regions, sketch

ALPHABETS = ("ACGT", "AC", "AT", "A", "ACGTN", "ACGTacgtUuNRY*-")


@st.composite
def sequences(draw, alphabets=ALPHABETS, longest=300):
    """Random bases, sometimes with a part of themselves repeated."""
    text = draw(st.text(draw(st.sampled_from(alphabets)), max_size=longest))
    if draw(st.booleans()):
        part = text[: draw(st.integers(1, 40))]
        text = text[:40] + part * draw(st.integers(0, 8)) + text[40:]
    return text.encode()


sizes = {"k": st.integers(1, 28), "w": st.integers(1, 30) | st.just(255), "hpc": st.booleans()}


@settings(max_examples=300, deadline=None)
@given(sequence=sequences(), **sizes)
def test_sketch_is_the_definition(sequence, k, w, hpc):
    found = sketch(sequence, k, w, hpc)
    assert np.array_equal(found, sketch(sequence, k, w, hpc, backend="reference"))


@settings(max_examples=100, deadline=None)
@given(sequences(("ACGT", "AC"), 150), st.sampled_from([3, 5, 7, 15]), st.integers(1, 12))
def test_the_definition_is_the_minimum_of_every_window(sequence, k, w):
    """Odd k, so that no k-mer is its own reverse complement. The first window is minimap2's own: before its last k-mer
    is looked at ties of the others are given, after it none.
    """
    hashed = []
    for i in range(len(sequence) - k + 1):
        forward = sum(b"ACGT".index(c) << 2 * (k - 1 - j) for j, c in enumerate(sequence[i : i + k]))
        reverse = sum((3 - b"ACGT".index(c)) << 2 * j for j, c in enumerate(sequence[i : i + k]))
        hashed.append(reference.hash_bits(min(forward, reverse), 2 * k))
    want = set()
    for i in range(len(hashed) - w + 1):
        window = hashed[i : i + w]
        want |= {(h, i + n + k - 1) for n, h in enumerate(window) if h == min(window)}
    found = [(m.hash, m.last) for m in reference.minimizers(sequence, k, w)]
    assert len(found) == len(set(found))
    if len(hashed) >= w:
        assert all(last < w + k - 2 for _, last in want ^ set(found))
        assert {h for h, _ in found} >= {h for h, _ in want}
    else:  # shorter than a window: one stands for all
        assert len(found) == bool(hashed)


def test_hash_is_a_bijection():
    assert sorted(reference.hash_bits(v, 8) for v in range(256)) == list(range(256))


def test_a_sequence_and_its_reverse_complement_share_minimizers():
    rng = np.random.default_rng(1)
    sequence = rng.choice(list(b"ACGT"), 5000).astype(np.uint8).tobytes()
    other = sequence[::-1].translate(bytes.maketrans(b"ACGT", b"TGCA"))
    mine, theirs = sketch(sequence, 15, 10), sketch(other, 15, 10)
    assert set(mine[:, 0].tolist()) == set(theirs[:, 0].tolist())
    assert len(mine) == pytest.approx(5000 * 2 / 11, rel=0.1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(sequences(("ACGT", "AC", "ACGTN")), min_size=1, max_size=3),
    st.data(),
    st.sampled_from([3, 4, 7, 15]),
    st.integers(1, 12),
    st.booleans(),
)
def test_seeds_are_the_definition(references, data, k, w, hpc):
    params = {
        "mid_occ": data.draw(st.integers(1, 6)),
        "max_max_occ": data.draw(st.sampled_from([1, 5, 20, 4095])),
        "occ_dist": data.draw(st.sampled_from([0, 7, 50, 500])),
        "q_occ_frac": data.draw(st.sampled_from([0.0, 0.01, 0.2])),
    }
    begin = data.draw(st.integers(0, 50))
    read = b"".join(r[begin:] for r in references) + data.draw(sequences(("ACGT",), 60))
    if data.draw(st.booleans()):
        read = read[::-1].translate(bytes.maketrans(b"ACGT", b"TGCA"))
    places = reference.index(references, k, w, hpc)
    index = SeedIndex.build(references, k, w, hpc)
    assert index.minimizers == (sum(map(len, places.values())), len(places))
    for hash_, at in places.items():
        assert index.find(hash_).tolist() == [number << 32 | last << 1 | reverse for number, last, reverse in at]
    anchors, used, repetitive = reference.seeds(places, read, k, w, hpc, **params)
    found = index.seeds(read, SeedParams(**params))
    assert sorted(map(tuple, found.anchors.tolist())) == sorted(anchors)
    assert np.all(found.anchors[1:, 0] >= found.anchors[:-1, 0])
    assert found.used.tolist() == used
    assert found.repetitive == repetitive


def test_what_is_not_there_is_not_found():
    index = SeedIndex.build([b"ACGTTGCAAT" * 10], 7, 3)
    known = {h for h in range(4**7) if len(index.find(h))}
    assert known == set(index.arrays[1].tolist())
    assert len(index.find(2**64 - 1)) == 0


def test_empty_references_and_reads():
    for references in ([], [b""], [b"N" * 100], [b"ACG"]):
        index = SeedIndex.build(references, 15, 10)
        assert index.minimizers == (0, 0)
        assert index.cutoff() == 10
        assert len(index.seeds(b"ACGT" * 50, SeedParams(mid_occ=10)).anchors) == 0
    index = SeedIndex.build([b"ACGTTGCAATGGTTAACC" * 5], 15, 10)
    for read in (b"", b"N" * 500, b"A", b"acgt"):
        assert index.seeds(read, SeedParams(mid_occ=10)) .repetitive == 0  # fmt: skip


def test_cutoff_is_a_quantile_between_floor_and_ceiling():
    counts = np.repeat([1, 2, 40], [980, 15, 5])
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    hashes = np.repeat(np.arange(1000, dtype=np.uint64), counts)
    places = np.arange(len(hashes), dtype=np.uint64) << np.uint64(1)
    index = SeedIndex.arrange(hashes, places, np.array([10**6], np.int32), 15, 10, False)
    assert int(start[-1]) == index.minimizers[0]
    assert index.cutoff(0.004, floor=1) == 41
    assert index.cutoff(0.01, floor=1) == 3
    assert index.cutoff(0.5, floor=1) == 2
    assert index.cutoff(0.5, floor=10) == 10
    assert index.cutoff(0.004, floor=5, ceiling=20) == 20


def test_an_index_may_be_read_by_many_threads():
    rng = np.random.default_rng(2)
    genome = rng.choice(list(b"ACGT"), 200_000).astype(np.uint8).tobytes()
    index, params = SeedIndex.build([genome], 15, 10), SeedParams(mid_occ=10)
    reads = [genome[i : i + 5000] for i in range(0, 190_000, 5000)] * 4
    alone = [index.seeds(read, params).anchors for read in reads]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda read: index.seeds(read, params).anchors, reads))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert sum(map(len, alone)) > 30_000


@pytest.mark.parametrize(
    ("which", "change"),
    [
        (0, lambda a: a.__setitem__(-1, 99)),
        (0, lambda a: a.__setitem__(0, 1)),
        (2, lambda a: a.__setitem__(1, 0)),
        (2, lambda a: a.__setitem__(-1, 10**6)),
        (3, lambda a: a.__setitem__(0, 5 << 32)),
        (3, lambda a: a.__setitem__(0, 10**6)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(which, change):
    good = SeedIndex.build([b"ACGTTGCAATGGTTAACCGGTTTACAGAT" * 4], 7, 3)
    arrays = [array.copy() for array in good.arrays]
    SeedIndex(tuple(arrays), good.lengths, 7, 3, False)
    change(arrays[which])
    with pytest.raises(ValueError, match="seed index"):
        SeedIndex(tuple(arrays), good.lengths, 7, 3, False)


@pytest.mark.parametrize(("k", "w"), [(0, 10), (29, 10), (15, 0), (15, 256)])
def test_sizes_out_of_range_are_refused(k, w):
    with pytest.raises(ValueError, match="k must be"):
        sketch(b"ACGT", k, w)
    with pytest.raises(ValueError, match="k must be"):
        SeedIndex.build([b"ACGT"], k, w)


@st.composite
def chain_sets(draw):
    """Chains of a read of 2000 bases on two references: near copies of few, with other scores, strands and ends."""
    anchors, chains = [], []
    for _ in range(draw(st.integers(0, 12))):
        strand, sequence = draw(st.integers(0, 1)), draw(st.integers(0, 1))
        at, q = draw(st.sampled_from([100, 3000, 20_000])), draw(st.sampled_from([14, 400, 1200]))
        count = draw(st.integers(1, 14))
        for n in range(count):
            anchors.append((strand << 63 | sequence << 32 | at, 15 << 32 | q))
            if n + 1 < count:
                at, q = at + draw(st.integers(1, 60)), q + draw(st.integers(1, 50))
        chains.append(draw(st.sampled_from([40, 90, 100, 400, 499, 500, 4500, 4500, 9000])) << 32 | count)
    used = {y & 0xFFFFFFFF if not x >> 63 else 1999 - ((y & 0xFFFFFFFF) - 14) for x, y in anchors}
    used |= set(draw(st.lists(st.integers(14, 1999), max_size=20)))
    return anchors, chains, [15 << 32 | q for q in sorted(used)]


@settings(max_examples=300, deadline=None)
@given(chain_sets(), st.binary(min_size=1, max_size=5), st.integers(0, 3000), st.integers(0, 6))
def test_hits_are_the_definition(given, name, repetitive, best_n):
    anchors, chains, used = given
    name = name.replace(b"\0", b"x")
    want = reference.regions(anchors, chains, used, name, 2000, repetitive, [30_000, 30_000], k=15, best_n=best_n)
    seeds = Seeds(np.zeros((0, 2), np.uint64), np.array(used, np.uint64), repetitive, 0)
    pairs = np.array(anchors, np.uint64).reshape(-1, 2)
    lengths = np.array([30_000, 30_000], np.int32)
    chains = np.array(chains, np.uint64)
    table, divergence = regions(pairs, chains, seeds, name, 2000, lengths, k=15, best_n=best_n)
    rows = [SimpleNamespace(**dict(zip(COLUMNS, row, strict=True))) for row in table.tolist()]
    assert divergence.tolist() == [hit.divergence for hit in want]
    for row, hit in zip(rows, want, strict=True):
        assert row.primary == (hit.parent == hit.number)
        assert abs(row.mapq - hit.mapq) <= 1  # the logarithm's last bit is the library's
        for column in set(COLUMNS) - {"primary", "mapq"}:
            assert getattr(row, column) == getattr(hit, column), column


def chained(rows, score=100):
    """Anchors of one chain on sequence 0: rows of (reverse, target, query) with span 15, and that chain."""
    anchors = np.array([(r << 63 | t, 15 << 32 | q) for r, t, q in rows], np.uint64).reshape(-1, 2)
    return anchors, np.array([score << 32 | len(rows)], np.uint64)


def hits(parts, read_length=1000, seeds=None, **options):
    anchors, chains = (np.concatenate(each) for each in zip(*parts))
    seeds = seeds or Seeds(anchors, np.zeros(0, np.uint64), 0, 0)
    lengths = np.array([100_000], np.int32)
    table, divergence = regions(anchors, chains, seeds, b"read", read_length, lengths, k=15, **options)
    rows = [SimpleNamespace(**dict(zip(COLUMNS, row, strict=True))) for row in table.tolist()]
    return rows, divergence


def test_coordinates_of_both_strands():
    forward, backward = [(0, 114, 14), (0, 200, 100), (0, 309, 209)], [(1, 5014, 14), (1, 5200, 200)]
    (a, b), divergence = hits([chained(forward, 90), chained(backward, 60)], read_length=300)
    assert (a.reverse, a.start, a.end, a.query_start, a.query_end) == (0, 100, 310, 0, 210)
    assert (b.reverse, b.start, b.end, b.query_start, b.query_end) == (1, 5000, 5201, 99, 300)
    assert (a.matches, a.block, a.anchors) == (45, 210, 3)
    assert divergence.tolist() == [-1, -1]


def test_the_better_hit_is_primary_and_near_ones_are_kept():
    def at(target, score):
        return chained([(0, target + q, q) for q in range(14, 515, 100)], score)

    best, second, last = (at(1000, 500), at(20_000, 450), at(40_000, 100))
    rows, _ = hits([best, second, last])
    assert [(r.start, r.primary, r.score) for r in rows] == [(1000, 1, 500), (20_000, 0, 450)]
    assert rows[0].second == 450
    assert rows[0].mapq < 10
    rows, _ = hits([best, second, last], best_n=0)
    assert [r.start for r in rows] == [1000]
    alone, _ = hits([best])
    assert alone[0].mapq == 60 * (alone[0].anchors > 10) or alone[0].mapq > 40 * 0.5


def test_a_secondary_at_the_very_place_of_its_primary_is_left_out():
    first = chained([(0, 114, 14), (0, 200, 100), (0, 309, 209)], 500)
    for last, rows in (((0, 309, 209), 1), ((0, 308, 209), 2), ((0, 309, 208), 2), ((0, 309, 209 - 15), 2)):
        found, _ = hits([first, chained([(0, 114, 14), (0, 201, 101), last], 480)])
        assert len(found) == rows, last


def test_equal_hits_are_ordered_by_a_hash_of_the_name():
    parts = [chained([(0, t + q, q) for q in range(14, 415, 100)], 300) for t in range(1000, 9000, 1000)]
    anchors, chains = (np.concatenate(each) for each in zip(*parts))
    seeds, lengths = Seeds(anchors, np.zeros(0, np.uint64), 0, 0), np.array([100_000], np.int32)
    orders = set()
    for name in (b"a", b"b", b"c", b"d", b"e\xff"):
        table, _ = regions(anchors, chains, seeds, name, 1000, lengths, k=15, best_n=50)
        assert len(table) == 8
        again, _ = regions(anchors, chains, seeds, name, 1000, lengths, k=15, best_n=50)
        assert np.array_equal(table, again)
        orders.add(tuple(table[:, COLUMNS.index("start")].tolist()))
    assert len(orders) == 5


@pytest.mark.parametrize(
    ("anchors", "chains"),
    [
        ([(0, 15 << 32)], [100 << 32 | 2]),
        ([(0, 15 << 32)], [100 << 32]),
        ([(0, 15 << 32)], []),
        ([(5 << 32, 15 << 32)], [100 << 32 | 1]),
        ([(1 << 31, 15 << 32)], [100 << 32 | 1]),
        ([(9999, 15 << 32)], [100 << 32 | 1]),
        ([(0, 15 << 32 | 1000)], [100 << 32 | 1]),
        ([(0, 15 << 32)], [1 << 63 | 1]),
    ],
)
def test_chains_that_cannot_be_are_refused(anchors, chains):
    pairs, counts = np.array(anchors, np.uint64).reshape(-1, 2), np.array(chains, np.uint64)
    with pytest.raises(ValueError, match="regions"):
        regions(pairs, counts, Seeds(pairs, np.zeros(0, np.uint64), 0, 0), b"x", 1000, np.array([9999], np.int32), k=15)

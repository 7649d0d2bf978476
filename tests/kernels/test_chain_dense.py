"""Thousands of small sets of anchors, so dense that every limit binds somewhere: each loop against the definition."""

import dataclasses

import numpy as np
import pytest

from workbench.kernels import chain as ck
from workbench.kernels.chain import reference, reference_join


def anchors(rng, most, far, segments=1):
    """uint64 [n, 2] in minimap2's order: few positions for many anchors, any span, two references, both strands."""
    from workbench.kernels.chain import _chain

    n = int(rng.integers(1, most))
    step = int(rng.choice([1, 1, 3]))
    x, y = rng.integers(0, far, n) * step, rng.integers(0, far, n) * step
    if rng.random() < 0.4:
        y = np.maximum(0, x + rng.integers(-2, 3, n) * step)
    spans = [[3], [15], [1, 3, 15, 255]][rng.integers(3)]
    places = rng.integers(0, rng.choice([1, 1, 2]), (2, n)).astype(np.uint64)
    high = places[0] << np.uint64(63) | places[1] << np.uint64(32)
    low = rng.integers(0, segments, n).astype(np.uint64) << np.uint64(48)
    low |= rng.choice(spans, n).astype(np.uint64) << np.uint64(32)
    made = np.stack([high | x.astype(np.uint64), low | y.astype(np.uint64)], axis=1)
    return np.ascontiguousarray(made[_chain.order(np.ascontiguousarray(made[:, 0]))])


def parameters(rng, **fixed):
    """Limits of the size of the coordinates."""

    def one_of(*values):
        return values[rng.integers(len(values))]

    drawn = {
        "max_dist_x": one_of(3, 7, 20, 5000),
        "max_dist_y": one_of(3, 7, 20, 5000),
        "bw": one_of(0, 1, 4, 5, 500),
        "max_skip": one_of(None, 0, 1, 2, 25),
        "max_iter": one_of(1, 2, 5, 5000),
        "min_cnt": one_of(1, 2, 3),
        "min_score": one_of(0, 3, 8, 15),
        "gap_scale": one_of(0.0, 0.8, 3.0, 9.0),
        "skip_scale": one_of(0.0, 0.0, 0.7),
        "k": one_of(15, 19),
    }
    return ck.ChainParams(**(drawn | fixed))


def same(got, wanted, what):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=str(what))


@pytest.mark.parametrize("kind", ["one read", "introns", "pairs", "introns of pairs"])
def test_every_rule_of_the_loop(kind):
    rng = np.random.default_rng(len(kind))
    fixed = {"is_cdna": "introns" in kind, "n_seg": 2 if "pairs" in kind else 1}
    for number in range(700):
        params = parameters(rng, **fixed)
        made = anchors(rng, 25, 14, fixed["n_seg"])
        wanted = ck.dp(made, params, backend="reference")
        same(ck.dp(made, params, backend="scalar"), wanted, (number, params))
        u, members = reference.backtrack(*wanted[:2], params)
        same(ck.backtrack(*wanted, params), (u, members), (number, params))
        same(ck.compact(made, u, members), reference.compact(made, u, members), (number, params))


@pytest.mark.parametrize("far", [14, 60])
def test_every_vector_loop(far):
    """Enough anchors for several groups of blocks, so that pruning has something to leave out."""
    rng = np.random.default_rng(far)
    for number in range(60):
        params = parameters(rng, max_skip=None, skip_scale=0.0)
        made = anchors(rng, 600, far)
        wanted = ck.dp(made, params, backend="scalar")
        for backend in ck.available(params)[:-1]:
            same(ck.dp(made, params, backend=backend), wanted, (number, backend, params))


@pytest.mark.parametrize("bw", [131_063, 131_064, 262_135, 262_136, 300_000, 524_288, 1 << 24])
def test_bands_around_what_16_bits_of_diagonal_hold(bw):
    """Blocks are left out by the low 16 bits of their diagonals: a band that these cannot hold leaves out none."""
    rng = np.random.default_rng(bw)
    params = ck.ChainParams(max_dist_x=1 << 24, max_dist_y=1 << 24, bw=bw, max_skip=None, gap_scale=0.0)
    for _ in range(3):
        n = 400
        y = rng.integers(1 << 20, 1 << 21, n)
        x = y + rng.choice([-1, 1], n) * rng.choice([0, bw // 3, bw // 2], n) + rng.integers(0, 9, n)
        order = np.argsort(x, kind="stable")
        made = np.stack([x[order], y[order] | 15 << 32], axis=1)
        made = np.ascontiguousarray(made[made[:, 0] >= 0].astype(np.uint64))
        wanted = ck.dp(made, params, backend="scalar")
        assert (wanted[1] >= 0).any()
        for backend in ck.available(params)[:-1]:
            same(ck.dp(made, params, backend=backend), wanted, (bw, backend))


@pytest.mark.parametrize("bw", [8, 13, 500, 503])
def test_the_edge_of_the_band(bw):
    """Diagonals far apart but for pairs whose distance is the band, one less or one more: no block is left out."""
    rng = np.random.default_rng(bw)
    params = ck.ChainParams(max_dist_x=5000, max_dist_y=1 << 24, bw=bw, max_skip=None, gap_scale=0.0)
    followed = 0
    for _ in range(40):
        n = 400
        x = 100_000 + np.cumsum(rng.integers(1, 4, n))
        y = rng.permutation(n) * 4000 + rng.integers(0, 8, n) + 10_000
        for i in range(40, n, 3):
            j = int(rng.integers(max(0, i - 300), i - 33))
            y[i] = max(1, y[j] + x[i] - x[j] + rng.choice([-1, 1]) * (bw + rng.integers(-1, 2)))
        made = np.stack([x, y | 200 << 32], axis=1).astype(np.uint64)
        wanted = ck.dp(made, params, backend="scalar")
        followed += int((wanted[1] >= 0).sum())
        for backend in ck.available(params)[:-1]:
            same(ck.dp(made, params, backend=backend), wanted, (bw, backend))
    assert followed > 100


def test_backtracking_of_any_scores():
    """Scores that fall and rise along the way: where chains are cut, and what is left for later ones."""
    rng = np.random.default_rng(11)
    for number in range(1500):
        n = int(rng.integers(1, 100))
        f = rng.integers(0, rng.choice([4, 60]), n).astype(np.int32)
        p = np.array([rng.integers(-1, i) if rng.random() < 0.9 else -1 for i in range(n)], np.int64)
        if rng.random() < 0.5:
            p = np.maximum(p, np.arange(n) - 3)
        params = parameters(rng, is_cdna=bool(rng.random() < 0.2), bw=int(rng.choice([0, 1, 2, 10, 30])))
        same(ck.backtrack(f, p, f, params), reference.backtrack(f, p, params), (number, params))


def test_a_window_one_longer_than_allowed():
    """The first of all is the only one that the last may follow: it does, unless max_iter is one too small."""
    for n in (20, 50, 300):
        between = [(100 + k, 5000 - k) for k in range(n - 2)]
        rows = [(0, 0), *between, (110 + n, 110 + n)]
        made = np.array([(x, 40 << 32 | y) for x, y in rows], np.uint64)
        for max_iter, led in ((n - 1, 0), (n - 2, -1)):
            params = ck.ChainParams(max_skip=None, max_iter=max_iter)
            wanted = ck.dp(made, params, backend="reference")
            assert wanted[1][-1] == led, (n, max_iter)
            for backend in ck.available(params)[:-1]:
                same(ck.dp(made, params, backend=backend), wanted, (n, max_iter, backend))


@pytest.mark.parametrize("count", [2, 63, 64, 65, 66, 200])
@pytest.mark.parametrize("beside", [0, 100])
def test_the_sort_around_64_keys(count, beside):
    """64 are inserted in order, 65 are carried in cycles: of all keys, and of those that share their first bytes."""
    from workbench.kernels.chain import _chain

    for byte in (0, 8, 40, 56):
        keys = [(n % 3) << byte for n in range(count)] + [255 << 56] * beside
        assert _chain.order(np.array(keys, np.uint64)).tolist() == reference.sort_order(keys), byte


def test_the_leader_where_the_search_ends_early():
    """With max_iter and skips that end a search at once, the best anchor in reach must still be found."""
    rng = np.random.default_rng(5)
    led = 0
    for number in range(400):
        params = parameters(rng, max_dist_x=20, max_dist_y=20, bw=20, max_iter=int(rng.integers(1, 4)))
        made = anchors(rng, 40, 14)
        f, p, _ = wanted = ck.dp(made, params, backend="reference")
        same(ck.dp(made, params), wanted, (number, params))
        led += bool((np.arange(len(f))[p >= 0] - p[p >= 0] > params.max_iter).any())
    assert led > 20


def join(made, params):
    """The native long join on anchors in the order given."""
    from workbench.kernels.chain import _chain

    limit = _chain.UNLIMITED if params.max_skip is None else params.max_skip
    shape = (params.max_dist_y, params.join_inner_dist, params.bw_long, limit, params.join_size_cap)
    return _chain.dp_rmq(made, _chain.JoinParams(*shape, *params.penalties))


def joins(rng):
    return {
        "bw_long": int(rng.choice([1, 4, 20, 500])),
        "join_inner_dist": int(rng.choice([0, 1, 3, 10, 1000])),
        "join_size_cap": int(rng.choice([1, 3, 10, 100_000])),
    }


def test_the_long_join_is_the_definition():
    rng = np.random.default_rng(8)
    for number in range(900):
        params = parameters(rng, **joins(rng))
        made = anchors(rng, 40, 14)
        same(join(made, params), reference_join.dp_rmq(made, params), (number, params))


def test_the_long_join_gives_up_after_skips():
    """Many near anchors that are predecessors of one another already; the limit is met, and now and then put off."""
    rng = np.random.default_rng(12)
    limited = 0
    for number in range(500):
        shape = {"bw_long": 500, "join_inner_dist": 1000, "join_size_cap": 100_000, "max_dist_y": 5000}
        params = parameters(rng, max_skip=int(rng.integers(0, 4)), gap_scale=0.8, skip_scale=0.0, **shape)
        made = anchors(rng, 70, int(rng.choice([20, 60, 200])))
        found = join(made, params)
        same(found, reference_join.dp_rmq(made, params), (number, params))
        limited += any((a != b).any() for a, b in zip(found, join(made, dataclasses.replace(params, max_skip=None))))
    assert limited > 50


def test_the_long_join_of_many_anchors_is_the_definition():
    """Shelves of several pieces, that split, are swept and joined; windows that empty in between."""
    rng = np.random.default_rng(9)
    for number in range(8):
        params = parameters(rng, **joins(rng) | {"bw_long": 500, "join_size_cap": 100_000, "join_inner_dist": 100})
        parts = [anchors(rng, 900, int(rng.choice([40, 400, 3000]))) for _ in range(2)]
        parts[1][:, 0] += np.uint64(50_000)
        made = np.concatenate(parts)
        made = np.ascontiguousarray(made[np.argsort(made[:, 0], kind="stable")])
        same(join(made, params), reference_join.dp_rmq(made, params), (number, params))


def test_the_long_join_with_thousands_in_reach_is_the_definition():
    rng = np.random.default_rng(10)
    n = 9000
    x, y = np.sort(rng.integers(0, 26_000, n)).astype(np.uint64), rng.integers(0, 20_000, n).astype(np.uint64)
    made = np.stack([x, np.uint64(15 << 32) | y], axis=1)
    params = ck.ChainParams(join_inner_dist=50, max_skip=2)
    same(join(made, params), reference_join.dp_rmq(made, params), params)


def test_equal_costs_are_told_apart_by_the_tree(monkeypatch):
    """A control: a tree that gives another of equal costs is seen."""
    rng = np.random.default_rng(8)
    cases = [(anchors(rng, 40, 14), parameters(rng, **joins(rng))) for _ in range(300)]

    def strict(node, first, second):  # the node itself first
        node.lowest = node
        for below in (first, second):
            if below is not None and below.lowest.cost < node.lowest.cost:
                node.lowest = below.lowest

    monkeypatch.setattr(reference_join.Node, "weigh", strict)
    differ = sum(any((a != b).any() for a, b in zip(join(*c), reference_join.dp_rmq(*c))) for c in cases)
    assert differ > 5


def test_the_band_of_the_long_join_is_its_own():
    """Chains of the join are cut where they fall by its band, whatever the first pass was of."""
    rng = np.random.default_rng(4)
    cut = 0
    for _ in range(300):
        params = parameters(rng, bw_long=1, skip_scale=2.0, min_score=0, max_dist_y=5000)
        made = anchors(rng, 60, 400)
        found = ck.rmq_chain(made, params)
        other = ck.rmq_chain(made, dataclasses.replace(params, is_cdna=True))
        same((other.u, other.members), (found.u, found.members), params)
        uncut, _ = ck.backtrack(found.f, found.p, found.v, dataclasses.replace(params, is_cdna=True))
        cut += sorted(uncut.tolist()) != sorted(found.u.tolist())
    assert cut > 5

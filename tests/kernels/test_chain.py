"""Chaining against its definition: small cases by hand, adversarial anchors by hypothesis, bad input by name."""

import dataclasses
import threading
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workbench.kernels import chain as ck
from workbench.kernels.chain import reference

FULL = ck.ChainParams(max_skip=None)
ARRAYS = ("f", "p", "v")


def anchors(*rows):
    """uint64 [n, 2] of (reference position, read position[, span[, reference[, reverse[, segment]]]]), sorted by x."""
    full = [(*row, *(15, 0, 0, 0)[len(row) - 2 :]) for row in rows]
    packed = [(rev << 63 | ref << 32 | x, seg << 48 | span << 32 | y) for x, y, span, ref, rev, seg in full]
    return np.array(sorted(packed, key=lambda a: a[0]), np.uint64).reshape(-1, 2)


def same(got, wanted):
    for name, one, other in zip(ARRAYS, got, wanted):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=name)


def native_backends(params=FULL):
    return [name for name in ck.available(params) if name != "reference"]


@st.composite
def anchor_sets(draw, most=90, segments=1):
    """Lines, clouds and stacks: many equal positions, scores and spans, several references, both strands."""
    far = draw(st.sampled_from([3, 40, 300, 6000]))
    step = draw(st.sampled_from([1, 1, 16]))
    on_a_line = draw(st.booleans())
    spans = draw(st.sampled_from([[15], [19], [1, 15, 255]]))
    rows = []
    for _ in range(draw(st.integers(0, most))):
        x = draw(st.integers(0, far)) * step
        y = max(0, x + draw(st.integers(-3, 3))) if on_a_line else draw(st.integers(0, far)) * step
        place = (draw(st.sampled_from(spans)), draw(st.integers(0, 1)), draw(st.integers(0, 1)))
        rows.append((x, y, *place, draw(st.integers(0, segments - 1))))
    return anchors(*rows)


windows = {
    "max_dist_x": st.sampled_from([30, 100, 5000]),
    "max_dist_y": st.sampled_from([30, 100, 5000]),
    "bw": st.sampled_from([0, 2, 20, 500]),
    "max_iter": st.sampled_from([2, 9, 5000]),
    "k": st.sampled_from([15, 19]),
    "min_cnt": st.sampled_from([1, 3]),
    "min_score": st.sampled_from([0, 15, 40]),
}
full_params = st.builds(ck.ChainParams, max_skip=st.none(), **windows)
any_params = st.builds(
    ck.ChainParams, max_skip=st.sampled_from([None, 0, 1, 25]), is_cdna=st.booleans(), n_seg=st.sampled_from([1, 2]),
    skip_scale=st.sampled_from([0.0, 0.3]), **windows,
)  # fmt: skip


def test_a_chain_by_hand():
    f, p, v = ck.dp(anchors((100, 50), (110, 60), (130, 80), (1130, 1085)), FULL)
    # 15; 10 new bases; 15 new bases; 15 less int(0.12 * 5 + 0.5 * log2(6)) for the gap of 5
    assert f.tolist() == [15, 25, 40, 54]
    assert p.tolist() == [-1, 0, 1, 2]
    assert v.tolist() == f.tolist()


def test_ties_go_to_the_nearest():
    apart = anchors((100, 100), (100, 101), (120, 121))  # a gap of one base costs int(0.12 + 0.5) = 0
    for backend in ck.available(FULL):
        assert ck.dp(apart, FULL, backend=backend)[1].tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("second", "follows"),
    [((100, 115), False), ((115, 100), False), ((5115, 5115), False), ((5100, 5100), True), ((115, 616), False),
     ((115, 615), True), ((115, 115, 15, 1), False), ((115, 115, 15, 0, 1), False)],
)  # fmt: skip
def test_who_may_follow(second, follows):
    first, second = anchors((100, 100)), anchors(second)
    both = np.concatenate([first, second])
    for backend in ck.available(FULL):
        p = ck.dp(
            both[np.argsort(both[:, 0], kind="stable")], dataclasses.replace(FULL, gap_scale=0.0), backend=backend
        )[1]
        assert (p.max() >= 0) == follows, backend


@settings(max_examples=150, deadline=None)
@given(anchor_sets(), full_params)
def test_every_backend_equals_the_definition(made, params):
    wanted = ck.dp(made, params, backend="reference")
    for backend in native_backends():
        same(ck.dp(made, params, backend=backend), wanted)


@settings(max_examples=150, deadline=None)
@given(anchor_sets(segments=2), any_params)
def test_every_setting_equals_the_definition(made, params):
    if params.n_seg == 1:
        made = made & np.array([2**64 - 1, 2**48 - 1], np.uint64)
    same(ck.dp(made, params), ck.dp(made, params, backend="reference"))
    found, wanted = ck.chain(made, params), ck.chain(made, params, backend="reference")
    np.testing.assert_array_equal(found.u, wanted.u)
    np.testing.assert_array_equal(found.members, wanted.members)


def large(n, seed, far=4000):
    """Repeats: positions on a grid, so that windows are full, scores are equal and max_iter binds."""
    random = np.random.default_rng(seed)
    rows = zip(random.integers(0, far, n), random.integers(0, far, n), random.choice([15, 15, 40], n))
    return anchors(*((int(x) // 8 * 8, int(y) // 8 * 8, int(span)) for x, y, span in rows))


@pytest.mark.parametrize("max_iter", [100, 1000, 5000])
def test_large_windows(max_iter):
    made, params = large(6000, 1), dataclasses.replace(FULL, max_iter=max_iter)
    wanted = ck.dp(made, params, backend="scalar")
    assert ck.stats(made, params).capped
    for backend in native_backends():
        same(ck.dp(made, params, backend=backend), wanted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 255, 256, 257, 2**16, 2**63, 2**64 - 1]), max_size=400), st.randoms())
def test_the_sort_leaves_equal_keys_where_klib_does(keys, random):
    from workbench.kernels.chain import _chain

    keys = keys * random.choice([1, 1, 5])
    assert _chain.order(np.array(keys, np.uint64)).tolist() == reference.sort_order(keys)


def test_the_sort_is_not_stable():
    """Sorting 65 items by one byte carries them in cycles; 64 are sorted by insertion."""
    for count, stable in ((64, True), (65, False)):
        keys = [n % 2 for n in range(count)]
        order = reference.sort_order(keys)
        assert [keys[n] for n in order] == sorted(keys)
        assert (order == sorted(range(count), key=keys.__getitem__)) == stable


def test_backtracking_cuts_where_the_score_falls():
    line = [(100 * n, 100 * n) for n in range(1, 30)]
    found = ck.chain(anchors(*line), FULL)
    assert [(score, len(members)) for score, members in found] == [(15 * 29, 29)]
    f = np.array([100, 10, 20, 120], np.int32)  # the second anchor lost 90
    p, v = np.array([-1, 0, 1, 2]), f
    for drop, wanted in ((100, [(120, 4)]), (50, [(110, 2), (100, 1)])):
        params = dataclasses.replace(FULL, bw=drop, min_cnt=1)
        for backend in ("auto", "reference"):
            u, members = ck.backtrack(f, p, v, params, backend=backend)
            assert [(int(each) >> 32, int(each) & 0xFFFFFFFF) for each in u] == wanted
            assert members.tolist() == ([0, 1, 2, 3] if drop == 100 else [2, 3, 0])  # 1 begins at 10, under min_score


def test_chains_are_ordered_by_target():
    rows = [(x + 15 * n, 15 * n, 15, ref) for ref, x in ((1, 100), (0, 9000), (0, 50)) for n in range(1, 5)]
    found = ck.chain(anchors(*rows), FULL)
    assert found.chained[::4, 0].tolist() == [65, 9015, (1 << 32) + 115]
    assert found.scores.tolist() == [60] * 3
    assert found.counts.tolist() == [4] * 3


def rmq_by_brute_force(made, params):
    """The long join with its range query as a plain minimum; None where equal costs leave the answer to the tree."""
    at, gap = reference.taken_apart(made), float(params.penalties[0])
    f, p = [0] * len(at), [-1] * len(at)
    costs = dataclasses.replace(params, max_dist_x=1 << 20, max_dist_y=1 << 20, bw=1 << 20)
    for i, to in enumerate(at):
        before = [j for j in range(i) if at[j].x < to.x and at[j].x >> 32 == to.x >> 32]
        wide = [
            j for j in before if to.x <= at[j].x + params.max_dist_y and 0 < to.query - at[j].query < params.max_dist_y
        ]
        if any(at[j].query == to.query for j in (0,) if 0 in before):
            return None
        f[i] = to.span
        if not wide:
            continue
        cost = {j: -(f[j] + 0.5 * gap * (at[j].ref + at[j].query)) for j in wide}
        first = min(wide, key=cost.__getitem__)
        if list(cost.values()).count(cost[first]) > 1:
            return None
        dq, dr = to.query - at[first].query, to.ref - at[first].ref
        near = [j for j in before if to.x <= at[j].x + params.join_inner_dist and at[j].query < to.query]
        near = [j for j in near if at[j].query >= to.query - params.join_inner_dist]
        near.sort(key=lambda j: (-at[j].query, -j))
        if dq == dr and min(dq, dr) <= at[first].span:
            near = []
        for j in [first, *near]:
            if abs((to.query - at[j].query) - (to.ref - at[j].ref)) <= params.bw_long:
                score = f[j] + reference.gain(costs, to, at[j])
                if score > f[i]:
                    f[i], p[i] = score, j
    return f, p


@settings(max_examples=200, deadline=None)
@given(anchor_sets(most=60), st.sampled_from([20, 300, 20_000]), st.sampled_from([10, 100, 1000]))
def test_the_long_join_equals_brute_force(made, band, inner):
    params = dataclasses.replace(FULL, bw_long=band, bw=1, max_dist_y=max(5000, band), join_inner_dist=inner)
    wanted = rmq_by_brute_force(made, params)
    assume(wanted is not None)
    found = ck.rmq_chain(made, params)
    assume((found.anchors == made).all())  # equal positions may have been reordered
    assert found.f.tolist() == wanted[0]
    assert found.p.tolist() == wanted[1]


def test_when_the_long_join_runs():
    def made_of(*ranges):
        return ck.chain(anchors(*((ref + n, n) for ref, first, last in ranges for n in range(first, last, 15))), FULL)

    two = made_of((0, 100, 1000), (50_000, 3000, 4000))
    assert len(two) == 2
    assert ck.join_needed(two, FULL, 5000)  # 900 of 5000 bases covered: more than 1000 are not
    assert ck.join_needed(two, FULL, 1900)  # about 1000 are not covered, but more than a tenth is
    assert not ck.join_needed(made_of((0, 100, 1000)), FULL, 5000)  # one chain
    short = made_of((0, 100, 160), (50_000, 300, 400))
    assert not ck.join_needed(short, FULL, 900)  # little of a short read
    for off in ({"bw_long": 500}, {"is_cdna": True}, {"n_seg": 2}):
        assert not ck.join_needed(two, dataclasses.replace(FULL, **off), 5000)
    assert len(ck.chain_read(two.anchors, FULL, 5000).chained) == len(two.chained)


def test_stats_count_what_the_loop_looks_at():
    made = anchors(*((n, n) for n in (1, 2, 3, 20_000, 20_010, 50_000)), (7, 7, 15, 1))
    told = ck.stats(made, FULL)
    assert told.windows.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert told.pairs.tolist() == [3, 1, 0, 0]
    assert told.begins.tolist() == [0, 3, 5, 6]
    assert told.ends.tolist() == [3, 5, 6, 7]
    assert not told.capped
    assert ck.stats(made, dataclasses.replace(FULL, max_iter=1)).windows.tolist() == [0, 1, 1, 0, 1, 0, 0]


def test_nothing_to_chain():
    none = np.empty((0, 2), np.uint64)
    for backend in ck.available(FULL):
        found = ck.chain(none, FULL, backend=backend)
        assert len(found) == len(found.f) == len(found.chained) == 0
    assert len(ck.rmq_chain(none, FULL)) == 0
    assert len(ck.stats(none, FULL).pairs) == 0
    assert list(ck.chain(anchors((5, 5)), FULL)) == []


def test_presets_are_minimap2s():
    assert ck.preset("map-ont") == ck.ChainParams()
    assert (ck.preset("map-hifi").max_dist_x, ck.preset("map-hifi").k) == (10_000, 19)
    assert ck.preset("map-pb", max_skip=None).max_skip is None
    assert ck.ChainParams().penalties[0] == np.float32(0.120000005)  # float 0.8 times double 0.15: not float 0.12
    with pytest.raises(KeyError, match=r"'sr'; there are map-ont, map-pb, map-hifi"):
        ck.preset("sr")


@pytest.mark.parametrize("backend", ["avx2", "avx512", "one_source"])
@pytest.mark.parametrize("change", [{"max_skip": 25}, {"is_cdna": True}, {"n_seg": 2}, {"skip_scale": 0.1}])
def test_a_backend_that_cannot_says_so(backend, change):
    with pytest.raises(ck.Unsupported, match=f"'{backend}' is not of this processor or does not do these parameters"):
        ck.dp(anchors((1, 1)), dataclasses.replace(FULL, **change), backend=backend)
    with pytest.raises(ck.Unsupported, match="'tpu' is unknown; here there are auto"):
        ck.dp(anchors((1, 1)), FULL, backend="tpu")


BAD = {
    "not sorted by x": anchors((9, 9), (1, 1))[::-1],
    r"shape \[n, 2\], not \[4\]": np.arange(4, dtype=np.uint64),
    r"position of the read is 2\*\*30 or more": anchors((1, 2**30)),
    r"position of the reference is 2\*\*31 or more": anchors((2**31, 1)),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("backend", native_backends())
def test_bad_anchors_are_refused(message, backend):
    with pytest.raises(ValueError, match=message):
        ck.dp(BAD[message], FULL, backend=backend)


WRONG = [
    *({"max_dist_x": 0}, {"bw": -1}, {"bw": 1 << 25}, {"max_iter": 0}, {"max_skip": -1}, {"n_seg": 0}),
    *({"gap_scale": float("nan")}, {"gap_scale": 1e9}, {"skip_scale": -1.0}),
]


@pytest.mark.parametrize("change", WRONG)
def test_bad_parameters_are_refused(change):
    with pytest.raises(ValueError, match=r"^chain: "):
        ck.dp(anchors((1, 1)), dataclasses.replace(FULL, **change), backend="scalar")


def test_what_does_not_fit_together_is_refused():
    f, p = np.array([50, 60], np.int32), np.array([-1, 0])
    with pytest.raises(ValueError, match="differ in length"):
        ck.backtrack(f, p[:1], f, FULL)
    with pytest.raises(ValueError, match="must come before"):
        ck.backtrack(f, np.array([1, 0]), f, FULL)
    made = anchors((1, 1), (20, 20))
    for u, members, message in (([1], [5], "no such anchor"), ([3], [0, 1], "do not fit"), ([0], [], "no anchors")):
        with pytest.raises(ValueError, match=message):
            ck.compact(made, np.array(u, np.uint64), np.array(members, np.int64))


def test_the_interpreter_runs_on():
    """A long call lets other threads of Python work."""
    made, ended, turns = large(20_000, 2), threading.Event(), 0
    thread = threading.Thread(target=lambda: (ck.dp(made, FULL, backend="scalar"), ended.set()))
    thread.start()
    while not ended.is_set():
        turns += 1
        time.sleep(0.001)
    thread.join()
    assert turns > 5

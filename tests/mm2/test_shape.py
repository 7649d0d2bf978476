"""Windows, segments and their sums against loops over pairs; the shape of work in numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels.chain import ChainParams
from workbench.mm2 import shape

PARAMS = ChainParams(max_dist_x=50, bw=10, max_iter=8, max_skip=None)


@st.composite
def anchors(draw):
    places = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 400)), max_size=60))
    x = np.array(sorted(s << 63 | r << 32 | p for s, r, p in places), np.uint64)
    return np.stack([x, x & np.uint64(0xFFFF) | np.uint64(15 << 32)], axis=1)


def window_of(x, i, params):
    """By looking at every pair: earlier anchors of the same strand and reference, at most max_dist_x and max_iter."""
    reach = max(params.max_dist_x, params.bw)
    near = [j for j in range(i) if x[j] >> 32 == x[i] >> 32 and x[i] - x[j] <= reach]
    return len([j for j in near if i - j <= params.max_iter])


@settings(max_examples=150, deadline=None)
@given(anchors())
def test_windows_rows_and_segments(found):
    x = [int(v) for v in found[:, 0]]
    window = shape.windows(found, PARAMS)
    assert window.tolist() == [window_of(x, i, PARAMS) for i in range(len(x))]
    rows = [sum(1 for j in range(i + 1, len(x)) if j - window[j] <= i) for i in range(len(x))]
    assert shape.successors(window).tolist() == rows
    parts = shape.segments(window, read=3)
    assert parts.anchors.sum() == len(x)
    assert parts.pairs.sum() == window.sum()
    assert len(parts) == sum(1 for w in window if w == 0)
    for k, width in enumerate(shape.WIDTHS):
        assert parts.passes[:, k].sum() == sum(-(-r // width) for r in rows)
    ends = np.cumsum(parts.anchors)
    for begin, end in zip(ends - parts.anchors, ends, strict=True):
        assert all(j - window[j] >= begin for j in range(begin, end))  # no window leaves its segment


def test_a_wrong_reach_is_seen():
    x = np.array([0, 40, 80, 200], np.uint64)
    found = np.stack([x, x], axis=1)
    near = ChainParams(max_dist_x=39, bw=10, max_skip=None)
    assert shape.windows(found, PARAMS).tolist() == [0, 1, 1, 0]
    assert shape.windows(found, near).tolist() == [0, 0, 0, 0]


def parts_of(sizes, read):
    window = np.concatenate([np.minimum(np.arange(n), 5) for n in sizes])
    return shape.segments(window, read)


def test_whole_reads_and_joined():
    both = shape.joined([parts_of([3, 10, 1], 0), parts_of([7], 1), parts_of([2, 2], 2)])
    whole = shape.whole_reads(both)
    assert whole.anchors.tolist() == [14, 7, 4]
    assert whole.pairs.sum() == both.pairs.sum()
    assert whole.passes.sum() == both.passes.sum()
    assert len(shape.joined([])) == len(shape.whole_reads(shape.joined([]))) == 0


def test_a_batch_is_made_of_whole_reads():
    both = shape.joined([parts_of([3, 10, 1], 0), parts_of([7], 1), parts_of([2, 2], 2)])
    lengths = np.array([1000, 500, 200])
    batch = shape.drawn(both, lengths, 50_000, seed=1)
    sizes = {tuple(batch.anchors[batch.read == r]) for r in np.unique(batch.read)}
    assert sizes == {(3, 10, 1), (7,), (2, 2)}
    assert len(np.unique(batch.read)) == round(50_000 / lengths.mean())
    assert shape.drawn(both, lengths, 50_000, seed=1).anchors.tolist() == batch.anchors.tolist()
    assert shape.drawn(both, lengths, 50_000, seed=2).anchors.tolist() != batch.anchors.tolist()


def test_classes_are_mm2_gbs():
    kinds = shape.Segments(np.array([1, 1536, 1537, 10_240, 10_241]), *[np.zeros(5, int)] * 2, np.zeros((5, 4), int))
    assert kinds.kinds().tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("work", "half"), [([1] * 10, 5), ([100, 1, 1, 1], 1), ([], 0)])
def test_half_of_the_work(work, half):
    assert shape.half_of_work(np.array(work, np.int64)) == half


def test_lorenz_curve():
    even, skewed = shape.lorenz(np.full(100, 7)), shape.lorenz(np.array([900] + [1] * 99))
    assert even[0] == pytest.approx(even[1], abs=1e-5)
    assert skewed[1][1] == pytest.approx(900 / 999, abs=1e-4)
    for x, y in (even, skewed):
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert sorted(y) == y

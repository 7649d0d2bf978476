"""The GPU kernels' text on the CPU: every way a segment can go, every build and order of bodies, one answer."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import chain as ck
from workbench.kernels.chain import one_source
from workbench.kernels.chain.one_source import Limits

FULL = ck.ChainParams(max_skip=None)
BUILDS = ["portable", "shuffled", *(name for name in ck.VECTOR if name in ck.available())]
SMALL = Limits(micro_batch=2500, micro_batches=2, short_anchors=20, long_pairs=3000, split_pairs=20_000)


def read(n, seed, far=30_000, gaps=True):
    """Anchors along a few diagonals of a repeat, with noise, on two references; gaps cut segments."""
    random = np.random.default_rng(seed)
    x = np.sort(random.integers(0, far, n))
    if gaps:
        x += 6000 * (x // 3000)
    y = (x + 171 * random.integers(-5, 6, n) + random.integers(-2, 3, n) + 2000) % 2**29
    place = np.sort(random.integers(0, 2, n))
    packed = np.stack([place << 32 | x, 15 << 32 | y], 1).astype(np.uint64)
    return packed[np.lexsort((np.arange(n), packed[:, 0]))]


READS = [read(n, seed, gaps=gaps) for seed, (n, gaps) in enumerate(
    [(0, True), (1, True), (900, True), (3000, True), (2000, False), (5, True), (700, True), (0, True), (4000, False)]
)]  # fmt: skip


def exact(reads, params=FULL):
    return [ck.dp(each, params, backend="scalar") for each in reads]


def same(done, wanted):
    assert len(done.reads) == len(wanted)
    for got, right in zip(done.reads, wanted):
        for one, other in zip(got, right):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("build", BUILDS)
def test_every_build_equals_the_exact_loop(build, workers):
    done = one_source.run(READS, FULL, build=build, workers=workers, limits=SMALL)
    same(done, exact(READS))
    assert all(done.counts[way] > 0 for way in ("short", "mid", "long", "split")), done.counts
    assert done.counts["tasks"] > done.counts["long"]
    assert done.counts["pools"] > 1
    assert done.counts["redone"] == 0


@pytest.mark.parametrize("order", [1, 2, 3, 17, 1001])
def test_the_order_of_independent_bodies_does_not_matter(order):
    same(one_source.run(READS, FULL, build="shuffled", limits=SMALL, order=order), exact(READS))


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        Limits,
        micro_batch=st.integers(1, 5000),
        micro_batches=st.integers(1, 4),
        short_anchors=st.integers(1, 300),
        long_pairs=st.integers(0, 50_000),
        split_pairs=st.integers(0, 100_000),
    ),
    st.sampled_from(BUILDS),
    st.integers(1, 3),
)
def test_no_limit_changes_the_answer(limits, build, workers):
    reads = READS[:6]
    same(one_source.run(reads, FULL, build=build, workers=workers, limits=limits), exact(reads))


def test_segments_are_those_of_the_stats():
    counts = one_source.run(READS, FULL, limits=SMALL).counts
    told = [ck.stats(each, FULL) for each in READS]
    pairs = np.concatenate([each.pairs for each in told])
    sizes = np.concatenate([each.ends - each.begins for each in told])
    is_long = pairs >= SMALL.long_pairs
    assert counts["long"] == is_long.sum()
    assert counts["short"] == (~is_long & (sizes <= SMALL.short_anchors)).sum()
    assert counts["mid"] == (~is_long & (sizes > SMALL.short_anchors)).sum()
    assert counts["split"] == (is_long & (pairs >= SMALL.split_pairs) & (sizes > 256)).sum()


def test_a_read_whose_window_was_cut_is_done_again():
    params = dataclasses.replace(FULL, max_iter=50)
    cut = [ck.stats(each, params).capped for each in READS]
    done = one_source.run(READS, params, limits=SMALL)
    same(done, exact(READS, params))
    assert 0 < done.counts["redone"] == sum(cut) < len(READS)


def test_spans_and_wide_bands():
    random = np.random.default_rng(5)
    made = read(3000, 9)
    made[:, 1] = made[:, 1] & np.uint64(0xFFFFFFFF) | random.integers(1, 256, 3000).astype(np.uint64) << np.uint64(32)
    for change in ({"bw": 0}, {"bw": 20_000, "k": 19}, {"max_dist_y": 30, "bw": 20}, {"max_dist_x": 60, "bw": 20}):
        params = dataclasses.replace(FULL, **change)
        for build in BUILDS:
            same(one_source.run([made], params, build=build, limits=SMALL), exact([made], params))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ck.Unsupported, match="no limit on skips"):
        one_source.run(READS, ck.ChainParams())
    with pytest.raises(ValueError, match="no build of the kernels called cuda"):
        one_source.run(READS, FULL, build="cuda")
    with pytest.raises(ValueError, match="must be positive"):
        one_source.run(READS, FULL, workers=0)
    with pytest.raises(ValueError, match="not sorted by x"):
        one_source.run([READS[3][::-1]], FULL)


def test_every_call_of_the_driver_is_needed_and_none_may_be_lost():
    """Control of launcher and double: each copy, clear, launch, event, wait and release is left out once."""
    random = np.random.default_rng(3)
    reads = [each.copy() for each in (*READS[2:5], READS[8], *READS[2:5])]
    for each in reads:  # spans that differ, so that what an earlier batch left behind is not right by chance
        spans = random.integers(5, 40, len(each)).astype(np.uint64)
        each[:, 1] = each[:, 1] & np.uint64(0xFFFFFFFF) | spans << np.uint64(32)
    limits = dataclasses.replace(SMALL, short_anchors=60)
    whole, said, unseen = one_source.run(reads, FULL, limits=limits), [], []
    same(whole, exact(reads))
    for call in range(1, whole.counts["calls"] + 1):
        try:
            done = one_source.run(reads, FULL, limits=limits, dropped=call)
        except (RuntimeError, MemoryError) as error:  # MemoryError: poison was taken for a count
            said.append(str(error))
            continue
        ways = [{**each.counts, "calls": 0} for each in (done, whole)]
        if ways[0] == ways[1] and all((a == b).all() for d, w in zip(done.reads, whole.reads) for a, b in zip(d, w)):
            unseen.append(call)
    assert not unseen
    for words in ("not ordered after", "nothing has written", "never released", "never recorded", "still in use"):
        assert any(words in each for each in said), words


def test_a_missing_barrier_would_be_seen(tmp_path):
    """Control: dependent bodies run in another order, as without their barrier, give other bits."""
    import subprocess

    source = Path(one_source.__file__).parent
    text = (source / "one_source.h").read_text()
    ordered = "WARP(t, i + 1, smaller(stop, tile.last[i] + 1 - at),"
    assert ordered in text
    # each target offers itself onwards at once, as if the loop over i were a loop of independent bodies
    broken = text.replace(
        "for (int i = sub; i < stop; ++i) {",
        "for (int k = sub; k < stop; ++k) { const int i = sub + place(k - sub, stop - sub);",
    )
    assert broken != text
    for name in source.glob("*.h"):
        (tmp_path / name.name).write_text(broken if name.name == "one_source.h" else name.read_text())
    for name in ("scalar", "dispatch", "plan", "one_source", "one_source_cpu"):
        (tmp_path / f"{name}.cpp").write_text((source / f"{name}.cpp").read_text())
    (tmp_path / "main.cpp").write_text(MAIN)
    compiler = os.environ.get("CXX", "g++")
    flags = ["-std=c++20", "-O1", "-pthread", "-DCHAIN_SHUFFLED", "-DCHAIN_BUILD=shuffled"]
    subprocess.run([compiler, *flags, *sorted(map(str, tmp_path.glob("*.cpp"))), "-o", tmp_path / "main"], check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 1


MAIN = """
#include "one_source_run.h"
int main() {
    using namespace chain;
    std::vector<Anchor> a;
    for (uint64_t n = 1; n < 200; ++n) a.push_back({10 * n, 15ull << 32 | 10 * n});
    std::vector<int32_t> f(a.size()), v(a.size()), g(a.size());
    std::vector<int64_t> p(a.size());
    const Params q{5000, 5000, 500, kUnlimited, 5000, 3, 40, 0.12f, 0.0f, false, 1};
    dp(Backend::scalar, a.data(), a.size(), q, {g.data(), p.data(), v.data()});
    set_order(1);
    run_one_source({{a.data(), int64_t(a.size()), {f.data(), p.data(), v.data()}}}, q, kernels_shuffled, {}, 1);
    return f == g ? 0 : 1;
}
"""

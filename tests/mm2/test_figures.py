"""The pictures: fluid however many anchors there are, told in words, the same points whatever is thinned."""

import re

import numpy as np
import pytest

from workbench import runner, theme
from workbench.kernels.chain import ChainParams, chain
from workbench.mm2 import SYSTEM, dots, figures, gantt
from workbench.mm2.config import Mm2Config
from workbench.mm2.plan import sample

BYTES = 200_000


@pytest.fixture(scope="module")
def result():
    run = runner.Run(SYSTEM, SYSTEM.make("tiny", minimap2=False), record=False).start().wait(120)
    assert run.error is None
    return run.result


def anchors_of(count, seed=0):
    """Diagonals of a repeat: so many anchors, sorted."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.integers(15, 200_000, count))
    x = np.sort((y + rng.choice([0, 2052, 4104, 6156], count)).astype(np.uint64))
    span = np.uint64(15) << np.uint64(32)
    return np.stack([x, y.astype(np.uint64) | span], axis=1)


@pytest.mark.parametrize("name", ["figure", "schedule", "difference"])
def test_pictures_are_fit_to_show(result, name):
    fig = getattr(result, name)()
    assert theme.problems(fig) == []
    assert len(fig.to_json().encode()) < BYTES
    for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
        assert axis.type == "category" or axis.ticktext or re.search(r"\(.+\)", axis.title.text), axis.title.text


def test_badges_stand_in_titles(result):
    assert "(measured)" in result.figure().layout.title.text
    assert "(modelled)" in result.schedule().layout.title.text


def test_the_main_picture_holds_all_six_parts(result):
    fig = result.figure()
    assert len(list(fig.select_xaxes())) == 6
    x, y = result.plan.lorenz["segments"]
    curve = next(t for t in fig.data if t.name == "segments, most work first")
    assert list(curve.x) == pytest.approx([100 * v for v in x], rel=1e-5)
    assert list(curve.y) == pytest.approx([100 * v for v in y], rel=1e-5)
    loops = [t for t in fig.data if t.type == "bar" and t.orientation != "h"]
    assert {t.name for t in loops} == {n for n in result.names("loop") if n != "minimap2's loop"}
    for trace in loops:
        speed = [
            result.median_s("loop", "minimap2's loop", b) / result.median_s("loop", trace.name, b) for b in trace.x
        ]
        assert list(trace.y) == pytest.approx(speed)
    ours = [
        t
        for t in fig.data
        if t.type == "bar" and t.orientation == "h" and t.name.endswith((": seed", ": chain", ": join", ": hits"))
    ]
    assert sum(sum(t.x) for t in ours) == pytest.approx(result.summary()["total_s"])
    reads = next(t for t in fig.data if t.name == "read")
    assert len(reads.x) == len([r for r in result.reads if r.pairs])


def test_on_a_gpu_no_bar_is_cut_into_stages_that_were_timed_elsewhere(result):
    told = result.provenance.model_copy(update={"backend": "cuda"})
    whole = [t for t in result.model_copy(update={"provenance": told}).figure().data if t.orientation == "h"]
    stages = [t for t in whole if t.name.endswith((": seed", ": chain", ": join", ": hits"))]
    assert sum(sum(t.x) for t in stages) == 0
    (rest,) = [t for t in whole if t.name == "all stages together"]
    assert min(rest.x) > 0


def test_what_the_modes_chain_differently_is_in_the_main_picture(result):
    found = anchors_of(3000, seed=4)
    lax = chains_of(ChainParams(max_skip=None, min_score=2000), found)
    full = chains_of(ChainParams(max_skip=None), found)
    near = dots.dots("read", 200_000, ["c"], [400_000], full, lax, near=True)
    fig = result.model_copy(update={"differs": near}).figure()
    drawn = [t.name for t in fig.data if t.yaxis == "y2"]
    assert "chain, only with every predecessor" in drawn
    assert "anchor" in drawn
    assert not [a for a in fig.layout.annotations if "same in both modes" in a.text]
    same = result.model_copy(update={"differs": None}).figure()
    assert [a for a in same.layout.annotations if "same in both modes" in a.text]
    assert not [t for t in same.data if t.yaxis == "y2" and t.name]


def test_a_hundred_thousand_anchors_stay_fluid():
    found = anchors_of(100_000)
    params = ChainParams(max_skip=None, max_iter=200)
    full, skip = chain(found, params), chain(found, ChainParams(max_iter=200), backend="scalar")
    plot = dots.dots("read", 200_000, ["chromosome"], [400_000], full, skip)
    fig = figures.difference(plot)
    assert plot.anchors == 100_000
    assert len(plot.x) <= dots.GRID[0] * dots.GRID[1]
    assert len(plot.x) < 10_000
    assert len(fig.to_json().encode()) < BYTES


def test_a_million_random_anchors_make_a_small_picture():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 500_000, 1_000_000), rng.integers(0, 300_000, 1_000_000)
    kept = dots.few(x, y, (0, 500_000, 0, 300_000))
    assert dots.MOST / 2 < len(kept) <= dots.MOST
    few = rng.integers(0, 300_000, 50)
    frame = (0, 500_000, 0, 300_000)
    assert dots.few(few, few, frame).tolist() == dots.thinned(few, few, frame).tolist()


def test_thinning_keeps_one_of_each_place():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 1000, 50_000), rng.integers(0, 500, 50_000)
    frame = (0, 1000, 0, 500)

    def places(at):
        return {(a * 20 // 1000, b * 10 // 500) for a, b in zip(x[at].tolist(), y[at].tolist(), strict=True)}

    kept = dots.thinned(x, y, frame, (20, 10))
    assert len(kept) == len(places(kept)) == 200
    assert places(kept) == places(np.arange(len(x)))
    one = dots.thinned(x[:1], y[:1], frame, (20, 10))
    assert one.tolist() == [0]


def test_reverse_anchors_lie_on_the_reads_forward_strand():
    forward = np.array([[1000, 15 << 32 | 114]], np.uint64)
    backward = np.array([[1 << 63 | 5 << 32 | 1000, 15 << 32 | 114]], np.uint64)
    assert [int(v[0]) for v in dots.placed(forward, 500)] == [0, 1000, 114, 0]
    target, x, y, reverse = (int(v[0]) for v in dots.placed(backward, 500))
    assert (target, x, reverse) == (5, 1000, 1)
    assert y == 500 - 1 - 114 + 15 - 1


def chains_of(params, found):
    return chain(found, params, backend="scalar")


def test_chains_of_two_modes_are_told_apart():
    found = anchors_of(3000, seed=4)
    full = chains_of(ChainParams(max_skip=None), found)
    lax = chains_of(ChainParams(max_skip=None, min_score=2000), found)
    same = dots.dots("read", 200_000, ["c"], [400_000], full, full)
    assert {c.found_by for c in same.chains} == {"both"}
    assert same.counts == {"both": len(full), "full": 0, "exact_skip25": 0}
    assert dots.differing(full, full) == 0
    assert dots.dots("read", 200_000, ["c"], [400_000], full, full, near=True) is None
    assert dots.differing(full, lax) == len(full) - len(lax) > 0
    near = dots.dots("read", 200_000, ["c"], [400_000], full, lax, near=True)
    assert near.counts == {"both": len(lax), "full": len(full) - len(lax), "exact_skip25": 0}
    assert near.chains[0].found_by == "full"
    assert near.high - near.low < 200_000
    text = figures.difference(near).layout.meta["text"]
    assert f"{len(full) - len(lax):,} are found only by looking at every predecessor" in text


def test_previews_follow_the_form_and_run_nothing(monkeypatch):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    base = SYSTEM.make("small")
    gantt.preview(base)
    seeded = sample.cache_info().misses
    unsorted = gantt.preview(base.model_copy(update={"longest_first": False}))
    assert sample.cache_info().misses == seeded, "the seeded reads are kept: a slider costs a schedule"
    assert unsorted.layout.title.text != gantt.preview(base).layout.title.text
    told = gantt.preview(Mm2Config(reads="real")).layout.title.text
    assert "simulated reads seeded; the real ones are not here" in told
    with pytest.raises(FileNotFoundError):
        gantt.preview(Mm2Config(reads="file", reads_file="no such file"))

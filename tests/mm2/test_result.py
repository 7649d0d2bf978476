"""A result: what it says of itself, its claims, what survives being stored."""

import math

import pytest

from workbench import records, runner
from workbench.kernels import chain as kernel
from workbench.mm2 import SYSTEM
from workbench.mm2.result import FULL, Read, bin_of, bins
from workbench.mm2.why import explain
from workbench.system import Span


@pytest.fixture(scope="module")
def results():
    found = {}
    for name, changes in {"cpu": {}, "sim": {"backend": "sim"}}.items():
        run = runner.Run(SYSTEM, SYSTEM.make("tiny", minimap2=False, **changes), record=False).start().wait(120)
        assert run.error is None
        found[name] = run.result
    return found


@pytest.mark.parametrize("name", ["cpu", "sim"])
def test_stored_and_reopened(results, name):
    again = records.read_result(SYSTEM, results[name].to_json())
    assert repr(again) == repr(results[name])
    assert again.summary() == results[name].summary()


def test_sentences(results):
    said = results["cpu"].sentence()
    assert said.startswith("Measured on ")
    assert "times as fast as minimap2's heuristic loop" in said
    assert "reads chained exactly as defined" in said
    assert results["sim"].sentence().startswith("Modelled on the MI210")


def test_tables(results):
    frame = results["cpu"].to_frame()
    assert set(frame["what"]) == {"loop", "mapping", "schedule"}
    assert set(frame.loc[frame["what"] == "schedule", "badge"]) == {"modelled"}
    assert set(frame.loc[frame["what"] != "schedule", "badge"]) == {"measured"}
    assert (frame["seconds"] > 0).all()
    reads = results["cpu"].reads_frame()
    assert len(reads) == results["cpu"].totals.reads
    assert reads["right"].all()


def speed_ups(result):
    return [c for c in result.claims() if c.what.startswith("speed-up")]


def with_reads(result, kbp):
    return result.model_copy(update={"reads": [Read(length=kbp * 1000, anchors=9, pairs=900)]})


def test_speed_ups_of_the_paper_have_modelled_ones_beside_them(results):
    """Ours is the modelled batch over 32 times the measured loop, by hand, for reads of that length alone."""
    cpu = results["cpu"]
    loop = f"{FULL}, {kernel.available()[0]} without pruning"
    if loop not in cpu.names("loop"):
        pytest.skip("this processor has no vectors, so no loop of mm2-fast's kind")
    pairs = {t.what: t.pairs for t in cpu.timings if t.name in (loop, "MI210, not split") and t.reads_kbp == "all"}
    cores_s = pairs["schedule"] / pairs["loop"] * cpu.median_s("loop", loop) / 32
    times = cores_s / cpu.plan.ends_s["not split"]
    for kbp, right in ((50, [times, times, None]), (200, [None, None, times]), (5, [None] * 3)):
        found = speed_ups(with_reads(cpu, kbp))
        assert [c.paper for c in found] == [2.57, 5.33, 1.87]
        assert {c.badge for c in found} == {"modelled"}
        assert all("gfx90a, never run there" in c.note for c in found)
        for claim, want in zip(found, right, strict=True):
            assert claim.ours == (want if want is None else pytest.approx(want, rel=1e-3))


def test_a_speed_up_takes_a_measured_loop_and_the_papers_gpu(results):
    other = results["cpu"].plan.model_copy(update={"device": "H200"})
    for result in (results["sim"], results["cpu"].model_copy(update={"plan": other})):
        for claim in speed_ups(with_reads(result, 50)):
            assert claim.ours is None
            assert "takes a measured run" in claim.note


def test_growth_of_work_is_ours_beside_theirs(results):
    claims = {c.what: c for c in results["cpu"].claims()}
    short = [r for r in results["cpu"].reads if 1000 <= r.length < 5000]
    ours = sum(r.pairs for r in short) / sum(r.length for r in short)
    assert claims["pairs a base, reads of 1-5 kb"].ours == pytest.approx(ours, rel=1e-3)
    assert claims["pairs a base, reads of 140-150 kb"].ours is None  # tiny has none so long
    assert "no read" in claims["pairs a base, reads of 140-150 kb"].note
    assert not any("processor time" in c.what for c in results["sim"].claims())


@pytest.mark.parametrize("name", ["cpu", "sim"])
def test_the_share_in_long_segments_is_of_the_modelled_batch(results, name):
    [claim] = [c for c in results[name].claims() if "in long segments" in c.what]
    assert claim.ours == pytest.approx(100 * results[name].plan.classes["long"][1], rel=1e-3)
    assert claim.badge == "modelled"
    assert "the batch drawn from all reads" in claim.what


def test_badges(results):
    badges = results["cpu"].provenance.badges
    assert {n for n, badge in badges.items() if badge == "modelled"} == {"gpu_batch_s", "gpu_batch_bound_s"}


def test_nothing_is_made_up(results):
    nothing = results["cpu"].model_copy(update={"timings": []})
    summary = nothing.summary()
    assert all(math.isfinite(v) for v in summary.values())
    assert not {"dp_speedup_vs_minimap2", "pairs_per_s", "total_s", "minimap2_total_s"} & set(summary)


@pytest.mark.parametrize(
    ("length", "name"), [(0, "0-5"), (4999, "0-5"), (5000, "5-20"), (299_999, "100-300"), (10**6, "over 300")]
)
def test_bins(length, name):
    assert bin_of(length) == name
    assert name in bins()


def test_every_span_is_explained(results):
    kinds = set()
    for result in results.values():
        for span in result.spans():
            said = explain(span)
            assert said.endswith(".")
            assert "{" not in said
            kinds.add(str(span.why.get("reason", span.lane)))
    assert kinds >= {"seed", "chain", "join", "hits", "loops", "mappers", "small"}
    on_gpu = explain(Span("loops", 0.0, 1.0, "every predecessor, cuda, round 1", "exact", {"wall_s": 0.25}))
    assert on_gpu == "every predecessor, cuda, round 1: 250 ms by the wall, on the GPU."
    why = {"reason": "fixed", "ticket": 3, "order": "as they came", "anchors": 20_000, "pairs": 10**7, "waited_s": 0.5,
           "alone_s": 1.0, "blocks": 1}  # fmt: skip
    assert "began 500 ms after the unit was free" in explain(Span("unit 3", 1.0, 2.0, "segment 9", "long segment", why))
    why |= {"reason": "shared", "blocks": 4}
    assert "4 blocks work on its tiles" in explain(Span("unit 3", 1.0, 2.0, "segment 9", "shared segment", why))

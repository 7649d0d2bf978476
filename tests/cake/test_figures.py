"""Pictures: every baseline is drawn and named, throttles and stores are told apart, each decision has words."""

import re
from pathlib import Path

import pytest

import workbench as wb
from workbench import theme
from workbench.cake import figures, policy
from workbench.cake.config import PRESETS
from workbench.cake.ledger import Grain
from workbench.cake.result import Row
from workbench.cake.why import PLAIN
from workbench.system import Span


@pytest.fixture(scope="module")
def simulated():
    return wb.run("cake", preset="paper")


def row(mode, link_mb_s, ttft_s, number=0):
    return Row(
        mode=mode, round=number, link_mb_s=link_mb_s, ttft_s=ttft_s, makespan_s=ttft_s, meeting_token=0, loaded_tokens=0
    )


@pytest.fixture
def measured(simulated):
    """A result as a measured run has it; its numbers are made up, only their names are looked at."""
    rows = [
        row("compute", 0.0, 3.0), row("load", 3125.0, 4.1), row("cake", 3125.0, 1.7), row("cake", 781.25, 2.5),
        row("raw load", 9000.0, 1.5), row("raw cake", 9000.0, 1.0), row("warm", 0.0, 0.05),
        row("lmcache-mp load", 0.0, 0.4),
    ]  # fmt: skip
    config = simulated.config.model_copy(update={"backend": "cpu", "prompt_tokens": 8001})
    here = simulated.provenance.model_copy(update={"backend": "cpu"})
    return simulated.model_copy(update={"rows": rows, "config": config, "link_mb_s": 3125.0, "provenance": here})


def names(fig):
    return {trace.name: trace for trace in fig.data}


def labels(fig):
    return [a.text for a in fig.layout.annotations]


def test_every_baseline_is_drawn_and_named(measured):
    drawn = names(measured.figure())
    points = {name: list(trace.x) for name, trace in drawn.items() if name and "measured" in name}
    assert points == {
        "compute only, measured": [3125.0],
        "load only, throttled, measured": [3125.0],
        "CAKE, throttled, measured": [3125.0, 781.25],
        "load only, measured, raw disk": [9000.0],
        "CAKE, measured, raw disk": [9000.0],
        "vLLM's prefix cache, warm, measured": [measured.curve.link_mb_s[0], measured.curve.link_mb_s[-1]],
        "LMCache's own connector, measured": [measured.curve.link_mb_s[0], measured.curve.link_mb_s[-1]],
    }
    assert list(drawn["vLLM's prefix cache, warm, measured"].y) == [0.05, 0.05]


def test_lines_are_modelled_and_bounded(measured):
    drawn = names(measured.figure())
    for name in ("compute only", "load only", "CAKE", "oracle split", "lower bound"):
        assert f"{name}, modelled" in drawn
    assert list(drawn["lower bound, modelled"].y) == measured.curve.bound_s
    old = measured.model_copy(update={"curve": measured.curve.model_copy(update={"bound_s": []})})
    assert "lower bound, modelled" not in names(old.figure())  # a result stored before there was one


def test_a_throttle_is_named_only_where_there_is_one(measured, simulated):
    assert any(text.startswith("load only (throttled) ") for text in labels(measured.figure()))
    assert not any("throttled" in text for text in labels(simulated.figure()))
    assert not any("throttled" in (name or "") for name in names(simulated.figure()))
    rows = [r.model_copy(update={"link_mb_s": 0.0}) for r in measured.rows[:3]] + measured.rows[4:]
    bare = measured.model_copy(update={"link_mb_s": 0.0, "rows": rows}).figure()  # link_mb_s=0: the disk itself
    assert not any("throttled" in text for text in [*labels(bare), *(n or "" for n in names(bare))])
    assert list(names(bare)["load only, measured, raw disk"].x) == [9000.0, 9000.0]


@pytest.mark.parametrize(
    ("store", "name"),
    [
        ("disk", "raw disk"),
        ("lmcache-ram", "raw, LMCache in memory"),
        ("lmcache-disk", "raw, LMCache on disk"),
        ("lmcache-server", "raw, LMCache on its server"),
    ],
)
def test_raw_points_are_named_by_their_store(measured, store, name):
    other = measured.model_copy(update={"config": measured.config.model_copy(update={"store": store})})
    assert {n.rpartition("measured, ")[2] for n in names(other.figure()) if n and "measured, " in n} == {name}


def test_figures_are_fit_to_show(measured, simulated):
    for fig in (measured.figure(), simulated.figure(), figures.preview(PRESETS["paper"])):
        assert theme.problems(fig) == []
    assert measured.figure().layout.xaxis2.title.text == "store bandwidth (MB/s)"


def shown(preset="small", **changes):
    return figures.preview(PRESETS[preset].model_copy(update=changes))


def words(fig):
    return " ".join(re.sub("<[^>]+>", " ", fig.layout.title.text).split())


def test_the_preview_says_whose_costs_it_shows():
    for preset in PRESETS:
        assert "not measured on this machine: cost model of " in words(shown(preset))
        assert words(shown(preset)).startswith("Modelled")
    assert "LongAlpaca-13B on A100" in words(shown("paper"))
    assert "SmolLM2-135M" in words(shown("small"))
    tiny = words(shown("tiny"))
    assert tiny.startswith("Modelled for SmolLM2-135M") and "tiny test model has none of its own" in tiny
    assert "tiny" not in words(shown("small"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"link_mb_s": 0.0}, "the raw disk is not modelled"),
        ({"engine": "vllm"}, "the built-in engine, not vLLM"),
        ({"threads": 4}, "one thread"),
        ({"damage_pct": 10.0}, "a store without gaps"),
        ({"store_limit_mb": 90.0}, "a store without gaps"),
    ],
)
def test_the_preview_says_what_it_leaves_out(changes, said):
    assert f"; {said}" in words(shown(**changes)) and f"; {said}" not in words(shown())


def test_the_preview_names_the_balance_point():
    assert "balance point" in words(shown(link_mb_s=0.0))
    assert "balance point" in words(shown(link_mb_s=None))
    assert "balance point" not in words(shown(link_mb_s=30.0))


def test_the_preview_knows_the_type():
    """Twice the bytes at the same bandwidth: later ready (it used to be equal)."""

    def ready(dtype):
        return float(re.search(r"by cake: ([\d.]+) s", shown(dtype=dtype, link_mb_s=17.0).layout.meta["text"]).group(1))

    assert ready("float32") > 1.1 * ready("bfloat16")


def test_the_preview_compares_the_papers_models():
    fig = shown("paper", sim_model="Llama-3.1-8B")
    lengths, models = (trace for trace in fig.data if trace.type == "heatmap")
    assert [y.strip("<b/>") for y in models.y] == ["LongAlpaca-7B", "LongAlpaca-13B", "Llama-3.1-8B", "Llama-3.1-70B"]
    assert models.y[2] == "<b>Llama-3.1-8B</b>" and list(models.x) == list(lengths.x)
    own = [list(y) for y in lengths.z][[y.startswith("<b>") for y in lengths.y].index(True)]
    assert list(models.z[2]) == pytest.approx(own)  # the chosen model at the chosen length is in both
    assert len([t for t in shown("small").data if t.type == "heatmap"]) == 1


# -- decisions in words ----------------------------------------------------------------------------------------------

FACTS = {
    "gap_tokens": 4096, "compute_share_tokens": 2048, "load_rest_s": 3.0, "compute_rest_s": 5.0, "load_s": 0.1,
    "compute_reaches_it_in_s": 4.0, "load_left_s": policy.NO_END, "compute_s": 0.05,
}  # fmt: skip


def reasons():
    """Every reason that the policy can give: what its source says, and the states that a claim may find."""
    source = Path(policy.__file__).read_text()
    found = set(re.findall(r'"reason": "([^"]+)"', source))
    constants = {policy.FRONT, policy.BACK, policy.NOTHING_STORED, policy.PROBE, policy.HEDGED, policy.TAIL}
    states = {g.name.lower() for g in (Grain.COMPUTING, Grain.TAKEN, Grain.FREE, Grain.HOLE)}
    return sorted(found | constants | states | {"vLLM's own prefill"})


def said(**why):
    return figures.explain(Span("compute", 1.0, 1.5, "[512:1024]", "compute", why))


@pytest.mark.parametrize("mode", ["cake", "compute", "load"])
@pytest.mark.parametrize("reason", reasons())
def test_every_reason_is_a_sentence(reason, mode):
    text = said(reason=reason, mode=mode, **FACTS)
    assert text.startswith("[512:1024] took 0.5 s. ") and text.endswith(".")
    told = text.removeprefix("[512:1024] took 0.5 s. ")
    assert len(told.split()) >= 8 and not told.startswith(f"{reason} (")


def test_an_unknown_reason_is_shown_as_it_stands():
    """Control for the above."""
    assert said(reason="a new one", load_s=0.5).endswith("a new one (load (s): 0.5).")
    assert said().endswith("No reason was kept.")


def test_a_single_mode_decided_not_the_costs():
    """In load only and compute only the mode is the reason; no comparison of times is made up."""
    assert "The mode is load only" in said(reason=policy.BACK, mode="load", **FACTS)
    assert "The mode is compute only" in said(reason=policy.FRONT, mode="compute", **FACTS)
    for reason in (policy.BACK, policy.FRONT):
        assert "only after" in said(reason=reason, mode="cake", **FACTS) or "soonest" in said(
            reason=reason, mode="cake", **FACTS
        )
        assert not re.search("only after|soonest", said(reason=reason, mode="load", **FACTS))


def test_reads_that_were_not_used_say_so():
    assert said(reason=policy.BACK, mode="load", unused_grains=2, **FACTS).endswith("failed or came late: computed.")


@pytest.mark.parametrize("mode", ["cake", "load", "compute"])
def test_runs_carry_the_mode_and_every_span_has_words(mode):
    result = wb.run("cake", preset="paper", policy=mode)
    whys = [span.why for span in result.spans()]
    assert {why["mode"] for why in whys if why["reason"] in (policy.FRONT, policy.BACK)} == {mode}
    assert all(len(figures.explain(span)) > 40 for span in result.spans())
    assert {why["reason"] for why in whys} <= {policy.FRONT, policy.BACK, policy.TAIL} | set(PLAIN)

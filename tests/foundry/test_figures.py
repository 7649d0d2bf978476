"""Results and their pictures without a compiler: what the summary says, what is drawn, what a config refuses."""

import re
import sys
from pathlib import Path

import pytest

from workbench import records, runner, theme
from workbench.foundry import SYSTEM, anatomy, engine_figure
from workbench.foundry.config import FoundryConfig, ladder
from workbench.foundry.explorer import KINDS, said
from workbench.foundry.parts import Engine, Process
from workbench.foundry.result import COLUMNS, SIMULATED, WAYS
from workbench.foundry.rivals import Measured
from workbench.foundry.why import explain
from workbench.system import Note, Span

sys.path.insert(0, str(Path(__file__).parent))
from made import READY, REFUSED, STEP, made
from small import BASE, small

ASKED = {
    "capture_s", "archive_mb", "templates", "graphs", "load_s", "compile_cold_s", "compile_warm_s", "aoti_load_s",
    "reduction_vs_cold", "replay_us", "aoti_replay_us", "eager_us", "exact",
}  # fmt: skip


@pytest.fixture(scope="module")
def simulated():
    done = runner.Run(SYSTEM, SYSTEM.make("paper", steps=7), record=False).start().wait(120)
    assert done.error is None, done.error
    return done


def test_the_summary_has_the_numbers_that_were_asked_for():
    s = made().summary()
    assert set(s) >= ASKED
    assert s["reduction_vs_cold"] == pytest.approx(0.99)
    assert s["replay_us"] == 3 * STEP["foundry"]
    assert (s["aoti_load_s"], s["exact"]) == (READY["aoti"], 1.0)
    alone = made(ways=("foundry",)).summary()
    assert ASKED - set(alone) == {
        "compile_cold_s", "compile_warm_s", "aoti_load_s", "reduction_vs_cold", "aoti_replay_us", "eager_us",
    }  # fmt: skip


@pytest.mark.parametrize("where", ["equal", "control_differs"])
def test_exact_needs_the_bits_and_the_control(where):
    sizes = made().sizes
    assert not made(sizes=[sizes[0], sizes[1].model_copy(update={where: False})]).exact
    assert not made(sizes=[]).exact
    assert not made(damages=[REFUSED.model_copy(update={"cause": ""})]).exact
    assert not made(damages=[REFUSED.model_copy(update={"equal": False})]).exact
    assert not made(elsewhere=False).exact
    assert made(elsewhere=True, damages=[REFUSED]).exact


def test_medians_over_rounds():
    one = made()
    twice = [p.model_copy(update={"round": 1, "ready_s": p.ready_s * 3}) for p in one.processes]
    slow = [r.model_copy(update={"round": 1, "median_us": r.median_us * 3}) for r in one.rows]
    both = made(processes=[*one.processes, *twice], rows=[*one.rows, *slow])
    assert both.summary()["load_s"] == pytest.approx(2 * READY["foundry"])
    assert both.step_us("aoti") == pytest.approx({size: 2 * us for size, us in one.step_us("aoti").items()})


def test_a_result_is_read_again(simulated):
    for result in (made(damages=[REFUSED]), simulated.result):
        again = records.read_result(SYSTEM, result.to_json())
        assert repr(again) == repr(result)
        assert list(result.to_frame().columns) == list(COLUMNS)


@pytest.mark.parametrize("ways", [tuple(READY), ("foundry",), ("foundry", "eager")])
def test_pictures_are_fit_to_show(ways):
    for fig in (made(ways=ways, damages=[REFUSED]).figure(), made(ways=ways).archive_figure()):
        assert theme.problems(fig) == []
        assert "(measured)" in fig.layout.title.text
        for axis in (*fig.select_xaxes(), *fig.select_yaxes()):
            assert axis.type == "category" or re.search(r"\(.+\)", axis.title.text), axis.title.text


def test_the_start_is_drawn_as_it_was_measured():
    result = made()
    fig = result.figure()
    bars = {t.name: dict(zip(t.y, t.x, strict=True)) for t in fig.data if t.type == "bar"}
    for way, ready_s in READY.items():
        assert sum(each[WAYS[way]] for each in bars.values()) == pytest.approx(ready_s)
    assert sum(each["capture, once"] for each in bars.values()) == pytest.approx(44.0)
    assert sum(each["AOTInductor: build, once"] for each in bars.values()) == pytest.approx(46.0)
    ratio = next(t for t in fig.data if t.name == WAYS["aoti"] and t.xaxis == "x3")
    assert list(ratio.y) == pytest.approx([1.01, 1.01])
    assert "corrupt" in made(damages=[REFUSED]).figure().layout.title.text
    assert "corrupt" not in fig.layout.title.text


ENGINE = Engine(
    lane="vLLM 9.9, eager", mode="eager", layers=1, total_s=20.0, graphable_s=3.0, steps_s=[0.1], about={},
    phases=[("interpreter", 0.0, 1.0), ("import vLLM", 1.0, 12.0), ("engine", 12.0, 13.0), ("warm-up", 13.0, 16.0),
            ("engine", 16.0, 18.0), ("first token", 18.0, 20.0)],
    tokens=[5, 6], ours=[5, 6],
)  # fmt: skip


def test_an_engines_start_is_drawn_where_it_lay():
    result = made(engines=[ENGINE])
    for fig in (result.figure(), result.engine_figure()):
        assert theme.problems(fig) == []
        parts = [
            (base, x, said)
            for t in fig.data
            if t.type == "bar" and t.base is not None
            for lane, base, x, said in zip(t.y, t.base, t.x, t.customdata, strict=True)
            if lane == ENGINE.lane
        ]
        assert sorted((base, base + x) for base, x, _ in parts) == [(a, b) for _, a, b in ENGINE.phases]
        assert f"{ENGINE.lane}, warm-up: 3.00 s" in {said for _, _, said in parts}
        assert "say the same tokens" in fig.layout.title.text
    ours = [b for name, _, b in engine_figure.lanes(result)[WAYS["foundry"]] if name == "first runs"]
    assert ours == [READY["foundry"]]
    s = result.summary()
    assert (s["vllm_eager_first_token_s"], s["vllm_eager_graphable_s"], s["vllm_same_tokens"]) == (20.0, 3.0, 1.0)
    other = made(engines=[ENGINE.model_copy(update={"ours": [5, 7]})])
    assert other.summary()["vllm_same_tokens"] == 0.0
    assert "OTHER tokens" in other.sentence()
    assert "do NOT say the same tokens" in other.engine_figure().layout.title.text
    with pytest.raises(ValueError, match="take vllm='eager'"):
        made().engine_figure()


def test_spans_are_explained_as_what_they_are():
    theirs = Span("vLLM 9.9, eager", 1.0, 4.0, "warm-up", "run", {"engine": "vLLM"})
    assert explain(theirs) == "vLLM 9.9, eager, warm-up, 3.00 s: a phase of vLLM's own start."
    ours = explain(Span("Foundry", 1.0, 4.0, "warm-up", "run"))
    assert ours == "Foundry, warm-up, 3.00 s: steps are run and their outputs compared or timed."
    refused = Span("an archive", 0.0, 0.1, "refused", "refused", {"cause": "corrupt", "why": "bit 3 flipped"})
    assert explain(refused) == "The archive was refused as corrupt: bit 3 flipped."  # what follows is told by itself


def test_a_measured_way_becomes_a_process_of_the_result():
    one = Measured("recapture", 1.0, 2.0, 3.0, {1: 3.0}, {1: "00"}, 4.0, 5.0, 6.0, {"import": 1.0})
    assert one.process("capture", 2) == Process(
        way="capture", round=2, import_s=1.0, load_s=2.0, ready_s=3.0, cpu_s=4.0, peak_mb=5.0, disk_mb=6.0,
        phases={"import": 1.0},
    )  # fmt: skip


def test_every_parameter_is_drawn_as_what_it_is():
    labels, shown, cells = anatomy.cells(small(), next(iter(small().templates)))
    assert labels == ["first", "second", "third"]
    assert shown == [1, 2]
    kinds = [(c.kind, c.of, c.differs) for c in cells]
    assert kinds == [
        ("weight", "embed", False), ("number", "", True), ("scratch", "scratch", False), ("weight", "embed", False),
        ("number", "", True), ("input", "ids", False), ("number", "", False), ("number", "", False),
    ]  # fmt: skip
    drawn = next(t for t in made().archive_figure().data if t.type == "heatmap")
    assert [text for row in drawn.text for text in row if text] == [
        KINDS[kind][0] + "≠" * differs for kind, _, differs in kinds
    ]
    assert said(cells[1], shown) == "1, 2 at batch 1, 2"
    assert said(cells[2], shown) == "address in scratch, 4,096 bytes behind the arena's base"
    moved = small(base=BASE + 4096)  # control: with another base the same words are other places
    assert [c.of for c in anatomy.cells(moved, next(iter(moved.templates)))[2] if c.kind != "number"] != [
        of for _, of, _ in kinds if of
    ]


def test_what_templates_share():
    (one,) = anatomy.topologies(small())
    assert (one.sizes, one.nodes, one.slots, one.addresses, one.differing) == ([1, 2], 3, 8, 4, 2)
    assert anatomy.differing(small().graphs[1], small().graphs[2]) == 2


def test_a_simulated_run(simulated):
    result = simulated.result
    s = result.summary()
    assert not result.measured
    assert s["start_capture_s"] > 4 * s["start_foundry_s"]
    assert s["start_one_by_one_s"] > s["start_foundry_s"]
    assert {r.badge for r in result.rows} == {"modelled"}
    assert {b.way for b in result.bursts} == {"capture", "eager start", "foundry start"}
    assert any("does not use steps" in e.text for _, e in simulated.events if isinstance(e, Note))
    assert result.claims()
    assert all(c.badge == "modelled" for c in result.claims())
    fig = result.figure()
    assert theme.problems(fig) == []
    assert "(modelled)" in fig.layout.title.text
    bars = [t for t in fig.data if t.type == "bar"]
    drawn = sum(t.x[list(t.y).index(SIMULATED["foundry start"])] for t in bars)
    assert drawn == pytest.approx(s["start_foundry_s"])
    with pytest.raises(ValueError, match="has no archive"):
        result.archive_figure()
    words = {explain(span) for span in result.spans()}
    assert len(words) > 6
    assert not any("nan" in w for w in words)


def test_more_ranks_and_prefill_graphs_cost_what_the_model_says():
    few, many = (run_of(sim_ranks=n) for n in (1, 8))
    assert many["start_capture_s"] > few["start_capture_s"]
    assert "start_checkpoint_s" in few
    assert "start_checkpoint_s" not in many  # it holds one GPU
    assert run_of(sim_prefill_graphs=51)["start_foundry_s"] > few["start_foundry_s"]


def run_of(**changed):
    done = runner.Run(SYSTEM, SYSTEM.make("paper", **changed), record=False).start().wait(60)
    assert done.error is None, done.error
    return done.result.summary()


def test_a_ladder_rises_and_can_be_ones_own():
    assert ladder(7) == (1, 2, 4, 8, 16, 24, 32)
    assert ladder(9)[-2:] == (40, 48)
    assert FoundryConfig(ladder=3).sizes == (1, 2, 4)
    assert FoundryConfig(batches=" 8, 2,2").sizes == (2, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batches": "1,two"}, "batches: write at most 64 whole numbers"),
        ({"batches": "0,1"}, "batches: write at most 64 whole numbers"),
        ({"batches": "1,,2"}, "batches: write at most 64 whole numbers"),
        ({"layers": 31}, "layers: "),
        ({"model": "tiny", "layers": 4}, "layers: tiny has 3"),
        ({"damage": "parameter", "verify": "first use"}, "verify: "),
        ({"damage": "hammer"}, "damage: "),
        ({"backend": "tpu"}, "backend: "),
        ({"model": "tiny", "layers": 1, "vllm": "eager"}, "vllm: "),
        ({"patience_s": 0}, "patience_s: "),
    ],
)
def test_bad_settings_name_their_field(changes, said):
    with pytest.raises(ValueError, match="foundry: ") as caught:
        SYSTEM.make("small", **changes)
    assert said in str(caught.value)

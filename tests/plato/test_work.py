"""A run of Plato: what it measures and compares, what it shows while it runs, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import workbench as wb
from workbench import runner
from workbench.plato import SYSTEM, bench, measure, opening, planner
from workbench.plato.arms import COMPARED
from workbench.plato.cost import KNOTS, StepCost
from workbench.plato.engine import Ask, ContextOverflow
from workbench.plato.happen import Verdict
from workbench.plato.result import WAYS, Chosen, Piece, PlatoResult, plan_lines
from workbench.plato.simulate import MACHINES, Words, simulated
from workbench.plato.why import explain
from workbench.system import Note, Point, Progress, Span, Text, Vertex

FULL_PRICE = StepCost(tuple(0.02 * k for k in KNOTS), 0.0, 0.0)  # a row more costs a step more: branches cannot pay
JOIN = "1: What is a?\n2: What is b?\n3 <- 1, 2: What is c?"


def run_of(preset="tiny", **changes):
    done = runner.Run(SYSTEM, SYSTEM.make(preset, **changes), record=False).start().wait(120)
    assert done.error is None, done.error
    return done


@pytest.fixture(scope="module")
def run():
    opening._kept.clear()  # so that this one calibrates, whatever ran before it
    return run_of(refuse=False)


@pytest.fixture(scope="module")
def paper():
    result = wb.run("plato", preset="paper")
    assert isinstance(result, PlatoResult)
    return result


def events(run, kind):
    return [event for _, event in run.events if isinstance(event, kind)]


def test_every_way_writes_the_same_number_of_tokens(run):
    result = run.result
    assert {row.way for row in result.rows} == set(COMPARED) == set(WAYS)
    assert {row.answer_tokens for row in result.rows} == {48}  # four parts of twelve
    assert result.summary()["planned_nodes"] == 4
    assert result.summary()["plan_valid"] == 1


def test_a_branch_of_the_batch_is_the_branch_alone_and_context_matters(run):
    assert run.result.exact is True
    assert run.result.control_differs is True
    assert run.result.summary()["exact"] == 1


def test_every_prompt_token_is_reused_or_computed(run):
    by_way = {row.way: row for row in run.result.rows}
    planned = next(p.reused for p in run.result.pieces if p.kind == "plan")  # the planner's instructions
    assert by_way["independent"].reused == planned > 0  # the control: its parts share nothing
    assert by_way["plato"].reused > planned
    assert by_way["independent"].prefilled > by_way["plato"].prefilled
    for piece in run.result.pieces:
        if piece.kind in ("node", "plan"):
            assert piece.reused + piece.prefilled > 0, piece.name


def test_no_schedule_ends_before_its_critical_path(run):
    s = run.result.summary()
    assert s["token_steps"] >= s["critical_path_steps"] == 36
    assert run.result.critical() in ([1, 2, 4], [1, 3, 4])


def test_the_graph_fills_while_it_is_decoded(run):
    told = events(run, Vertex)
    assert [v.name for v in told if v.state == "done"] == sorted(v.name for v in told if v.state == "done")
    assert {v.name: v.needs for v in told}["4"] == ("2", "3")
    said = {name: "".join(t.added for t in events(run, Text) if t.name == name) for name in ("1", "2", "3", "4")}
    for name, text in said.items():
        assert text == run.result.piece(int(name)).text
    assert all(p.series == "running: sequences at once" and p.y >= 0 for p in events(run, Point))
    lanes = {s.lane for s in events(run, Span)}
    assert lanes >= {"plan", "part 1", "part 2", "part 3", "part 4"}


def test_parts_run_side_by_side_and_never_before_what_they_need():
    given = run_of(refuse=False, planner="given").result
    at = {p.node: p for p in given.pieces if p.kind == "node"}
    assert at[2].start_s < at[3].end_s
    assert at[3].start_s < at[2].end_s  # side by side
    assert at[4].start_s >= max(at[2].end_s, at[3].end_s)
    assert at[2].start_s >= at[1].end_s
    assert at[4].saw == (1, 2, 3)


def test_a_refused_plan_leaves_the_plain_answer():
    run = run_of(example="chain", planner="given")
    result = run.result
    if not result.summary()["refused"]:
        pytest.fail(f"a chain was decoded as a graph: {result.chosen.why}")
    assert result.answer == result.plain_answer
    assert any("refuses" in note.text for note in events(run, Note)) or "cannot pay" in result.chosen.before
    last = {v.name: v.state for v in events(run, Vertex)}
    assert set(last.values()) <= {"done", "cut"}


@pytest.mark.parametrize("planned_by", ["model", "script"])
def test_what_is_refused_before_a_plan_is_asked_for_is_shown_as_refused(monkeypatch, planned_by):
    real = measure.open_engine
    monkeypatch.setattr(measure, "open_engine", lambda *given: replace(real(*given), cost=FULL_PRICE))
    result = run_of(planner=planned_by, node_tokens=6).result
    assert result.chosen.branch is False
    assert result.chosen.why == result.chosen.before
    assert "branches cannot pay" in result.chosen.why
    assert (result.chosen.graph_s, result.chosen.plain_s) == (None, None)
    assert result.summary()["refused"] == 1
    assert {row.way for row in result.rows if row.refused} == {"plato"}
    assert "the plan refused, answers" in result.sentence()
    assert "(none was asked for)" in result.sentence()
    assert not any("no plan could be used" in note for note in result.notes)
    assert result.answer == result.plain_answer


def test_a_simulated_run_that_plans_nothing_says_so(monkeypatch):
    from workbench.plato import simulate

    monkeypatch.setitem(simulate.MACHINES, "flat", FULL_PRICE)
    result = run_of("paper", example="wide").result
    assert result.summary()["refused"] == 1
    assert "the plan refused, answers" in result.sentence()
    assert "none was asked for" in result.sentence()


def test_a_verdict_has_no_infinities_in_a_result():
    refused = Verdict(False, math.inf, math.inf, "so it is")
    assert Chosen.of("before", refused) == Chosen(before="before", branch=False, why="so it is")
    told = Chosen.of("before", Verdict(True, 1.5, 2.5, "that pays"))
    assert (told.branch, told.graph_s, told.plain_s) == (True, 1.5, 2.5)
    assert Chosen.of("before", None) == Chosen(before="before")
    result = run_of("paper", example="chain").result
    assert result.chosen.branch is False
    assert type(result).model_validate_json(result.to_json()) == result


def test_what_a_bench_row_fits_is_modelled(run, monkeypatch):
    monkeypatch.setattr(bench.wb, "run", lambda *_: run.result)
    badges = {row["number"]: row["badge"] for row in bench._measured("a case", example=bench.SHAPES[0])}
    fitted = {f"step_s at {k} tokens" for k in KNOTS} | {"fitted row_s", "fitted kv_s", "fitted error"}
    assert {badges[name] for name in fitted} == {"modelled"}
    assert badges["plain total_s"] == "measured"


def test_an_own_plan_and_query(run):
    own = run_of(refuse=False, query="What of a, b and c?", plan=JOIN, node_tokens=6).result
    assert own.planned.text == plan_lines(own.planned.plan())
    assert own.planned.plan().edges == ((1, 3), (2, 3))
    assert own.query == "What of a, b and c?"


def test_a_plan_by_rules_needs_no_model():
    own = run_of(refuse=False, planner="rules", query="Describe the sea, the hills and the town.", node_tokens=6).result
    assert len(own.planned.plan()) >= 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"query": "  "}, "query: is empty"),
        ({"query": "What?"}, "planner: 'script' needs a plan"),
        ({"plan": "1 <- 2: a?"}, "plan: line 1"),
        ({"plan": "not a plan"}, "plan: line 1"),
        ({"plan": "1: a?"}, "question 1 has 2 characters"),
        ({"plan": "1 [0]: what?"}, "part 1 asks for 0 tokens: a part has 1 to 2048"),
        ({"query": "half \ud83d"}, "query: character 5 is half of a surrogate pair"),
        ({"judge": True}, "judge: is a model behind"),
        ({"way": "nodes", "planner": "model"}, "way: 'nodes' takes a plan that is there before"),
        ({"plan": "\n".join(f"{i}: q?" for i in range(1, 30))}, "29 nodes, where at most 16"),
        ({"backend": "sim", "planner": "model"}, "planner: a simulated run"),
        ({"engine": "endpoint", "endpoint_url": "ftp://x"}, "endpoint_url: must begin"),
        ({"engine": "vllm", "threads": 2}, "threads: the vLLM run"),
        ({"backend": "sim", "quality_tasks": 2}, "quality_tasks: the ways are scored"),
    ],
)
def test_bad_settings_name_their_field(changes, named):
    with pytest.raises(ValueError, match=named.replace("(", r"\(")):
        SYSTEM.make("tiny", **changes)


def test_the_papers_preset(paper):
    s = paper.summary()
    assert set(paper.provenance.badges.values()) == {"modelled"}
    assert s["speedup_vs_sequential"] > 2
    assert s["total_s"] < s["sequential_s"]
    assert paper.claims()[0].paper == 68
    assert "Modelled" in paper.sentence()


def test_where_a_wider_step_costs_its_full_price_nothing_is_gained():
    config = SYSTEM.make("paper", sim_device="llama.cpp Q4_1", example="wide")
    flat = SYSTEM.make("paper", example="wide")
    slow, fast = (simulated(c, MACHINES[c.sim_device]) for c in (config, flat))
    gain = {w: o["plain"].total_s / o["plato"].total_s for w, o in (("slow", slow), ("fast", fast))}
    assert gain["slow"] < 1.1 < 1.5 < gain["fast"]


def test_words_come_back_as_they_were():
    words, text = Words(), "1 <- 2, 3 [64]: Why is the sky blue?\n\nBecause."
    assert words.decode(words.encode(text)) == text


def test_the_summary_has_the_numbers_that_were_asked_for(paper, run):
    asked = {"total_s", "sequential_s", "sot_s", "speedup_vs_sequential", "token_steps", "critical_path_steps"}
    asked |= {"planned_nodes", "plan_valid", "kv_tokens_reused"}
    assert asked <= set(paper.summary())
    assert asked | {"predicted_s"} <= set(run.result.summary())  # on a virtual clock it would be the same number twice


def test_steps_stand_beside_their_bound(run):
    s = run.result.summary()
    faster = min(("plain", "nodes"), key=run.result.median)
    assert s["token_step_speedup"] == run.result.median(faster, "steps") / s["token_steps"]
    assert s["token_step_speedup"] < s["token_step_speedup_bound"] == pytest.approx(48 / 36)
    assert "where the critical path would allow 1.33" in run.result.sentence()
    refused = run_of("paper", example="chain").result.summary()
    assert refused["refused"]
    assert "token_step_speedup_bound" not in refused


def test_sequential_ways_are_compared_within_their_rounds(run):
    """One part after the other was measured once, in a fast minute: that minute is no gain."""

    def of(plain, nodes):
        rows = [row for row in run.result.rows if row.way not in ("plain", "nodes")]
        like = run.result.of("plain")[0]
        for way, seconds in (("plain", plain), ("nodes", nodes)):
            rows += [like.model_copy(update={"way": way, "round": r, "total_s": s}) for r, s in enumerate(seconds)]
        return run.result.model_copy(update={"rows": rows})

    assert of([8.0, 11.0, 10.0], [8.2]).sequential() == ("plain", 10.0)
    assert of([8.0, 11.0, 10.0], [7.2]).sequential() == ("nodes", pytest.approx(9.0))
    assert of([], [7.0]).sequential() == ("nodes", 7.0)
    assert of([8.0, 11.0, 10.0], [8.2]).summary()["sequential_s"] == 10.0


def test_a_plan_that_was_cut_short_is_not_called_wrong():
    """The plain answer was done before it."""
    cut = run_of("paper", example="wide", node_tokens=2).result
    assert "done before the plan" in cut.chosen.why
    assert "plan_valid" not in cut.summary()
    assert "the plan was not finished" in cut.sentence()


def test_overheads_are_told_item_by_item(run):
    told = run.result.overheads().set_index("item")
    plan = next(p for p in run.result.pieces if p.kind == "plan")
    assert told.loc["the plan is written", "seconds"] == pytest.approx(plan.end_s - plan.start_s)
    assert told.loc["of that, before the first part runs", "seconds"] < told.loc["the plan is written", "seconds"]
    assert told.loc["prompts that were computed", "seconds"] > 0 > told.loc["prompts whose KV was reused", "seconds"]
    assert told.loc["the plain answer beside the plan, dropped", "tokens"] == 0  # it may not refuse: no hedge
    given = run_of("paper", example="diamond", planner="given").result.overheads()
    assert not given["item"].str.contains("the plan is written").any()
    hedged = run_of("paper", example="wide").result.overheads().set_index("item")
    assert hedged.loc["the plain answer beside the plan, dropped", "tokens"] > 0


def test_spans_are_explained(run):
    said = [explain(span) for piece in run.result.pieces for span in piece.spans()]
    assert any("forked" in text for text in said)
    assert any("The planner writes" in text for text in said)
    assert all("None" not in text for text in said)


def test_a_piece_without_tokens_has_no_decoding():
    piece = Piece(
        name="plan", kind="plan", start_s=1, first_s=1, end_s=1, tokens=0, reused=0, prefilled=5, ended="stop"
    )
    assert [span.kind for span in piece.spans()] == ["prefill"]


def test_an_ask_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        Ask("a", (), 3)


def test_a_plan_of_the_models_is_what_the_others_are_compared_over():
    """Not the example's, which has other parts: their number, their tokens, the critical path that is shown."""
    run = run_of(planner="model", example="single", refuse=False)
    result, plan = run.result, run.result.planned.plan()
    assert result.planned.planner == "model"
    assert len(plan) == max(piece.node for piece in result.pieces) > 1
    assert result.exact is True
    assert {result.of(way)[0].answer_tokens for way in ("plato", "plain", "nodes")} == {12 * len(plan)}
    last = {v.name: v for v in events(run, Vertex)}
    assert [int(name) for name, v in last.items() if v.critical] == plan.critical_path()


def test_a_planner_that_writes_no_plan_leaves_a_plain_answer_and_no_crash(monkeypatch):
    monkeypatch.setattr(planner, "LINE_TOKENS", 4)  # random weights write no plan however long they may
    run = run_of(planner="free", query="What of it?", refuse=False, node_tokens=4)
    result = run.result
    assert "wrote no plan" in result.planned.error
    assert {row.way for row in result.rows} == set(COMPARED) - {"nodes"}
    assert result.answer == result.plain_answer
    assert any("no parts to decode one after the other" in note for note in result.notes)


def test_a_query_that_does_not_fit_is_refused_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(opening, "_kept", {})  # or there would be nothing left to time
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", query="long " * 3900, planner="rules"), record=False).start().wait(60)
    assert isinstance(done.error, ContextOverflow)
    assert "shorten the query" in str(done.error)
    assert not any("calibrating" in event.note for event in events(done, Progress))


def test_one_process_calibrates_once_and_says_so(run, monkeypatch):
    def calibrated(**changes):
        done = run_of(refuse=False, **changes)
        return any("calibrating" in event.note for event in events(done, Progress)), done.result.machine.source

    told, source = calibrated()
    assert not told and source.endswith("min before, in this process")
    assert run.result.machine.source.endswith("measured in this run")
    assert calibrated(seed=5)[0]  # the control: other weights are timed anew
    monkeypatch.setattr(opening, "FRESH_S", 0.0)
    told, source = calibrated()
    assert told and source.endswith("measured in this run")


def test_a_plan_that_is_not_decoded_is_told():
    said = [note.text for note in events(run_of("paper", plan=JOIN, planner="rules"), Note)]
    assert any("the one in the settings is not used" in text for text in said)
    said = [note.text for note in events(run_of("paper", plan=JOIN), Note)]
    assert not any("in the settings" in text for text in said)
    assert SYSTEM.make("tiny", engine="endpoint", pad=False).unused() == ["model", "dtype", "pad"]


def test_what_the_model_will_plan_is_modelled_with_the_plan_of_the_settings():
    model, script = (simulated(SYSTEM.make("small", planner=p), MACHINES["flat"]) for p in ("model", "script"))
    assert {w: o.total_s for w, o in model.items()} == {w: o.total_s for w, o in script.items()}
    with pytest.raises(ValueError, match="shows when it runs"):
        simulated(SYSTEM.make("small", planner="model", query="What of it?"), MACHINES["flat"])

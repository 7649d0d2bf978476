"""Conducting when two answers compete, and when something goes wrong: verdicts, broken plans, overflow, failures."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conduct_tools import BRANCHES, PLAN, QUERY, go, starts, tiny_engine
from loop_tools import Toy

from workbench.plato.conductor import conduct
from workbench.plato.engine import Ask, ContextOverflow, EngineError, Out
from workbench.plato.graph import Node, Plan, PlanError, plan_of
from workbench.plato.happen import Settings, Verdict
from workbench.plato.layout import Layout
from workbench.plato.planner import Given, Written
from workbench.plato.quality import planned
from workbench.plato.vllm_engine import _first
from workbench.plato.warm import warm
from workbench.pump import Stopped

# -- hedge and verdict ---------------------------------------------------------------------------------------------


def says(branch, seen=None):
    def judge(standing):
        if seen is not None:
            seen.append(standing)
        return Verdict(branch, 1.0, 2.0, "as the test says")

    return judge


def test_a_verdict_for_the_graph_stops_the_plain_answer(engine):
    seen = []
    found, happened = go(
        engine, script=Written("script", PLAN), hedge=True, plain_tokens=200, judge=says(True, seen), pipeline=True
    )
    plain = next(p for p in found.parts if p.kind == "plain")
    assert (plain.ended, found.verdict.branch) == ("cancelled", True)
    assert 0 < len(plain.ids) < 200
    assert seen[0].plan == found.plan
    assert (seen[0].plain_done, seen[0].plain_total) == (len(plain.ids), 200)
    assert sum(h.kind == "verdict" for h in happened) == 1
    assert found.answer_tokens == PLAN.tokens
    assert plain.ids not in [p.ids for p in found.parts if p.kind == "node"]


def test_a_verdict_for_the_plain_answer_stops_the_graph(engine):
    found, _ = go(engine, script=Written("script", PLAN), hedge=True, plain_tokens=90, judge=says(False))
    nodes = [p for p in found.parts if p.kind == "node"]
    assert all(p.ended in ("cancelled", "budget") for p in nodes)
    assert found.answer_tokens == 90
    engine.forget()
    alone, _ = go(engine, way="plain", plain_tokens=90)
    assert found.answer == alone.answer  # and it is the answer that it would have been alone


def test_a_refused_plan_without_a_hedge_starts_the_plain_answer(engine):
    found, happened = go(engine, judge=says(False), plain_tokens=20)
    assert starts(happened) == ["plain"]
    assert (found.answer_tokens, found.plan) == (20, PLAN)


@pytest.mark.parametrize(("needs", "refused"), [([(), (1,), (2,)], True), ([(), (1,), (1,)], False)])
def test_three_lines_of_a_chain_are_enough(engine, needs, refused):
    """Whatever stands below, which may be wide: its lines are not paid for. The control forks at the third line."""
    below = [("What is d?", ()), ("What is e?", ()), ("What is f?", ())]
    plan = plan_of([(f"What is {w}?", n) for w, n in zip("abc", needs, strict=True)] + below, budget=8)
    found, _ = go(engine, script=Written("script", plan), hedge=True, plain_tokens=200, judge=says(True))
    written = next(p for p in found.parts if p.kind == "plan").text
    assert found.verdict.branch is not refused
    assert ("first 3 lines are a chain" in found.verdict.why) is refused
    assert ("What is c?" in written) is not refused


def test_a_plain_answer_that_ends_first_wins(engine):
    found, _ = go(engine, script=Written("script", PLAN), hedge=True, plain_tokens=3, judge=says(True))
    assert not found.verdict.branch
    assert "done before the plan" in found.verdict.why
    assert found.answer_tokens == 3
    assert next(p for p in found.parts if p.kind == "plan").ended == "cancelled"


def test_a_hedge_without_a_judge_is_stopped_when_the_parts_are_done(engine):
    found, _ = go(engine, script=Written("script", PLAN), hedge=True, plain_tokens=300)
    assert next(p for p in found.parts if p.kind == "plain").ended == "cancelled"
    assert found.answer_tokens == PLAN.tokens


# -- what goes wrong -----------------------------------------------------------------------------------------------


class Broken:
    """A planner that writes what no plan can be made of, after some good lines."""

    def __init__(self, good=()):
        self.repairs, self._good = [], list(good)

    def ask(self, layout, outline):
        return Ask("plan", layout.front, 6, whole=True)

    def feed(self, text):
        return [self._good.pop(0)] if self._good else []

    def opened(self):
        return None

    def finish(self):
        raise PlanError("no line of it is a part")


@pytest.mark.parametrize("hedge", [False, True])
@pytest.mark.parametrize("way", BRANCHES)
def test_a_plan_that_cannot_be_used_ends_in_one_plain_answer(engine, way, hedge):
    good = [Node(1, "What is a?", (), 30), Node(2, "What is b?", (), 2)]
    found, happened = go(engine, script=Broken(good), way=way, hedge=hedge, plain_tokens=25)
    assert found.plan_error == "no line of it is a part"
    assert starts(happened).count("plain") == 1
    assert found.answer_tokens == 25
    assert found.plan is None
    assert engine.running() == []
    engine.forget()
    assert found.answer == go(engine, way="plain", plain_tokens=25)[0].answer


def test_a_planner_that_cannot_plan_at_the_start_is_no_end(engine):
    class Empty(Broken):
        def ask(self, layout, outline):
            return None

    found, happened = go(engine, script=Empty(), plain_tokens=5)
    assert starts(happened) == ["plain"]
    assert (found.answer_tokens, bool(found.plan_error)) == (5, True)


def test_a_part_that_the_plan_drops_in_the_end_is_not_waited_for(engine):
    class Shrinks(Broken):
        def finish(self):
            return Plan(PLAN.nodes[:1])

    found, _ = go(engine, script=Shrinks([PLAN.nodes[0], Node(2, "What is b?", (), 100)]))
    assert len(found.part(1).ids) == 8
    assert found.answer == found.part(1).text.strip()
    assert next(p for p in found.parts if p.node == 2).ended == "cancelled"


def test_parts_that_do_not_fit_are_trimmed_by_rule_to_what_they_need():
    front = len(Layout(tiny_engine(999), QUERY).front)
    engine = tiny_engine(front + 95)
    five = plan_of([(f"What is {c}?", ()) for c in "abcd"] + [("What now?", (2,))], budget=8)
    found, _ = go(engine, script=Given(five))
    assert found.part(5).saw == (2,)
    assert found.repairs == ["part 5 sees only the parts it needs: all finished ones do not fit"]
    assert len(found.part(5).prompt) + 8 <= front + 95
    assert not go(tiny_engine(999), script=Given(five))[0].repairs


def test_what_cannot_fit_is_refused_by_name_and_leaves_nothing():
    front = len(Layout(tiny_engine(999), QUERY).front)
    engine = tiny_engine(front + 60)
    with pytest.raises(ContextOverflow, match=rf"part 4 does not fit: .* has {front + 60} positions"):
        go(engine)
    assert engine.running() == []
    with pytest.raises(ContextOverflow, match="plain needs"):
        go(engine, way="plain", plain_tokens=100)
    with pytest.raises(ContextOverflow, match="plan needs"):
        go(engine, script=Written("script", PLAN))


def test_a_failed_sequence_is_the_engines_error_and_leaves_nothing():
    toy = Toy(nan=("node 2",))
    toy.encode = lambda text: [ord(c) % 50 for c in text]
    with pytest.raises(EngineError, match="node 2 failed: its logits hold NaN"):
        go(toy)
    assert toy.running() == []


class Failing(Toy):
    """Every sequence fails in its first step."""

    def __init__(self):
        super().__init__(room=2000)
        self.phases = {}

    def encode(self, text):
        return [ord(c) % 50 for c in text]

    def step(self):
        names = self.running()
        for name in names:
            self.stop(name)
        return [Out(name, (), "failed", "out of memory") for name in names]


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda engine: warm(engine, [(1, 2, 3)]), "what all answers begin with could not be computed: out of memory"),
        (lambda engine: planned(engine, QUERY, "free"), "the planner failed: out of memory"),
        (
            lambda engine: _first(engine, "first pass", Ask("first", (1, 2), 2), threading.Event()),
            "vLLM's first pass failed: out of memory",
        ),
    ],
)
def test_what_is_decoded_beside_an_answer_fails_as_an_error_too(does, says):
    engine = Failing()
    with pytest.raises(EngineError, match=says):
        does(engine)
    assert engine.running() == []
    assert engine.phases == {}


def test_the_first_pass_can_be_cancelled():
    """Toy decodes for ever here: nothing but the stop ends it."""
    toy, stop = Toy(room=10**6), threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        _first(toy, "first pass", Ask("first", (1, 2), 10**5), stop)


def test_a_closed_generator_leaves_nothing_running(engine):
    going = conduct(engine, Layout(engine, QUERY), Given(PLAN), Settings(whole=True))
    for _ in range(12):
        next(going)
    assert engine.running()
    going.close()
    assert engine.running() == []


@pytest.mark.parametrize("query", ["", "  \n "])
def test_an_empty_query_is_refused(engine, query):
    with pytest.raises(ValueError, match="query: is empty"):
        go(engine, query=query)


def test_unicode_and_half_characters_stream_as_text(engine):
    """The tiny model says bytes: halves of characters must not be shown before their other half."""
    found, happened = go(
        engine, query="Sag mir: \u00e4\u00f6\u00fc \U0001f600 \u4e2d\u6587?", plain_tokens=40, way="plain"
    )
    grown = "".join(h.added for h in happened if h.kind == "grew")
    assert grown == found.parts[0].text
    assert "\U0001f600" in engine.decode(found.parts[0].prompt)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        go(engine, query="broken \ud83d")

"""What no query changes is computed before the clock starts: for every way alike, and nothing of a query with it."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conduct_tools import tiny_engine

from workbench.lm.tokenizer import ByteTokenizer
from workbench.plato import PRESETS, asked
from workbench.plato.arms import COMPARED, Arms
from workbench.plato.cost import KNOTS, StepCost
from workbench.plato.engine import Counts
from workbench.plato.examples import EXAMPLES
from workbench.plato.happen import Happening
from workbench.plato.layout import Layout
from workbench.plato.planner import Given, Written
from workbench.plato.sim import SimEngine
from workbench.plato.simulate import Words
from workbench.plato.warm import since, stems, warm

QUERY = "Compare tea and coffee, then choose."
PLAN = EXAMPLES["join"].plan(12)
LONG = "Compare tea and coffee, then choose. " * 60


class Texts:
    """As much of an engine as a layout needs."""

    def encode(self, text):
        return ByteTokenizer().encode(text)

    def decode(self, ids):
        return ByteTokenizer().decode(ids)

    def chat(self, system, user):
        return ByteTokenizer().chat([{"role": "system", "content": system}, {"role": "user", "content": user}])


def text(ids):
    return Texts().decode(ids)


def test_the_instructions_stand_before_a_short_query_and_behind_a_long_one():
    short, long = (Layout(Texts(), query, warm=True) for query in (QUERY, LONG))
    ahead = text(Written("script", PLAN).ask(short, False).ids)
    assert ahead.index("Before I answer") < ahead.index(QUERY)
    ids = Written("script", PLAN).ask(long, False).ids
    assert ids[: len(long.front)] == long.front
    cold = Layout(Texts(), QUERY)
    assert Written("script", PLAN).ask(cold, False).ids[: len(cold.front)] == cold.front


@pytest.mark.parametrize("way", COMPARED)
def test_a_stem_begins_the_ways_own_prompts_and_holds_nothing_of_the_query(way):
    layout, script = Layout(Texts(), QUERY, warm=True), Written("script", PLAN)
    found = stems(layout, script, way)
    assert found[0] == layout.front[: len(found[0])]
    assert len(found) == (1 if way in ("plain", "nodes") else 2)
    if len(found) == 2:
        ids = script.ask(layout, way == "sot").ids
        assert ids[: len(found[1])] == found[1]
        assert len(found[1]) > 0.8 * len(ids)
    assert all("tea" not in text(ids) for ids in found)
    assert stems(Layout(Texts(), "Tell of rain.", warm=True), script, way) == found


def test_a_given_plan_needs_no_planner():
    layout = Layout(Texts(), QUERY, warm=True)
    assert len(stems(layout, Given(PLAN), "plato")) == 1


def test_warm_saves_what_it_computed_and_no_token_changes():
    outcomes = {}
    for kept in (True, False):
        engine = tiny_engine()
        config = PRESETS["tiny"].model_copy(update={"warm": kept})
        arms = arms_of(engine, config, None)
        heard: list[Happening] = []
        outcomes[kept] = arms.answer("plain", heard.append)
    hot, cold = outcomes[True], outcomes[False]
    assert hot.answer == cold.answer
    assert hot.counts.prefilled < cold.counts.prefilled
    assert hot.counts.prefilled + hot.counts.reused == cold.counts.prefilled + cold.counts.reused
    assert hot.counts.decoded == cold.counts.decoded == len(hot.parts[0].ids)
    assert len(hot.counts.widths) == hot.counts.steps


def test_a_refused_chain_costs_less_when_the_instructions_are_there():
    slow_prompts = StepCost(tuple(0.02 + 0.0015 * k for k in KNOTS), 1e-4, 1e-6)
    lost = {}
    for kept in (True, False):
        config = PRESETS["chain"].model_copy(update={"warm": kept})
        arms = arms_of(SimEngine(slow_prompts, Words()), config, slow_prompts)
        took = {way: arms.answer(way, lambda _: None) for way in ("plain", "plato")}
        assert took["plato"].verdict is not None
        assert not took["plato"].verdict.branch
        written = next(p for p in took["plato"].parts if p.kind == "plan").text
        assert written.splitlines()[2].startswith("3 <- 2") and "?" not in written.splitlines()[2]
        lost[kept] = took["plato"].total_s / took["plain"].total_s - 1
    assert 0 < lost[True] < 0.6 * lost[False]


def test_a_forecast_is_warm_where_the_run_is():
    cost = StepCost((0.02,) * len(KNOTS), 1e-4, 1e-6)
    for kept in (True, False):
        config = PRESETS["small"].model_copy(update={"warm": kept})
        engine = SimEngine(cost, Words())
        arms = arms_of(engine, config, cost)
        for way in ("plato", "sot", "plain"):
            took = arms.answer(way, lambda _: None)
            script = asked.script("script", arms.plan)
            assert arms.predicted_s(way, script) == pytest.approx(took.total_s, rel=1e-9)


def test_a_cancelled_run_does_not_wait_for_it():
    engine = tiny_engine()
    layout = Layout(engine, QUERY, warm=True)

    class Stop(Exception):
        pass

    def stopped():
        raise Stop

    with pytest.raises(Stop):
        warm(engine, stems(layout, Given(PLAN), "plato"), stopped)


def test_counts_since():
    then = Counts(2, 3, 1, 10, 4, [1, 2], [9, 9])
    now = Counts(5, 9, 1, 12, 8, [1, 2, 3, 3, 3], [9, 9, 3, 3, 3])
    assert since(now, then) == Counts(3, 6, 0, 2, 4, [3, 3, 3], [3, 3, 3])


def arms_of(engine, config, cost):
    question = asked.question(config)

    def script(way):
        return asked.script("given" if way == "nodes" else "script", question.plan, config.node_tokens)

    return Arms(config, engine, question.query, question.plan, script, cost, threading.Event())

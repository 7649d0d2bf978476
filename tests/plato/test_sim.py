"""The virtual clock: the very steps of the real engine for answers of a given length, each at the model's price."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from loop_tools import answer, drain, ids_of

from workbench import lm
from workbench.plato.embedded import EmbeddedEngine
from workbench.plato.engine import Ask, Constraint, ContextOverflow
from workbench.plato.graph import plan_of
from workbench.plato.happen import Settings
from workbench.plato.planner import Given, Written
from workbench.plato.sim import SimEngine

QUERY = "Tell me of a, b and c."
PLANS = {
    "wide": plan_of([(f"What is {c}?", ()) for c in "abcd"], budget=9),
    "diamond": plan_of(
        [("What is a?", ()), ("What is b?", (1,)), ("What is c?", (1,)), ("And now?", (2, 3))], budget=7
    ),
    "uneven": plan_of([("What is a?", ()), ("What is b?", ()), ("What is c?", (2,)), ("And now?", (1,))], budget=6),
}


class Price:
    """A step's cost, and what it was asked."""

    def __init__(self):
        self.asked = []

    def step_s(self, tokens, rows, kv_tokens):
        self.asked.append((tokens, rows, kv_tokens))
        return 1.0 + 0.01 * tokens + 0.1 * rows + 1e-5 * kv_tokens


@pytest.fixture(scope="module")
def real():
    made = EmbeddedEngine(lm.load("tiny"))
    yield made
    made.close()


def script(way, plan):
    return Given(plan) if way == "nodes" else Written("script", plan)


def both(real, plan, **settings):
    """Outcomes of the real engine and of the virtual one, each cold."""
    chosen = Settings(whole=True, plain_tokens=40, **settings)
    real.forget()
    measured, _ = answer(real, QUERY, script(chosen.way, plan), chosen)
    modelled, _ = answer(SimEngine(Price(), real), QUERY, script(chosen.way, plan), chosen)
    return measured, modelled


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "settings",
    [
        {"way": "plain"},
        {"way": "nodes"},
        {"way": "sot"},
        {"way": "independent"},
        {"way": "plato"},
        {"way": "plato", "pipeline": False},
        {"way": "plato", "context": "needs"},
        {"way": "plato", "hedge": True},
        {"way": "plato", "most_running": 2},
    ],
    ids=lambda s: " ".join(map(str, s.values())),
)
def test_it_takes_the_steps_of_the_real_engine(real, plan, settings):
    measured, modelled = both(real, PLANS[plan], **settings)
    assert modelled.counts == measured.counts  # steps, widths, tokens, decoded, forced, prefilled, reused
    assert modelled.counts.steps > 20
    assert modelled.order == measured.order
    lives = [(p.name, p.reused, p.prefilled, len(p.ids), p.ended) for p in measured.parts]
    assert [(p.name, p.reused, p.prefilled, len(p.ids), p.ended) for p in modelled.parts] == lives


def test_other_sizes_take_other_steps(real):
    """The control: the comparison above can fail."""
    measured, _ = both(real, PLANS["wide"])
    other, _ = answer(SimEngine(Price(), real, chunk=8), QUERY, script("plato", PLANS["wide"]), Settings(whole=True))
    assert other.counts.tokens != measured.counts.tokens
    assert other.counts.steps != measured.counts.steps


def test_the_clock_is_the_sum_of_the_steps(real):
    price = Price()
    engine = SimEngine(price, real)
    assert engine.now_s() == 0.0
    drain(engine, Ask("a", ids_of(20), 3), Ask("b", ids_of(5, 1), 2))
    assert price.asked == [(25, 2, 25), (2, 2, 21 + 6), (1, 1, 22)]
    assert engine.now_s() == pytest.approx(sum(Price().step_s(*each) for each in price.asked))
    engine.forget()
    assert engine.now_s() > 0  # a clock does not go back


def test_padded_steps_cost_what_their_width_costs(real):
    price = Price()
    drain(SimEngine(price, real, pad=lambda tokens: {2: 4}.get(tokens, tokens)), Ask("a", (1, 2), 2), Ask("b", (3,), 2))
    assert [tokens for tokens, _, _ in price.asked] == [3, 4]


def test_the_same_asks_take_the_same_time(real):
    times = {both(real, PLANS["diamond"])[1].total_s for _ in range(2)}
    assert len(times) == 1


def test_a_dearer_row_makes_wide_steps_dearer(real):
    class Steep(Price):
        def step_s(self, tokens, rows, kv_tokens):
            return float(rows)

    flat, _ = answer(SimEngine(Price(), real), QUERY, Given(PLANS["wide"]), Settings(whole=True))
    steep, _ = answer(SimEngine(Steep(), real), QUERY, Given(PLANS["wide"]), Settings(whole=True))
    one, _ = answer(SimEngine(Steep(), real), QUERY, Given(PLANS["wide"]), Settings("nodes", whole=True))
    assert steep.counts.steps == flat.counts.steps < one.counts.steps
    assert steep.total_s == pytest.approx(sum(steep.counts.widths))
    assert steep.total_s >= one.total_s - 4  # where rows cost what they cost alone, branches win nothing


class Letters:
    """An engine to be like that has no tokenizer of its own to show."""

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def chat(self, system, user):
        return self.encode(f"{system}\n{user}\n")

    def room(self):
        return 1000


def test_without_a_tokenizer_a_script_is_spelled_token_by_token():
    engine = SimEngine(Price(), Letters())
    told = drain(engine, Ask("plan", (1, 2), 99, Constraint("start: /x/", script="1: a\n")))
    assert (engine.decode(told.ids["plan"]), told.ended["plan"]) == ("1: a\n", "constraint")
    assert (engine.counts.steps, engine.counts.forced) == (5, 0)
    found, _ = answer(SimEngine(Price(), Letters()), QUERY, Written("script", PLANS["diamond"]), Settings(whole=True))
    assert found.answer_tokens == PLANS["diamond"].tokens


def test_what_a_virtual_engine_cannot_do_is_named(real):
    engine = SimEngine(Price(), real)
    with pytest.raises(ValueError, match="nobody chooses: a constraint must come with its script"):
        engine.start(Ask("plan", (1, 2), 9, Constraint("start: /x/")))
    with pytest.raises(ContextOverflow, match="needs 1002 positions"):
        SimEngine(Price(), Letters()).start(Ask("a", (1, 2), 1000))


def test_nothing_is_computed(real, monkeypatch):
    monkeypatch.setattr(real.model, "forward_ragged", None)
    told = drain(SimEngine(Price(), real), Ask("a", ids_of(300), 50))
    assert len(told.ids["a"]) == 50

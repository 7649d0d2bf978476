"""Planners: what is asked of an engine, what comes of it, and a real small model under the grammar."""

import json

import pytest
import torch

from workbench import lm
from workbench.lm.tokenizer import ByteTokenizer, FileTokenizer
from workbench.plato.examples import EXAMPLES
from workbench.plato.grammar import plan_text
from workbench.plato.graph import Node, Plan, PlanError
from workbench.plato.layout import Layout
from workbench.plato.matcher import Matcher
from workbench.plato.planner import END, Given, Written

JOIN = EXAMPLES["join"].plan()


class Texts:
    """As much of an engine as a planner needs."""

    def __init__(self, tokenizer=None):
        self.tokenizer = tokenizer or ByteTokenizer()

    def encode(self, text):
        return self.tokenizer.encode(text)

    def decode(self, ids):
        return self.tokenizer.decode(ids)

    def chat(self, system, user):
        return self.tokenizer.chat([{"role": "system", "content": system}, {"role": "user", "content": user}])


@pytest.fixture
def layout():
    return Layout(Texts(), "Compare tea and coffee.\nThen choose.")


def prompt(layout, ask):
    return ByteTokenizer().decode(ask.ids[len(layout.front) :])


def test_a_given_plan_asks_nothing(layout):
    script = Given(JOIN)
    assert script.ask(layout, False) is None
    assert script.feed("1: x\n") == []
    assert script.finish() == JOIN
    assert script.repairs == []


def test_a_prompt_begins_with_the_front_and_ends_with_the_query(layout):
    for mode, form in (("model", "lines"), ("model", "json"), ("free", "lines")):
        for outline in (False, True):
            ask = Written(mode, form=form).ask(layout, outline)
            assert ask.name == "plan"
            assert ask.ids[: len(layout.front)] == layout.front
            text = prompt(layout, ask)
            assert text.endswith("Request: Compare tea and coffee. Then choose.\n")
            assert ("needs" in text) == (not outline)
            assert ('{"parts": [{"id": 1' in text) == (form == "json")
            assert ("3 <- 1, 2: " in text) == (form == "lines" and not outline)


def test_the_form_is_the_engines(layout):
    layout.form = "json"
    assert '{"parts"' in prompt(layout, Written().ask(layout, False))
    assert '{"parts"' not in prompt(layout, Written("script", JOIN).ask(layout, False))  # what is written is lines


def test_what_a_model_may_write(layout):
    ask = Written("model", most=3, least=2).ask(layout, False)
    assert ask.stop == ()
    good, bad = "1: Who?\n2 <- 1: Why?\n\n", "1: Who?\n2 <- 2: Why?\n\n"
    for text, fits in ((good, True), (bad, False)):
        constraint = type(ask.constraint)(ask.constraint.lark, script=text)
        if fits:
            Matcher(ByteTokenizer(), constraint)
        else:
            with pytest.raises(ValueError, match="no text of the grammar"):
                Matcher(ByteTokenizer(), constraint)
    assert json.loads(ask.constraint.schema)["properties"]["parts"]["maxItems"] == 3
    outline = Written("model", most=3).ask(layout, True).constraint
    assert "needs" not in outline.schema
    assert "<-" not in outline.lark
    assert Written("model", forced=False).ask(layout, False).constraint.forced is False


def test_without_a_grammar_the_next_example_ends_it(layout):
    ask = Written("free").ask(layout, False)
    assert ask.constraint is None
    assert ask.stop == (END,)
    assert END in prompt(layout, ask)  # the examples in the prompt are set apart by the same words


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("outline", [False, True])
def test_a_script_writes_its_plan_and_reads_it_back(layout, name, outline):
    plan = EXAMPLES[name].plan()
    script = Written("script", plan)
    ask = script.ask(layout, outline)
    assert ask.constraint.script == plan_text(plan, outline)
    assert ask.budget == len(ByteTokenizer().encode(ask.constraint.script))
    matcher, ids = Matcher(ByteTokenizer(), ask.constraint), []
    while not matcher.ended:
        ids += matcher.forced()
        if not matcher.ended:
            ids.append(matcher.pick(None, int))
    early = [node for i in ids for node in script.feed(ByteTokenizer().decode([i]))]
    assert script.finish() == (plan.flat() if outline else plan)  # with its budgets
    assert len(early) == len(plan)
    assert script.repairs == []
    assert script.funnel().in_form


def test_a_script_takes_any_question(layout):
    odd = Plan((Node(1, " tab\there\u2028and\x00there "), Node(2, "x" * 290, (1,), 9)))
    ask = Written("script", odd).ask(layout, False)
    Matcher(ByteTokenizer(), ask.constraint)
    assert ask.constraint.script.startswith("1: tab here and there\n2 <- 1: xxx")
    with pytest.raises(ValueError, match="needs the plan"):
        Written("script")


def test_budgets_of_parts_that_the_model_wrote(layout):
    script = Written("model", node_tokens=33)
    script.ask(layout, False)
    script.feed("1: Who?\n2: Why?\n\n")
    assert [n.budget for n in script.finish().nodes] == [33, 33]


def test_asking_again_forgets_what_was_read(layout):
    script = Written("model")
    script.ask(layout, False)
    script.feed("1: Who?\n2: Why?\n\n")
    script.ask(layout, False)
    with pytest.raises(PlanError, match="wrote nothing"):
        script.finish()


@pytest.mark.model
def test_smollm2_plans_badly_but_validly():
    """Under the grammar a small model's plan is always one; without, its text may not be read at all."""
    model = lm.load("smollm2")
    assert isinstance(model.tokenizer, FileTokenizer)
    layout = Layout(Texts(model.tokenizer), EXAMPLES["join"].query)
    script = Written("model", most=4)
    ask = script.ask(layout, False)
    matcher = Matcher(model.tokenizer, ask.constraint)
    cache = model.new_cache(len(ask.ids) + ask.budget)
    fresh, at, ids, free = list(ask.ids), 0, [], 0
    while not matcher.ended and len(ids) < ask.budget:
        forced = matcher.forced()
        ids, fresh, free = ids + forced, fresh + forced, free + len(forced)
        if matcher.ended:
            break
        logits = model.forward(torch.tensor(fresh), cache, at)
        at += len(fresh)
        fresh = [matcher.pick(logits, lambda found: int(found.argmax()))]
        ids += fresh
    assert matcher.ended
    assert free >= 3  # tokens that cost no step
    script.feed(model.tokenizer.decode(ids))
    plan, funnel = script.finish(), script.funnel()
    assert 1 <= len(plan) <= 4
    assert funnel.parses
    assert funnel.in_form
    assert funnel.ids
    assert funnel.needs
    assert funnel.count

"""The grammar admits plans and nothing else, for llguidance and xgrammar; the schema is the same plan."""

import json

import jsonschema
import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import dag
from workbench.lm.tokenizer import ByteTokenizer
from workbench.plato.engine import Constraint
from workbench.plato.grammar import MOST_ASK, one_line, outline_lark, plan_lark, plan_schema, plan_text
from workbench.plato.graph import MOST_NODES, Node, Plan, plan_of
from workbench.plato.matcher import ConstraintError, Matcher
from workbench.plato.parse import PlanReader, read_plan

GOOD = (
    "1: Who?\n2: What for?\n\n",
    "1: Who?\n2 <- 1: What for?\n3 <- 1, 2: Both ... [3] <- 1: x\n\n",
    "1: 什么?\n2: é?!\n\n",
)
BAD = {
    "2: Who?\n": "begins at 1",
    "1 <- 1: Who?\n2: What?\n\n": "needs itself",
    "1: Who?\n2 <- 3: What?\n3: Why?\n\n": "points forward",
    "1: Who?\n2: Why?\n3 <- 2, 1: What?\n\n": "falls",
    "1: Who?\n2 <- 1, 1: What?\n\n": "twice",
    "1: Who?\n\n": "one part only",
    "1: Who?\n3: What?\n\n": "a gap",
    "1: Who?\n2: What?\nHope this helps": "prose",
    "1: Who?\n2: ab\n\n": "too short",
    f"1: Who?\n2: {'x' * (MOST_ASK + 1)}\n\n": "too long",
    "1: Who?\n2:  two spaces\n\n": "a space",
    "1: Who?\n2: a\ttab here\n\n": "a control character",
    "1: Who?\n2: What?\n3: Why?\n4: And?\n\n": "too many",
    "1: Who?\n2: What?\n": "no end",
}


def admits(lark, text):
    try:
        Matcher(ByteTokenizer(), Constraint(lark, script=text))
    except ConstraintError:
        return False
    return True


@pytest.mark.parametrize("text", GOOD)
def test_plans_are_admitted(text):
    assert admits(plan_lark(3), text)


@pytest.mark.parametrize("text", BAD, ids=BAD.values())
def test_all_else_is_not(text):
    assert not admits(plan_lark(3), text)


def test_an_outline_has_no_needs():
    assert admits(outline_lark(3), "1: Who?\n2: What?\n\n")
    assert not admits(outline_lark(3), GOOD[1])


asks = st.text(min_size=1, max_size=150).map(one_line).map(lambda s: s[:MOST_ASK].strip()).filter(lambda s: len(s) > 2)


@st.composite
def plans(draw):
    said = draw(
        st.lists(
            asks, min_size=1, max_size=MOST_NODES, unique_by=lambda a: "".join(filter(str.isalnum, a.casefold())) or a
        )
    )
    return plan_of([(ask, draw(st.sets(st.integers(1, i)) if i else st.just(set()))) for i, ask in enumerate(said)])


@settings(max_examples=60, deadline=None)
@given(plans())
def test_every_plan_has_a_text_that_is_admitted_and_reads_back(plan):
    text = plan_text(plan)
    assert admits(plan_lark(len(plan), min(2, len(plan))), text)
    assert admits(outline_lark(len(plan), 1), plan_text(plan, outline=True))
    reader = PlanReader()
    reader.feed(text)
    assert reader.finish() == plan
    assert reader.repairs == []
    assert reader.funnel().valid
    assert reader.funnel().in_form
    assert [(v.id, v.label, v.needs) for v in dag.read(text)] == [(n.id, n.ask, n.needs) for n in plan.nodes]


@pytest.mark.parametrize("most", [2, 8, MOST_NODES])
def test_both_of_vllms_engines_read_it(most):
    xgrammar = pytest.importorskip("xgrammar")
    for lark in (plan_lark(most), outline_lark(most)):
        assert llguidance.LLMatcher.validate_grammar(lark) == ""
        xgrammar.Grammar.from_lark(lark)
    with pytest.raises(Exception, match=r"."):  # the control
        xgrammar.Grammar.from_lark(plan_lark(most).replace("start:", "begin:"))


def test_the_schema_is_the_same_plan():
    schema = plan_schema(3)
    item = {"parts": [{"id": 1, "needs": [], "ask": "Who?"}, {"id": 2, "needs": [1], "ask": "Why?"}]}
    jsonschema.validate(item, schema)
    assert read_plan(json.dumps(item))[0].edges == ((1, 2),)
    assert llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_json_schema(schema)) == ""
    for spoil in (lambda i: i["parts"].pop(), lambda i: i["parts"][0].pop("ask"), lambda i: i["parts"][0].update(x=1)):
        bad = json.loads(json.dumps(item))
        spoil(bad)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    assert "needs" not in json.dumps(plan_schema(3, outline=True))


@pytest.mark.parametrize(("most", "least", "ask"), [(0, 0, 50), (17, 2, 50), (2, 3, 50), (3, 2, 2)])
def test_bounds_are_named(most, least, ask):
    for make in (plan_lark, outline_lark, plan_schema):
        with pytest.raises(ValueError, match=r"parts|characters"):
            make(most, least, ask)


def test_questions_become_one_printable_line():
    assert one_line(" a\tb\n c\u2028d\x00e\x85f\ud800 ") == "a b c d e f"
    text = plan_text(Plan((Node(1, "two\nlines", (), 5),)))
    assert text == "1: two lines\n\n"

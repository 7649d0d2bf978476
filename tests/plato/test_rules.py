"""The planner without a model: what it cuts at, what it leaves whole, and that it always gives a plan."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.plato.examples import EXAMPLES
from workbench.plato.graph import MOST_NODES, Plan, edge_scores
from workbench.plato.rules import rules_plan

CASES = {
    "numbered": ("Please:\n1. Find a\n2. Find b\n3. Then compare them", [(), (), (1, 2)]),
    "numbered in a line": ("Tell me about (1) the sea 2) the sky", [(), ()]),
    "bullets": ("- Name a tree\n- Name a bird\n- Summarise both", [(), (), (1, 2)]),
    "semicolons": ("Do this: a thing; another thing; finally the last thing", [(), (), (1, 2)]),
    "then": ("Explain photosynthesis, then write a poem about it.", [(), (1,)]),
    "a reference": ("Describe a clock and draw its hands.", [(), (1,)]),
    "no reference": ("Describe a clock and draw a tree.", [(), ()]),
    "nouns": ("Suggest a film, a book and a song.", [(), (), ()]),
    "compare": ("Compare oak, ash and elm.", [(), (), (), (1, 2, 3)]),
    "finally": ("Name a sea. Name a lake. Finally say which is deeper.", [(), (), (1, 2)]),
    "situation": ("I have no garden. What can I grow?", [()]),
    "one question": ("Why is the sky blue?", [()]),
    "nothing to cut": ("?!", [()]),
}


@pytest.mark.parametrize(("query", "needs"), CASES.values(), ids=CASES)
def test_cuts(query, needs):
    assert [n.needs for n in rules_plan(query).nodes] == needs


def test_budgets_and_questions():
    plan = rules_plan("Name a sea, then name a lake near it.", 33)
    assert [n.ask for n in plan.nodes] == ["Name a sea", "Name a lake near it"]
    assert {n.budget for n in plan.nodes} == {33}


def test_on_the_examples():
    """Edges against the plans written by hand; the rules were written with these queries in sight."""
    f1 = {name: edge_scores(rules_plan(e.query), e.plan())[2] for name, e in EXAMPLES.items()}
    assert f1["wide"] == f1["single"] == 1
    assert f1["join"] > 0.8
    assert f1["levels"] > 0.8
    flat = {name: edge_scores(e.plan().flat(), e.plan())[2] for name, e in EXAMPLES.items()}
    assert sum(f1.values()) > sum(flat.values()) + 1.5  # the control: no edges at all


BITS = "1. |- |then |finally |, | and |;|: |compare |it |\n|? |name a |2) |x"


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=200) | st.lists(st.sampled_from(BITS.split("|")), min_size=1).map("".join))
def test_any_query_has_a_plan(query):
    if not query.strip():
        return
    plan = rules_plan(query)
    assert isinstance(plan, Plan)
    assert len(plan) <= MOST_NODES

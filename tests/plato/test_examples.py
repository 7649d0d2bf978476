"""The bundled plans are plans, of the shapes they claim, and the grammar could have written them."""

from typing import get_args

import pytest

from workbench.plato.config import Example as Named
from workbench.plato.config import plan_from
from workbench.plato.examples import EXAMPLES
from workbench.plato.grammar import plan_text
from workbench.plato.parse import PlanReader

SHAPES = {  # nodes, edges, width, depth
    "wide": (4, 0, 4, 1),
    "join": (5, 4, 4, 2),
    "diamond": (4, 4, 2, 3),
    "levels": (6, 7, 3, 3),
    "chain": (4, 3, 1, 4),
    "eight": (8, 0, 8, 1),
    "single": (1, 0, 1, 1),
}


def test_the_settings_name_all_of_them():
    assert set(EXAMPLES) == set(get_args(Named)) == set(SHAPES)
    with pytest.raises(TypeError):
        EXAMPLES["mine"] = EXAMPLES["wide"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_plans(name):
    example = EXAMPLES[name]
    plan = example.plan()
    assert (len(plan), len(plan.edges), plan.width, plan.depth) == SHAPES[name]
    assert plan == plan_from(example.plan_text)  # as the setting reads it
    assert all(24 <= node.budget <= 128 for node in plan.nodes)
    assert {node.budget for node in example.plan(7).nodes} == {7}
    reader = PlanReader(budgets={n.id: n.budget for n in plan.nodes})
    reader.feed(plan_text(plan))
    assert reader.finish() == plan
    assert reader.repairs == []
    assert reader.funnel().valid
    assert reader.funnel().wide == (name not in ("chain", "single"))


def test_they_differ():
    assert len({e.query for e in EXAMPLES.values()}) == len({e.why for e in EXAMPLES.values()}) == len(EXAMPLES)

"""Plans: what may be one, its layers, its longest way, and how two plans are compared."""

import pytest

from workbench.plato.graph import MOST_NODES, Node, Plan, PlanError, edge_scores, plan_of

DIAMOND = plan_of([("a", ()), ("b", (1,)), ("c", (1,)), ("d", (2, 3))], budget=10)


def test_layers_width_and_depth():
    assert DIAMOND.levels() == [[1], [2, 3], [4]]
    assert (DIAMOND.width, DIAMOND.depth, len(DIAMOND), DIAMOND.tokens) == (2, 3, 4, 40)
    assert DIAMOND.edges == ((1, 2), (1, 3), (2, 4), (3, 4))
    late = plan_of([("a", ()), ("b", ()), ("c", (1,)), ("d", (1, 3))])
    assert late.levels() == [[1, 2], [3], [4]]  # by the longest way that leads there


def test_the_critical_path_is_the_dearest_way_through():
    assert DIAMOND.critical_path() == [1, 2, 4]  # ties: the earlier one
    assert DIAMOND.critical_path({3: 11}) == [1, 3, 4]
    assert DIAMOND.critical_tokens() == 30
    assert DIAMOND.critical_tokens({1: 5, 2: 1, 3: 20, 4: 2}) == 27
    lone = plan_of([("a", ()), ("b", ()), ("c", (1,))], budget=10)
    assert lone.critical_path({2: 100}) == [2]  # one part outweighs a chain


def paths(plan):
    """Every way from a part that needs nothing to a part that nobody needs."""
    needed = {n for node in plan.nodes for n in node.needs}
    stack = [[node.id] for node in plan.nodes if node.id not in needed]
    while stack:
        way = stack.pop()
        needs = plan.nodes[way[0] - 1].needs
        if not needs:
            yield way
        stack += [[n, *way] for n in needs]


@pytest.mark.parametrize("seed", range(12))
def test_no_way_is_dearer_than_the_critical_one(seed):
    import random

    draw = random.Random(seed)
    rows = [("x", [n for n in range(1, i) if draw.random() < 0.4]) for i in range(1, 10)]
    plan, tokens = plan_of(rows), {i: draw.randrange(1, 50) for i in range(1, 10)}
    dearest = max(sum(tokens[i] for i in way) for way in paths(plan))
    assert plan.critical_tokens(tokens) == dearest
    assert plan.critical_path(tokens) in list(paths(plan)) or dearest == sum(
        tokens[i] for i in plan.critical_path(tokens)
    )


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([], "at least one node"),
        ([Node(i, "x") for i in range(1, MOST_NODES + 2)], f"at most {MOST_NODES} nodes"),
        ([Node(2, "x")], "node 2 stands at place 1"),
        ([Node(1, "x"), Node(1, "y")], "node 1 stands at place 2"),
        ([Node(1, "x", (1,))], "node 1 needs 1: only earlier"),
        ([Node(1, "x"), Node(2, "y", (3,))], "node 2 needs 3: only earlier"),
        ([Node(1, "x", (0,))], "node 1 needs 0"),
        ([Node(1, "  ")], "node 1 asks nothing"),
        ([Node(1, "x", (), 0)], "budget of 0 tokens"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_rule(nodes, says):
    with pytest.raises(PlanError, match=says):
        Plan(tuple(nodes))


def test_other_edges_over_the_same_questions():
    assert DIAMOND.flat().edges == ()
    assert DIAMOND.flat().width == 4
    assert DIAMOND.chain().edges == ((1, 2), (2, 3), (3, 4))
    assert DIAMOND.chain().width == 1
    assert DIAMOND.chain().critical_tokens() == DIAMOND.tokens
    changed = DIAMOND.with_needs({3: (2, 1, 2)})
    assert changed.nodes[2].needs == (1, 2)
    assert changed.nodes[3] == DIAMOND.nodes[3]
    with pytest.raises(PlanError, match="only earlier"):
        DIAMOND.with_needs({1: (4,)})


def test_descendants_are_what_an_edit_makes_stale():
    plan = plan_of([("a", ()), ("b", ()), ("c", (1,)), ("d", (2,)), ("e", (3, 4))])
    assert plan.descendants(1) == [1, 3, 5]
    assert plan.descendants(5) == [5]


def test_edge_scores():
    assert edge_scores(DIAMOND, DIAMOND) == (1.0, 1.0, 1.0)
    assert edge_scores(DIAMOND.flat(), DIAMOND.flat()) == (1.0, 1.0, 1.0)
    assert edge_scores(DIAMOND.flat(), DIAMOND) == (0.0, 0.0, 0.0)
    assert edge_scores(DIAMOND, DIAMOND.flat()) == (0.0, 0.0, 0.0)
    precision, recall, f1 = edge_scores(DIAMOND.chain(), DIAMOND)  # 1-2 and 3-4 are right, 2-3 is not
    assert (precision, recall) == (2 / 3, 1 / 2)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))

"""Generated tasks: what a seed gives, that the graph is needed, that a check can fail."""

import re

import pytest

from workbench.plato import tasks
from workbench.plato.tasks import FAMILIES, generate, make, normalised

EACH = pytest.mark.parametrize("family", FAMILIES)
SEEDS = range(30)
MOVE = re.compile(r"The (\w+) goes from (\w+) to (\w+)\.")


@EACH
def test_a_seed_gives_the_same_task_and_another_seed_another(family):
    assert make(family, 3) == make(family, 3)
    assert len({make(family, seed).query for seed in SEEDS}) > 0.9 * len(SEEDS)  # twelve months are soon used up


def test_families_take_turns_and_seeds_do_not_meet():
    found = generate(8, seed=1)
    assert [t.family for t in found] == [*FAMILIES, *FAMILIES][:8]
    assert not {t.query for t in found} & {t.query for t in generate(8, seed=2)}
    with pytest.raises(ValueError, match="no family"):
        make("riddles", 0)
    with pytest.raises(ValueError, match="at least one"):
        generate(1, families=())


def successor(task):
    """The next place, read from the query as a reader would."""
    line = re.findall(r"Line: (.*)\.", task.query)
    if task.family == "line":
        towns = line[-1].split(", ")
        return lambda place, by: towns[towns.index(place) + by]
    if task.family == "months":
        return lambda place, by: tasks._MONTHS[tasks._MONTHS.index(place) + by]
    return lambda place, by: str(int(place) + by)


@EACH
def test_expected_answers_follow_from_the_questions_alone(family):
    """Worked out again from question, needs and query: nothing of the generator but the lists of places."""
    for seed in SEEDS:
        task = make(family, seed)
        after, ends = successor(task), {}  # part -> {thing: place}
        for node, said in zip(task.plan.nodes, task.expected, strict=True):
            by = int(found[1]) if (found := re.search(r" by (\d+)", node.ask)) else 1
            begin = re.search(r"the (\w+) on.* from (\w+)\.", node.ask)
            before = dict([begin.groups()]) if begin else {k: v for n in node.needs for k, v in ends[n].items()}
            ends[node.id] = {thing: after(place, by) for thing, place in before.items()}
            told = {thing: (start, end) for thing, start, end in MOVE.findall(said)}
            assert told == {thing: (before[thing], ends[node.id][thing]) for thing in before}


@EACH
def test_a_part_that_needs_others_does_not_say_where_it_stands(family):
    for seed in SEEDS:
        task = make(family, seed)
        for node, said in zip(task.plan.nodes, task.expected, strict=True):
            ask = re.sub(r" by \d+", "", node.ask)
            for _, start, _ in MOVE.findall(said):
                assert bool(node.needs) != bool(re.search(rf"\b{start}\b", ask))


@EACH
def test_no_answer_stands_in_an_example(family):
    """What is copied from an example is wrong; the query without them is the request."""
    for seed in SEEDS:
        task = make(family, seed)
        assert task.query.endswith("\n\n" + task.request)
        examples = task.query.removesuffix(task.request)
        assert not [said for said in task.expected if said in examples]
        assert not {thing for said in task.expected for thing, _, _ in MOVE.findall(said) if thing in examples}


def test_graphs_are_wide_deep_and_joined():
    shapes = {name: (make(name, 0).plan.width, make(name, 0).plan.depth) for name in FAMILIES}
    assert shapes["count"] == (1, 4) and shapes["lanes"] == (4, 2) and shapes["mixed"] == (3, 4)
    joined = make("mixed", 0).plan.nodes[-1]
    assert len(joined.needs) == 2 and make("lanes", 0).plan.nodes[4].needs == (1,)
    assert all(len(make(name, 5).plan.flat().edges) == 0 < len(make(name, 5).plan.edges) for name in FAMILIES)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("The train goes from 14 to 15.", True),
        ('  "the TRAIN goes\n from 14 to 15"', True),
        ("The train goes from \uff11\uff14 to 15", True),  # wide digits
        ("The train goes from 14 to 16.", False),
        ("The train goes from 14 to 15. It stops.", False),
        ("", False),
    ],
)
def test_the_check_is_exact_but_for_writing(said, right):
    made = make("count", 0)
    task = tasks.Task("count", 0, "q", "q", made.plan, ("The train goes from 14 to 15.",) * len(made.plan))
    assert task.right(1, said) is right
    assert normalised("...") == ""


def test_a_link_is_kept_by_a_wrong_chain_and_broken_by_a_new_start():
    task = make("count", 0)
    wrong = {n: f"The train goes from {n + 50} to {n + 51}." for n in range(1, 5)}
    assert all(task.linked(n, wrong) for n in range(1, 5)) and not task.right(2, wrong[2])
    assert not task.linked(3, wrong | {3: "The train goes from 7 to 8."})
    assert not task.linked(3, wrong | {2: ""}) and not task.linked(3, wrong | {3: "It moves."})
    assert task.linked(1, {})


def test_a_joined_part_must_take_up_both():
    task = make("mixed", 1)
    said = dict(enumerate(task.expected, 1))
    last = len(task.plan)
    assert all(task.linked(n, said) for n in said)
    assert not task.linked(last, said | {last: said[last].splitlines()[0]})


def test_a_task_without_an_answer_for_each_part_is_refused():
    with pytest.raises(ValueError, match="1 answers for 4 parts"):
        tasks.Task("count", 0, "q", "q", make("count", 0).plan, ("one",))

"""Whatever a planner writes becomes a valid plan or a PlanError, by rules that say what they did."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.plato.graph import MOST_NODES, Plan, PlanError
from workbench.plato.parse import MOST_ASK, MOST_BUDGET, PlanReader, read_plan


def shape(plan):
    return [(n.ask, n.needs) for n in plan.nodes]


def pieces(text, sizes):
    """`text` cut into pieces of these sizes, over and over."""
    at, k = 0, 0
    while at < len(text):
        yield text[at : at + sizes[k % len(sizes)]]
        at, k = at + sizes[k % len(sizes)], k + 1


# -- forms ---------------------------------------------------------------------------------------------------------

SAME = [("Who made it?", ()), ("What for?", ()), ("Was it worth it?", (1, 2))]
FORMS = {
    "grammar": "1: Who made it?\n2: What for?\n3 <- 1, 2: Was it worth it?\n\n",
    "no end": "1: Who made it?\n2: What for?\n3 <- 1, 2: Was it worth it?",
    "markdown": "Sure!\n\n**1.** Who made it?\n\n- 2) What for?\n* **Step 3** (needs 1 and 2): Was it worth it?\nOk",
    "tails": "1. Who made it?\n2. What for?\n3. Was it worth it? (needs 1, 2)",
    "arrows": "Part 1: Who made it?\nPart 2: What for?\nPart 3: Was it worth it? <- 1, 2\n",
    "thoughts": "<think>\n1: No\n2: not that\n</think>\n1: Who made it?\n2: What for?\n3 <- 1, 2: Was it worth it?\n",
    "windows": "1: Who made it?\r\n2: What for?\r\n3 <- 1, 2: Was it worth it?\r\n\r\n",
    "json": json.dumps({"parts": [{"id": i, "needs": n, "ask": a} for i, (a, n) in enumerate(SAME, 1)]}),
    "json, indented and fenced": "Here:\n```json\n"
    + json.dumps(
        {"title": "A plan", "parts": [{"id": i, "ask": a, "needs": n} for i, (a, n) in enumerate(SAME, 1)]}, indent=2
    )
    + "\n```\nDone.",
    "a list, other names": json.dumps([{"task": a, "depends_on": [f"part {k}" for k in n]} for a, n in SAME]),
    "names for ids": '[{"id":"a","question":"Who made it?"},{"id":"b","question":"What for?"},'
    '{"id":"c","question":"Was it worth it?","needs":"a, b"}]',
    "trailing commas": '{"parts":[{"id":1,"ask":"Who made it?",},{"id":2,"ask":"What for?",},'
    '{"id":3,"ask":"Was it worth it?","needs":[1,2,],},]}',
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("sizes", [[1], [7, 2], [10_000]])
def test_forms(text, sizes):
    reader = PlanReader()
    early = [node for piece in pieces(text, sizes) for node in reader.feed(piece)]
    plan = reader.finish()
    assert shape(plan) == SAME
    assert list(plan.nodes[: len(early)]) == early  # what was given early never changes


def test_only_clean_text_is_in_form():
    clean = {"grammar", "no end", "windows", "json", "a list, other names", "names for ids"}
    for name, text in FORMS.items():
        reader = PlanReader()
        reader.feed(text)
        reader.finish()
        assert reader.funnel().parses
        assert reader.funnel().in_form == (name in clean), name


def test_nodes_come_before_the_text_ends():
    reader = PlanReader()
    assert reader.feed("1: Who?\n2: Wha") == [read_plan("1: Who?")[0].nodes[0]]
    assert [n.id for n in reader.feed("t?\n")] == [2]
    reader = PlanReader()
    assert [n.ask for n in reader.feed('{"parts": [{"id": 1, "ask": "Who?"}, {"id": 2, "as')] == ["Who?"]


# -- rules -----------------------------------------------------------------------------------------------------------

RULES = {
    "itself": ("1: Who?\n2 <- 2: What?\n", [("Who?", ()), ("What?", ())], "part 2 needs itself"),
    "nobody's": ("1: Who?\n2 <- 1, 7: What?\n", [("Who?", ()), ("What?", (1,))], "needs part 7, which nobody wrote"),
    "forward": ("1 <- 2: Who?\n2: What?\n", [("Who?", ()), ("What?", ())], "part 1 needs part 2, which comes later"),
    "a circle": ("1 <- 2: Who?\n2 <- 1: What?\n", [("Who?", ()), ("What?", (1,))], "need each other: 1 goes first"),
    "a wide circle": (
        "1 <- 3: Who?\n2 <- 1: What?\n3 <- 2: Why?\n",
        [("Who?", ()), ("What?", (1,)), ("Why?", (2,))],
        "part 1 and part 3 need each other",
    ),
    "twice needed": ("1: Who?\n2 <- 1, 1: What?\n", [("Who?", ()), ("What?", (1,))], "names a need twice"),
    "twice asked": (
        "1: Who?\n2: What?\n3: who\n4 <- 3, 2: Why?\n",
        [("Who?", ()), ("What?", ()), ("Why?", (1, 2))],
        "part 3 asks what part 1 asks",
    ),
    "renumbered": ("2: Who?\n4 <- 2: What?\n", [("Who?", ()), ("What?", (1,))], "part 4 stands at place 2"),
    "empty": ("1: Who?\n2: ?\n3: What?\n", [("Who?", ()), ("What?", ())], "part 2 asks nothing"),
    "again": ("1: Who?\n2: What?\n\n1: When?\n2: Why?\n", [("Who?", ()), ("What?", ())], "begins again at 1"),
    "cut": ('{"parts":[{"id":1,"ask":"Who?"},{"id":2,"ask":"Wh', [("Who?", ())], "ends in the middle"),
    "open": ("1: Who?\n2: What", [("Who?", ()), ("What", ())], "ends inside the line of part 2"),
    "prose": ("Of course.\n1: Who?\n", [("Who?", ())], "1 line is no part"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "found", "said"), RULES.values(), ids=RULES)
def test_rules(text, found, said):
    plan, repairs = read_plan(text)
    assert shape(plan) == found
    assert any(said in r for r in repairs), repairs
    assert all("\n" not in r for r in repairs)


def test_a_plan_that_needs_no_repair_gets_none():
    """The control of all rules."""
    assert read_plan("1: Who?\n2 <- 1: What?\n\n")[1] == []


def test_bounds():
    plan, repairs = read_plan("".join(f"{i}: Question {i}\n" for i in range(1, 40)), most=5)
    assert len(plan) == 5
    assert "at most 5 parts are decoded: 34 more were cut" in repairs
    plan, repairs = read_plan(f"1: {'long ' * 200}\n2 [999999]: What?\n3 [0]: Why?\n4 [7]: So?\n")
    assert len(plan.nodes[0].ask) <= MOST_ASK
    assert [n.budget for n in plan.nodes] == [64, MOST_BUDGET, 1, 7]
    assert sum("characters" in r or "tokens" in r for r in repairs) == 3
    plan, repairs = read_plan("1: Who?\n" + "".join(f"{i}: Who\n" for i in range(2, 30)))
    assert shape(plan) == [("Who?", ())]
    assert repairs[-1] == "25 more parts ask what others ask: merged into those"
    assert len(repairs) == 4
    reader = PlanReader(budgets={1: 5, 2: 6})
    reader.feed("1: Who?\n2 [9]: What?\n3: Why?\n")
    assert [n.budget for n in reader.finish().nodes] == [5, 6, 64]
    reader = PlanReader(outline=True)
    reader.feed("1: Who?\n2 <- 1: What?\n")
    assert reader.finish().edges == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it wrote nothing"),
        (" \n\n", "it wrote nothing"),
        ("I cannot help with that.", "it begins 'I cannot help"),
        ("{}", "it begins"),
        ('{"parts": []}', "it begins"),
        ("[[[[[[", "it begins"),
        ("1: \n2:\n", "it begins"),
        ("x" * 100_000, "it begins"),
        ("<think>\n1: Who?\n2: What?\n", "it begins"),
    ],
)
def test_what_holds_no_plan_says_what_it_holds(text, said):
    with pytest.raises(PlanError, match=said):
        read_plan(text)


def test_too_few_parts_are_no_plan():
    with pytest.raises(PlanError, match="wrote 1 parts, where at least 2"):
        read_plan("1: Who?\n", least=2)


def test_the_funnel_tells_the_steps_apart():
    def funnel(text):
        reader = PlanReader(most=3, least=2)
        reader.feed(text)
        try:
            reader.finish()
        except PlanError:
            pass
        return reader.funnel()

    good = funnel("1: Who?\n2: What?\n\n")
    assert good.valid and good.in_form and good.wide
    chain = funnel("1: Who?\n2 <- 1: What?\n\n")
    assert chain.valid and not chain.wide
    spoiled = {
        "ids": "1: Who?\n3: What?\n",
        "needs": "1: Who?\n2 <- 3: What?\n",
        "count": "1: Who?\n",
        "distinct": "1: Who?\n2: who\n3: What?\n",
        "in_form": "So:\n1: Who?\n2: What?\n",
    }
    for name, text in spoiled.items():
        f = funnel(text)
        assert not getattr(f, name), name
        others = set(spoiled) - {name}
        assert all(getattr(f, other) for other in others), (name, f)
        assert f.valid == (name == "in_form")
    assert not funnel("1: Who?\n2: What?\n3: Why?\n4: When?\n").count
    assert not funnel("no").parses


# -- anything ----------------------------------------------------------------------------------------------------------

WORDS = ("17", ": ", " <- ", "<-", ", ", "\n\n", '"id"', '"ask"', '"needs"', "```", "json", "- ", "**", "Part ", "Who?")
MORE = (
    "(needs 1, 2)",
    "What for?",
    "<think>",
    "</think>",
    "[48]",
    "\ud800",
    "\u2028",
    "1e999",
    "null",
    "true",
    "9" * 30,
)
PARTS = ('{"id": 1, "ask": "Who?"}', '{"id": 2, "ask": "Why?", "needs": [1, 9]}', "1: Who?\n", "3 <- 3, 9, 1: Why?\n")
BITS = st.sampled_from([*'123:[]{}"\\é\x00\t\r\n', *WORDS, *MORE, *PARTS])
TEXTS = st.lists(BITS, max_size=60).map("".join) | st.text(max_size=300)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, MOST_NODES))
@example("[" * 3000, [1], 3)
@example('{"a":' * 3000, [5], 3)
@example('{"id": ' + "9" * 5000 + ', "ask": "Who?"}', [9], 3)
@example('{"id": 1e999, "ask": "Who?", "needs": [NaN, Infinity, -1, true, null, {}, [1]]}', [9], 3)
@example('{"id": 1, "ask": "\\ud800\\ud800 who"}', [9], 3)
def test_anything_is_a_plan_or_a_plan_error(text, sizes, most):
    reader = PlanReader(most)
    early = [node for piece in pieces(text, sizes) for node in reader.feed(piece)]
    try:
        plan = reader.finish()
    except PlanError:
        assert not early
        return
    assert isinstance(plan, Plan)  # which checks ids, needs, questions and budgets
    assert 1 <= len(plan) <= most
    assert list(plan.nodes[: len(early)]) == early
    for node in plan.nodes:
        assert node.ask.encode().decode() == " ".join(node.ask.split())
    whole = PlanReader(most)
    whole.feed(text)
    assert whole.finish() == plan  # however the text was cut
    assert whole.repairs == reader.repairs
    assert whole.funnel() == reader.funnel()


def test_long_texts_are_read_in_linear_time():
    import time

    def cost(n):
        text = ('{"parts": [' + '{"id": 1, "x": "' + "y" * n + "1: a <- 1 " * (n // 10)) + "\n" + "- 12 " * n
        began = time.process_time()
        reader = PlanReader()
        for piece in pieces(text, [3]):
            reader.feed(piece)
        try:
            reader.finish()
        except PlanError:
            pass
        return time.process_time() - began

    cost(1000)
    assert cost(40_000) < 8 * cost(10_000) + 0.2


# -- a line that is being written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("1: Who?\n2 <- 1: What?\n3 <- 2", None),  # 2 may become 20
        ("1: Who?\n2 <- 1: What?\n3 <- 2, ", None),
        ("1: Who?\n2 <- 1: What?\n3 <- 2:", (3, (2,))),
        ("1: Who?\n2 <- 1: What?\n3 <- 1, 2 [", (3, (1, 2))),
        ("1: Who?\n2 <- 1: What?\n3 <- 2: And then?\n", None),  # complete
        ("1: Who?\n2 <- 1: What?\n3 <- 4:", None),  # points forward: the rules say what becomes of it
        ("1: Who?\n2 <- 1: What?\n5 <- 2:", None),  # and of a number that is not its turn
        ('{"parts": [{"id": 1, "ask": "Who?"}, {"id": 2, "needs": [1],', None),
    ],
)
def test_the_needs_of_a_line_are_known_before_its_question(text, opened):
    reader = PlanReader()
    for piece in pieces(text, [3]):
        reader.feed(piece)
    assert reader.opened() == opened


def test_what_is_said_of_an_open_line_is_what_it_becomes():
    reader = PlanReader()
    nodes = reader.feed("1: Who?\n2 <- 1: What?\n3 <- 1, 2: ")
    said = reader.opened()
    nodes += reader.feed("And then?\n")
    assert said == (nodes[2].id, nodes[2].needs) == (3, (1, 2))

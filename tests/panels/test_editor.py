"""The editor of a graph: text and picture follow each other, and what is no graph is refused with the reason."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import dag
from workbench.system import Vertex
from workbench.ui.editor import DagEdit, from_vertices

TEXT = "1: a?\n2: b?\n3 <- 1, 2 [24]: c?\n4 <- 3: d?"


@pytest.fixture
def edit():
    editor = DagEdit()
    editor.value = TEXT
    return editor


def click(view, name):
    view._handle_custom_msg({"pick": name}, [])


def edges(editor):
    return {(need, v.id) for v in editor.vertices for need in v.needs}


def test_two_clicks_make_an_edge_and_two_more_take_it_away(edit):
    click(edit.drawn, "2")
    assert "wb-armed" in edit.drawn.html
    assert "now the part that needs it" in edit.told.html
    click(edit.drawn, "4")
    assert edges(edit) == {(1, 3), (2, 3), (3, 4), (2, 4)}
    assert edit.value == TEXT.replace("4 <- 3", "4 <- 2, 3") == edit.lines.value
    assert (edit.chosen, edit.armed) == (4, 0)
    click(edit.drawn, "2")
    click(edit.drawn, "4")
    assert edit.value == TEXT


def test_one_part_twice_leaves_it(edit):
    click(edit.drawn, "2")
    click(edit.drawn, "2")
    assert edit.armed == 0
    assert edit.value == TEXT


def test_only_earlier_parts_can_be_needed(edit):
    click(edit.drawn, "4")
    click(edit.drawn, "2")
    assert edit.value == TEXT
    assert "2 cannot need 4: only earlier parts can be needed" in edit.told.html
    assert 'role="alert"' in edit.told.html


def test_the_list_and_its_switches_do_the_same(edit):
    edit.listed.value = 4
    assert re.findall(r'aria-checked="(\w+)"', edit.needs.html) == ["false", "false", "true"]
    click(edit.needs, "1")
    assert edit.value.endswith("4 <- 1, 3: d?")
    assert re.findall(r'aria-checked="(\w+)"', edit.needs.html) == ["true", "false", "true"]
    edit.listed.value = 1
    assert "nothing that it could need" in edit.needs.html


def test_questions_are_edited_and_none_is_empty(edit):
    edit.choose(3)
    assert edit.ask.value == "c?"
    edit.ask.value = " what now :  really? "
    assert edit.vertices[2] == dag.Vertex(3, "what now : really?", (1, 2), 24)
    edit.ask.value = " "
    assert "has to ask something" in edit.told.html
    assert edit.ask.value == "what now : really?"


def test_typed_text_draws_and_a_fault_names_its_line(edit):
    edit.lines.value = "1: x?\n2 <- 1: y?"
    assert edges(edit) == {(1, 2)}
    assert edit.drawn.html.count('role="button"') == 2
    edit.lines.value = "1: x?\n2 <- 3: y?"
    assert "line 2" in edit.told.html
    assert "wb-dim" in edit.drawn.html
    assert edges(edit) == {(1, 2)}  # the last graph stays to be seen
    click(edit.drawn, "1")
    click(edit.drawn, "2")
    assert "mend the text first: line 2" in edit.told.html
    assert edit.value == "1: x?\n2 <- 3: y?"
    edit.lines.value = "1: x?\n2: y?"
    assert edit.fault == ""
    assert "wb-dim" not in edit.drawn.html


def test_add_remove_and_undo(edit):
    edit.more.click()
    assert edit.vertices[-1] == dag.Vertex(5, "new question")
    assert edit.chosen == 5
    edit.choose(2)
    edit.less.click()
    assert edit.value == "1: a?\n2 <- 1 [24]: c?\n3 <- 2: d?\n4: new question"
    assert edit.chosen == 0
    assert edit.less.disabled
    edit.undo.click()
    edit.undo.click()
    assert edit.value == TEXT
    assert edit.undo.disabled


def test_undo_takes_back_what_was_typed_too(edit):
    edit.lines.value = "1: x?"
    edit.more.click()
    edit.lines.value = "no graph"
    for left in ("1: x?\n2: new question", "1: x?", TEXT):
        assert not edit.undo.disabled
        edit.undo.click()
        assert edit.value == left == edit.lines.value
        assert edit.fault == ""
    assert edit.undo.disabled


def test_markup_in_a_question_is_text(edit):
    edit.choose(1)
    edit.ask.value = "<b>bold</b>?"
    assert "<b>bold" not in edit.drawn.html + edit.needs.html
    edit.choose(3)
    assert "<b>bold" not in edit.needs.html


steps = st.lists(
    st.tuples(st.sampled_from(["toggle", "add", "remove", "pick", "back"]), st.integers(0, 6), st.integers(0, 6)),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(steps)
def test_whatever_is_done_the_text_is_the_graph(todo):
    editor = DagEdit()
    editor.value = TEXT
    for what, a, b in todo:
        count = len(editor.vertices)
        a, b = min(a, count), min(b, count)
        match what:
            case "toggle" if a:
                editor.toggle(a, b)
            case "add":
                editor.add()
            case "remove":
                editor.remove(a)
            case "pick" if a:
                editor.pick(a)
            case "back":
                editor.back()
        assert dag.read(editor.value) == editor.vertices
        assert editor.lines.value == editor.value


def test_a_graph_of_a_run_becomes_text():
    told = [
        Vertex("x", "What\nis it?", state="done"),
        Vertex("y", "And?", ("x", "later", "y"), weight=9),
        Vertex("later", "Then?", ("y", "x")),
    ]
    assert from_vertices(told) == "1: What is it?\n2 <- 1 [9]: And?\n3 <- 1, 2: Then?"

"""A run that tells of its graph: seen live, in the replay, from disk, in the events; and edited, then run again."""

import re
import time

import graph_toy
import pytest
import toy

from workbench import dag, records
from workbench.runner import Run
from workbench.system import MOST_VERTICES, Note, Text, Vertex
from workbench.ui.live import Live, Story
from workbench.ui.panel import Panel
from workbench.ui.parts import MOST_TEXT, Parts

WAIT_S = 60


@pytest.fixture
def system(monkeypatch):
    yield from toy.installed(monkeypatch, graph_toy.SYSTEM)


@pytest.fixture
def done(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "done", panel.trace.value
    return panel


def click(parts, name):
    parts.picture._handle_custom_msg({"pick": name}, [])


def states(parts):
    return re.findall(r'class="wb-vertex wb-(\w+)', parts.picture.html)


def test_the_graph_stays_after_the_run_and_each_part_reads(done):
    parts = done.live.parts
    assert parts.layout.display == ""
    assert states(parts) == ["done"] * 5
    assert "critical path" in parts.picture.html
    click(parts, "3")
    assert "3: What do both agree on?" in parts.reading.html
    assert "word 24 of 3 &lt;&amp;&gt;" in parts.reading.html
    assert "done, 24 of 24 words" in parts.reading.html
    click(parts, "plan")  # a stream without a box
    assert "harvest" in parts.reading.html
    assert 'data-pick="plan" aria-pressed="true"' in parts.picture.html
    click(parts, "plan")
    assert parts.chosen == ""


def test_it_fills_while_it_runs(panel):
    toy.set_fields(panel, pause_s=0.05)
    panel.run_button.click()
    shares, limit = set(), time.monotonic() + WAIT_S
    while panel.state == "running" and time.monotonic() < limit:
        shares |= set(re.findall(r'class="wb-fill" [^>]*width="([\d.]+)"', panel.live.parts.picture.html))
        time.sleep(0.02)
    panel.wait(WAIT_S)
    assert len(shares) > 5, shares


def test_a_run_without_parts_takes_no_room():
    live = Live()
    live.paint(Story([(0.0, Note("n"))]), "running", "")
    assert live.parts.layout.display == "none"
    assert live.body.layout.display == ""
    live.paint(Story([(0.0, Vertex("1", "a"))]), "running", "")
    assert live.parts.layout.display == ""
    assert live.body.layout.display == "none"  # an empty strip says nothing
    live.paint(Story(), "ready", "")
    assert live.parts.layout.display == "none"


def test_replay_scrubs_the_graph_and_its_texts(done):
    parts = done.live.parts
    click(parts, "1")
    at_end = parts.picture.html, parts.reading.html
    half = next(i for i, (_, e) in enumerate(done.run.events) if isinstance(e, Vertex) and e.name == "3" and e.share)
    done.replay.slider.value = half + 1
    assert states(parts) == ["done", "done", "running", "waiting", "waiting"]
    click(parts, "3")
    assert "word 1 of 3" in parts.reading.html
    assert "word 2 of 3" not in parts.reading.html
    done.replay.slider.value = 1
    assert parts.picture.html.count('role="button"') == 0
    done.replay.slider.value = len(done.run.events)
    click(parts, "1")
    assert (parts.picture.html, parts.reading.html) == at_end


def test_a_record_reopens_with_its_graph(done, system):
    html = done.live.parts.picture.html
    again = Panel(system)
    again.reopen(records.history("graph_toy")[0])
    serials = re.compile(r"wbg\d+")
    assert serials.sub("", again.live.parts.picture.html) == serials.sub("", html)
    events = [e for _, e in done.run.record.events()]
    assert events == [e for _, e in done.run.events]
    assert any(isinstance(e, Vertex) and e.needs == ("1", "2") and e.weight == 24 for e in events)


def test_events_gather_what_is_told_token_by_token(done):
    said = done.results.said.html
    total = len(done.run.events)
    assert f"{total} events, the newest first" in said
    assert "gathered by the second" in said
    assert said.count("<tr>") < total / 2
    assert "word 1 of 3 &lt;&amp;&gt; word 2 of 3" in said
    assert "3: What do both agree on?, done, 24 of 24 words, needs 1, 2" in said


def test_what_is_shown_is_bounded():
    parts = Parts()
    long = ["x" * 1000] * 50 + ["the end"]
    many = {str(at): Vertex(str(at), "one of many", state="running") for at in range(MOST_VERTICES + 6)}
    parts.paint(many, {"0": long})
    assert len(parts.reading.html) < MOST_TEXT + 2000
    assert "the end" in parts.reading.html
    assert f"the first {50 * 1000 + 7 - MOST_TEXT:,} characters are not shown" in parts.reading.html
    assert "6 of them are not drawn" in parts.picture.html
    assert len(parts.picture.html) < 100_000


def test_it_follows_what_is_written_until_a_part_is_picked():
    parts = Parts()
    parts.paint({}, {"plan": ["first"]})
    assert (parts.shown, "Texts" in parts.picture.html) == ("plan", True)
    one, two = Vertex("1", "a", state="running"), Vertex("2", "b", state="running")
    parts.paint({"1": one, "2": two}, {"plan": ["first"]})
    assert parts.shown == "1"
    parts.paint({"1": Vertex("1", "a", state="done"), "2": two}, {})
    assert parts.shown == "2"
    parts.paint({"1": Vertex("1", "a", state="cut")}, {"plan": ["first"], "plain": ["an answer"]})
    assert parts.shown == "plain"  # the graph was given up: who speaks is shown, not a part that never did
    click(parts, "1")
    parts.paint({"1": one, "2": two}, {"1": ["a", "b"]})
    assert parts.shown == "1"
    parts.paint({"2": two}, {})  # another run, without it
    assert parts.shown == "2"


def test_same_picture_is_no_message(done):
    heard = []
    done.live.parts.picture.observe(heard.append, "html")
    done.live.paint(done._story, "done", "again")
    assert heard == []


def test_the_graph_of_a_run_is_edited_and_run_again(done):
    assert done.config.plan is None
    done.live.parts.edit.click()
    assert dag.read(done.config.plan) == dag.read(graph_toy.PLAN)  # sizes too
    assert done.form.wide.children[0].unfolded
    edit = done.form.fields["plan"].input
    edit.drawn._handle_custom_msg({"pick": "2"}, [])
    edit.drawn._handle_custom_msg({"pick": "4"}, [])
    assert "4 <- 1, 2:" in done.config.plan
    assert "\\n4 <- 1, 2:" in done.code.value
    done.run_button.click()
    done.wait(WAIT_S)
    told = {e.name: e for _, e in done.run.events if isinstance(e, Vertex)}
    assert told["4"].needs == ("1", "2")
    other = Panel(graph_toy.SYSTEM)
    other.code.value = done.code.value
    assert other.config == done.config


def test_text_that_is_no_graph_starts_nothing_and_names_the_line(panel):
    field = panel.form.fields["plan"]
    field._none.value = False
    assert "at least one line" in field.input.told.html
    field.input.lines.value = "1: a?\n2 <- 5: b?"
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.run is None
    assert "not started: plan: line 2" in panel.live.head.html
    assert "line 2" in field.input.told.html
    field.input.lines.value = "1: a?\n2 <- 1: b?"
    assert 'role="alert"' not in field.input.told.html
    assert panel.config.plan == "1: a?\n2 <- 1: b?"


def test_a_text_of_many_lines_is_kept_as_it_is(panel):
    field = panel.form.fields["query"]
    assert field.input.value == "Why did bread\ncost so much?"
    field.input.value = "one\n\n  two 'three'\n"
    assert panel.config.query == "one\n\n  two 'three'\n"
    other = Panel(graph_toy.SYSTEM)
    other.code.value = panel.code.value
    assert other.config == panel.config
    field.input.value = "x" * 2001
    assert "2000 characters" in field.error


def test_texts_and_vertices_alone_print_nothing(system, capsys):
    from workbench.cli import _say

    for event in (Vertex("1", "a"), Text("1", "said")):
        _say(event)
    told = capsys.readouterr()
    assert told.out == told.err == ""
    _say(Note("heard"))
    assert "heard" in capsys.readouterr().err


def test_run_outside_a_panel_keeps_them(system):
    run = Run(system, graph_toy.Graphed(cut=5)).start().wait(WAIT_S)
    last = {e.name: e.state for _, e in run.events if isinstance(e, Vertex)}
    assert last == {"1": "done", "2": "done", "3": "done", "4": "done", "5": "cut"}

"""The buttons of a run that goes on: they act, keep their places, and leave their marks in the replay."""

import threading
import time
import types
from dataclasses import replace

import acts_toy
import pytest
from toy import installed, set_fields

from workbench import records
from workbench.system import Act, Offer
from workbench.ui.acts import REST_S, Acts, Board, buttons_html, by_hand, marks_html
from workbench.ui.panel import Panel, open_panel

WAIT_S = 60
ONE, TWO = Offer("1", "Kill <1>", "spot"), Offer("2", "Kill 2", "spot", "busy & old")


@pytest.fixture
def system(monkeypatch):
    yield from installed(monkeypatch, acts_toy.SYSTEM)


def until(true, what):
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end, f"{what} did not come in {WAIT_S} s"
        time.sleep(0.005)


def press(view, name):
    """What the page sends."""
    view._handle_custom_msg({"pick": name}, [])


def begin(panel, **changes):
    set_fields(panel, chunks=400, pause_s=0.02, **changes)
    panel.start()
    until(lambda: 'data-pick="w1"' in panel.live.acts.buttons.html, "the buttons")
    return panel.live.acts


def button(html, name):
    start = html.index(f'data-pick="{name}"')
    return html[html.rindex("<button", 0, start) : html.index("</button>", start)]


@pytest.mark.parametrize("threaded", [False, True])
def test_a_press_reaches_the_run_and_is_marked_when_it_ended(panel, threaded):
    acts = begin(panel, threaded=threaded)
    assert acts.layout.display == ""
    press(acts.buttons, "w1")
    assert 'aria-disabled="true"' in button(acts.buttons.html, "w1")  # at once, before the run has heard
    until(lambda: "wb-gone" in button(acts.buttons.html, "w1"), "the answer")
    assert 'aria-disabled="true"' not in button(acts.buttons.html, "w2")
    assert "Done by hand: Send w1 home" in acts.buttons.html
    panel.cancel()
    panel.wait(WAIT_S)
    assert acts.layout.display == "none"
    assert acts.buttons.html == ""
    assert "1 thing done by hand" in panel.live.head.html
    assert "Send w1 home" in panel.replay.marks.html
    assert panel.replay.marks.layout.display == ""


def test_who_acts_changes_the_result_and_who_does_not_has_the_settings_own(panel):
    set_fields(panel, chunks=120, pause_s=0.03)
    panel.start()
    acts = panel.live.acts
    until(lambda: 'data-pick="w1"' in acts.buttons.html, "the buttons")
    press(acts.buttons, "w1")
    panel.wait(WAIT_S)
    acted = panel.result
    assert acted.sent_home == ["w1"]
    assert panel.caption.html.endswith(", 1 thing done by hand</div>")
    assert ", 1 thing done by hand · run" in panel.live.head.html
    assert "done by hand</b> Send w1 home" in panel.results.said.html
    assert "taken back: workers: Send w1 home" in panel.results.said.html
    again = open_panel(records.history("acts_toy")[0])
    assert "1 thing done by hand" in again.caption.html
    assert "Send w1 home" in again.replay.marks.html
    panel.start()
    panel.wait(WAIT_S)
    assert panel.result.sent_home == []
    assert panel.result.done_by != acted.done_by
    assert "by hand" not in panel.caption.html + panel.live.head.html
    assert panel.replay.marks.layout.display == "none"


def test_the_marks_lead_the_replay_and_nothing_can_be_pressed_there(panel):
    acts = begin(panel)
    press(acts.buttons, "call")
    until(lambda: "Done by hand" in acts.buttons.html, "the act")
    panel.cancel()
    panel.wait(WAIT_S)
    place = next(at for at, (_, e) in enumerate(panel.run.events, 1) if isinstance(e, Act))
    press(panel.replay.marks, str(place))
    assert panel.replay.slider.value == place
    assert "replay" in panel.live.head.html
    assert acts.layout.display == "none"
    assert 'aria-current="true"' in panel.replay.marks.html
    panel.replay.slider.value = place - 1
    assert "wb-tocome" in panel.replay.marks.html
    count = len(panel.run.events)
    press(acts.buttons, "w1")  # of a row that is not there any more
    assert len(panel.run.events) == count


def test_what_is_refused_is_told_below_the_buttons(panel):
    acts = begin(panel)
    press(acts.buttons, "nosuch")
    assert "not done: this run of acts_toy does not offer &#x27;nosuch&#x27; now" in acts.told.value
    press(acts.buttons, "call")
    assert acts.told.value == ""
    panel.cancel()
    panel.wait(WAIT_S)


def test_a_run_without_offers_has_no_row(system):
    panel = Panel(system)
    panel.start()
    panel.wait(WAIT_S)
    assert panel.live.acts.layout.display == "none"
    assert panel.replay.marks.layout.display == "none"


def board(*events):
    made = Board()
    for at, (at_s, event) in enumerate(events, 1):
        made.hear(at, at_s, event)
    return made


def names(made):
    return {group: [(o.name, o.open) for o in row] for group, row in made.places.items()}


def test_nothing_moves_and_an_empty_place_rests_before_another_takes_it():
    gone = replace(ONE, open=False)
    new, early = replace(ONE, name="3", label="Kill 3"), replace(ONE, name="4", label="Kill 4")
    made = board((0.0, ONE), (0.0, TWO), (1.0, gone))
    assert names(made) == {"spot": [("1", False), ("2", True)]}
    made.hear(4, 1.0 + REST_S / 2, early)
    assert names(made) == {"spot": [("1", False), ("2", True), ("4", True)]}
    made.hear(5, 1.0 + REST_S, new)
    assert names(made) == {"spot": [("3", True), ("2", True), ("4", True)]}
    made.hear(6, 9.0, replace(TWO, note="idle"))  # said anew: in its own place
    assert [o.note for o in made.places["spot"]] == ["", "idle", ""]
    made.hear(7, 9.1, replace(TWO, group="other"))
    assert names(made) == {"spot": [("3", True), ("2", False), ("4", True)], "other": [("2", True)]}


def test_buttons_say_what_they_are_in_words_and_escape_what_they_are_given():
    made = board((0.0, ONE), (0.0, TWO), (1.0, Act("2", "Kill 2")), (1.0, replace(ONE, open=False)))
    html = buttons_html(made, made.waiting)
    assert 'role="toolbar"' in html
    assert 'role="group" aria-label="spot"' in html
    assert 'aria-label="Kill &lt;1&gt;: not any more"' in html
    assert 'aria-label="Kill 2: waiting for the run"' in html
    assert html.count('aria-disabled="true"') == 2
    assert "<1>" not in html
    free = buttons_html(board((0.0, TWO)))
    assert 'aria-label="Kill 2: busy &amp; old"' in free
    assert "aria-disabled" not in free
    assert "Done by hand" not in free
    assert "while it runs" in buttons_html(board((0.0, Offer("x", "Do x"))))


def test_marks_are_buttons_with_their_times():
    marks = board((0.5, ONE), (2.0, Act("1", "Kill <1>")), (3.0, Act("1", "Kill <1>"))).marks
    assert marks == [(2, 2.0, Act("1", "Kill <1>")), (3, 3.0, Act("1", "Kill <1>"))]
    html = marks_html(marks, 2)
    assert html.count("<button") == 2
    assert 'aria-label="go to Kill &lt;1&gt; at 2 seconds" aria-current="true"' in html
    assert html.count("wb-tocome") == 1
    assert marks_html([], 2) == ""
    assert [by_hand(n) for n in (0, 1, 2)] == ["", "1 thing done by hand", "2 things done by hand"]


def pressed(acts):
    """A press on a thread of its own."""
    thread = threading.Thread(target=acts.press, args=("1",), daemon=True)
    thread.start()
    return thread


def test_a_press_beside_the_last_picture_leaves_no_row():
    acts, row = Acts(), board((0.0, ONE))
    acts.follow(types.SimpleNamespace(act=lambda name: None, waiting=frozenset()))
    acts.paint(row, live=True)
    with acts._lock:  # the painter's: the press has to wait for it
        thread = pressed(acts)
        thread.join(0.1)
        acts.layout.display = "none"
        acts.buttons.html = ""
    thread.join(WAIT_S)
    assert (acts.layout.display, acts.buttons.html) == ("none", "")


def test_a_press_may_be_painted_from_within():
    """A run that answers at once paints on the thread of the press."""
    acts, row = Acts(), board((0.0, ONE))

    def act(name):
        with acts._lock:
            acts.paint(row, live=False)

    acts.follow(types.SimpleNamespace(act=act, waiting=frozenset()))
    acts.paint(row, live=True)
    thread = pressed(acts)
    thread.join(5)
    assert not thread.is_alive()
    assert acts.layout.display == "none"


def test_a_press_without_a_run_does_nothing():
    acts = Acts()
    acts.press("x")
    assert acts.told.value == ""
    assert repr(acts) == "Acts()"

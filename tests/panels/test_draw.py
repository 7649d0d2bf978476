"""Pictures carry their text, fit any number of spans, and tell kinds apart without colour."""

import re

import pytest

from workbench.system import Note, Point, Progress, Span
from workbench.ui import draw
from workbench.ui.live import STATES, Story, body_html, head_html


def spans(count, lane="compute"):
    return [Span(lane, at * 0.1, at * 0.1 + 0.1, f"<{at}>", lane) for at in range(count)]


def test_lanes_have_role_title_and_sentence():
    svg = draw.lanes([*spans(3), *spans(2, "load")], title="Timeline")
    assert 'role="img"' in svg
    assert 'aria-label="Timeline. compute: 3 spans up to 0.3 s; load: 2 spans up to 0.2 s."' in svg
    assert "<title>Timeline</title><desc>" in svg
    assert "<0>" not in svg


def test_kinds_differ_by_hatching():
    svg = draw.lanes([*spans(1), *spans(1, "load")], title="t")
    hatches = re.findall(r'<path d="([^"]*)"', svg)
    assert len(set(hatches)) == 2


def test_too_many_spans_are_joined_but_the_chosen_one_stays():
    many = spans(20_000)
    svg = draw.lanes(many, title="t", pickable=True, chosen=7_777)
    assert svg.count("data-pick") <= 2 * draw.MOST
    assert svg.count("wb-chosen") == 1
    assert 'data-pick="7777"' in svg


def test_what_took_no_time_is_a_mark_over_the_spans():
    reuse = Span("compute", 0.1, 0.1, "213 tokens reused", "reuse")
    svg = draw.lanes([reuse, *spans(3)], title="t", pickable=True, chosen=0)
    assert svg.count("wb-instant") == 1
    assert "213 tokens reused: at 0.1 s" in svg
    assert svg.index("wb-instant") > svg.rindex('data-pick="3"')  # drawn last, so nothing covers it
    assert re.findall(r'data-pick="(\d)" role="button" tabindex="0"', svg) == ["0"]
    assert "wb-instant" not in draw.lanes(spans(3), title="t")


def test_window_cuts():
    svg = draw.lanes(spans(100), title="t", window=(2.0, 3.0), pickable=True)
    assert 10 <= svg.count("data-pick") <= 12


@pytest.mark.parametrize("window", [(0.0, 0.0), (5.0, 5.0), (1e-7, 2e-7), (0, 1e6)])
def test_any_window_has_ticks(window):
    assert draw.lanes(spans(3), title="t", window=window).count("wb-tick") >= 1


@pytest.mark.parametrize("points", [[], [(0, 0)], [(0, 1), (0, 1)], [(at, -at) for at in range(1000)]])
def test_curve_of_anything(points):
    svg = draw.curves("done <x>", {"": points})
    assert 'role="img"' in svg
    assert "&lt;x&gt;" in svg
    assert svg.count(",") < 300


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_not_finite_leave_the_rest_as_it_is(bad):
    good = [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0)]
    alone = draw.curves("q", {"a": good})
    assert draw.curves("q", {"a": [good[0], (0.5, bad), (bad, 1.0), *good[1:], (3.0, bad)]}) == alone
    assert "nan" not in draw.curves("q", {"a": [(0.0, bad)]})
    assert "inf" not in draw.curves("q", {"a": [(0.0, bad)]})
    assert "4" in alone


def test_spans_to_pick_are_buttons_and_one_is_reached_by_tab():
    svg = draw.lanes(spans(5), title="t", pickable=True)
    assert 'role="group"' in svg
    assert 'role="img"' not in svg
    assert svg.count('role="button"') == 5
    assert re.findall(r'data-pick="(\d)" role="button" tabindex="0"', svg) == ["0"]
    again = draw.lanes(spans(5), title="t", pickable=True, chosen=3)
    assert re.findall(r'data-pick="(\d)" role="button" tabindex="0"', again) == ["3"]
    cut = draw.lanes(spans(5), title="t", pickable=True, chosen=0, window=(0.25, 0.5))  # the chosen one is outside
    assert cut.count('tabindex="0"') == 1
    assert "tabindex" not in draw.lanes(spans(5), title="t")


def test_parts_of_one_quantity_share_a_chart():
    story = Story([(0.0, Point(name, x, x)) for x in range(3) for name in ("a: tokens", "b: tokens", "alone")])
    body = body_html(story)
    assert body.count('class="wb-curve"') == 2
    assert body.count("<polyline") == 3


def test_story_folds_events():
    story = Story(
        [(0.1, Progress(1, 4, "a")), (0.2, Point("s", 0, 1)), (0.3, Note("n", "warning")), (0.4, spans(1)[0])]
    )
    assert (story.share, story.count, story.at_s) == (0.25, 4, 0.4)
    body = body_html(story)
    assert all(word in body for word in ("Timeline", "Curves", "Notes", "wb-warning"))
    assert 'aria-valuenow="25"' in head_html(story, "running", "x")
    assert 'role="status"' in head_html(story, "running", "x")


def test_seconds_that_pass_are_not_read_out_and_the_end_is():
    def spoken(state):
        return re.findall(r'aria-live="(\w+)"', head_html(Story(), state, "what is told"))

    for state in STATES:
        line = "off" if state in ("running", "replay") else "polite"
        assert spoken(state) == ["polite", line], state  # the word of the state is told at each of its changes


def test_progress_without_total_is_no_division():
    assert Story([(0.0, Progress(3, 0))]).share == 0

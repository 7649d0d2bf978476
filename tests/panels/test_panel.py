"""A panel without browser and kernel: press, wait, look at the traits."""

import dataclasses
import threading
import types

import pytest
import toy
from toy import set_fields

import workbench as wb
from workbench import records
from workbench.ui.jobs import Job, Jobs
from workbench.ui.panel import Panel

WAIT_S = 60


def test_run_shows_everything(panel):
    assert panel.state == "ready"
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "done"
    assert panel.result.config == panel.config
    assert "wb-done" in panel.live.head.html
    assert "12 chunks were had" in panel.results.head.html
    assert "measured" in panel.results.head.html
    data = panel.results.figure.out.outputs[0]["data"]
    assert data["application/vnd.plotly.v1+json"]["layout"]["title"]["text"] == "Chunks over time"
    assert "done_s" in panel.results.rows.html
    assert "paper" in panel.results.rows.html
    assert panel.results.timeline.spans == panel.result.spans()
    assert "38 events" in panel.results.said.html
    assert len(panel.results.past.listed.options) == 1
    assert not panel.run_button.disabled
    assert panel.cancel_button.disabled


def test_text_from_the_system_is_escaped(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert "<mode>" not in panel.live.body.html
    assert "&lt;mode&gt;" in panel.live.body.html
    assert "<last>" not in panel.results.head.html


def test_cancel_is_idempotent_and_keeps_what_was_seen(panel):
    set_fields(panel, pause_s=0.05, chunks=400)
    panel.cancel()  # before anything runs
    panel.run_button.click()
    assert panel.state == "running"
    assert "running" in panel.live.head.html
    assert panel.run_button.disabled
    panel.cancel_button.click()
    panel.cancel_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "cancelled"
    assert "partial" in panel.live.head.html
    assert panel.result is None
    assert len(panel.run.events) < 400


def test_failure_stands_beside_its_cause_and_stays(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    good = panel.result
    set_fields(panel, fail_at=3)
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "failed"
    assert isinstance(panel.run.error, RuntimeError)
    assert "the disk is full at chunk 3; free some room" in panel.live.head.html
    assert "Traceback" in panel.trace.value
    assert panel.trouble.layout.display == ""
    assert not panel.trouble.unfolded
    assert panel.result is good
    assert "last good result" in panel.caption.html
    assert "wb-dim" in panel.results.head._dom_classes
    set_fields(panel, fail_at=-1)
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.trouble.layout.display == "none"
    assert "wb-dim" not in panel.results.head._dom_classes


def test_wrong_setting_starts_nothing(panel):
    panel.form.fields["link_mb_s"]._none.value = False
    panel.form.fields["link_mb_s"].input.value = -1
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.run is None
    assert "not started: link_mb_s" in panel.live.head.html
    assert records.history("toy").to_frame().empty


def test_second_run_while_one_is_going_is_not_started(panel):
    set_fields(panel, pause_s=0.05)
    panel.start()
    panel.start()
    panel.wait(WAIT_S)
    assert len(records.history("toy")) == 1


def test_many_events_are_few_paints_and_the_last_is_painted(panel):
    set_fields(panel, chunks=400, pause_s=0.003)
    before = panel.live.paints
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert len(panel.run.events) > 1000
    assert 3 <= panel.live.paints - before <= 10 * panel.run.seconds + 3
    assert "102,144" in panel.live.body.html  # the last point of the curve
    assert panel._story.count == len(panel.run.events)
    assert panel.run.events[-1][1] == panel._story.progress


def test_code_round_trip(panel, system):
    set_fields(panel, chunks=33, link_mb_s=30.0, tag="it's")
    code = panel.code.value
    assert code.startswith('wb.run("toy", preset="')
    other = wb.open(code)
    assert other.config == panel.config
    panel.form.load(system.presets["tiny"])
    panel.code.value = code
    assert panel.config == other.config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os", "not a call like"),
        ('wb.run("toy", chunks=9000)', "chunks: Input should be less than or equal to 400"),
        ('wb.run("toy", speed=1)', "has no setting speed"),
        ('wb.run("other")', "no system is called"),
    ],
)
def test_bad_code_is_explained_and_changes_nothing(panel, text, said):
    before = panel.config
    panel.code.value = text
    assert said in panel.code_told.value.replace("&#x27;", "'")
    assert panel.config == before


def test_baselines_run_with_the_same_seed_and_are_compared(panel):
    set_fields(panel, seed=3)
    panel.baseline_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "done"
    assert list(panel.baselines) == ["compute only", "load only"]
    assert {r.config.seed for r in panel.baselines.values()} == {3}
    assert panel.baselines["load only"].config.mode == "load"
    assert panel.result.config == panel.config
    frame = panel.results.beside.comparison.to_frame()
    assert {"this run", "compute only", "load only"} <= set(frame.columns)
    assert panel.results.titles[panel.results.selected_index] == "Compare"
    assert len(records.history("toy")) == 3


def test_run_after_baselines_leaves_the_comparison_and_the_tab_alone(panel):
    panel.baseline_button.click()
    panel.wait(WAIT_S)
    shown = panel.results.beside.comparison
    panel.results.turn("Figure")
    set_fields(panel, chunks=5)
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.results.beside.comparison is shown
    assert panel.results.titles[panel.results.selected_index] == "Figure"


def test_cancelled_baselines_start_no_more(panel):
    set_fields(panel, pause_s=0.05)
    panel.start_baselines()
    panel.cancel()
    panel.wait(WAIT_S)
    assert panel.state == "cancelled"
    assert panel.baselines == {}
    assert len(records.history("toy")) <= 1


def test_cancel_before_the_first_run_has_begun(panel, monkeypatch):
    monkeypatch.setattr(panel.jobs, "_stop", types.SimpleNamespace(is_set=lambda: True, clear=lambda: None))
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.run is None
    assert panel.state == "cancelled"
    assert "before it began" in panel.live.head.html
    assert not panel.run_button.disabled


def test_baseline_that_does_not_fit_is_named(panel):
    set_fields(panel, chunks=350)
    panel.baseline_button.click()
    panel.wait(WAIT_S)
    assert list(panel.baselines) == ["compute only"]
    assert "load only" in panel.results.beside.told.html
    assert "at most 300" in panel.results.beside.told.html


def with_baselines(**baselines):
    return Panel(dataclasses.replace(toy.SYSTEM, baselines=baselines))


def test_baselines_beside_an_own_run_that_failed(system):
    """The result of another run is not called this one: it stays dimmed, and why there is none is told."""
    panel = with_baselines(sound={"fail_at": -1}, alone={"fail_at": -1, "mode": "compute"})
    panel.run_button.click()
    panel.wait(WAIT_S)
    old = panel.result
    set_fields(panel, fail_at=3)
    panel.baseline_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "done"
    assert list(panel.results.beside.comparison.results) == ["sound", "alone"]
    assert "<b>this run</b>: RuntimeError: the disk is full at chunk 3" in panel.results.beside.told.html
    assert panel.result is old
    assert "wb-dim" in panel.results.head._dom_classes
    assert "last good result" in panel.caption.html


def test_baselines_that_are_all_refused_are_told(system):
    panel = with_baselines(loading={"mode": "load"})
    set_fields(panel, chunks=350)
    panel.baseline_button.click()
    panel.wait(WAIT_S)
    assert panel.result.config.chunks == 350
    assert panel.baselines == {}
    assert "<b>loading</b>: not a valid setting: loading alone takes at most 300" in panel.results.beside.told.html
    assert panel.results.titles[panel.results.selected_index] == "Compare"
    assert "wb-dim" not in panel.results.head._dom_classes


def test_replay_scrubs_all_live_views(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    at_end = panel.live.body.html
    panel.replay.slider.value = 1
    assert "replay" in panel.live.head.html
    assert "<polyline" not in panel.live.body.html
    panel.replay.slider.value = 20
    assert 0 < panel.live.body.html.count("wb-span") < at_end.count("wb-span")
    panel.replay.slider.value = len(panel.run.events)
    assert "wb-done" in panel.live.head.html
    assert panel.live.body.html.count("wb-span") == at_end.count("wb-span")


def test_span_explains_itself_by_click_and_by_key(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    timeline = panel.results.timeline
    click(timeline, 5)
    assert "chunk 5 went to load" in timeline.why.html
    assert "0.12 s" in timeline.why.html
    timeline.later.click()
    assert timeline.chosen == 6
    timeline.earlier.click()
    timeline.earlier.click()
    assert timeline.chosen == 4
    timeline.listed.value = 0
    assert "chunk 0 went to compute" in timeline.why.html


def click(timeline, at):
    """What the page sends when a span is clicked."""
    timeline.picture._handle_custom_msg({"pick": str(at)}, [])


def test_the_same_span_can_be_picked_again(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    timeline = panel.results.timeline
    click(timeline, 5)
    timeline.step(1)
    click(timeline, 5)
    assert "chunk 5 went to load" in timeline.why.html
    set_fields(panel, mode="compute")
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert timeline.chosen is None
    click(timeline, 5)  # of another run
    assert "chunk 5 went to compute" in timeline.why.html


def test_preview_follows_the_form_with_one_figure_widget(panel):
    preview = panel.results.preview
    assert preview.widget is None  # nothing heavy before the first change
    panel.results.turn("Model")
    for chunks in (20, 30, 40, 50):
        panel.form.fields["chunks"].input.value = chunks
    preview.wait(WAIT_S)
    assert preview.error is None
    first = preview.widget
    assert preview.drawn <= 3  # the latest wins
    assert list(first.data[0].y) == [0, 50]
    panel.form.fields["chunks"].input.value = 60
    preview.wait(WAIT_S)
    assert preview.widget is first
    assert list(first.data[0].y) == [0, 60]
    assert "Modelled: 60 chunks at 100 MB/s" in preview.text.html
    assert preview.text in preview.children


def test_preview_is_not_drawn_out_of_sight(panel):
    """A figure in a hidden tab has no size: its labels would go nowhere, and the browser complains of each."""
    preview = panel.results.preview
    panel.form.fields["chunks"].input.value = 20
    preview.wait(WAIT_S)
    assert preview.drawn == 0
    panel.results.turn("Model")
    preview.wait(WAIT_S)
    assert preview.drawn == 1
    assert list(preview.widget.data[0].y) == [0, 20]
    panel.results.turn("Table")
    panel.form.fields["chunks"].input.value = 30
    preview.wait(WAIT_S)
    assert preview.drawn == 1


def test_preview_says_its_picture_in_words_from_the_start(panel):
    assert "Modelled: 12 chunks at 100 MB/s" in panel.results.preview.text.html
    assert panel.results.preview.text in panel.results.preview.children


def test_panel_text_is_constant(panel):
    assert repr(panel) == "Panel('toy')"


def test_figure_that_fails_is_shown_and_frees_the_buttons(panel, monkeypatch):
    monkeypatch.setattr(toy.ToyResult, "figure", lambda self: 1 / 0)
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "failed"
    assert "could not show the run: ZeroDivisionError" in panel.live.head.html
    assert not panel.run_button.disabled


def test_what_fails_after_the_last_run_is_shown_and_frees_the_buttons(panel, monkeypatch):
    monkeypatch.setattr(panel.results.past, "refresh", lambda: 1 / 0)
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "failed"
    assert "could not show the run: ZeroDivisionError" in panel.live.head.html
    assert not panel.run_button.disabled
    assert panel.cancel_button.disabled
    monkeypatch.undo()
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert panel.state == "done"


def test_whatever_a_callback_raises_jobs_are_free_again(system, monkeypatch):
    """The thread that fails there says so as any thread does."""
    failed, turned = [], []
    monkeypatch.setattr(threading, "excepthook", lambda args: failed.append(args.exc_type))
    jobs = Jobs(system, lambda *_: None, lambda *_: None, lambda _: 1 / 0, turned.append)
    assert jobs.start([Job("", toy.Toy(chunks=2))])
    jobs.wait(WAIT_S)
    assert failed == [ZeroDivisionError]
    assert turned == [True, False]
    monkeypatch.setattr(threading.Thread, "start", lambda self: 1 / 0)  # no more threads
    with pytest.raises(ZeroDivisionError):
        jobs.start([])
    assert not jobs.busy


def test_nothing_starts_while_the_last_run_is_still_being_shown(panel, monkeypatch):
    """A start from code in that moment is refused, and the buttons are as `busy` says at every change of it."""
    seen, refresh, buttons = [], panel.results.past.refresh, panel.jobs._turn

    def meanwhile():
        seen.append((panel.jobs.busy, panel.run_button.disabled, panel.jobs.start([])))
        refresh()

    def turn(busy):
        buttons(busy)
        seen.append((busy, panel.jobs.busy, panel.run_button.disabled))

    monkeypatch.setattr(panel.results.past, "refresh", meanwhile)
    monkeypatch.setattr(panel.jobs, "_turn", turn)
    panel.start()
    panel.wait(WAIT_S)
    assert seen == [(True, True, True), (True, True, False), (False, False, False)]


def test_worker_threads_end(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert not [t for t in threading.enumerate() if t.name.startswith("workbench-")]

"""The dashboard without browser and kernel: press, wait, look at the traits. Two toys stand for the seven systems."""

import json
import os
import re
import subprocess
import sys
import threading

import acts_toy
import ipywidgets as widgets
import pytest
import toy

import workbench as wb
from workbench import doctor, records, system
from workbench.runner import Run
from workbench.ui import card, machine
from workbench.ui.dashboard import Dashboard

WAIT_S = 60


@pytest.fixture
def board(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    for one in (toy, acts_toy):
        one.install(monkeypatch.setattr)
    for module in (system, records):
        monkeypatch.setattr(module, "NAMES", ("toy", "acts_toy"))
    yield wb.open()
    monkeypatch.undo()
    toy.forget()


def run(one, **changes):
    """A run of the past, and its record."""
    return Run(one.SYSTEM, one.SYSTEM.make("tiny", **changes)).start().wait(WAIT_S).record


def key(record):
    return f"{record.system}/{record.id}"


def choose(board, *chosen):
    """What the page sends when the boxes of these runs are pressed."""
    board.runs.refresh()
    for record in chosen:
        board.runs.listed._handle_custom_msg({"pick": key(record)}, [])


def slow(board, name="toy"):
    board.cards[name].preset.value = "slow"
    board.cards[name].run_button.click()
    return board.cards[name]


def test_at_first_nothing_runs_and_all_is_said(board):
    assert isinstance(board, Dashboard)
    assert [c.state for c in board.cards.values()] == ["ready", "ready"]
    assert "No finished run is on disk yet" in board.cards["toy"].about.html
    assert "No run is on disk yet" in board.runs.listed.html
    assert board.runs.open_button.disabled
    assert board.runs.compare_button.disabled
    assert board.panel is None
    assert not [t for t in threading.enumerate() if t.name.startswith("workbench")]
    assert repr(board) == "Dashboard()"
    with pytest.raises(ValueError, match="name the system that these settings are of"):
        wb.open(preset="tiny")


def test_a_card_runs_its_preset_and_tells_what_came_of_it(board):
    one, painted = board.cards["toy"], []
    one.live.observe(lambda change: painted.append(change["new"]), "html")
    assert one.run_button.description == "Run tiny"
    one.preset.value = "paper"
    assert one.run_button.description == "Run paper"
    one.run_button.click()
    board.wait(WAIT_S)
    assert one.state == "done"
    assert one.run.config == toy.SYSTEM.presets["paper"]
    assert "wb-running" in painted[0]
    assert "300 chunks were had" in one.about.html
    assert "measured" in one.about.html
    assert "300 chunks" not in board.cards["acts_toy"].about.html
    assert "<last>" not in one.about.html  # a system's words are escaped
    assert key(one.run.record) in board.runs.listed.html
    assert not one.run_button.disabled
    assert one.cancel_button.disabled


def test_progress_is_shown_while_it_goes_and_cancel_ends_it(board):
    one, seen = board.cards["toy"], threading.Event()
    shown = re.compile(r"chunk [1-9]\d* of 400")  # which of them is painted is chance
    one.live.observe(lambda change: shown.search(change["new"]) and seen.set(), "html")
    slow(board)
    assert one.run_button.disabled
    assert not one.cancel_button.disabled
    assert seen.wait(WAIT_S)
    one.run_button.click()  # a second press while it goes
    one.cancel_button.click()
    board.wait(WAIT_S)
    assert one.state == "cancelled"
    assert [record.state for record in board.runs.found] == ["cancelled"]
    assert "No finished run" in one.about.html


def test_a_second_run_waits_for_the_first_and_says_so(board):
    first, second = slow(board), board.cards["acts_toy"]
    second.run_button.click()
    assert second.state == "waiting"
    assert "after Toy: two at once would slow each other" in second.live.html
    assert not second.cancel_button.disabled
    second.cancel_button.click()
    assert second.state == "cancelled"
    assert not second.busy
    second.run_button.click()
    first.cancel_button.click()
    board.wait(WAIT_S)
    assert (first.state, second.state) == ("cancelled", "done")
    assert [(r.system, r.state) for r in board.runs.found] == [("acts_toy", "done"), ("toy", "cancelled")]


def test_a_run_that_fails_says_why_and_the_next_one_goes(board, monkeypatch):
    one, other = board.cards["toy"], board.cards["acts_toy"]
    monkeypatch.setitem(toy.SYSTEM.presets, "tiny", toy.Toy(pause_s=0.05, fail_at=2))
    one.run_button.click()
    other.run_button.click()
    board.wait(WAIT_S)
    assert (one.state, other.state) == ("failed", "done")
    assert "the disk is full at chunk 2; free some room" in one.live.html
    assert "the disk is full at chunk 2" in board.runs.listed.html


def test_what_cannot_be_shown_frees_the_queue(board, monkeypatch):
    one, other = board.cards["toy"], board.cards["acts_toy"]
    monkeypatch.setattr(card, "_so_far", lambda run: 1 / 0)
    one.run_button.click()
    board.wait(WAIT_S)
    assert one.state == "failed"
    assert "could not be shown: ZeroDivisionError" in one.live.html
    monkeypatch.undo()
    monkeypatch.setattr(other.jobs, "start", lambda jobs: 1 / 0)
    other.run_button.click()
    assert "not started" in other.live.html


def test_a_damaged_record_is_a_line_and_the_rest_goes_on(board):
    good, lost, odd, headless = (run(toy, chunks=n) for n in (5, 6, 7, 8))
    (lost.path / "record.json").write_text("{")
    facts = json.loads((odd.path / "record.json").read_text())
    (odd.path / "record.json").write_text(json.dumps(facts | {"system": "nosuch"}))
    (headless.path / "headline.json").write_text('{"sentence": 7}')
    board.refresh()
    assert [record.id for record in board.runs.found] == [headless.id, good.id]
    assert board.runs.trouble.html.count("<li>") == 2
    assert f"Toy: {lost.id}: record.json is damaged" in board.runs.trouble.html
    assert "says that it is of &#x27;nosuch&#x27;" in board.runs.trouble.html
    assert "headline.json is damaged" in board.cards["toy"].about.html
    choose(board, headless)
    (headless.path / "record.json").write_text("{}")
    board.runs.open_button.click()
    assert "record.json is damaged" in board.runs.told.html
    assert board.panel is None


def test_headlines_of_runs_without_one_come_from_their_results_unless_those_are_large(board, monkeypatch):
    record = run(toy)
    kept = record.headline()
    (record.path / "headline.json").unlink()
    assert record.headline() == kept
    assert kept.summary["speedup"] == 1.6
    monkeypatch.setattr(records, "MOST_READ", 10)
    board.refresh()
    assert "its result is large; open it" in board.cards["toy"].about.html
    with pytest.raises(ValueError, match=r"failed \(.+\): it has no result"):
        run(toy, fail_at=1).headline()


def test_a_home_that_cannot_be_written_is_told_and_the_result_still_shown(board, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "file"))
    other = wb.open()
    assert "Runs are not kept" in other.runs.trouble.html
    assert "set WORKBENCH_HOME" in other.runs.trouble.html
    other.cards["toy"].run_button.click()
    other.wait(WAIT_S)
    assert "not recorded" in other.cards["toy"].live.html
    assert "4 chunks were had" in other.cards["toy"].about.html
    assert "not on disk" in other.cards["toy"].about.html
    assert "Runs are not kept" not in board.runs.trouble.html


def test_filters_and_more(board):
    for n in range(11):
        run(toy, chunks=2 + n)
    run(toy, fail_at=1)
    run(acts_toy)
    board.refresh()
    assert board.runs.listed.html.count("data-pick") == 10
    assert board.runs.more_button.description == "3 more of 3"
    board.runs.more_button.click()
    assert board.runs.listed.html.count("data-pick") == 13
    assert board.runs.more_button.layout.display == "none"
    board.runs.by_state.value = "failed"
    assert board.runs.listed.html.count("data-pick") == 1
    board.runs.by_system.value = "acts_toy"
    assert "No run is like this" in board.runs.listed.html
    board.runs.by_state.value = ""
    assert board.runs.listed.html.count("data-pick") == 1


def test_two_of_one_system_are_compared(board):
    old, new, failed = run(toy, chunks=5), run(toy, chunks=9), run(toy, fail_at=1)
    choose(board, failed, old, new)  # of three the first gives way
    assert board.runs.chosen == [old, new]
    assert board.runs.listed.html.count('aria-checked="true"') == 2
    assert board.runs.open_button.disabled
    board.runs.compare_button.click()
    beside = board.runs.beside
    assert list(beside.comparison.results) == [old.id, new.id]
    assert "chunks = 5" in beside.told.html
    assert beside.figure.fig is not None
    assert beside in board.runs.children
    choose(board, new, failed)
    board.runs.compare_button.click()
    assert f"run {failed.id} was failed" in board.runs.told.html
    assert list(beside.comparison.results) == [old.id, new.id]  # what is shown stays


def test_two_of_two_systems_are_refused(board):
    choose(board, run(toy), run(acts_toy))
    board.runs.compare_button.click()
    assert 'role="alert"' in board.runs.told.html
    assert "different systems cannot be compared" in board.runs.told.html
    assert board.runs.beside is None


def test_export_writes_what_a_panel_saves(board, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    record = run(toy)
    choose(board, record)
    board.runs.export_button.click()
    stem = f"toy-{record.id}"
    assert {p.name for p in tmp_path.glob("toy-*")} == {f"{stem}{e}" for e in (".csv", ".html", ".json", ".trace.json")}
    assert f"{stem}.html" in board.runs.told.html
    choose(board, record, run(toy, fail_at=1))
    board.runs.export_button.click()
    assert "has no result" in board.runs.told.html


def test_one_panel_at_a_time_made_when_asked_for(board):
    record = run(toy, chunks=6)
    board.cards["toy"].preset.value = "paper"
    board.cards["toy"].open_button.click()
    panel = board.panel
    assert panel.config == toy.SYSTEM.presets["paper"]
    assert panel in board.place.children
    choose(board, record)
    board.runs.open_button.click()
    assert board.panel is panel
    assert panel.result == record.result()
    panel.start()
    panel.wait(WAIT_S)
    assert len(board.runs.found) == 2  # a run of the panel is listed too
    board.cards["toy"].run_button.click()
    board.wait(WAIT_S)
    assert len(panel.results.past.found) == 3  # and a card's in the panel
    board.cards["acts_toy"].open_button.click()
    assert board.panel.system is acts_toy.SYSTEM
    assert panel.comm is None  # closed, in the page too
    assert panel.form.comm is None


def test_a_panel_that_runs_is_not_closed_under_its_run(board):
    board.cards["toy"].preset.value = "slow"
    board.cards["toy"].open_button.click()
    panel = board.panel
    panel.start()
    board.cards["acts_toy"].open_button.click()
    assert "the panel of Toy is running" in board.cards["acts_toy"].live.html
    board.cards["acts_toy"].run_button.click()
    board.place.close_panel()
    assert board.panel is panel
    panel.cancel()
    panel.wait(WAIT_S)
    board.wait(WAIT_S)
    board.place.close_panel()
    assert board.panel is None
    assert board.place.layout.display == "none"


def test_close_gives_the_focus_to_the_button_that_opened(board, monkeypatch):
    given = []
    for name, one in board.cards.items():
        monkeypatch.setattr(one.open_button, "focus", lambda name=name: given.append(name))
    board.cards["acts_toy"].open_button.click()
    board.cards["toy"].open_button.click()  # another panel in its place is no close
    assert given == []
    board.place.head._handle_custom_msg({"pick": "close"}, [])
    assert board.panel is None
    assert given == ["toy"]
    board.place.close_panel()  # there is none
    assert given == ["toy"]


def test_a_card_that_runs_beside_a_panel_says_so(board):
    painted = []
    board.cards["acts_toy"].live.observe(lambda change: painted.append(change["new"]), "html")
    board.cards["toy"].preset.value = "slow"
    board.cards["toy"].open_button.click()
    board.panel.start()
    board.cards["acts_toy"].run_button.click()
    board.wait(WAIT_S)
    board.panel.cancel()
    board.panel.wait(WAIT_S)
    assert "measured times are of a shared machine" in painted[0].replace("&#x27;", "'")


@pytest.mark.parametrize(
    ("summary", "names", "labels"),
    [
        ({"ttft_s": 1, "load_only_ttft_s": 2, "speedup": 3}, ["ttft_s", "load_only_ttft_s"], ["this run", "load only"]),
        ({"total_s": 1, "exact": 1, "sequential_s": 2}, ["total_s", "sequential_s"], ["total", "sequential"]),
        ({"tokens_per_s": 1, "ep_tokens_per_s": 2}, ["tokens_per_s", "ep_tokens_per_s"], ["this run", "ep"]),
        ({"tokens": 8, "usd_per_million_tokens": 2}, [], []),  # dollars are no tokens
        ({"speedup": 2, "exact": 1}, [], []),
        ({}, [], []),
    ],
)
def test_only_what_is_alike_stands_on_one_scale(summary, names, labels):
    assert card.alike(summary)[1:] == (names, labels)


def test_the_strip_says_what_is_not_here_and_why():
    absent = doctor.Finding("Backends and engines", "vllm", False, "not installed", "make setup")
    optional = doctor.Finding("Machine", "GPU", False, "<none>", "none is needed", needed=False)
    html = machine.html([optional, absent])
    assert html.index("vllm</b>: not installed") < html.index("GPU</b> (optional): &lt;none&gt;")
    assert "2 things cannot be done here" in html
    assert "Make setup." in html
    assert "<details" not in machine.html([])


def test_every_widget_is_known_to_jupyterlab_notebook_and_voila_alike(board):
    board.cards["toy"].open_button.click()
    seen, todo = set(), [board]
    while todo:
        one = todo.pop()
        seen.add((one._model_module, one._view_module))
        todo += getattr(one, "children", ())
    allowed = {"@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output", "anywidget"}
    assert {name for pair in seen for name in pair} <= allowed
    assert len(seen) >= 3
    assert widgets.Button()._view_module in allowed


FRESH = """
import json, sys
import workbench as wb
heavy = lambda: [m for m in ("torch", "plotly", "pandas", "pyarrow", "vllm", "ray", "transformers") if m in sys.modules]
board = wb.open()
at_first, said = heavy(), board.cards["cake"].about.html
board.cards["mm2"].open_button.click()
print(json.dumps([at_first, said, heavy(), list(board.cards)]))
"""


def test_history_loads_nothing_heavy_and_reads_no_result(tmp_path):
    """The panel is the control: it is made when asked for, and loads plotly."""
    folder = tmp_path / "runs" / "cake" / "20260101-000000-000-abcd"
    folder.mkdir(parents=True)
    facts = {
        "system": "cake",
        "state": "done",
        "started_at": "2026-01-01T00:00:00",
        "seconds": 1,
        "code": "",
        "error": "",
    }
    (folder / "record.json").write_text(json.dumps(facts | {"format": records.FORMAT, "config": {}}))
    headline = {"sentence": "A cake was made.", "summary": {"ttft_s": 1.0}, "badges": {"ttft_s": "measured"}}
    (folder / "headline.json").write_text(json.dumps(headline))
    (folder / "result.json").write_text("no result at all")
    env = os.environ | {"WORKBENCH_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    at_first, said, with_panel, names = json.loads(done.stdout.splitlines()[-1])
    assert at_first == []
    assert "A cake was made." in said
    assert "plotly" in with_panel
    assert names == list(system.NAMES)

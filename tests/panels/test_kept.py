"""What a panel keeps: past runs, comparison with them, files on disk, and how it is opened."""

import pytest
import toy
from toy import set_fields

import workbench as wb
from workbench import records
from workbench.runner import Run
from workbench.ui import export

WAIT_S = 60


def test_an_unrecorded_result_is_compared_and_saved_under_a_name_of_its_own(panel, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    for chunks in (5, 6):
        set_fields(panel, chunks=chunks)
        panel.run_button.click()
        panel.wait(WAIT_S)
    assert panel.state == "done"
    assert "not recorded" in panel.live.head.html
    assert list(panel.results.beside.sources) == ["unrecorded 2", "unrecorded 1"]
    panel.save_button.click()
    assert (tmp_path / "toy-unrecorded-2.json").exists(), panel.caption.html


def test_save_writes_every_format_and_names_them(panel, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "MOST_LINK", 10)
    panel.run_button.click()
    panel.wait(WAIT_S)
    assert "too large for a link; press Save to disk" in panel.links.html
    panel.save_button.click()
    stem = f"toy-{panel.run.record.id}"
    names = [f"{stem}{ending}" for ending in (".csv", ".html", ".json", ".trace.json")]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert all(name in panel.caption.html for name in (*names, str(tmp_path)))
    assert records.read_result(panel.system, (tmp_path / f"{stem}.json").read_text()) == panel.result
    assert f'href="{stem}.csv"' in (tmp_path / f"{stem}.html").read_text()
    (tmp_path / f"{stem}.csv").unlink()
    (tmp_path / f"{stem}.csv").mkdir()
    panel.save_button.click()
    assert "not saved" in panel.caption.html


def test_runs_on_disk_are_offered_for_comparison_once(panel, system):
    earlier = Run(system, toy.Toy(chunks=5)).start().wait(WAIT_S)
    Run(system, toy.Toy(chunks=5, fail_at=1)).start().wait(WAIT_S)
    panel.run_button.click()
    panel.wait(WAIT_S)
    beside, ours = panel.results.beside, panel.run.record.id
    assert [key for _, key in beside.first.options] == ["", ours, earlier.record.id]  # the failed one has no result
    beside.first.value, beside.second.value = earlier.record.id, ours
    assert list(beside.comparison.results) == [earlier.record.id, ours]
    beside.second.value = earlier.record.id
    assert "two different" in beside.told.html
    assert (beside.comparison, beside.figure.fig) == (None, None)  # not the last one under other words
    beside.second.value = ours
    panel.reopen(earlier.record)
    assert sorted(key for _, key in beside.first.options) == sorted(["", ours, earlier.record.id])
    assert (beside.first.value, beside.second.value) == (earlier.record.id, ours)
    past = panel.results.past
    past.listed.value = earlier.record.id
    past.delete.click()
    past.delete.click()
    assert [key for _, key in beside.first.options] == ["", ours]
    assert beside.first.value == ""


def test_history_reopens_and_deletes(panel):
    set_fields(panel, chunks=5)
    panel.run_button.click()
    panel.wait(WAIT_S)
    kept = panel.result
    set_fields(panel, chunks=9)
    panel.run_button.click()
    panel.wait(WAIT_S)
    past = panel.results.past
    past.listed.value = past.listed.options[1][1]
    past.reopen.click()
    assert panel.config.chunks == 5
    assert panel.result.fingerprint() == kept.fingerprint()
    past.delete.click()
    assert len(records.history("toy")) == 2  # the first press only asks
    past.delete.click()
    assert len(records.history("toy")) == 1


def test_a_run_that_ends_leaves_an_older_choice_and_moves_with_the_newest(panel, system):
    def another():
        return Run(system, toy.Toy(chunks=3)).start().wait(WAIT_S).record.id

    old, _ = another(), another()
    past = panel.results.past
    past.refresh()
    past.listed.value = old
    past.delete.click()
    newest = another()
    past.refresh()
    assert (past.listed.value, past.delete.description) == (old, "Really delete")
    past.delete.click()
    assert past.listed.value == newest
    past.delete.click()  # armed for the newest: another one is not meant
    newest = another()
    past.refresh()
    assert (past.listed.value, past.delete.description) == (newest, "Delete")


def test_deleted_record_is_named_not_raised(panel):
    panel.run_button.click()
    panel.wait(WAIT_S)
    records.history("toy")[0].delete()
    panel.results.past.reopen.click()
    assert "cannot be read" in panel.results.past.told.html


def test_open_takes_name_config_record_result_and_call(system):
    assert wb.open("toy").config == system.presets["small"]
    assert wb.open("toy", preset="tiny", seed=4).config == toy.Toy(chunks=4, seed=4)
    assert wb.open(toy.Toy(chunks=8), seed=2).config == toy.Toy(chunks=8, seed=2)
    done = Run(system, toy.Toy(chunks=6)).start().wait(WAIT_S)
    reopened = wb.open(done.record)
    assert reopened.config.chunks == 6
    assert reopened.result.fingerprint() == done.result.fingerprint()
    assert reopened.replay.slider.max == len(done.events)
    assert wb.open(done.result).result is done.result
    for past in (done.record, done.result):
        changed = wb.open(past, seed=9)  # the past run, and the form of one like it
        assert changed.config == toy.Toy(chunks=6, seed=9)
        assert changed.result.config == done.config
        with pytest.raises(ValueError, match="a config or a preset"):
            wb.open(past, preset="tiny")
        with pytest.raises(ValueError, match="has its own"):
            wb.open(past, toy.Toy())
    with pytest.raises(ValueError, match="no setting sed"):
        wb.open(done.record, sed=9)
    with pytest.raises(KeyError, match="there are toy"):
        wb.open("nothing")
    with pytest.raises(TypeError, match="open takes"):
        wb.open(7)

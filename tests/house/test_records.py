"""Runs on disk: whole or not there, whatever kills or damages them; of systems: tests/contract/test_reliability.py."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import contract_toys as toys
import pytest

from workbench import records, runner
from workbench.system import Span

TOYS = str(Path(toys.__file__).parent)
PRELUDE = f"""
import sys, time
sys.path.insert(0, {TOYS!r})
import pytest, contract_toys as toys
from workbench import records, runner
patch = pytest.MonkeyPatch(); toys.install(toys.GOOD, patch)
def run(**changes): return runner.start("contract_toy", preset="tiny", **changes).wait(60)
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    toys.install(toys.GOOD, monkeypatch)


def run(**changes):
    return runner.start("contract_toy", preset="tiny", **changes).wait(60)


def python(code):
    return subprocess.Popen([sys.executable, "-c", PRELUDE + code], stdout=subprocess.PIPE, text=True)


def folder():
    return records.home() / "contract_toy"


def test_a_run_reopens():
    done = run(seed=3)
    found = records.history("contract_toy")
    assert [r.id for r in found] == [done.record.id]
    record = found[0]
    assert record.state == "done"
    assert record.result() == done.result
    assert record.config() == done.config
    assert record.events() == [(round(at, 4), event) for at, event in done.events]
    assert record.frame().equals(done.result.to_frame())
    assert runner.from_code(record.code)[1] == done.config
    assert records.history().to_frame()["call"].tolist() == [record.code]


def test_newest_first_and_deleted():
    first, second = run(), run(seed=1)
    first.record.path.rename(first.record.path.with_name("20000101-000000-aaaaaa"))
    found = records.history()
    assert [r.id for r in found] == [second.record.id, "20000101-000000-aaaaaa"]
    found[1].delete()
    assert [r.id for r in records.history()] == [second.record.id]


def test_states_are_kept(monkeypatch):
    cancelled = runner.start("contract_toy", preset="paper")
    cancelled.cancel()
    cancelled.wait(60)
    assert cancelled.record.state == "cancelled"
    with pytest.raises(ValueError, match="was cancelled: it has no result"):
        records.history()[0].result()
    with pytest.raises(ValueError, match="was cancelled: it has no table"):
        records.history()[0].frame()

    def fails(config):
        yield Span("a", 0, 1, "before", "k")
        raise RuntimeError("the disk is full")

    toys.install(toys.but(work=fails), monkeypatch)
    failed = run()
    assert failed.record.state == "failed"
    assert records.history()[0].error == "RuntimeError: the disk is full"
    assert len(failed.record.events()) == 1


def test_killed_kernel_loses_no_finished_run():
    """SIGKILL while runs are being made: each folder with a name is whole, and the half-written are swept."""
    child = python("while True: print(run().record.id, flush=True)")
    finished = [child.stdout.readline().strip() for _ in range(3)]
    child.send_signal(signal.SIGKILL)
    finished += [line.strip() for line in child.communicate(timeout=60)[0].splitlines() if len(line) > 15]
    found = records.history("contract_toy")
    assert found.skipped == []
    assert set(finished) <= {r.id for r in found}
    assert all(len(r.result().values) == 20 for r in found)


def test_a_run_killed_while_it_writes_is_not_shown():
    code = """
import pandas
pandas.DataFrame.to_parquet = lambda *a, **k: (print("writing", flush=True), time.sleep(60))
run()
"""
    child = python(code)
    assert child.stdout.readline().strip() == "writing"
    child.kill()
    child.wait(60)
    assert len(list(folder().iterdir())) == 1  # the folder aside is there
    assert len(records.history("contract_toy")) == 0
    records.sweep(older_than_s=3600)
    assert len(list(folder().iterdir())) == 1  # it may be another kernel's, still at it
    records.sweep(older_than_s=0)
    assert list(folder().iterdir()) == []


def test_a_fault_of_the_system_ends_the_run_all_the_same(monkeypatch):
    toys.install(toys.with_result(to_frame=lambda self: 1 / 0), monkeypatch)
    done = run()
    assert done.state == "done"
    assert "ZeroDivisionError" in done.unrecorded
    assert list(folder().iterdir()) == []


DEEP = "[" * 100_000
HUGE = '{"format": 1, "config": {}, "seconds": 1' + "0" * 400 + "}"
ODD = '{"format": 1, "config": {}, "system": 3, "state": "done", "started_at": "", "seconds": 1, "code": ""}'


@pytest.mark.parametrize(
    ("name", "text"),
    [("record.json", "{"), ("record.json", "{}"), ("record.json", None), ("record.json", '{"format": 0}'),
     ("record.json", "5"), ("record.json", "[1]"), ("record.json", ODD), ("record.json", DEEP),
     ("record.json", HUGE)],
    ids=["cut off", "empty", "gone", "other version", "number", "list", "odd field", "deep", "huge number"],
)  # fmt: skip
def test_a_damaged_record_is_skipped_and_named(name, text):
    good, bad = run(), run()
    path = bad.record.path / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    found = records.history("contract_toy")
    assert [r.id for r in found] == [good.record.id]
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(f"{bad.record.id}: ")
    assert text is None or len(found.skipped[0].split()) >= 3, "it does not say what is wrong"


@pytest.mark.parametrize(
    "damage", ["", "{}", "5", "null", "[]", '{"config": {"nosuch": 1}}', '{"config": {}, "values": "no list"}']
)
def test_a_damaged_result_is_named(damage):
    record = run().record
    (record.path / "result.json").write_text(damage)
    with pytest.raises(ValueError, match="not a contract_toy result of this version"):
        record.result()


def test_a_lost_file_is_named():
    record = run().record
    (record.path / "events.jsonl").unlink()
    with pytest.raises(ValueError, match=f"run {record.id}: events.jsonl cannot be read"):
        record.events()


@pytest.mark.parametrize(
    ("name", "damage", "read"),
    [
        ("events.jsonl", '{"t": 0, "is": "Nosuch"}', records.Record.events),
        ("events.jsonl", '{"t": 0, "is": ["Note"]}', records.Record.events),
        ("events.jsonl", '{"is": "Note", "text": ""}', records.Record.events),
        ("events.jsonl", '{"t": 0, "is": "Note", "nosuch": 1}', records.Record.events),
        ("events.jsonl", "5", records.Record.events),
        ("events.jsonl", "{", records.Record.events),
        ("record.json", "5", records.Record.config),
        ("record.json", "{}", records.Record.config),
        ("record.json", '{"config": {"steps": 0}}', records.Record.config),
        ("record.json", '{"config": 5}', records.Record.config),
        ("record.json", DEEP, records.Record.config),
        ("events.jsonl", DEEP, records.Record.events),
        ("result.json", DEEP, records.Record.result),
        ("frame.parquet", "no table", records.Record.frame),
        ("frame.parquet", None, records.Record.frame),
        ("record.json", None, records.Record.config),
    ],
)
def test_every_damage_is_a_value_error_that_names_run_and_file(name, damage, read):
    record = run().record
    (record.path / name).unlink()
    if damage is not None:
        (record.path / name).write_text(damage)
    with pytest.raises(ValueError, match=f"run {record.id}: {name} (is damaged|cannot be read)"):
        read(record)


def test_a_history_that_cannot_be_listed_is_said(monkeypatch):
    run()

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = records.history("contract_toy")
    assert len(found) == 0
    assert "contract_toy: Permission denied" in found.skipped[0]


def test_the_first_run_of_a_process_sweeps():
    killed, working = folder() / ".20260101-000000-000-aaaa.1", folder() / ".20260101-000000-000-bbbb.2"
    for aside in (killed, working):
        aside.mkdir(parents=True)
    os.utime(killed, (0, 0))
    run()
    assert not killed.exists()
    assert working.exists()
    killed.mkdir()
    os.utime(killed, (0, 0))
    run()
    assert killed.exists()  # once is enough: later ones are left to the next process


def test_numbers_that_are_not_finite_come_back(monkeypatch):
    toys.install(toys.UNBOUNDED, monkeypatch)
    done = runner.start("contract_toy", preset="tiny").wait(60)
    assert (done.state, done.unrecorded) == ("done", "")
    again = records.history("contract_toy")[0].result()
    assert repr(again) == repr(done.result)
    assert again.config.factor == math.inf
    assert again.best.at == math.inf
    assert math.isnan(again.values[-1])
    told = json.loads(done.record.result().to_json(indent=1))
    assert told["best"]["at"] == math.inf


def test_record_is_plain_json():
    facts = json.loads((run(seed=9).record.path / "record.json").read_text())
    assert facts["config"]["seed"] == 9
    assert facts["system"] == "contract_toy"
    assert time.strptime(facts["started_at"][:19], "%Y-%m-%dT%H:%M:%S")


def test_a_wrong_name_is_an_error():
    with pytest.raises(KeyError, match="no system is called 'nosuch'"):
        records.history("nosuch")

"""The command line: flags from the config, one JSON object, exit codes, one line for what went wrong."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import contract_toys as toys
import pytest

from workbench import backends, benches, cli, records
from workbench.flags import flag, parse
from workbench.system import NAMES, Note, Progress

COMMAND = [str(Path(sys.executable).with_name("workbench"))]


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    toys.install(toys.GOOD, monkeypatch)


@pytest.fixture
def call(capfd):
    """Runs a command line in this process: (exit code, stdout, stderr)."""

    def run(line):
        code = cli.call(line.split())
        return code, *capfd.readouterr()

    return run


def test_json_is_one_object(call):
    code, out, err = call("run contract_toy --preset tiny --seed 3 --factor 2 --json")
    told = json.loads(out)
    assert code == 0
    assert told["summary"]["steps"] == 20.0
    assert all(isinstance(value, float) for value in told["summary"].values())
    assert told["config"]["seed"] == 3
    assert told["config"]["factor"] == 2.0
    assert told["provenance"]["badges"] == {"total": "measured", "steps": "modelled"}
    assert told["record"] == records.history("contract_toy")[0].id
    assert told["claims"][0]["paper"] == 3.0
    assert told["call"] == 'wb.run("contract_toy", preset="tiny", seed=3, factor=2.0)'
    assert "contract_toy" in err


def test_whatever_is_printed_goes_to_stderr(call, monkeypatch):
    def noisy(config):
        print("printed by python")
        os.write(1, b"written by a library\n")
        subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
        yield Note("take note", "warning")
        return (yield from toys.work(config))

    toys.install(toys.but(work=noisy), monkeypatch)
    code, out, err = call("run contract_toy --preset tiny --json")
    assert code == 0
    assert set(json.loads(out)) >= {"summary", "config", "provenance", "record"}
    for said in ("printed by python", "written by a library", "printed by a child", "warning: take note"):
        assert said in err


NOISY_IN_C = f"""
import atexit, ctypes, os, sys
sys.path.insert(0, {str(Path(toys.__file__).parent)!r})
import pytest, contract_toys as toys
from workbench import cli
kept, c = sys.stdout, ctypes.CDLL(None)
def noisy(config):
    c.printf(b"printed in C\\n")
    kept.write("written to what was sys.stdout\\n")
    return (yield from toys.work(config))
toys.install(toys.but(work=noisy), pytest.MonkeyPatch())
c.printf(b"printed in C before the run\\n")
atexit.register(lambda: os.write(1, b"written at exit\\n"))
cli.main("run contract_toy --preset tiny --json".split())
"""


def test_what_lies_in_a_buffer_does_not_come_out_after_the_answer():
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", NOISY_IN_C], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["system"] == "contract_toy", done.stdout
    for said in ("printed in C", "printed in C before the run", "written to what was sys.stdout", "written at exit"):
        assert f"{said}\n" in done.stderr


def test_numbers_that_are_none_of_json(call, monkeypatch):
    toys.install(toys.with_result(summary=lambda self: {"total": float("nan"), "steps": 1.0}), monkeypatch)
    code, out, _ = call("run contract_toy --preset tiny --factor inf --json")
    assert code == 0
    told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["summary"] == {"total": None, "steps": 1.0}
    assert told["config"]["factor"] is None


def test_words_for_a_terminal(call):
    code, out, err = call("run contract_toy --preset tiny")
    assert code == 0
    assert out.startswith("The 20 steps came to")
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(("total  ", "steps  "))][:2] == [
        "measured",
        "modelled",
    ]
    assert "Table 1" in out
    assert "recorded as" in err


def test_out_writes_every_format(call, tmp_path):
    folder = tmp_path / "new" / "folder"
    code, out, _ = call(f"run contract_toy --preset tiny --json --out {folder}")
    assert code == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        f"contract_toy{ending}" for ending in (".csv", ".html", ".json", ".trace.json")
    ]
    assert sorted(json.loads(out)["files"]) == sorted(map(str, folder.iterdir()))
    assert (folder / "contract_toy.csv").read_text().startswith("step,value\n0,")
    assert json.loads((folder / "contract_toy.trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize("line", ["run contract_toy --preset tiny --json --out {}/file", "report --out {}/file/r.html"])
def test_a_place_that_cannot_be_written_is_said_before_anything_runs(call, tmp_path, line):
    (tmp_path / "file").touch()
    code, out, err = call(line.format(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("workbench: --out: nothing can be written to ")
    assert err.count("\n") == 1
    assert len(records.history("contract_toy")) == 0


def test_a_folder_is_no_report(call, tmp_path):
    code, _, err = call(f"report --out {tmp_path}")
    assert code == 2
    assert f"is a folder; name a file in it, as {tmp_path}/report.html" in err


def test_an_export_that_fails_leaves_the_answer(call, tmp_path):
    (tmp_path / "contract_toy.csv").mkdir()
    code, out, err = call(f"run contract_toy --preset tiny --json --out {tmp_path}")
    assert code == 1
    assert json.loads(out)["files"] == []
    assert f"workbench: not all was written to {tmp_path}: " in err


def test_help_lists_the_fields(call):
    code, out, _ = call("run contract_toy --help")
    words = " ".join(out.split())
    assert code == 0
    assert "--factor NUMBER|none What each step multiplies by; none for no factor. More than 0" in words
    assert "--steps INTEGER Steps to take. At least 1, at most 1000" in words
    assert "--check / --no-check Look at the outcome again" in words
    assert "--mode both|one" in words
    assert "--preset NAME" in words


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("--factor none", {"factor": None}),
        ("--no-check", {"check": False}),
        ("--check", {"check": True}),
        ("--sizes 3,4,5", {"sizes": [3, 4, 5]}),
        ("--mode one --steps=7", {"mode": "one", "steps": 7}),
    ],
)
def test_flags_become_fields(call, line, changes):
    code, out, _ = call(f"run contract_toy --preset tiny {line} --json")
    assert code == 0
    told = json.loads(out)["config"]
    assert {name: told[name] for name in changes} == changes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run contract_toy --steps 0", "--steps: Input should be greater than or equal to 1, not '0'"),
        ("run contract_toy --steps many", "--steps: "),
        ("run contract_toy --mode three", "--mode: "),
        ("run contract_toy --factor -1", "--factor: "),
        ("run cake --preset tiny --prompt-tokens 100 --grain 64", "--prompt-tokens: must hold more than two grains"),
        ("run contract_toy --stps 3", "--stps"),
        ("run contract_toy --steps", "--steps"),
        ("run contract_toy extra", "extra"),
        ("run contract_toy --preset huge", "no preset 'huge'; it has tiny, small, paper"),
        ("run nosuch", f"no system is called 'nosuch'; there are {', '.join(NAMES)}, contract_toy"),
        ("nosuch", "nosuch"),
        ("bench nosuch", "no benchmark is called nosuch; there are "),
        ("report --preset nosuch", f"no preset 'nosuch' in {', '.join(NAMES)}, contract_toy"),
    ],
)
def test_a_wrong_call_is_one_line_and_2(call, line, said):
    code, out, err = call(line)
    assert code == 2
    assert out == ""
    assert said in err
    assert err.startswith("workbench: ")
    assert err.count("\n") == 1


def test_a_failure_is_one_line_and_1(call, monkeypatch):
    def fails(config):
        yield Progress(0, 1, "")
        raise RuntimeError("the disk is full;\nfree some room")

    toys.install(toys.but(work=fails), monkeypatch)
    code, out, err = call("run contract_toy --preset tiny --json")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "workbench: RuntimeError: the disk is full; free some room"
    assert "Traceback" not in err
    code, _, err = call("run contract_toy --preset tiny --debug")
    assert code == 1
    assert "Traceback" in err


def test_an_unavailable_backend_is_a_failure(call):
    code, _, err = call("run contract_toy --preset tiny --backend sim")
    assert code == 1
    assert "BackendUnavailable: backend 'sim' is not one of this system's: cpu" in err


def test_a_record_that_cannot_be_written_is_said(call, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "file"))
    code, out, err = call("run contract_toy --preset tiny --json")
    told = json.loads(out)
    assert (code, told["record"]) == (0, None)
    assert told["unrecorded"].startswith("not recorded")
    assert "not recorded" in err


@pytest.mark.parametrize("line", ["", "--help", "run", "run --help", "list", "doctor --help"])
def test_help_and_lists(call, line):
    code, out, _ = call(line)
    assert code == 0
    assert out


def test_list_as_json(call):
    _, out, _ = call("list --json")
    told = json.loads(out)
    assert told["contract_toy"]["presets"] == ["tiny", "small", "paper"]
    assert told["cake"]["backends"]


def test_bench_appends(call, monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "ROOT", tmp_path)
    rows = [{"case": "a", "number": "x_s", "value": 1.5, "badge": "measured"}]
    for _ in range(2):
        assert benches.append("toy", rows) == tmp_path / "benchmarks" / "toy.csv"
    lines = (tmp_path / "benchmarks" / "toy.csv").read_text().splitlines()
    assert lines[0] == "at,commit,device,case,number,value,badge"
    assert len(lines) == 3
    assert lines[1].endswith("a,x_s,1.5,measured")
    with pytest.raises(ValueError, match="a row of toy has the columns at, commit, device, case, not at, "):
        benches.append("toy", [{"case": "a"}])


def test_bench_looks_at_its_file_before_it_measures(call, monkeypatch, tmp_path):
    ran = []
    module = types.ModuleType("toy_bench")
    module.main = lambda: ran.append(1) or [{"case": "a", "number": "x_s", "value": 1, "badge": "measured"}]
    monkeypatch.setitem(sys.modules, "toy_bench", module)
    monkeypatch.setattr(benches, "benches", lambda: {"toy": "toy_bench"})
    monkeypatch.setattr(backends, "ROOT", tmp_path)
    path = tmp_path / "benchmarks" / "toy.csv"
    assert call("bench toy")[:2] == (0, f"{path}\n")
    path.write_text("at,commit,device,other\n")
    code, out, err = call("bench toy")
    assert (code, out, ran) == (1, "", [1])
    assert f"{path} has the columns at, commit, device, other, not at, commit, device, case, number" in err
    path.unlink()
    path.mkdir()
    assert call("bench toy")[0] == 1
    assert ran == [1]
    module.COLUMNS = ("case",)
    path.rmdir()
    module.main = lambda: [{"case": "b"}]
    assert call("bench toy")[0] == 0
    assert path.read_text().startswith("at,commit,device,case\n")


MAINS = """
import importlib, os, sys, torch  # most of them load torch; each is then imported where no other one was
for module in sys.argv[1:]:
    if (child := os.fork()) == 0:
        os._exit(not callable(importlib.import_module(module).main))
    if os.waitpid(child, 0)[1]: print(module)
"""


def test_every_benchmark_has_a_main():
    found = benches.benches()
    assert {"claim", "cake"} <= set(found)
    command = [sys.executable, "-c", MAINS, *found.values(), "json"]  # the last is none: a control
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.split()) == (0, ["json"]), done.stderr


def test_report_is_one_page(call, monkeypatch, tmp_path):
    from workbench import system

    monkeypatch.setattr(system, "NAMES", ("contract_toy",))
    system.systems.cache_clear()
    out = tmp_path / "new" / "report.html"
    code, said, _ = call(f"report --preset tiny --out {out}")
    files = [out, *(out.with_name(f"report-contract_toy{ending}") for ending in (".csv", ".json", ".trace.json"))]
    assert (code, said.split()) == (0, list(map(str, files)))
    page = out.read_text()
    assert "The 20 steps came to" in page
    assert "Table 1" in page
    assert "No result" not in page
    system.systems.cache_clear()


def test_a_system_that_fails_is_a_section_of_the_report(call, monkeypatch, tmp_path):
    from workbench import system

    def fails(config):
        yield Progress(0, 1, "")
        raise RuntimeError("the <disk> is full")

    toys.install(toys.GOOD, monkeypatch)
    broken = toys.but(name="broken_toy", title="Broken", work=fails)
    toys.install(broken, monkeypatch)
    for place in (system, records):
        monkeypatch.setattr(place, "NAMES", ("broken_toy", "contract_toy"))
    out = tmp_path / "report.html"
    code, said, err = call(f"report --preset tiny --out {out}")
    assert code == 1
    assert str(out) in said
    assert "workbench: broken_toy: RuntimeError: the <disk> is full" in err
    page = out.read_text()
    assert "The 20 steps came to" in page
    assert "<h2>Broken</h2>" in page
    assert "RuntimeError: the &lt;disk&gt; is full" in page
    system.systems.cache_clear()


@pytest.mark.parametrize("args", [["--help"], ["run", "cake", "--help"], ["list"], ["doctor", "--json"]])
def test_the_command_loads_nothing_heavy(args):
    """The installed command, in a process of its own, with the heavy modules made impossible to import."""
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "plotly", "vllm", "ray", "transformers", "pandas"):
            raise AssertionError(f"{{name}} was imported")
sys.meta_path.insert(0, Refuse())
from importlib.util import find_spec
import importlib.util
importlib.util.find_spec = lambda name, package=None: None
from workbench.cli import call
sys.exit(call({args!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_cancels_and_exits_130():
    run = subprocess.Popen(
        [*COMMAND, "run", "cake", "--preset", "tiny", "--prompt-tokens", "4000", "--link-mb-s", "0.1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    for line in run.stderr:
        if "MB/s" in line or "round" in line or time.monotonic() > until:
            break
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "workbench: cancelled"
    assert [r.state for r in records.history("cake")] == ["cancelled"]


def test_installed_command_runs_cake():
    done = subprocess.run(
        [*COMMAND, "run", "cake", "--preset", "tiny", "--json"], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["exact"] == 1.0
    assert told["record"] == records.history("cake")[0].id


def test_values_and_names():
    assert flag("link_mb_s") == "--link-mb-s"
    assert parse("none", float | None) is None
    assert parse("none", str) == "none"
    assert parse("1, 2", tuple[int, ...]) == ["1", "2"]
    assert parse('{"a": 1}', dict[str, int]) == {"a": 1}

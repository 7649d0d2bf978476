"""Backends: there or the reason why not; a choice is never lowered in silence; provenance is whole."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from workbench import __version__, backends


def gone(name):
    return backends.Backend(name, False, "no such thing here", "buy one")


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.setattr(backends, "gpus", lambda: ("NVIDIA X, driver 1.2",))
    monkeypatch.setattr(backends, "_torch_cuda", lambda: "13.0")
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_every_name_is_answered():
    for name, found in backends.backends().items():
        assert found.name == name
        assert found.detail
        assert found.available or found.how
    with pytest.raises(KeyError, match="no backend is called 'tpu'; there are cuda, cpu, sim"):
        backends.backend("tpu")


def test_auto_takes_the_best(with_gpu, monkeypatch):
    assert backends.choose("auto", {"cpu", "cuda", "sim"}) == "cuda"
    assert backends.choose("auto", {"sim", "cpu"}) == "cpu"
    monkeypatch.setattr(backends, "gpus", tuple)
    assert backends.choose("auto", {"cpu", "cuda", "sim"}) == "cpu"


def test_a_choice_is_never_lowered(monkeypatch):
    monkeypatch.setattr(backends, "_torch_cuda", lambda: "")
    with pytest.raises(backends.BackendUnavailable, match=r"'cuda' is not available: torch .* without CUDA; on a mach"):
        backends.choose("cuda", {"cpu", "cuda"})
    with pytest.raises(backends.BackendUnavailable, match="not one of this system's: cpu, sim"):
        backends.choose("cuda", {"cpu", "sim"})
    with pytest.raises(backends.BackendUnavailable, match="none of cuda is available"):
        backends.choose("auto", {"cuda"})


def test_why_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(backends, "_torch_cuda", lambda: "13.0")
    monkeypatch.setattr(backends, "gpus", tuple)
    assert "no NVIDIA GPU or driver" in backends.backend("cuda").detail
    monkeypatch.setattr(backends, "version", lambda package: "")
    assert backends.backend("cuda").detail == "torch is not installed"


@pytest.mark.parametrize("gpus", [(), ("NVIDIA X, driver 1.2",)])
@pytest.mark.parametrize("engine", backends.ENGINES)
def test_an_engine_that_is_not_installed(engine, gpus, monkeypatch):
    monkeypatch.setattr(backends, "version", lambda package: "")
    monkeypatch.setattr(backends, "gpus", lambda: gpus)
    found = backends.backend(engine)
    assert not found.available
    assert "not installed" in found.detail
    assert found.how == f"rm -f .venv/.ready && make setup EXTRA={'gpu' if gpus else 'cpu'}"


@pytest.mark.vllm
@pytest.mark.lmcache
@pytest.mark.parametrize("engine", backends.ENGINES)
def test_the_engines_of_the_full_set_are_there(engine):
    assert backends.backend(engine).available, backends.backend(engine)


def test_a_compiler_is_found_on_path(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "COMPILERS", {"nvcc": "/nonexistent", "hipcc": "/nonexistent"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not backends.backend("hipcc").available
    (tmp_path / "hipcc").write_text("#!/bin/sh\n")
    (tmp_path / "hipcc").chmod(0o755)
    assert backends.backend("hipcc").detail == str(tmp_path / "hipcc")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("sse4_2 avx avx2", "AVX2"),
        ("avx avx2 avx512f avx512_bf16", "AVX-512 with bf16"),
        ("fp asimd", "NEON"),
        ("sse2", "no AVX"),
    ],
)
def test_vector_levels(flags, words, monkeypatch):
    monkeypatch.setattr(backends, "_cpuinfo", lambda key: flags if key == "flags" else "")
    assert backends.vector_level.__wrapped__() == words


def test_a_system_without_cpuinfo_says_so(monkeypatch):
    monkeypatch.setattr(backends, "_cpuinfo", lambda key: "")
    monkeypatch.setattr(backends.platform, "system", lambda: "Darwin")
    assert backends.vector_level.__wrapped__() == "vector extensions not known on Darwin"
    assert backends.cpu_model.__wrapped__()


def test_provenance():
    told = backends.provenance("cpu", {"ttft_s": "measured"}, seconds=2.5)
    assert told.device == f"{backends.cpu_model()}, {backends.cores()} cores, {backends.vector_level()}".replace(
        "1 cores", "1 core"
    )
    assert told.versions["torch"].startswith("2.13.0")
    assert datetime.fromisoformat(told.started_at).utcoffset().total_seconds() == 0
    assert told.seconds == 2.5
    assert told.badges == {"ttft_s": "measured"}


def git(folder, *args):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *args], check=True, capture_output=True, text=True
    ).stdout


def test_commit_says_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "ROOT", tmp_path)
    assert backends.commit() == __version__  # no checkout: a wheel
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    assert backends.commit() == git(tmp_path, "rev-parse", "--short=7", "HEAD").strip()
    Path(tmp_path / "file").write_text("two")
    assert backends.commit() == git(tmp_path, "rev-parse", "--short=7", "HEAD").strip() + "-dirty"


def test_what_runs_write_is_no_dirt(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    assert backends.commit() == __version__  # nothing committed yet
    files = [tmp_path / name for name in ("notebooks/a.ipynb", "benchmarks/b.csv", "tests/notebooks/c.py")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    clean = git(tmp_path, "rev-parse", "--short=7", "HEAD").strip()
    for file in files[:2]:
        file.write_text("two")
    (tmp_path / "untracked").touch()
    assert backends.commit() == clean
    git(tmp_path, "add", "benchmarks")
    assert backends.commit() == clean
    files[2].write_text("two")
    assert backends.commit() == f"{clean}-dirty"
    git(tmp_path, "add", "tests")
    assert backends.commit() == f"{clean}-dirty"


def test_nvidia_smi_is_asked(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA A, 1.2'\necho 'NVIDIA B, 1.2'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert backends.gpus.__wrapped__() == ("NVIDIA A, driver 1.2", "NVIDIA B, driver 1.2")
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert backends.gpus.__wrapped__() == ()

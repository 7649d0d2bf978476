"""The measured run on vLLM: a child process does the work, this side streams what it says and ends it whatever happens.

The child is `python -m workbench.cake.vllm_bench FD`: config as JSON on its stdin, one JSON object a line on the pipe
FD. Its stdout and stderr, where the engine logs, go to a file whose end is quoted when the child dies.

    {"is": "Progress" | "Point" | "Span" | "Note", ...fields}      an event of the contract
    {"is": "facts", ...}                                           fields of CakeResult; the last line
    {"is": "error", "text": ...}                                   what the child raised, in a line
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from workbench import vllm_process
from workbench.backends import BackendUnavailable
from workbench.cake.config import CakeConfig
from workbench.cake.work import assemble
from workbench.child import Child, ChildDied
from workbench.system import Event, Note, Point, Progress, Result, Span

START_S = 300.0  # from the start of the child to its first word from inside the engine
SILENCE_S = 600.0  # without a word after that
BEAT_S = 0.05
KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in (Progress, Point, Span, Note)}
# Beside those of every vLLM here, whose one compute thread leaves the other core to the loader. KV cache in GB.
OWN = {"VLLM_CPU_KVCACHE_SPACE": "1", "LMCACHE_TRACK_USAGE": "false"}


def measured_vllm(config: CakeConfig) -> Generator[Event, None, Result]:
    """Measure on real vLLM. BackendUnavailable without vLLM, ChildDied when the child fails."""
    if not vllm_process.build():
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
    environment = vllm_process.ENVIRONMENT | vllm_process.ON_CPU | OWN
    child = Child([sys.executable, "-m", "workbench.cake.vllm_bench"], folder, environment, "vLLM")
    try:
        child.send_text(config.model_dump_json(), last=True)
        return (yield from _listen(child))
    finally:
        child.end()


def _listen(child: Child) -> Generator[Event, None, dict[str, Any]]:
    shown, patience = Progress(0, 1, "starting vLLM"), START_S
    while True:
        said = child.read(BEAT_S)
        if not said:
            child.check_silence(patience)
            yield shown
        for fields in said:
            patience = SILENCE_S
            kind = fields.pop("is")
            if kind == "facts":
                return fields
            if kind == "error":
                raise ChildDied(f"vLLM run failed: {fields['text']}. {child.tail()}")
            event = KINDS[kind](**fields)
            if isinstance(event, Progress):
                shown, child.doing = event, event.note
            yield event

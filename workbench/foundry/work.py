"""A Foundry run as the contract has it: measured on this processor, or modelled, and put together."""

from __future__ import annotations

import queue
import time
from functools import partial
from typing import Any

from workbench import backends
from workbench.foundry.config import FoundryConfig
from workbench.foundry.result import FoundryResult
from workbench.pump import pump
from workbench.system import Note, Work


def work(config: FoundryConfig) -> Work:
    """Capture, rebuild, compare; or model it. BackendUnavailable when what the config names is not there.

    "auto" never takes "cuda": that backend has not run on a GPU (`cuda.NEVER_RAN`), so it is taken by name only.
    """
    if config.backend == "cuda":
        from workbench.foundry import cuda

        cuda.check()
    where = "cuda" if config.backend == "cuda" else backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused(where == "sim"):
        kind = "modelled" if where == "sim" else "measured"
        yield Note(f"a {kind} run does not use {', '.join(unused)}", "warning")
    if where == "sim":
        from workbench.foundry.modelled import modelled

        return (yield from pump(partial(modelled, config)))
    if where == "cuda":
        from workbench.foundry.cuda_run import measured

        return (yield from pump(partial(measured, config)))
    from workbench.foundry.measure import Measure

    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    return (yield from pump(lambda say, stop: Measure(config, say, stop, asked).run(), asked.put))


def assemble(config: FoundryConfig, where: str, began: float, facts: dict[str, Any], device: str = "") -> FoundryResult:
    """The result with its provenance; `began` is time.monotonic() at the start, `device` what the driver calls it."""
    told = backends.provenance(where, {}, seconds=round(time.monotonic() - began, 3))
    told = told.model_copy(update={"device": device or told.device})
    draft = FoundryResult(config=config, provenance=told, **facts)
    return draft.badged(False, {"graphs": "set"}) if where == "sim" else draft.badged(True)

"""A Foundry run as the contract has it: measured on this processor, or modelled, and put together."""

from __future__ import annotations

import queue
import time
from functools import partial
from typing import Any

from workbench import backends
from workbench.foundry.config import FoundryConfig
from workbench.foundry.result import FoundryResult, summary_badges
from workbench.pump import pump
from workbench.system import Note, Work


def work(config: FoundryConfig) -> Work:
    """Capture, rebuild, compare; or model it. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused(where == "sim"):
        kind = "modelled" if where == "sim" else "measured"
        yield Note(f"a {kind} run does not use {', '.join(unused)}", "warning")
    if where == "sim":
        from workbench.foundry.modelled import modelled

        return (yield from pump(partial(modelled, config)))
    from workbench.foundry.measure import Measure

    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    return (yield from pump(lambda say, stop: Measure(config, say, stop, asked).run(), asked.put))


def assemble(config: FoundryConfig, where: str, began: float, facts: dict[str, Any]) -> FoundryResult:
    """The result with its provenance; `began` is time.monotonic() at the start."""
    draft = FoundryResult(config=config, provenance=backends.provenance(where, {}), **facts)
    badges = summary_badges(list(draft.summary()), measured=where != "sim")
    seconds = round(time.monotonic() - began, 3)
    return draft.model_copy(update={"provenance": backends.provenance(where, badges, seconds=seconds)})

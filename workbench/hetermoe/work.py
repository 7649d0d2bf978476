"""A HeterMoE run as the contract has it: measured or simulated, what happens streamed, the result put together."""

from __future__ import annotations

import queue
from functools import partial
from typing import Any

from workbench import backends
from workbench.hetermoe.config import HeterMoEConfig
from workbench.hetermoe.result import BADGES, HeterMoEResult
from workbench.pump import pump
from workbench.system import Note, Work


def work(config: HeterMoEConfig) -> Work:
    """Plan and simulate, or train and measure. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused(where == "sim"):
        kind = "simulated" if where == "sim" else "measured"
        yield Note(f"a {kind} run does not use {', '.join(unused)}", "warning")
    if where == "sim":
        from workbench.hetermoe.simulate import run as simulated

        asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        return (yield from pump(lambda say, stop: simulated(config, say, stop, asked), asked.put))
    from workbench.hetermoe.live import run as live

    return (yield from pump(partial(live, config)))


def stamped(config: HeterMoEConfig, where: str, seconds: float, facts: dict[str, Any]) -> HeterMoEResult:
    """The result with its provenance."""
    told = backends.provenance(where, {}, seconds=round(seconds, 3))
    return HeterMoEResult(config=config, provenance=told, **facts).badged(where != "sim", BADGES)

"""An RLBoost run as the contract has it: live or simulated, what happens streamed, the result put together."""

from __future__ import annotations

import queue
from functools import partial
from typing import Any

from workbench import backends
from workbench.pump import pump
from workbench.rlboost.config import RLBoostConfig
from workbench.rlboost.result import BADGES, RLBoostResult
from workbench.system import Note, Work


def work(config: RLBoostConfig) -> Work:
    """Train, or simulate it. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused(where == "sim"):
        kind = "simulated" if where == "sim" else "live"
        yield Note(f"a {kind} run does not use {', '.join(unused)}", "warning")
    if where == "sim":
        from workbench.rlboost.simulate import run as simulated

        return (yield from pump(partial(simulated, config)))
    if config.engine == "vllm":
        backends.need("vllm")  # here, where it says why not, and not on each node
    from workbench.rlboost.ray_run import run as live

    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    return (yield from pump(lambda say, stop: live(config, say, stop, asked), asked.put))


def stamped(config: RLBoostConfig, where: str, seconds: float, facts: dict[str, Any]) -> RLBoostResult:
    """The result with its provenance."""
    told = backends.provenance(where, {}, seconds=round(seconds, 3))
    return RLBoostResult(config=config, provenance=told, **facts).badged(where != "sim", BADGES)

"""A Plato run as the contract has it: pick where it runs, stream what happens, put the result together."""

from __future__ import annotations

from functools import partial
from typing import Any

from workbench import backends
from workbench.plato.config import PlatoConfig
from workbench.plato.result import PlatoResult
from workbench.pump import pump
from workbench.system import Note, Work


def work(config: PlatoConfig) -> Work:
    """Answer the query by every way. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused():
        kind = "simulated" if where == "sim" else "measured"
        yield Note(f"a {kind} run does not use {', '.join(unused)}", "warning")
    if config.plan is not None and config.planner not in ("script", "given"):
        use = "is not used" if config.planner == "rules" else "is only what its edges are compared with"
        said = f"planner={config.planner!r} makes a plan of its own, and the one in the settings {use}"
        yield Note(f"{said}; planner='script' or 'given' decodes it", "warning")
    if where == "sim":
        from workbench.plato.simulate import simulate

        return (yield from pump(partial(simulate, config)))
    from workbench.plato.measure import measure

    return (yield from pump(partial(measure, config)))


def stamped(config: PlatoConfig, where: str, seconds: float, facts: dict[str, Any]) -> PlatoResult:
    """The result with its provenance."""
    told = backends.provenance(where, {}, seconds=round(seconds, 3))
    return PlatoResult(config=config, provenance=told, **facts).badged(where != "sim", {"predicted_s": "modelled"})

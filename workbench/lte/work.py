"""An LTE run as the contract has it: pick where it runs, stream what happens, put the result together."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from workbench import backends
from workbench.lte.config import LteConfig
from workbench.lte.result import BADGES, LteResult, Row
from workbench.pump import pump
from workbench.system import Note, Progress, Result, Work

SPARSITIES = (0.0, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95)


def work(config: LteConfig) -> Work:
    """Score and time a sparse model. BackendUnavailable when what the config names is not there."""
    where = backends.choose(config.backend, {"cpu", "sim"})
    if unused := config.unused():
        kind = "simulated run" if where == "sim" else f"run with use={config.use!r}"
        yield Note(f"a {kind} does not use {', '.join(unused)}", "warning")
    if where == "sim":
        yield Progress(0, 1, "modelling")
        result = simulated(config)
        yield from result.spans()
        yield Progress(1, 1, "done")
        return result
    return (yield from pump(partial(_measured, config)))


def _measured(config: LteConfig, say: object, stop: threading.Event) -> Result:
    from workbench.lte.measure import measure  # loads torch

    return measure(config, say, stop)  # type: ignore[arg-type]


def simulated(config: LteConfig) -> Result:
    """A token's time by sparsity, from the bytes it reads."""
    from workbench.held import Held
    from workbench.lte import recorded, sim

    began = time.monotonic()
    model, device = config.sim_model, config.sim_device
    row = partial(Row, what="model", badge="modelled")
    rows = [
        made
        for s in SPARSITIES
        for made in (
            row(name="token", x=s, value=1e3 * sim.token_s(model, device, s), unit="ms"),
            row(
                name="times as fast", x=s, value=sim.token_s(model, device, 0) / sim.token_s(model, device, s), unit="x"
            ),
            row(name="ceiling", x=s, value=sim.ceiling(model, s), unit="x"),
        )
    ]
    rows.append(row(name="latency cut", x=0.5, value=sim.latency_cut_pct(model, device, 0.5), unit="%"))
    shape, at, strokes = sim.SHAPES[model], 0.0, []
    for name, weights in (
        ("attention, head, KV cache", shape.rest),
        ("routers", shape.routers),
        ("FFN, half", shape.ffn / 2),
    ):
        end = at + sim.BYTES * weights / (sim.BANDWIDTH_GB_S[device] * 1e9)
        strokes.append(
            Held(
                lane="one token",
                start_s=at,
                end_s=end,
                label=name,
                kind="load",
                why={"bytes": float(sim.BYTES * weights)},
            )
        )
        at = end
    facts = {"rows": [*rows, *recorded.rows()], "strokes": strokes, "recorded_on": recorded.machine()}
    return stamped(config, "sim", time.monotonic() - began, facts)


def stamped(config: LteConfig, where: str, seconds: float, facts: dict[str, Any]) -> LteResult:
    """The result with its provenance."""
    told = backends.provenance(where, {}, seconds=round(seconds, 3))
    return LteResult(config=config, provenance=told, **facts).badged(where != "sim", BADGES)

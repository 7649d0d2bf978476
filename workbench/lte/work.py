"""An LTE run as the contract has it: pick where it runs, stream what happens, put the result together."""

from __future__ import annotations

import threading
import time
from functools import partial

from workbench import backends
from workbench.lte.config import LteConfig
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
    from workbench.lte import recorded, sim
    from workbench.lte.result import LteResult, Row, Stroke, badges

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
            Stroke(
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
    draft = LteResult(config=config, provenance=backends.provenance("sim", {}), **facts)
    told = badges(list(draft.summary()), measured=False)
    seconds = round(time.monotonic() - began, 3)
    return draft.model_copy(update={"provenance": backends.provenance("sim", told, seconds=seconds)})

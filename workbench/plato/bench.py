"""Plato measured: `workbench bench plato` appends rows to benchmarks/plato.csv. Twenty minutes; on a quiet machine.

Every way of answering the bundled queries of each shape, in interleaved rounds, in both types and on vLLM; what a step
costs by width (the stand-in machines of simulate.py are taken from here); what each part of Plato is worth; how well
the forecast holds; the scheduler's own time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import workbench as wb
from workbench import lm
from workbench.plato import SYSTEM
from workbench.plato.cost import KNOTS
from workbench.plato.forecast import remaining
from workbench.plato.graph import plan_of
from workbench.plato.result import WAYS, PlatoResult
from workbench.plato.simulate import MACHINES, simulated

SHAPES = ("wide", "join", "levels", "eight", "chain", "single")
ROUNDS = 7  # of the refused chain
WITHOUT: dict[str, dict[str, Any]] = {
    "no pipeline": {"pipeline": False},
    "context: needs": {"context": "needs"},
    "plan given": {"planner": "given"},
    "never refuses": {"refuse": False},
    "cold instructions": {"warm": False},
}


def main() -> list[dict[str, Any]]:
    """Run everything; one row per number. WORKBENCH_BENCH: what to measure, all of it if not set."""
    wanted = os.environ.get("WORKBENCH_BENCH", "simulator bfloat16 float32 parts chain vllm").split()
    rows = [*_simulator()] if "simulator" in wanted else []
    for dtype in ("bfloat16", "float32"):
        if dtype in wanted:
            for shape in SHAPES if dtype == "bfloat16" else ("wide", "join", "chain"):
                rows += _measured(f"embedded {dtype}, {shape}", dtype=dtype, example=shape, rounds=3)
    if "parts" in wanted:
        for name, change in WITHOUT.items():
            for shape in ("join", "chain"):
                rows += _measured(f"embedded {lm.fast_dtype()}, {shape}, {name}", example=shape, rounds=2, **change)
    if "chain" in wanted:  # a few per cent are looked for, and a machine's minutes differ by as much
        rows += _measured(f"embedded {lm.fast_dtype()}, chain, {ROUNDS} rounds", example="chain", rounds=ROUNDS)
    if "vllm" in wanted:
        for shape in ("wide", "join", "chain"):
            rows += _measured(f"vllm, {shape}", engine="vllm", example=shape, rounds=3)
    return rows


def _row(case: str, name: str, value: float, badge: str) -> dict[str, Any]:
    print(f"  {case:<40} {name:<28} {value:10.4g}  {badge}")
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}


def _measured(case: str, **changes: Any) -> Iterator[dict[str, Any]]:
    result = wb.run("plato", SYSTEM.make("small", **changes))
    assert isinstance(result, PlatoResult)
    for name, value in result.summary().items():
        yield _row(case, name, value, result.provenance.badges[name])
    for way in WAYS:
        if rows := result.of(way):
            yield _row(case, f"{way} total_s", median(r.total_s for r in rows), "measured")
            if len(rows) > 2:
                yield _row(case, f"{way} fastest total_s", min(r.total_s for r in rows), "measured")
            known = [r.predicted_s / r.total_s for r in rows if r.predicted_s is not None]
            if known:
                yield _row(case, f"{way} predicted over measured", median(known), "modelled")
    cost = result.machine.cost() if result.machine else None
    if cost is not None and changes.get("example") == SHAPES[0]:
        for tokens, seconds in zip(KNOTS, cost.table, strict=True):
            yield _row(case, f"step_s at {tokens} tokens", seconds, "modelled")
        for name in ("row_s", "kv_s", "error"):
            yield _row(case, f"fitted {name}", getattr(cost, name), "modelled")


def _simulator() -> Iterator[dict[str, Any]]:
    """Processor time of a forecast of all ways, and of the judge's shortcut."""
    cost = MACHINES["flat"]
    began = time.process_time()
    simulated(SYSTEM.make("paper"), cost)  # type: ignore[arg-type]
    yield _row("forecast, five ways of eight parts", "cpu_s", time.process_time() - began, "measured")
    plan = plan_of([(f"question {i}?", (i - 1,) if i % 3 == 0 else ()) for i in range(1, 17)])
    began = time.process_time()
    for _ in range(200):
        remaining(cost, plan, {}, frozenset())
    yield _row("judge, sixteen parts", "cpu_s", (time.process_time() - began) / 200, "measured")

"""HeterMoE measured over lengths: `workbench bench hetermoe` keeps its rows with the others. Ten minutes or more.

Two processes on two cores, the one with a fused attention kernel, the other with a naive one. At each length all ways
take turns on the same ranks: zebra with the experts that the planner moves and without, our expert parallelism, DistEP,
and the real DeepSpeed-MoE. Beside each the prediction from a profile that was measured right before, in which messages
are work of the cores (shared.py). In the end: in how many cells the planner chose the winner, and where it predicted a
win of over 10 per cent and there was none. Ways are compared within rounds.

WORKBENCH_BENCH: what to measure, as "256 512 scale"; all of it if not set. scale: the planner's own seconds as clusters
grow. Ratios compare ways of one cell, that is of the same minutes; tokens a second say nothing of another machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import workbench as wb
from workbench.hetermoe.config import PRESETS
from workbench.hetermoe.result import RIVAL, TESTED, HeterMoEResult
from workbench.hetermoe.scale import scaling

LENGTHS = (128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
TOKENS = 4096  # of a batch, at least two sequences
WIN = 1.1
TIE = 0.03  # ways that are closer than this are not told apart by three rounds here
OWN = ("zebra", "plain", "ep", "distep")


def main() -> list[dict[str, Any]]:
    """Run every cell; one row per number."""
    parts = os.environ.get("WORKBENCH_BENCH", " ".join([*map(str, LENGTHS), "scale"])).split()
    wanted = [int(part) for part in parts if part != "scale"]
    rows: list[dict[str, Any]] = [*scale()] if "scale" in parts else []
    return rows + (grid(wanted) if wanted else [])


def grid(wanted: Sequence[int]) -> list[dict[str, Any]]:
    """Every way at these lengths, and how often the planner was right."""
    rows: list[dict[str, Any]] = []
    chosen = medians = promised = kept = 0
    for length in wanted:
        result = wb.run("hetermoe", PRESETS["small"].model_copy(update={"length": float(length), "tokens": TOKENS}))
        assert isinstance(result, HeterMoEResult)
        rows += cell(result)
        chosen += right(result)
        medians += right_by_medians(result)
        if result.predicted(TESTED) > WIN * result.predicted(RIVAL):
            promised += 1
            kept += result.speed(TESTED) > result.speed(RIVAL)
    case = f"lengths {', '.join(map(str, wanted))}"
    rows.append(_row(case, "cells", len(wanted)))
    rows.append(_row(case, "planner chose the winner of most rounds, or one within 3 %", chosen))
    rows.append(_row(case, "the same by medians of each way", medians))
    rows.append(_row(case, "a win of over 10 % over EP was predicted", promised))
    rows.append(_row(case, "of these zebra won", kept))
    return rows


def scale() -> Iterator[dict[str, Any]]:
    """Seconds of one search, and what it gains, from 8 to 1,024 devices: half A40, half V100."""
    for row in scaling():
        case = f"{row.devices} devices, {row.experts} experts a layer, 32 layers"
        yield _row(case, "search_s", row.search_s)
        yield _row(case, "simulated steps", row.tried)
        yield _row(case, "step without offload over the one found", row.plain_s / row.step_s, "modelled")


def ahead(result: HeterMoEResult, way: str, other: str) -> float:
    """How many times as fast: the median over rounds, of which each has both within seconds of one another.

    The machine drifts by more from round to round than ways differ; medians of each way by itself mix rounds.
    """
    rates = [{row.round: row.tokens_per_s for row in result.of(name)} for name in (way, other)]
    return median(rates[0][at] / rates[1][at] for at in rates[0].keys() & rates[1].keys())


def right(result: HeterMoEResult) -> bool:
    """Whether what the planner would run was the fastest of ours, or not told apart from it, within rounds."""
    others = [way for way in result.ways() if way in OWN]
    return all(ahead(result, result.chosen, other) >= 1 - TIE for other in others)


def right_by_medians(result: HeterMoEResult) -> bool:
    """The same by each way's own median, as the first rows were counted."""
    return result.speed(result.chosen) >= (1 - TIE) * result.speed(result.winner)


def cell(result: HeterMoEResult) -> Iterator[dict[str, Any]]:
    """Every number of one length."""
    case = f"length {result.config.tokens_of_sequence}"
    badges = result.provenance.badges
    for name, value in result.summary().items():
        yield _row(case, name, value, badges[name])
    for way in result.ways():
        yield _row(case, f"{way}: tokens_per_s", result.speed(way))
        yield _row(case, f"{way}: predicted over measured", result.predicted(way) / result.speed(way), "modelled")
    yield _row(case, f"planner chose {result.chosen}, fastest by medians was {result.winner}", float(right(result)))
    if result.proof:
        yield _row(case, "control: max_rel_param_error without the gate's path", result.proof.control)


def _row(case: str, name: str, value: float, badge: str = "measured") -> dict[str, Any]:
    print(f"  {case:<28} {name:<56} {value:10.4g}  {badge}", flush=True)
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}

"""Quality measured: rows of what each way gets right. About ten minutes of one core; needs no quiet machine.

Every way of answering on generated tasks of every family, the true plan given; then who plans how well. Nothing here is
a time: the numbers depend on the weights, the type and the seeds, and on the machine only by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

from workbench import lm
from workbench.plato.embedded import EmbeddedEngine
from workbench.plato.quality import Planned, Score, assess, plans
from workbench.plato.tasks import FAMILIES, Task, generate

EDGES = ("plan_valid", "plan_parts", "plan_width", "edge_precision", "edge_recall", "edge_f1")
COLUMNS = ("model", "versions", "seed", *(field.name for field in fields(Score)), *EDGES)
DTYPE, SEED = lm.fast_dtype(), 0
TASKS, PLANNED = 6, 3  # of each family: answered by every way, and planned by every mode


def main() -> list[dict[str, Any]]:
    """Run everything; a row per way and family, and per planner and family. WORKBENCH_BENCH: tasks of each family."""
    each = int(os.environ.get("WORKBENCH_BENCH", TASKS))
    model = lm.load("smollm2", dtype=DTYPE)
    engine = EmbeddedEngine(model)
    tasks = generate(each * len(FAMILIES), SEED)
    try:
        rows = [*_ways(engine, model, tasks), *_planners(engine, tasks[: min(each, PLANNED) * len(FAMILIES)])]
    finally:
        engine.close()
    told = {"model": f"smollm2 {DTYPE}", "versions": f"torch {version('torch')}", "seed": SEED}
    return [dict.fromkeys(COLUMNS, "") | told | row for row in rows]


def _ways(engine: EmbeddedEngine, model: lm.LM, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    going = assess(engine, tasks, model=model)
    while True:
        try:
            graded = next(going)
        except StopIteration as end:
            scores: list[Score] = end.value
            break
        print(
            f"  {graded.family:<8} {graded.seed:>5} {graded.way:<18} {sum(graded.right.values())}/{len(graded.right)}"
        )
    for score in scores:
        yield {name: _rounded(value) for name, value in asdict(score).items()}


def _planners(engine: EmbeddedEngine, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """A plan that cannot be used counts as one without right edges."""
    found = list(plans(engine, tasks))
    for family in [*FAMILIES, "all"]:
        for mode in dict.fromkeys(p.mode for p in found):
            some = [p for p in found if p.mode == mode and family in (p.family, "all")]
            yield {"family": family, "way": f"planner: {mode}", "tasks": len(some)} | _edges(some)


def _edges(some: Sequence[Planned]) -> dict[str, Any]:
    edges = [p.edges for p in some if p.edges is not None]
    valid = {"plan_valid": _rounded(len(edges) / len(some))}
    if not edges:
        return valid | {"edge_precision": 0, "edge_recall": 0, "edge_f1": 0}
    return valid | {
        "plan_parts": _rounded(sum(e.parts for e in edges) / len(edges)),
        "plan_width": _rounded(sum(e.width for e in edges) / len(edges)),
        "edge_precision": _rounded(sum(e.precision for e in edges) / len(some)),
        "edge_recall": _rounded(sum(e.recall for e in edges) / len(some)),
        "edge_f1": _rounded(sum(e.f1 for e in edges) / len(some)),
    }


def _rounded(value: Any) -> Any:
    if value is None:
        return ""
    return float(f"{value:.4g}") if isinstance(value, float) else value

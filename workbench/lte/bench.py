"""LTE measured: `workbench bench lte` appends rows to lte.csv. Ten minutes; leave the machine alone.

Kernel and whole tokens of the shipped models at three thresholds, the union of batches, and the modelled tokens of the
paper's device. What the models score on the whole held-out part lies beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import workbench as wb
from workbench.lte import SYSTEM
from workbench.lte.result import LteResult
from workbench.lte.shelf import FOLDERS, has_artifact

TAUS = (0.3, 0.5, 0.7)
KEPT = ("kernel", "decode", "share", "union")


def main() -> list[dict[str, Any]]:
    """Run everything; one row per number."""
    rows: list[dict[str, Any]] = []
    for task in FOLDERS:
        for tau in TAUS if has_artifact(task) else ():
            rows += _measured(f"{task}, threshold {tau}", task=task, tau=tau)
    paper = wb.run("lte", SYSTEM.make("paper"))
    rows += [_row("LLaMA2-7B on RTX 3090 Ti", name, value, "modelled") for name, value in paper.summary().items()]
    return rows


def _row(case: str, name: str, value: float, badge: str) -> dict[str, Any]:
    print(f"  {case:<28} {name:<48} {value:10.4g}  {badge}")
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}


def _measured(case: str, **changes: Any) -> Iterator[dict[str, Any]]:
    result = wb.run("lte", SYSTEM.make("small", examples=64, windows=6, rounds=7, **changes))
    assert isinstance(result, LteResult)
    for name, value in result.summary().items():
        yield _row(case, name, value, result.provenance.badges[name])
    for row in result.rows:
        if row.what in KEPT and row.source == "this run":
            yield _row(case, f"{row.what}: {row.name} at {row.x:.3g}, {row.unit}", row.value, row.badge)

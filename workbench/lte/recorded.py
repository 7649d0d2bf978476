"""The curves that lie beside the shipped artifacts: every baseline at every sparsity, on a named machine.

A notebook cannot measure fifty models in a minute; these rows were, by `python -m workbench.lte.train_artifacts finish`
and `posthoc`, and each says that it is not of this run.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from workbench.lte.result import Row
from workbench.lte.shelf import ARTIFACTS, FOLDERS

RESULTS = "results.json"
NAMES = {
    "cats": "CATS, after training",
    "teal": "TEAL, after training",
    "random": "blocks by chance",
    "blocks": "best blocks (oracle)",
    "neurons": "best neurons (oracle)",
    "bare": "LTE, nothing stands in",
}
BARE = "bare lte"  # trained as long without stand-ins, and without the teacher's answers
ORACLES = (NAMES["blocks"], NAMES["neurons"])


@cache
def _read(task: str) -> dict[str, Any]:
    file = ARTIFACTS / FOLDERS[task] / RESULTS
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"rows": {}}
    return found


def machine() -> str:
    """Where the curves were measured; "" where none are shipped."""
    told = {str(_read(task).get("measured_on", "")) for task in FOLDERS} - {""}
    return "; ".join(sorted(told))


def rows(task: str | None = None) -> list[Row]:
    """All recorded scores, of one task or of both: LTE at several thresholds, dense, each method after training."""
    found = []
    for each in FOLDERS if task is None else (task,):
        source = str(_read(each).get("measured_on", ""))
        for key, row in _read(each)["rows"].items():
            found += [_row(name, row, source) for name in (_name(key),) if name]
    return found


def _name(key: str) -> str:
    """A key of results.json as a series of the figure; "" for what is no point of a curve."""
    word, _, rest = key.partition(" ")
    if key in ("lte", "dense") or key.startswith("lte tau"):
        return "LTE" if word == "lte" else "dense"
    return NAMES[word] if word in NAMES and (key == BARE or rest.replace(".", "").isdigit()) else ""


def _row(name: str, row: dict[str, Any], source: str) -> Row:
    ends = {"low": row.get("low"), "high": row.get("high")}
    at = {"x": row["sparsity"], "unread": row.get("unread")}
    return Row(what="score", name=name, value=row["value"], unit=row["unit"], source=source, **at, **ends)

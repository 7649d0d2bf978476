"""How long until a ladder of decode steps is ready in a new process, ours and torch's ways, and what a step then takes.

CPU, SmolLM2-135M in fp32, one thread: its first 6 layers, where every way fits into minutes, and all 30 for the ways
that compile nothing at start. Each way is a process of its own and includes its imports; rounds are interleaved. Sums
over the ladder are of the least time of a step at each size.

What was measured is kept in the folder of a case, so that `python -m workbench.foundry.bench FOLDER SECONDS` may stop
after so many seconds and goes on where it was when it is called again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.foundry import procs, rivals
from workbench.foundry.archive import read
from workbench.foundry.config import FIRST
from workbench.foundry.graph import decode

CAPACITY, ROUNDS, PATIENCE_S = 256, 2, 3600.0
CASES: dict[int, Sequence[str]] = {  # layers -> ways
    6: ("foundry", "cold", "warm", "mega", "aoti", "eager"),
    30: ("foundry", "eager"),
}


def main() -> list[dict[str, Any]]:
    """Capture, then every way on what was captured."""
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        return [row for layers in CASES for row in measure(layers, Path(folder) / str(layers))]


def measure(layers: int, folder: Path, until_s: float = math.inf) -> list[dict[str, Any]]:
    """One case; `folder` keeps the archive, what other ways load, and every number. [] past until_s (monotonic)."""
    os.environ["OMP_NUM_THREADS"] = "1"
    path, said = folder / "smollm2.foundry", folder / "capture.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not said.exists():
        job = {
            "do": "capture", "model": "smollm2", "layers": layers, "sizes": FIRST, "capacity": CAPACITY,
            "dynamic": True, "seed": 0, "threads": 1, "path": str(path),
        }  # fmt: skip
        answer = procs.ask(job, folder / "capturing", "capture", patience_s=PATIENCE_S)
        said.write_text(json.dumps(answer["seconds"]))
    found: dict[str, list[rivals.Measured]] = {way: [] for way in CASES[layers]}
    for number in range(ROUNDS):
        for way in CASES[layers]:
            kept = folder / f"{way}-{number}.json"
            if not kept.exists():
                if time.monotonic() > until_s:
                    return []
                (one,) = rivals.compare(path, ways=(way,), folder=folder / "ways", timeout_s=PATIENCE_S)[way]
                kept.write_text(json.dumps(asdict(one)))
            found[way].append(rivals.from_json(json.loads(kept.read_text())))
    return _rows(layers, path, float(said.read_text()), found)


def _rows(layers: int, path: Path, took_s: float, found: dict[str, list[rivals.Measured]]) -> list[dict[str, Any]]:
    case = f"SmolLM2-135M, {layers} layers, {len(FIRST)} sizes"
    numbers = {"capture_s": took_s, **rivals.summary(found, decode(read(path)))}
    for way, each in found.items():
        numbers |= {f"{way} import_s": min(m.import_s for m in each), f"{way} peak_mb": max(m.peak_mb for m in each)}
        numbers |= {f"{way} load_s": min(m.load_s for m in each), f"{way} ready_s": min(m.ready_s for m in each)}
        numbers |= {f"{way} disk_mb": each[0].disk_mb, f"{way} cpu_s": min(m.cpu_s for m in each)}
        for size in FIRST:
            numbers[f"{way} batch {size} us"] = min(m.step_us[size] for m in each)
    return [{"case": case, "number": n, "value": float(f"{v:.4g}"), "badge": "measured"} for n, v in numbers.items()]


if __name__ == "__main__":
    end_s = time.monotonic() + float(sys.argv[2])
    for depth in CASES:
        print(depth, len(measure(depth, Path(sys.argv[1]) / str(depth), end_s)), "rows")

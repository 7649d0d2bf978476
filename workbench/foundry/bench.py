"""How long until a ladder of decode steps is ready in a new process, ours and torch's ways, and what a step then takes.

CPU, SmolLM2-135M in fp32, one thread: its first 6 layers, where every way fits into minutes, and all 30. Each way is a
process of its own and includes its imports; two rounds, interleaved. Sums over the ladder are of the least time of a
step at each size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.foundry import rivals

SIZES = (1, 2, 4, 8, 12, 16, 24, 32)
CAPACITY = 256
CASES: Sequence[int] = (6, 30)  # layers
ROUNDS = 2


def main() -> list[dict[str, Any]]:
    """Capture, then every way on what was captured."""
    os.environ["OMP_NUM_THREADS"] = "1"  # children inherit it
    rows: list[dict[str, Any]] = []
    for layers in CASES:
        with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
            rows += measure(layers, Path(folder))
    return rows


def measure(layers: int, folder: Path) -> list[dict[str, Any]]:
    """One case; `folder` keeps the archive and what the other ways load."""
    import time

    import torch

    from workbench import lm
    from workbench.foundry.capture import capture

    torch.set_num_threads(1)
    path, start = folder / "smollm2.foundry", time.perf_counter()
    made = capture(lm.load("smollm2"), SIZES, path, capacity=CAPACITY, layers=layers)
    took = time.perf_counter() - start
    found = rivals.compare(path, rounds=ROUNDS, folder=folder / "ways", said=lambda text: print(f"  {text}"))
    case = f"SmolLM2-135M, {layers} layers, {len(SIZES)} sizes"
    numbers = {"capture_s": took, **rivals.summary(found, made)}
    for way, each in found.items():
        numbers |= {f"{way} import_s": min(m.import_s for m in each), f"{way} peak_mb": max(m.peak_mb for m in each)}
        numbers |= {f"{way} disk_mb": each[0].disk_mb, f"{way} cpu_s": min(m.cpu_s for m in each)}
    return [{"case": case, "number": n, "value": float(f"{v:.4g}"), "badge": "measured"} for n, v in numbers.items()]

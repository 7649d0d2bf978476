"""What the CUDA backend takes on the GPU at hand: capture, archive, load in a fresh process, update, replay.

    python -m workbench.foundry.cuda_bench run OUT.csv           every case: two models, 51 and 512 sizes
    python -m workbench.foundry.cuda_bench run OUT.csv small     one small case, for a first look

Capture and each load are processes of their own. Rows name device, driver and commit. Nothing here has been run on a
GPU yet (`cuda.NEVER_RAN`).
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

VLLM = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))  # vLLM's sizes up to 512: 51 of them
CASES: dict[str, tuple[str, tuple[int, ...]]] = {
    "small": ("tiny", (1, 2, 4, 8)),
    "smollm2-51": ("smollm2", VLLM),
    "smollm2-512": ("smollm2", tuple(range(1, 513))),
    "random-1b-51": ("random-1b", VLLM),
    "random-1b-512": ("random-1b", tuple(range(1, 513))),
}
COLUMNS = ("case", "way", "number", "value", "device", "driver", "commit")
RUNS = 50
CAPTURE_S, LOAD_S = 3600, 900  # at most


def subject(model: str, sizes: Sequence[int]) -> Any:
    """The step of one of the cases' models."""
    from workbench.foundry.cuda_step import Step
    from workbench.foundry.shape import Shape

    if model == "tiny":
        return Step.random(Shape(2, 4, 2, 32, 128, 256, 512, 1e-5, 64, max(sizes)))
    if model == "random-1b":  # of a Llama's proportions
        return Step.random(Shape(16, 32, 8, 64, 2048, 8192, 32000, 1e-5, 64, max(sizes)))
    from workbench import lm

    return Step.of(lm.load(model), sizes)


def capture(case: str, path: Path) -> dict[str, Any]:
    """Capture a case; numbers of it."""
    from workbench.foundry import cuda_capture

    model, sizes = CASES[case]
    what, start = subject(model, sizes), time.perf_counter()
    done = cuda_capture.capture(what, sizes, path, unexplained="test")
    return {
        "capture_s": time.perf_counter() - start,
        "archive_mb": path.stat().st_size / 1e6,
        "graphs": len(done.graphs),
        "templates": len(done.topology),
        "binaries": len(done.binaries),
        "ignored": sum(len(g.ignored) for g in done.graphs.values()),
    }


def load(path: Path, way: str, base: int | None = None) -> dict[str, Any]:
    """Load in this process, which should be fresh; numbers of it. Every size is verified against the capture."""
    start = time.perf_counter()
    from workbench.foundry import cuda
    from workbench.foundry.driver_cuda import Cuda

    phases: dict[str, float] = {}
    driver = Cuda()
    options: dict[str, Any] = {"way": way, "base": base, "promote_after": 1 << 30, "phase": phases.__setitem__}
    with cuda.load(path, driver, **options) as ladder:
        found: dict[str, Any] = {"load_s": time.perf_counter() - start}
        found |= {f"load_{name}_s": seconds for name, seconds in phases.items()}
        for size in sorted(ladder.capture.graphs):
            ladder.verify(size, restore=False)
        pair = _pair(ladder)
        if pair:
            found["update_and_replay_us"] = _microseconds(driver, *(partial(ladder.replay, s) for s in pair))
        for size in sorted(ladder.capture.graphs)[:: max(1, len(ladder.capture.graphs) // 8)]:
            found[f"replay_us_batch_{size}"] = _microseconds(driver, partial(ladder.replay, size))
        found |= {
            "verified": len(ladder.verified),
            "again": len(ladder.notes),
            "moved": base not in (None, ladder.arena.base),
        }
        return found | {"torch": "torch" in sys.modules}


def _pair(ladder: Any) -> tuple[int, int] | None:
    """Two sizes of one template, which replace each other in its executable."""
    seen: dict[str, int] = {}
    for size, graph in sorted(ladder.capture.graphs.items()):
        if graph.template in seen:
            return seen[graph.template], size
        seen[graph.template] = size
    return None


def _microseconds(driver: Any, *calls: Callable[[], None]) -> float:
    """Median time of one call until the device is done, the calls by turns."""
    took = []
    for i in range(RUNS + len(calls)):
        start = time.perf_counter()
        calls[i % len(calls)]()
        driver.synchronize(0)
        took.append(1e6 * (time.perf_counter() - start))
    return statistics.median(took[len(calls) :])


def run(out: Path, cases: Sequence[str]) -> list[dict[str, Any]]:
    """Every case in processes of their own; writes and returns rows of COLUMNS."""
    about, rows = _ask("about", timeout_s=LOAD_S), []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            path = Path(folder) / f"{case}.foundry"
            found = {"capture": _ask("capture", case, str(path), timeout_s=CAPTURE_S)}
            for way in ("nodes", "graph"):
                found[f"load, update by {way}"] = _ask("load", str(path), way, timeout_s=LOAD_S)
            for way, numbers in found.items():
                rows += [{"case": case, "way": way, "number": k, "value": v, **about} for k, v in numbers.items()]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _ask(*words: str, timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "workbench.foundry.cuda_bench", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _about() -> dict[str, Any]:
    from workbench.foundry.driver_cuda import Cuda

    said = Cuda().about()
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return {"device": said["device"], "driver": said["driver"], "commit": commit or "unknown"}


def main(words: Sequence[str]) -> None:
    """One command; see above."""
    do, *rest = words or ["help"]
    if do == "run":
        rows = run(Path(rest[0]), rest[1:] or [c for c in CASES if c != "small"])
        print(f"{len(rows)} rows in {rest[0]}")
        return
    if do not in ("about", "capture", "load"):
        sys.exit(__doc__)
    if do == "load":
        said = load(Path(rest[0]), rest[1], int(rest[2], 0) if rest[2:] else None)
    else:
        said = _about() if do == "about" else capture(rest[0], Path(rest[1]))
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])

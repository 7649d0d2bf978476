"""Foundry measured: `workbench bench foundry`. How long until a ladder of decode steps is ready, ours and torch's ways.

CPU, SmolLM2-135M in fp32, one thread, leave the machine alone. WORKBENCH_BENCH: which parts, all of them if not set;
each takes at most about eight minutes on two quiet cores:

    six      its first 6 layers: cold, warm and mega-cache torch.compile, and eager, beside ours
    aoti     the same layers: AOTInductor and eager beside ours
    thirty   all 30 layers: the ways that compile nothing at start
    whole    the same beside a cold torch.compile of all of them
    vllm     starts of vLLM's own engine on all layers, eager, phase by phase
    compiled the same start as vLLM does it by default, compiling

Each way is a process of its own and includes its imports, in ROUNDS rounds; steps are timed by turns, a step of each
way after another. Sums over the ladder are of the median time of a step at each size.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from workbench.foundry import procs, rivals
from workbench.foundry.archive import read
from workbench.foundry.config import FIRST
from workbench.foundry.graph import decode

CAPACITY, ROUNDS, STEPS, PATIENCE_S = 256, 2, 12, 3600.0
CASES: dict[str, tuple[int, Sequence[str]]] = {  # part -> layers, ways
    "six": (6, ("foundry", "cold", "warm", "mega", "eager")),
    "aoti": (6, ("foundry", "aoti", "eager")),
    "thirty": (30, ("foundry", "eager")),
    "whole": (30, ("foundry", "cold", "eager")),
}
STARTS = {"vllm": (False, ROUNDS), "compiled": (True, 1)}  # part -> whether vLLM compiles, how often it starts
PARTS = " ".join([*CASES, *STARTS])


def main() -> list[dict[str, Any]]:
    """The parts that are wanted; one row per number. ValueError names a part that does not exist."""
    wanted = os.environ.get("WORKBENCH_BENCH", PARTS).split()
    if unknown := set(wanted) - set(PARTS.split()):
        raise ValueError(f"WORKBENCH_BENCH: no part is called {', '.join(sorted(unknown))}; there are {PARTS}")
    rows: list[dict[str, Any]] = []
    for part in wanted:
        rows += measure(*CASES[part]) if part in CASES else starts(*STARTS[part])
    return rows


def measure(
    layers: int, ways: Sequence[str], sizes: Sequence[int] = FIRST, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Capture, then every way on what was captured."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as temporary:
        folder = Path(temporary)
        path = folder / "smollm2.foundry"
        job = {
            "do": "capture", "model": "smollm2", "layers": layers, "sizes": sizes, "capacity": CAPACITY,
            "dynamic": True, "seed": 0, "threads": 1, "path": str(path), "cold": "",
        }  # fmt: skip
        took_s = procs.ask(job, folder / "capturing", "capture", patience_s=PATIENCE_S, hear=_said)["seconds"]
        found = rivals.compare(
            path, ways=ways, rounds=rounds, steps=STEPS, folder=folder / "ways", timeout_s=PATIENCE_S, hear=_said
        )
        case = f"SmolLM2-135M, {layers} layer{'s' * (layers > 1)}, {len(sizes)} sizes"
        return list(_rows(case, path, took_s, found, sizes))


def _rows(
    case: str, path: Path, took_s: float, found: dict[str, list[rivals.Measured]], sizes: Sequence[int]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    captured = decode(read(path))
    numbers = {"capture_s": took_s, **rivals.summary(found, captured)}
    if "cold" in found:  # each way also runs every size once, which no start can save
        ours, cold = (_beside_steps(found[way], sizes) for way in ("foundry", "cold"))
        numbers["reduction_vs_cold, steps apart"] = 1 - ours / cold
    for way, each in found.items():
        numbers |= {f"{way} import_s": min(m.import_s for m in each), f"{way} peak_mb": max(m.peak_mb for m in each)}
        numbers |= {f"{way} loaded_s": min(m.load_s for m in each), f"{way} ready_s": min(m.ready_s for m in each)}
        numbers |= {f"{way} disk_mb": each[0].disk_mb, f"{way} cpu_s": min(m.cpu_s for m in each)}
        seals = {size: graph.probe for size, graph in captured.graphs.items()}
        numbers[f"{way} bits as captured"] = float(all(dict(m.tokens) == seals for m in each))
        for size in sizes:
            numbers[f"{way} batch {size} us"] = median(m.median_us[size] for m in each)
    for name, value in numbers.items():
        yield _row(case, name, value)


def _beside_steps(rounds: Sequence[rivals.Measured], sizes: Sequence[int]) -> float:
    """Seconds until ready without one step of each size, the median over rounds."""
    return median(m.ready_s - sum(m.median_us[size] for size in sizes) / 1e6 for m in rounds)


def starts(compiling: bool, times: int) -> list[dict[str, Any]]:
    """Starts of vLLM on all layers: medians of its phases."""
    from workbench import lm
    from workbench.foundry import vllm_phases

    found = [
        vllm_phases.measure(lm.path("smollm2"), compiling=compiling, dtype="float32", limit_s=PATIENCE_S)
        for _ in range(times)
    ]
    one = found[0]
    case = f"vLLM {one.about['version']}, SmolLM2-135M, float32, {'compiling' if compiling else 'eager'}"
    phases = {f"{name} s": median(each.seconds.get(name, 0.0) for each in found) for name in one.seconds}
    whole = {"first_token_s": median(each.total_s for each in found)}
    whole["graphable_s"] = median(each.graphable_s for each in found)
    whole["step of one sequence us"] = median(1e6 * s for each in found for s in each.steps_s)
    return [_row(case, name, value) for name, value in (whole | phases).items()]


def _said(fields: dict[str, Any]) -> None:
    if fields["is"] == "at":
        print(f"  {fields['at_s']:7.1f} s  {fields['what']}", flush=True)


def _row(case: str, name: str, value: float) -> dict[str, Any]:
    print(f"  {case:<40} {name:<28} {value:12.4g}  measured", flush=True)
    return {"case": case, "number": name, "value": float(f"{value:.4g}"), "badge": "measured"}

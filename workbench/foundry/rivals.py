"""The ways to have a ladder of decode steps ready in a new process, measured side by side: ours and what torch offers.

    foundry   load() of this package; torch is not imported
    eager     torch, nothing compiled
    cold      torch.compile with empty caches
    warm      torch.compile with the caches of a run before
    mega      torch.compile with what torch.compiler.save_cache_artifacts() of a run before kept
    aoti      AOTInductor packages, weights outside of them

Every way starts a process of its own, takes the same weights from the same file, compiles for the same sizes (batch 1,
and one dynamic batch for all from 2 on, or one a size), and is ready when each size of the ladder has run once. A child
prints one JSON line; times count from the moment its parent started it, so that interpreter and imports are in them.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.foundry import probe
from workbench.foundry.archive import read
from workbench.foundry.graph import Capture, decode

WAYS = ("foundry", "eager", "cold", "warm", "mega", "aoti")
STEPS = 12  # timed steps of each size, after one that is not
MB = 1e6


@dataclass(frozen=True)
class Measured:
    """One way in one process. Seconds from its start; `step_us` is the least of a size's timed steps."""

    way: str
    import_s: float  # until its libraries were imported
    load_s: float  # until it said it could run: weights there, packages or archive loaded
    ready_s: float  # until every size had run once
    step_us: Mapping[int, float]
    median_us: Mapping[int, float]
    tokens: Mapping[int, str]  # digest of logits and tokens on the probe's inputs
    cpu_s: float  # of the process and its compilers
    peak_mb: float  # resident memory at its highest
    disk_mb: float  # of what it loads, weights left out
    phases: Mapping[str, float] = field(default_factory=dict)


def compare(
    archive: str | Path,
    *,
    ways: Sequence[str] = WAYS,
    rounds: int = 1,
    folder: str | Path | None = None,
    timeout_s: float = 3600.0,
    said: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Measured]]:
    """Measure each way `rounds` times over the sizes and model of an archive, interleaved; by way, in order.

    What warm, mega and aoti need is made first, in `folder` (kept there) or a temporary one. RuntimeError when a child
    fails or takes longer than timeout_s, with the last lines it said.
    """
    unknown = [w for w in ways if w not in WAYS]
    if unknown:
        raise ValueError(f"no way is called {', '.join(unknown)}; there are {', '.join(WAYS)}")
    with tempfile.TemporaryDirectory(prefix="foundry-") as temporary:
        place = Path(folder or temporary)
        place.mkdir(parents=True, exist_ok=True)
        for way in ("warm", "aoti"):
            if (way in ways or (way == "warm" and "mega" in ways)) and not (place / f"{way}.made").exists():
                said(f"making what {way} loads")
                _child(archive, f"make-{way}", place, timeout_s)
                (place / f"{way}.made").touch()
        found: dict[str, list[Measured]] = {way: [] for way in ways}
        for i in range(rounds):
            for way in ways:
                said(f"round {i + 1} of {rounds}: {way}")
                found[way].append(_measured(_child(archive, way, place, timeout_s)))
        return found


def _measured(raw: dict[str, Any]) -> Measured:
    by_size = {k: {int(size): v for size, v in raw[k].items()} for k in ("step_us", "median_us", "tokens")}
    return Measured(**(raw | by_size))


def _child(archive: str | Path, way: str, place: Path, timeout_s: float) -> dict[str, Any]:
    environment = dict(os.environ)
    fresh = tempfile.mkdtemp(prefix="foundry-cache-") if way in ("cold", "mega", "make-aoti") else None
    environment["TORCHINDUCTOR_CACHE_DIR"] = fresh or str(place / "cache")
    environment["OMP_NUM_THREADS"] = str(decode(read(archive)).fingerprint.get("threads", 1))
    call = [sys.executable, "-m", "workbench.foundry.rivals", way, str(archive), str(place), repr(time.time())]
    try:
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{way} took longer than {timeout_s:.0f} s: take fewer sizes or layers") from None
    finally:
        if fresh:
            shutil.rmtree(fresh, ignore_errors=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise RuntimeError(f"{way} failed with code {done.returncode}: {' | '.join(said)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(way: str, archive: str, place: Path, started: float) -> dict[str, Any]:
    """The child: one way, measured."""
    phases: dict[str, float] = {}
    if way == "foundry":
        return _foundry(archive, started, phases)
    from workbench.foundry.torch_step import TorchStep

    capture = decode(read(archive))
    step = TorchStep(capture, Path(archive).parent)
    imported = time.time() - started
    sizes = sorted(capture.graphs)
    if way.startswith("make-"):
        step.make(way.removeprefix("make-"), place, sizes)
        return {}
    run, disk = step.way(way, place)
    return _timed(way, started, imported, sizes, run, step.outcome, disk, phases)


def _foundry(archive: str, started: float, phases: dict[str, float]) -> dict[str, Any]:
    from workbench.foundry.load import load

    imported = time.time() - started
    runner = load(archive, phase=phases.__setitem__)
    shape, sizes = runner.shape, sorted(runner.capture.graphs)

    def inputs(size: int) -> Callable[[], Any]:
        at = probe.ids_and_positions(size, shape.vocab, shape.capacity)
        probe.fill(runner.arena.view, runner.capture.tensors, size, *at)
        runner.verified.add(size)  # the first run is timed as every other way's; its bits are compared by the parent
        return lambda: runner.step(*at)

    def outcome(size: int) -> str:
        return probe.outcome(runner.arena.view, runner.capture.tensors, runner.outputs(size), size)

    disk = Path(archive).stat().st_size / MB
    return _timed("foundry", started, imported, sizes, inputs, outcome, disk, phases)


def _timed(
    way: str,
    started: float,
    imported: float,
    sizes: list[int],
    inputs: Callable[[int], Callable[[], Any]],
    outcome: Callable[[int], str],
    disk: float,
    phases: dict[str, float],
) -> dict[str, Any]:
    """Run every size once, then time each. `inputs(size)` puts the probe down and gives the call."""
    loaded, tokens = time.time() - started, {}
    prepared = 0.0
    for size in sizes:
        before = time.time()
        call = inputs(size)
        prepared += time.time() - before  # putting known inputs down is no part of being ready
        call()
    ready = time.time() - started - prepared
    least, middle = {}, {}
    for size in sizes:
        call = inputs(size)
        call()
        tokens[size] = outcome(size)
        took = []
        for _ in range(STEPS):
            at = time.perf_counter()
            call()
            took.append((time.perf_counter() - at) * 1e6)
        least[size], middle[size] = min(took), statistics.median(took)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "way": way, "import_s": imported, "load_s": loaded, "ready_s": ready, "step_us": least, "median_us": middle,
        "tokens": tokens, "cpu_s": sum(u.ru_utime + u.ru_stime for u in used), "peak_mb": _peak_mb(),
        "disk_mb": disk, "phases": phases,
    }  # fmt: skip


def _peak_mb() -> float:
    """Most memory that this process had resident; getrusage's number begins with what its parent had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / MB


def summary(found: Mapping[str, Sequence[Measured]], capture: Capture) -> dict[str, float]:
    """The few numbers: medians over rounds, seconds, microseconds and MB; `exact` is 1.0 when our
    bits and torch.compile's, in processes of their own, are those that were captured.
    """

    def middle(way: str, name: str) -> float:
        return statistics.median(getattr(m, name) for m in found[way])

    made = {
        "archive_mb": middle("foundry", "disk_mb"),
        "templates": len(capture.templates),
        "graphs": len(capture.graphs),
    }
    names = {"foundry": "load_s", "cold": "compile_cold_s", "warm": "compile_warm_s", "mega": "compile_mega_s",
             "aoti": "aoti_load_s", "eager": "eager_ready_s"}  # fmt: skip
    made |= {name: middle(way, "ready_s") for way, name in names.items() if way in found}
    if "cold" in found:
        made["reduction_vs_cold"] = 1 - made["load_s"] / made["compile_cold_s"]
    steps = {"foundry": "replay_us", "aoti": "aoti_replay_us", "eager": "eager_us"}
    for way, name in steps.items():
        if way in found:  # of the whole ladder: each size once
            made[name] = sum(min(m.step_us[s] for m in found[way]) for s in capture.graphs)
    seals = {s: g.probe for s, g in capture.graphs.items()}
    same = ("foundry", "cold", "warm")  # ways that compile to the same kernels
    made["exact"] = float(all(dict(m.tokens) == seals for way in same for m in found.get(way, ())))
    return made


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))))  # noqa: T201

"""The ways to have a ladder of decode steps ready in a new process, measured side by side: ours and what torch offers.

    foundry   load() of this package; torch is not imported
    eager     torch, nothing compiled
    cold      torch.compile with empty caches
    warm      torch.compile with the caches of a run before
    mega      torch.compile with what torch.compiler.save_cache_artifacts() of a run before kept
    aoti      AOTInductor packages, weights outside of them

Every way starts a process of its own, takes the same weights from the same file, compiles for the same sizes (batch 1,
and one dynamic batch for all from 2 on, or one a size), and is ready when each size of the ladder has run once. A child
(child.py) answers with JSON; times count from the moment its parent started it, so that interpreter and imports are in
them. The first cold run leaves behind what warm and mega load.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any

from workbench.foundry import probe, procs
from workbench.foundry.archive import read
from workbench.foundry.graph import Capture, decode

WAYS = ("foundry", "eager", "cold", "warm", "mega", "aoti")
STEPS = 12  # timed steps of each size, after one that is not
MB = 1e6
READY = {"foundry": "load_s", "cold": "compile_cold_s", "warm": "compile_warm_s", "mega": "compile_mega_s",
         "aoti": "aoti_load_s", "eager": "eager_ready_s"}  # fmt: skip
STEP = {"foundry": "replay_us", "aoti": "aoti_replay_us", "eager": "eager_us"}
At = Callable[[str, int, int], None]  # what is done from now on, done, total


@dataclass(frozen=True)
class Measured:
    """One way in one process. Seconds from its start; `step_us` is the least of a size's timed steps."""

    way: str
    import_s: float  # until its libraries were imported
    load_s: float  # until it said it could run: weights there, packages or archive loaded
    ready_s: float  # until every size had run once
    at_s: Mapping[int, float]  # until this size, and those before it, had run once
    step_us: Mapping[int, float]
    median_us: Mapping[int, float]
    tokens: Mapping[int, str]  # digest of logits, tokens and KV on the probe's inputs
    cpu_s: float  # of the process and its compilers
    peak_mb: float  # resident memory at its highest
    disk_mb: float  # of what it loads, weights left out
    phases: Mapping[str, float] = field(default_factory=dict)


def compare(
    archive: str | Path,
    *,
    ways: Sequence[str] = WAYS,
    rounds: int = 1,
    steps: int = STEPS,
    folder: str | Path | None = None,
    timeout_s: float = 3600.0,
    said: Callable[[str, bool], None] = lambda *_: None,
    heard: Callable[[str, Measured | None], None] = lambda *_: None,
    hear: procs.Hear = lambda _: None,
    stop: Flag | None = None,
) -> dict[str, list[Measured]]:
    """Measure each way `rounds` times over the sizes and model of an archive, interleaved; by way, in order.

    What warm, mega and aoti need is made first, in `folder` (kept there) or a temporary one; a cold run makes it for
    warm and mega where one is asked for. `said` is told which way begins, and whether it is only made what that loads;
    `hear` what a child says meanwhile, `heard` a way's name and its numbers, None where it only made something. Errors
    are those of `procs.ask`.
    """
    unknown = [w for w in ways if w not in WAYS]
    if unknown:
        raise ValueError(f"no way is called {', '.join(unknown)}; there are {', '.join(WAYS)}")
    threads = int(decode(read(archive)).fingerprint.get("threads", 1))
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="foundry-ways-") as temporary:
        place = Path(folder or temporary)
        place.mkdir(parents=True, exist_ok=True)
        for _ in range(rounds):
            for way in ways:
                made = _needed(way, place)
                for what in [made] if made else []:
                    said(way, True)
                    _child(archive, what, "make", place, steps, threads, timeout_s, hear, stop)
                    (place / f"{what}.made").touch()
                    heard(what, None)
                said(way, False)
                one = from_json(_child(archive, way, "way", place, steps, threads, timeout_s, hear, stop))
                found[way].append(one)
                heard(way, one)
    return found


def _needed(way: str, place: Path) -> str:
    """What has to be made before this way can run, "" when it is there."""
    what = {"warm": "warm", "mega": "warm", "aoti": "aoti"}.get(way, "")
    return "" if not what or (place / f"{what}.made").exists() else what


def from_json(raw: dict[str, Any]) -> Measured:
    """A child's answer."""
    by_size = {k: {int(size): v for size, v in raw[k].items()} for k in ("step_us", "median_us", "tokens", "at_s")}
    return Measured(**(raw | by_size))


def _child(
    archive: str | Path,
    way: str,
    do: str,
    place: Path,
    steps: int,
    threads: int,
    timeout_s: float,
    hear: procs.Hear,
    stop: Flag | None,
) -> dict[str, Any]:
    keep = do == "way" and way == "cold" and not (place / "warm.made").exists()
    cache = place / "cache" if keep or way == "warm" else None
    own = Path(tempfile.mkdtemp(prefix=f"{do}-{way}-", dir=place))
    job = {"do": do, "way": way, "archive": str(archive), "place": str(place), "steps": steps, "keep": keep}
    try:
        if keep:
            shutil.rmtree(place / "cache", ignore_errors=True)
        answer = procs.ask(
            job, own, f"{'making ' * (do == 'make')}{way}", cache=cache, threads=threads, patience_s=timeout_s,
            hear=hear, stop=stop,
        )  # fmt: skip
    finally:
        shutil.rmtree(own, ignore_errors=True)
    if keep:
        (place / "warm.made").touch()
    return answer


def made(way: str, archive: str, place: Path, at: At) -> None:
    """In a child: make what `way` loads."""
    at("import torch", 0, 0)
    from workbench.foundry.torch_step import TorchStep

    capture = decode(read(archive))
    at(f"make {way}", 0, 0)
    TorchStep(capture, Path(archive).parent).make(way, place, sorted(capture.graphs))


def measured(way: str, archive: str, place: Path, started: float, steps: int, keep: bool, at: At) -> dict[str, Any]:
    """In a child: one way, measured from `started` (time.time() of its parent). keep: what it compiled, as a file."""
    if way == "foundry":
        return _foundry(archive, started, steps, at)
    at("import torch", 0, 0)
    from workbench.foundry.torch_step import TorchStep

    capture = decode(read(archive))
    imported = time.time() - started
    at("load", 0, 0)
    step = TorchStep(capture, Path(archive).parent)
    run, disk = step.way(way, place)
    answer = _timed(way, started, imported, sorted(capture.graphs), steps, run, step.outcome, disk, {}, at)
    if keep:
        step.keep_artifacts(place)
    return answer


def _foundry(archive: str, started: float, steps: int, at: At) -> dict[str, Any]:
    from workbench.foundry.load import load

    imported = time.time() - started
    phases: dict[str, float] = {}
    at("load", 0, 0)
    runner = load(archive, phase=phases.__setitem__)
    shape, sizes = runner.shape, sorted(runner.capture.graphs)

    def inputs(size: int) -> Callable[[], Any]:
        asked = probe.ids_and_positions(size, shape.vocab, shape.capacity)
        probe.fill(runner.arena.view, runner.capture.tensors, size, *asked)
        runner.verified.add(size)  # the first run is timed as every other way's; its bits are compared by the parent
        return lambda: runner.step(*asked)

    def outcome(size: int) -> str:
        return probe.outcome(runner.arena.view, runner.capture.tensors, runner.outputs(size), size)

    disk = Path(archive).stat().st_size / MB
    return _timed("foundry", started, imported, sizes, steps, inputs, outcome, disk, phases, at)


def _timed(
    way: str,
    started: float,
    imported: float,
    sizes: list[int],
    steps: int,
    inputs: Callable[[int], Callable[[], Any]],
    outcome: Callable[[int], str],
    disk: float,
    phases: dict[str, float],
    at: At,
) -> dict[str, Any]:
    """Run every size once, then time each. `inputs(size)` puts the probe down and gives the call."""
    loaded, tokens = time.time() - started, {}
    prepared, ready = 0.0, {}
    for i, size in enumerate(sizes):
        before = time.time()
        at(f"first run of batch {size}", i, len(sizes))
        call = inputs(size)
        prepared += time.time() - before  # putting known inputs down is no part of being ready
        call()
        ready[size] = time.time() - started - prepared
    least, middle = {}, {}
    at("timed steps", len(sizes), len(sizes))
    for size in sizes:
        call = inputs(size)
        call()
        tokens[size] = outcome(size)
        took = []
        for _ in range(steps):
            start = time.perf_counter()
            call()
            took.append((time.perf_counter() - start) * 1e6)
        least[size], middle[size] = min(took), statistics.median(took)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "way": way, "import_s": imported, "load_s": loaded, "ready_s": ready[sizes[-1]], "at_s": ready,
        "step_us": least, "median_us": middle, "tokens": tokens, "cpu_s": sum(u.ru_utime + u.ru_stime for u in used),
        "peak_mb": _peak_mb(), "disk_mb": disk, "phases": phases,
    }  # fmt: skip


def _peak_mb() -> float:
    """Most memory that this process had resident; getrusage's number begins with what its parent had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / MB


def summary(found: Mapping[str, Sequence[Measured]], capture: Capture) -> dict[str, float]:
    """The few numbers: medians over rounds, seconds, microseconds and MB; steps are summed over the ladder.

    `exact` is 1.0 when ours, in processes of their own, left the captured bits at every size.
    """

    def middle(way: str, name: str) -> float:
        return statistics.median(getattr(m, name) for m in found[way])

    made = {
        "archive_mb": middle("foundry", "disk_mb"),
        "templates": len(capture.templates),
        "graphs": len(capture.graphs),
    }
    made |= {name: middle(way, "ready_s") for way, name in READY.items() if way in found}
    if "cold" in found:
        made["reduction_vs_cold"] = 1 - made["load_s"] / made["compile_cold_s"]
    for way, name in STEP.items():
        if way in found:  # of the whole ladder: each size once
            made[name] = sum(min(m.step_us[s] for m in found[way]) for s in capture.graphs)
    seals = {s: g.probe for s, g in capture.graphs.items()}
    made["exact"] = float(all(dict(m.tokens) == seals for m in found["foundry"]))
    return made

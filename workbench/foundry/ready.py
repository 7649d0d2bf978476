"""In a child: one way until each size of a ladder has run once, and then a step when it is its turn. For rivals.py.

Imports no more than it must: what a process imports before it is ready is part of what is measured.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.foundry import probe
from workbench.foundry.archive import read
from workbench.foundry.graph import decode

MB = 1e6
At = Callable[[str, int, int], None]  # what is done from now on, done, total
Turn = Callable[[int], float]  # seconds of one step of that size


def made(way: str, archive: str, place: Path, at: At) -> None:
    """In a child: make what `way` loads."""
    at("import torch", 0, 0)
    from workbench.foundry.torch_step import TorchStep

    capture = decode(read(archive))
    at(f"make {way}", 0, 0)
    TorchStep(capture, Path(archive).parent).make(way, place, sorted(capture.graphs))


def measured(way: str, archive: str, place: Path, started: float, keep: bool, at: At) -> tuple[dict[str, Any], Turn]:
    """In a child: one way until it is ready, from `started` (time.time() of its parent), and what times one more step.

    keep: what it compiled, as a file.
    """
    if way == "foundry":
        return _foundry(archive, started, at)
    at("import torch", 0, 0)
    from workbench.foundry.torch_step import TorchStep, keep_artifacts

    capture = decode(read(archive))
    imported = time.time() - started
    at("load", 0, 0)
    step = TorchStep(capture, Path(archive).parent)
    run, disk = step.way(way, place)
    made_ready = Ready(way, started, imported, disk, run, step.outcome)
    answer = made_ready.first_runs(sorted(capture.graphs), at)
    if keep:
        keep_artifacts(place)
    return answer, made_ready.turn


def _foundry(archive: str, started: float, at: At) -> tuple[dict[str, Any], Turn]:
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
    made_ready = Ready("foundry", started, imported, disk, inputs, outcome, phases)
    return made_ready.first_runs(sizes, at), made_ready.turn


class Ready:
    """A way whose libraries and weights are there. `inputs(size)` puts the probe down and gives the call."""

    def __init__(
        self,
        way: str,
        started: float,
        imported: float,
        disk: float,
        inputs: Callable[[int], Callable[[], Any]],
        outcome: Callable[[int], str],
        phases: Mapping[str, float] | None = None,
    ) -> None:
        self._told: dict[str, Any] = {"way": way, "import_s": imported, "disk_mb": disk, "phases": dict(phases or {})}
        self._told["load_s"] = time.time() - started
        self._started, self._inputs, self._outcome = started, inputs, outcome
        self._size = 0
        self._call: Callable[[], Any] = lambda: None

    def first_runs(self, sizes: Sequence[int], at: At) -> dict[str, Any]:
        """Run every size once: what the parent is answered."""
        tokens, ready, beside = {}, {}, 0.0
        for i, size in enumerate(sizes):
            before = time.time()
            at(f"first run of batch {size}", i, len(sizes))
            call = self._inputs(size)
            beside += time.time() - before  # putting known inputs down is no part of being ready
            call()
            after = time.time()
            ready[size] = after - self._started - beside
            tokens[size] = self._outcome(size)
            beside += time.time() - after
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return self._told | {
            "ready_s": ready[sizes[-1]], "at_s": ready, "tokens": tokens, "peak_mb": _peak_mb(),
            "cpu_s": sum(u.ru_utime + u.ru_stime for u in used),
        }  # fmt: skip

    def turn(self, size: int) -> float:
        """Seconds of one step; the first of a size follows one that nobody times."""
        if size != self._size:
            self._size, self._call = size, self._inputs(size)
            self._call()
        start = time.perf_counter()
        self._call()
        return time.perf_counter() - start


def _peak_mb() -> float:
    """Most memory that this process had resident; getrusage's number begins with what its parent had."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / MB

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

When all are ready they take turns: of each size a step of every way, again and again. So a step of one way has the same
minutes as a step of another, and what else the machine does meanwhile is in all of them.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from typing import Any

from workbench.foundry import procs
from workbench.foundry.archive import read
from workbench.foundry.graph import Capture, decode
from workbench.foundry.parts import Process

WAYS = ("foundry", "eager", "cold", "warm", "mega", "aoti")
TURNS = "turns"  # what `said` is told when steps are timed
STEPS = 12  # timed steps of each size
READY = {"foundry": "load_s", "cold": "compile_cold_s", "warm": "compile_warm_s", "mega": "compile_mega_s",
         "aoti": "aoti_load_s", "eager": "eager_ready_s", "recapture": "capture_at_start_s"}  # fmt: skip
STEP = {"foundry": "replay_us", "aoti": "aoti_replay_us", "eager": "eager_us", "recapture": "recaptured_us"}


@dataclass(frozen=True)
class Measured:
    """One way in one process. Seconds from its start; of a size's timed steps `step_us` is the least."""

    way: str
    import_s: float  # until its libraries were imported
    load_s: float  # until it said it could run: weights there, packages or archive loaded
    ready_s: float  # until every size had run once
    at_s: Mapping[int, float]  # until this size, and those before it, had run once
    tokens: Mapping[int, str]  # digest of logits, tokens and KV on the probe's inputs
    cpu_s: float  # of the process and its compilers, until it was ready
    peak_mb: float  # resident memory at its highest
    disk_mb: float  # of what it loads, weights left out
    phases: Mapping[str, float] = field(default_factory=dict)
    step_us: Mapping[int, float] = field(default_factory=dict)
    median_us: Mapping[int, float] = field(default_factory=dict)

    def process(self, way: str, round_: int) -> Process:
        """The same as a part of a result, under the way's name there."""
        return Process(
            way=way, round=round_, import_s=self.import_s, load_s=self.load_s, ready_s=self.ready_s, cpu_s=self.cpu_s,
            peak_mb=self.peak_mb, disk_mb=self.disk_mb, phases=dict(self.phases),
        )  # fmt: skip


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
    there: Mapping[str, tuple[Measured, procs.Process]] | None = None,
) -> dict[str, list[Measured]]:
    """Measure each way `rounds` times over the sizes and model of an archive; by way, in order.

    What warm, mega and aoti need is made first, in `folder` (kept there) or a temporary one; a cold run makes it for
    warm and mega where one is asked for. `said` is told which way begins, and whether it is only made what that loads,
    and TURNS when the steps of a round are timed; `hear` what a child says meanwhile, `heard` a way's name and its
    numbers so far, None where it only made something. `there`: ways of the first round that are ready already, as the
    process that captured is the way "cold" before. Errors are those of `procs.ask`.
    """
    unknown = [w for w in ways if w not in WAYS]
    if unknown:
        raise ValueError(f"no way is called {', '.join(unknown)}; there are {', '.join(WAYS)}")
    captured = decode(read(archive))
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="foundry-ways-") as temporary:
        place = Path(folder or temporary)
        place.mkdir(parents=True, exist_ok=True)
        asking = _Asking(
            Path(archive), place, int(captured.fingerprint.get("threads", 1)), timeout_s, said, heard, hear, stop
        )
        for number in range(rounds):
            with contextlib.ExitStack() as standing:
                known = (there or {}) if number == 0 else {}
                ready = {way: known.get(way) or asking.ready(way, standing) for way in ways}
                said(TURNS, False)
                took = by_turns(
                    {way: one for way, (_, one) in ready.items()}, sorted(captured.graphs), steps,
                    patience_s=timeout_s, hear=hear, stop=stop,
                )  # fmt: skip
                heard(TURNS, None)
            for way, (one, _) in ready.items():
                least = {size: min(us) for size, us in took[way].items()}
                middle = {size: statistics.median(us) for size, us in took[way].items()}
                found[way].append(replace(one, step_us=least, median_us=middle))
    return found


@dataclass
class _Asking:
    """Processes of one comparison."""

    archive: Path
    place: Path
    threads: int
    timeout_s: float
    said: Callable[[str, bool], None]
    heard: Callable[[str, Measured | None], None]
    hear: procs.Hear
    stop: Flag | None

    def ready(self, way: str, standing: contextlib.ExitStack) -> tuple[Measured, procs.Process]:
        """Make what the way needs, start it, wait until it is ready; it stays until `standing` is closed."""
        if what := _needed(way, self.place):
            self.said(way, True)
            with contextlib.ExitStack() as meanwhile:
                self._answer(what, "make", meanwhile)
            (self.place / f"{what}.made").touch()
            self.heard(what, None)
        self.said(way, False)
        raw, process = self._answer(way, "way", standing)
        one = from_json(raw)
        self.heard(way, one)
        return one, process

    def _answer(self, way: str, do: str, standing: contextlib.ExitStack) -> tuple[dict[str, Any], procs.Process]:
        keep = do == "way" and way == "cold" and not (self.place / "warm.made").exists()
        cache = self.place / "cache" if keep or way == "warm" else None
        own = Path(tempfile.mkdtemp(prefix=f"{do}-{way}-", dir=self.place))
        standing.callback(shutil.rmtree, own, ignore_errors=True)
        job = {
            "do": do, "way": way, "archive": str(self.archive), "place": str(self.place), "keep": keep,
            "stay": do == "way",
        }  # fmt: skip
        if keep:
            shutil.rmtree(self.place / "cache", ignore_errors=True)
        name = f"{'making ' * (do == 'make')}{way}"
        process = procs.Process(job, own, name, cache=cache, threads=self.threads)
        standing.callback(process.close)
        raw = process.answer(patience_s=self.timeout_s, hear=self.hear, stop=self.stop)
        if keep:
            (self.place / "warm.made").touch()
        return raw, process


def by_turns(
    standing: Mapping[str, procs.Process],
    sizes: Sequence[int],
    steps: int,
    *,
    patience_s: float,
    hear: procs.Hear = lambda _: None,
    stop: Flag | None = None,
) -> dict[str, dict[int, list[float]]]:
    """Microseconds of `steps` steps of every size, by way: each way has a turn before any has the next."""
    took: dict[str, dict[int, list[float]]] = {way: {size: [] for size in sizes} for way in standing}
    began = time.time()
    for i, size in enumerate(sizes):
        now = {"at_s": time.time() - began, "done": i, "total": len(sizes)}
        hear({"is": "at", "what": f"steps of batch {size}", **now})
        for _ in range(steps):
            for way, process in standing.items():
                process.send({"size": size})
                took[way][size].append(process.answer(patience_s=patience_s, stop=stop)["us"])
    return took


def _needed(way: str, place: Path) -> str:
    """What has to be made before this way can run, "" when it is there."""
    what = {"warm": "warm", "mega": "warm", "aoti": "aoti"}.get(way, "")
    return "" if not what or (place / f"{what}.made").exists() else what


def from_json(raw: dict[str, Any]) -> Measured:
    """A child's answer."""
    by_size = ("tokens", "at_s", "step_us", "median_us")
    return Measured(**(raw | {k: {int(size): v for size, v in raw.get(k, {}).items()} for k in by_size}))


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
            made[name] = sum(statistics.median(m.median_us[s] for m in found[way]) for s in capture.graphs)
    seals = {s: g.probe for s, g in capture.graphs.items()}
    made["exact"] = float(all(dict(m.tokens) == seals for m in found["foundry"]))
    return made

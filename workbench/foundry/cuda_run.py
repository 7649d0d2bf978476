"""A run on backend "cuda": capture in a process, rebuild in a fresh one, compare bits, capture as servers do.

    result = measured(config, say, stop)

The same steps as measure.py on a CPU, over cuda_capture, cuda.load and cuda_ladder; damaged copies and torch's compiled
ways are not part of it. Each job is a process (cuda_child.py), because kernels can be seen only while they are loaded
for the first time. It has run on a software double of the driver and never on a GPU (`cuda.NEVER_RAN`).
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median_high
from threading import Event as Flag
from typing import Any

from workbench.foundry import archive, cuda, cuda_explore, procs
from workbench.foundry.config import FoundryConfig
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_graph import CudaCapture, Graph
from workbench.foundry.ear import Ear, Listening
from workbench.foundry.parts import Facts, Row, Size, Topology
from workbench.foundry.ready import MB
from workbench.foundry.result import WAYS, FoundryResult
from workbench.foundry.rivals import Measured, by_turns, from_json
from workbench.system import Event, Note, Point, Progress

COMMAND: tuple[str, ...] = (sys.executable, "-m", "workbench.foundry.cuda_child")
SHARES = {"capture": 45.0, "fresh process": 60.0, "ways": 90.0, "turns": 98.0}  # per cent of the bar when each is done
NAMES = {"foundry": "Foundry", "recapture": WAYS["recapture"]}
UNUSED = ("damage", "dynamic", "keep", "reuse", "rounds", "vllm")  # fields of a CPU run that mean nothing here


def measured(config: FoundryConfig, say: Callable[[Event], None], stop: Flag) -> FoundryResult:
    """Everything. Errors are those of `procs.ask`; what this backend never did on a GPU is told first."""
    say(Note("This backend had never run on a GPU when it was released: " + "; ".join(cuda.NEVER_RAN), "warning"))
    defaults = type(config).model_fields
    if other := [name for name in UNUSED if getattr(config, name) != defaults[name].default]:
        say(Note(f"a run on backend cuda does not use {', '.join(other)}", "warning"))
    with tempfile.TemporaryDirectory(prefix="workbench-foundry-") as folder:
        return _Run(config, say, stop, Path(folder)).run()


class _Run(Listening):
    """One run in a folder of its own."""

    def __init__(self, config: FoundryConfig, say: Callable[[Event], None], stop: Flag, folder: Path) -> None:
        super().__init__(say)
        self.config, self.stop, self.folder = config, stop, folder
        self.path = folder / f"{config.model}.cuda.foundry"
        self.fields = {
            "model": config.model, "layers": config.depth, "sizes": config.sizes, "capacity": config.capacity,
            "seed": config.seed, "path": str(self.path), "archive": str(self.path), "verify": config.verify,
        }  # fmt: skip

    def run(self) -> FoundryResult:
        """Capture, rebuild, compare."""
        with contextlib.ExitStack() as standing:
            captured, ear = self._ask("capture", {"do": "capture"}, SHARES["capture"])
            rebuilt, _ = self._ask("fresh process", {"do": "rebuild"}, SHARES["fresh process"])
            found, names = decode(archive.read(self.path)), ["foundry"]
            names += ["recapture"] if self.config.compare != "nothing" else []
            ways, processes = dict[str, Measured](), dict[str, procs.Process]()
            for i, way in enumerate(names):
                until = 60.0 + (SHARES["ways"] - 60.0) * (i + 1) / len(names)
                processes[way], raw = self._stay(way, until, standing)
                ways[way] = from_json(raw)
                for k, at_s in enumerate(sorted(ways[way].at_s.values())):
                    self.say(Point(f"{NAMES[way]}: time to ladder (s)", k + 1, at_s))
            timing = self._ear("steps, by turns", SHARES["turns"])
            began_s, sizes = self._now(), sorted(found.graphs)
            took = by_turns(
                processes, sizes, self.config.steps, patience_s=self.config.patience_s, hear=timing.hear, stop=self.stop
            )
            self._heard(timing, began_s, SHARES["turns"])
        rows = [row for way, one in ways.items() for row in _rows(way, one, took[way], found)]
        facts = self._facts(found, captured, rebuilt, ear.seconds)
        facts |= {"rows": rows, "processes": [one.process(way, 0) for way, one in ways.items()], "held": self.held}
        self.say(Progress(100, 100, "done"))
        from workbench.foundry.work import assemble

        device = rebuilt["device"]
        return assemble(self.config, "cuda", self.began, facts, f"{device['device']}, driver {device['driver']}")

    def _stay(self, way: str, until: float, standing: contextlib.ExitStack) -> tuple[procs.Process, dict[str, Any]]:
        """A way that is ready and stays so."""
        began_s, ear = self._now(), self._ear(NAMES[way], until)
        job = {"do": "way", "way": way, "stay": True, **self.fields}
        one = procs.Process(job, self._place(), way, threads=self.config.threads, command=COMMAND)
        standing.callback(one.close)
        raw = one.answer(patience_s=self.config.patience_s, hear=ear.hear, stop=self.stop)
        self._heard(ear, began_s, until)
        return one, raw

    def _ask(self, lane: str, job: dict[str, Any], until: float) -> tuple[dict[str, Any], Ear]:
        began_s, ear = self._now(), self._ear(lane, until)
        answer = procs.ask(
            {**job, "stay": False, **self.fields}, self._place(), lane, threads=self.config.threads,
            patience_s=self.config.patience_s, hear=ear.hear, stop=self.stop, command=COMMAND,
        )  # fmt: skip
        self._heard(ear, began_s, until)
        return answer, ear

    def _place(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="process-", dir=self.folder))

    def _facts(
        self, found: CudaCapture, captured: dict[str, Any], rebuilt: dict[str, Any], seconds: dict[str, float]
    ) -> dict[str, Any]:
        raw, said = archive.read(self.path), captured["said"]
        binaries = found.binaries
        return {
            "sizes": [_size(found, size, seconds, said, rebuilt) for size in sorted(found.graphs)],
            "templates": topologies(found),
            "facts": Facts(
                id=raw.id, archive_mb=raw.nbytes / MB, weights_mb=found.weights.get("bytes", 0) / MB,
                arena_mb=found.size / MB, binaries=len(binaries), binaries_mb=sum(map(len, binaries.values())) / MB,
            ),
            "capture_s": captured["seconds"],
            "said": sha256(repr(sorted(said.items())).encode()).hexdigest()[:16],
            "imported": rebuilt["heavy"],
        }  # fmt: skip


def _differing(first: Graph, other: Graph) -> int:
    """Words that differ between two sizes of a template; where a kernel is another one, their number may too."""
    return sum(a != b for a, b in zip(first.row, other.row)) + abs(len(first.row) - len(other.row))


def topologies(found: CudaCapture) -> list[Topology]:
    """Every template that graphs have, the one with most sizes first."""
    made = []
    for key in found.topology:
        told = cuda_explore.template(key, found)
        first, *others = [found.graphs[size] for size in told["sizes"]]
        made.append(Topology(
            **{name: told[name] for name in ("key", "sizes", "nodes", "edges", "depth", "slots", "addresses")},
            differing=max((_differing(first, other) for other in others), default=0), calls=told["labels"],
        ))  # fmt: skip
    return sorted(made, key=lambda t: (-len(t.sizes), t.key))


def _size(
    found: CudaCapture, size: int, seconds: dict[str, float], said: dict[str, Any], rebuilt: dict[str, Any]
) -> Size:
    graph, key = found.graphs[size], str(size)
    first = min(g.size for g in found.graphs.values() if g.template == graph.template)
    return Size(
        size=size, template=graph.template, record_s=seconds.get(f"batch {size}", 0.0),
        parameter_bytes=len(graph.words), differing=_differing(found.graphs[first], graph),
        equal=rebuilt["said"][key] == said[key] and rebuilt["back"],
        control_differs=rebuilt["control"][key] != said[key],
    )  # fmt: skip


def _rows(way: str, one: Measured, took: dict[int, list[float]], found: CudaCapture) -> list[Row]:
    return [
        Row(
            way=way, round=0, size=size, ready_s=one.at_s[size], step_us=min(took[size]),
            median_us=median_high(took[size]),
            equal=one.tokens[size] == found.graphs[size].probe.digest if way == "foundry" else None,
        )
        for size in sorted(found.graphs)
    ]  # fmt: skip

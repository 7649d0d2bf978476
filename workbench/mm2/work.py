"""An mm2-gb run as the contract has it: map and measure, or model the schedule alone, and put the result together."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

from workbench import backends
from workbench.held import Held
from workbench.kernels.chain import GPU, chain, dp
from workbench.mm2 import dots, loops, rivals, source, stages
from workbench.mm2.config import Mm2Config
from workbench.mm2.index import build_of
from workbench.mm2.mapper import Mapper, place
from workbench.mm2.plan import batch_size, plan, seeded, timings
from workbench.mm2.presets import preset_of
from workbench.mm2.reads import Truth, truth_accuracy
from workbench.mm2.result import BADGES, FULL, MAPPY, Mm2Result, Read, Timing, Totals, ours, theirs
from workbench.mm2.shape import Segments, joined, segments, windows
from workbench.pump import Stopped, pump
from workbench.system import Event, Note, Point, Progress, Span, Work

if TYPE_CHECKING:
    from workbench.mm2.index import Index
    from workbench.mm2.io import Record

MOST_READS = 1500  # kept in the result, the first ones; totals are of all
MOST_STROKES = 600
COMPARED = 150  # reads with most pairs, whose chains of the two modes are compared
SIMULATED_DEVICES = ("MI210", "A100", "H200")
Say = Callable[[Event], None]


class Cancelled(RuntimeError):
    """The run was cancelled; its generator is closed, so that nobody hears this."""


def work(config: Mm2Config) -> Work:
    """Map the reads and measure. BackendUnavailable, SequenceError, OSError or Unsupported say what is missing."""
    where = place(config.backend, config.mode, config.kernel)
    run = _Run(config, where)
    return (yield from pump(partial(run.planned if where == "sim" else run.whole)))


class _Run:
    """What a run has found so far."""

    def __init__(self, config: Mm2Config, where: str) -> None:
        self.config, self.where = config, where
        self.kernel = where if where in GPU else "cpu" if config.kernel == "auto" else config.kernel
        self.began = time.monotonic()
        self.totals: dict[str, Any] = dict.fromkeys(Totals.model_fields, 0)
        self.rows: list[Timing] = []
        self.reads: list[Read] = []
        self.parts: list[Segments] = []
        self.lengths: list[int] = []
        self.names: list[str] = []
        self.kept: list[loops.Kept] = []
        self.kept_anchors = self.kept_pairs = 0
        self.kept_names: list[str] = []
        self.strokes: list[Held] = []
        self.notes: list[str] = []
        self.rivals: dict[str, str] = {}  # mapper -> version, of those that were timed
        self.reads_hash, self.paf_hash = hashlib.sha256(), hashlib.sha256()

    def whole(self, say: Say, stop: Flag) -> Mm2Result:
        """Map, time the loops, time whole mapping, model the schedule."""
        self.say, self.stop = say, stop
        with tempfile.TemporaryDirectory(prefix="workbench-mm2-") as folder:
            index = self._prepare()
            facts = self._map(index, Path(folder) / "reads.fa")
            facts |= self._loops(index)
            facts |= self._mappers(index, Path(folder))
        return self._result(facts)

    def planned(self, say: Say, stop: Flag) -> Mm2Result:
        """Seed, cut into segments, model the schedule."""
        self.say, self.stop = say, stop
        mapper = Mapper(self._prepare(), self.config.map_preset, "full", "cpu")
        for record, found in seeded(mapper, source.query(self.config, self.genome)):
            self._look()
            self._count(record, int(found.anchors.sum()), found)
            share = self.totals["bases"] / (self.config.megabases * 1e6)
            say(Progress(5 + 70 * min(1.0, share), 100, f"seeding, {self.totals['reads']:,} reads"))
        self._some()
        return self._result({})

    def _prepare(self) -> Index:
        """The index of the reference."""
        source.look(self.config)
        self.say(Progress(0, 100, "reading the reference"))
        self.genome: list[Record] = list(source.reference(self.config))
        self._look()
        self.say(Progress(2, 100, "indexing the reference"))
        began = time.thread_time()
        index = build_of(iter(self.genome), preset_of(self.config.map_preset))
        self.totals["index_s"] = time.thread_time() - began
        return index

    def _map(self, index: Index, fasta: Path) -> dict[str, Any]:
        """All reads through all stages, with spans; their anchors are kept for what comes later."""
        config = self.config
        mapper = Mapper(index, config.map_preset, config.mode, self.kernel)
        dp(_no_anchors(), mapper.chain_params, backend=self.kernel)  # says now what it cannot run
        records = source.write_fasta(source.query(config, self.genome), fasta)
        hits, threads = list[Any](), dict[int, int]()
        for batch in stages.run_all(mapper, records, config.threads, self.stop):
            self._look()
            for record, anchors, chains, found in zip(
                batch.records, batch.anchors, batch.chains, batch.hits, strict=True
            ):
                window = windows(anchors, mapper.chain_params)
                self._count(record, len(anchors), segments(window, len(self.lengths)), chains, found)
                self._keep(record, anchors, int(window.sum()))
                hits += found
            lane = f", thread {threads.setdefault(batch.thread, len(threads) + 1)}" if config.threads > 1 else ""
            self._tell(batch, lane)
        self._some()
        simulated = config.reads == "simulated"
        return {"truth_accuracy": truth_accuracy(hits, self.names) if simulated else None}

    def _count(self, record: Record, anchors: int, found: Segments, chains: int = 0, hits: Any = None) -> None:
        """Take one read into totals, rows and hashes. `hits`: None where it was not mapped, only seeded."""
        length, pairs, t = len(record.sequence), int(found.pairs.sum()), self.totals
        for name, value in (("reads", 1), ("bases", length), ("anchors", anchors), ("pairs", pairs)):
            t[name] += value
        t["mapped"] += bool(hits)
        self.parts.append(found)
        self.lengths.append(length)
        self.names.append(record.name)
        self.reads_hash.update(record.sequence)
        for hit in hits or ():
            self.paf_hash.update(hit.paf().encode("utf-8", "surrogateescape"))
        if len(self.reads) < MOST_READS:
            known = hits is not None and self._simulated
            right = truth_accuracy(hits, [record.name]) == 1.0 if known else None
            self.reads.append(Read(length=length, anchors=anchors, pairs=pairs, chains=chains, right=right))

    @property
    def _simulated(self) -> bool:
        return self.config.reads == "simulated" and Truth.of(self.names[-1]) is not None

    def _keep(self, record: Record, anchors: Any, pairs: int) -> None:
        held_anchors, held_pairs = self.kept_anchors + len(anchors), self.kept_pairs + pairs
        if held_anchors <= loops.MOST_ANCHORS and held_pairs <= loops.MOST_PAIRS:
            self.kept_anchors, self.kept_pairs = held_anchors, held_pairs
            self.kept.append(loops.Kept(len(record.sequence), anchors, pairs))
            self.kept_names.append(record.name)

    def _tell(self, batch: stages.Batch, lane: str) -> None:
        """Spans of a batch, how fast it went, how far the run is."""
        spans = list(batch.spans(self.began, lane))
        for span in spans:
            self.totals[f"{span.kind}_s"] += batch.cpu_s[span.kind]
            self.say(span)
            if len(self.strokes) < MOST_STROKES:
                self.strokes.append(Held.of(span))
        took = max(sum(span.end_s - span.start_s for span in spans), 1e-9)
        done = self.totals["bases"] / 1e6
        self.say(Point("mapped: throughput (Mb/s)", done, batch.bases / 1e6 / took))
        for span in spans:
            a_base = (span.end_s - span.start_s) * 1e9 / max(batch.bases, 1)
            self.say(Point(f"{span.kind}: time per base (ns)", done, a_base))
        note = f"mapping, {self.totals['reads']:,} reads, {batch.bases / 1e6 / took:.1f} Mb/s"
        self.say(Progress(5 + 25 * min(1.0, done / self.config.megabases), 100, note))

    def _loops(self, index: Index) -> dict[str, Any]:
        """Every loop on the kept anchors: first compared, then timed in turn."""
        params = Mapper(index, self.config.map_preset, "full", "cpu").chain_params
        found, kept = loops.loops(params, self.where), self.kept
        if self.where in GPU:
            self._note(f"'{found[-1].name}' is timed by the wall, all reads together; other loops by processor")
        if len(kept) < self.totals["reads"]:
            self._note(f"the loops are timed on {len(kept):,} of {self.totals['reads']:,} reads: more are not kept")
        if not kept:
            raise ValueError("megabases: not one read is small enough to be kept for timing; take shorter reads")

        def tell(done: int) -> None:
            self.say(Progress(30 + 15 * done / len(kept), 100, f"comparing loops, {done:,} of {len(kept):,} reads"))

        checks = loops.check(kept, found, self.stop, tell)
        bench, total = loops.Bench(kept), self.config.rounds * len(found)
        for number in range(self.config.rounds):
            for loop in found:
                self._look()
                start = time.monotonic()
                seconds = bench.time(loop, number, self.stop)
                self._look()
                clock = "wall_s" if loop.backend in GPU else "cpu_s"
                self._span("loops", start, f"{loop.name}, round {number + 1}", _kind(loop.name), {clock: seconds})
                pairs = sum(k.pairs for k in kept)
                self.say(Point(f"{loop.name}: rate (billion pairs/s)", number + 1, pairs / max(seconds, 1e-9) / 1e9))
                done = len({(r.name, r.round) for r in bench.rows})
                self.say(Progress(45 + 25 * done / total, 100, f"timing {loop.name}, round {number + 1}"))
        self.rows += bench.rows
        return {"checks": checks} | self._dots(index, params)

    def _dots(self, index: Index, params: Any) -> dict[str, Any]:
        """Two reads to look at: the one with most pairs, and the one whose chains differ most between the modes."""
        self.say(Progress(70, 100, "comparing the chains of the two modes"))
        most: Any = None
        differs: Any = None
        for at in sorted(range(len(self.kept)), key=lambda at: -self.kept[at].pairs)[:COMPARED]:
            self._look()
            anchors = self.kept[at].anchors
            full = chain(anchors, replace(params, max_skip=None))
            skip = chain(anchors, replace(params, max_skip=25), backend="scalar")
            most = most or (at, full, skip)
            count = dots.differing(full, skip)
            if count and (differs is None or count > differs[3]):
                differs = (at, full, skip, count)
        return {"dots": self._drawn(index, most, near=False), "differs": self._drawn(index, differs, near=True)}

    def _drawn(self, index: Index, chosen: Any, *, near: bool) -> Any:
        if chosen is None:
            return None
        at, full, skip = chosen[:3]
        return dots.dots(self.kept_names[at], self.kept[at].length, index.names, index.lengths, full, skip, near=near)

    def _mappers(self, index: Index, folder: Path) -> dict[str, Any]:
        """Whole mapping: ours in both modes, minimap2 in both, mappy; in turn."""
        config, here = self.config, self._rivals()
        if here:
            for _ in source.write_fasta(iter(self.genome), folder / "reference.fa"):
                self._look()
        loop = "cpu" if self.where in GPU else self.kernel  # whole mapping is timed in processor seconds
        mapper = {
            mode: Mapper(index, config.map_preset, mode, loop if mode == config.mode else "cpu")
            for mode in ("exact_skip25", "full")
        }
        paf: dict[str, bytes] = {}
        names = [n for mode in mapper for n in (ours(mode), theirs(mode)) if n == ours(mode) or "minimap2" in here]
        names += [MAPPY] if "mappy" in here else []
        for number in range(config.rounds):
            for at, name in enumerate(list(names)):
                self._look()
                done = (number + at / len(names)) / config.rounds
                self.say(Progress(72 + 22 * done, 100, f"mapping by {name}, round {number + 1}"))
                start = time.monotonic()
                try:
                    seconds, lines = self._mapped(name, mapper, folder)
                except Stopped:
                    raise Cancelled from None
                except (RuntimeError, OSError) as error:  # another program's: what was measured is not lost for it
                    self._note(f"{name} is left out: {error}")
                    names.remove(name)
                    continue
                if lines is not None:
                    paf[name] = lines
                self._span("mappers", start, f"{name}, round {number + 1}", _kind(name), {"cpu_s": seconds})
                self.rows.append(self._mapping(name, number, seconds))
        equal = {
            mode: rivals.equal_fraction(paf[ours(mode)], paf[theirs(mode)], self.names)
            for mode in mapper
            if theirs(mode) in paf
        }
        differs = 1 - rivals.equal_fraction(paf[ours("full")], paf[ours("exact_skip25")], self.names)
        self.rivals = {name: version for name, version in here.items() if version}
        return {"paf_equal": equal, "heuristic_differs": differs, "rival": here.get("minimap2", "")}

    def _mapped(self, name: str, mapper: dict[str, Mapper], folder: Path) -> tuple[float, bytes | None]:
        """Processor seconds of one mapper's pass, and its PAF where it is one to compare."""
        reads, reference = folder / "reads.fa", folder / "reference.fa"
        mode = "full" if name in (ours("full"), theirs("full")) else "exact_skip25"
        if name == MAPPY:
            seconds, _ = rivals.mappy(reference, reads, self.config.map_preset, folder, self.stop)
            return seconds, None
        if name == ours(mode):
            found = rivals.ours(mapper[mode], reads, self.stop)
        else:
            found = rivals.minimap2(reference, reads, self.config.map_preset, mode, folder, self.stop)
        return found.seconds, found.paf

    def _mapping(self, name: str, number: int, seconds: float) -> Timing:
        t = self.totals
        return Timing(
            what="mapping",
            name=name,
            round=number,
            seconds=round(seconds, 6),
            anchors=t["anchors"],
            pairs=t["pairs"],
        )

    def _rivals(self) -> dict[str, str]:
        """Other mappers that are here, and a note of those that are not."""
        if not self.config.minimap2:
            self._note("minimap2 and mappy were not asked for: nothing is compared with them", "info")
            return {}
        found: dict[str, str] = {}
        if version := rivals.minimap2_version():
            found["minimap2"] = version
            if not version.startswith(rivals.EQUAL_TO):
                self._note(f"minimap2 {version} is here; equal lines are only due from {rivals.EQUAL_TO}")
        else:
            self._note("minimap2 is not installed, so nothing is compared with it: apt-get install minimap2")
        if rivals.mappy_is_here():
            found["mappy"] = backends.version("mappy")
        else:
            self._note("mappy is not installed, so it is not timed: tools/setup.sh minimap2 installs it", "info")
        return found

    def _span(self, lane: str, start: float, label: str, kind: str, why: dict[str, float | str]) -> None:
        end = time.monotonic()
        span = Span(lane, start - self.began, end - self.began, label, kind, why)
        self.strokes.append(Held.of(span))
        self.say(span)

    def _note(self, text: str, level: Any = "warning") -> None:
        self.notes.append(text)
        self.say(Note(text, level))

    def _look(self) -> None:
        if self.stop.is_set():
            raise Cancelled

    def _some(self) -> None:
        if not self.totals["bases"]:
            what = "reads" if not self.totals["reads"] else "reads with bases; all of them are empty"
            raise ValueError(f"{self.config.reads_file or 'reads'}: holds no {what}")

    def _result(self, facts: dict[str, Any]) -> Mm2Result:
        """Model the schedule and put everything together."""
        self._look()
        self.say(Progress(95, 100, "modelling the schedule"))
        config, parts = self.config, joined(self.parts)
        size = batch_size(config, parts, self.lengths)
        mine = plan(config, parts, self.lengths)
        plans = [mine]
        if self.where == "sim":
            for device in SIMULATED_DEVICES:
                self._look()
                if device != config.sim_device:
                    plans.append(plan(config, parts, self.lengths, device))
            for stroke in mine.strokes:
                self.say(stroke.span())
        for each in plans:
            self.rows += timings(each, *size)
        totals = {k: round(v, 6) if isinstance(v, float) else v for k, v in self.totals.items()}
        told = backends.provenance(self.where, {}, seconds=round(time.monotonic() - self.began, 3))
        draft = Mm2Result(
            config=config,
            provenance=told.model_copy(update={"versions": told.versions | self.rivals}),
            timings=self.rows,
            reads=self.reads,
            totals=Totals(**totals),
            plan=mine,
            strokes=self.strokes,
            paf_hash=self.paf_hash.hexdigest()[:32],
            reads_hash=self.reads_hash.hexdigest()[:32],
            notes=self.notes,
            **facts,
        )
        self.say(Progress(100, 100, "done"))
        return draft.badged(draft.measured, BADGES)


def _kind(name: str) -> str:
    """What a loop or mapper is drawn as in the timeline."""
    return "base alignment" if name == MAPPY else "exact" if FULL in name else "25 skips"


def _no_anchors() -> Any:
    import numpy as np

    return np.zeros((0, 2), np.uint64)

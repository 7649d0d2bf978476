"""A measured Foundry run: capture in a process, rebuild in a fresh one, compare bits, measure the other ways.

What a user asks for meanwhile (damage a copy of the archive, take the arena's place) is done between two processes: at
once it would take the processor from what is being measured.
"""

from __future__ import annotations

import contextlib
import json
import queue
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Event as Flag
from typing import Any, Literal

from workbench import aside
from workbench.foundry import anatomy, archive, engines, procs, rivals
from workbench.foundry.config import FoundryConfig
from workbench.foundry.damage import WORDS, damage
from workbench.foundry.ear import Ear, Listening
from workbench.foundry.graph import Capture, decode
from workbench.foundry.parts import Damaged, Engine, Facts, Row, Size
from workbench.foundry.result import WAYS, FoundryResult
from workbench.lm.files import cache_root
from workbench.system import Event, Note, Offer, Point, Progress

MB = 1e6
CAPTURED, REBUILT, COMPARED, ENGINES = 40.0, 50.0, 97.0, 80.0  # per cent of the bar when each is done
STEPPING = "steps, by turns"
COPY, ARENA, TAKEN = "Damage a copy of the archive", "The arena", "place"
OFFERS = {
    "bit": ("Flip a bit", COPY, "one bit, anywhere in the file"),
    "cut": ("Cut it short", COPY, "the last third is missing"),
    "parameter": ("Double a product", COPY, "under right checksums: only a replay finds it"),
    "machine": ("Say another processor", COPY, "in the fingerprint, under right checksums"),
    TAKEN: ("Take its place", ARENA, "another mapping lies at the captured address"),
}


class Measure(Listening):
    """One run. `asked` takes the names of offers that were chosen."""

    def __init__(
        self, config: FoundryConfig, say: Callable[[Event], None], stop: Flag, asked: queue.SimpleQueue[str]
    ) -> None:
        super().__init__(say)
        self.config, self.stop, self.asked = config, stop, asked
        self.damages: list[Damaged] = []
        self.elsewhere: bool | None = None
        self.there: dict[str, tuple[rivals.Measured, procs.Process]] = {}  # ways that are ready already

    def run(self) -> FoundryResult:
        """Everything. Errors are those of `procs.ask`, and OSError where the archive cannot be written."""
        engines.check(self.config)
        with (
            tempfile.TemporaryDirectory(prefix="workbench-foundry-") as folder,
            contextlib.ExitStack() as self.standing,
        ):
            self.folder = Path(folder)
            self.path = self._home() / f"{self.config.model}.foundry"
            for name, offer in OFFERS.items():
                self.say(Offer(name, *offer))
            captured = self._kept() or self._capture()
            rebuilt, ear = self._ask("fresh process", self._rebuild(self.path), REBUILT)
            if ear.refused:  # an archive of an earlier run, which another torch or processor made
                self.say(Note(f"the kept archive is refused: {ear.refused['why']}; captured again", "warning"))
                captured = self._capture()
                rebuilt, _ = self._ask("fresh process", self._rebuild(self.path), REBUILT)
            self.said = captured["said"]
            self.found = decode(archive.read(self.path))
            kinds = list(WORDS) if self.config.damage == "every" else [self.config.damage]
            for kind in kinds if self.config.damage != "none" else ():
                self.damaged(kind, again=kind == kinds[-1])
            self.acts()
            found = self._ways()
            facts = {"engines": self._engines(rebuilt.get("spoken", []))}
            for name, (label, group, _) in OFFERS.items():
                self.say(Offer(name, label, group, open=False))
            facts |= self._facts(captured, rebuilt, found)
        self.say(Progress(100, 100, "done"))
        from workbench.foundry.work import assemble

        return assemble(self.config, "cpu", self.began, facts)

    # -- processes ---------------------------------------------------------------------------------------------

    def _ask(
        self, lane: str, job: dict[str, Any], until: float, cache: Path | None = None
    ) -> tuple[dict[str, Any], Ear]:
        """A process: its answer and who heard it."""
        began_s, ear = self._now(), self._ear(lane, until)
        place = Path(tempfile.mkdtemp(prefix="process-", dir=self.folder))
        answer = procs.ask(
            job, place, lane, cache=cache, threads=self.config.threads, patience_s=self.config.patience_s,
            hear=ear.hear, stop=self.stop,
        )  # fmt: skip
        self._heard(ear, began_s, until)
        return answer, ear

    def _home(self) -> Path:
        """Where the archive lies: where the user keeps it, or where runs of these settings do, or with this run."""
        c = self.config
        self.fields = {
            "model": c.model, "layers": c.depth, "sizes": c.sizes, "capacity": c.capacity, "dynamic": c.dynamic,
            "seed": c.seed, "threads": c.threads,
        }  # fmt: skip
        kept = cache_root() / "foundry-archives" / archive.digest(archive.canonical(self.fields)).hex()
        scratch, self.cache = self.folder / "archive", self.folder / "compiled"
        home = Path(c.keep).expanduser() if c.keep else kept if c.reuse else scratch
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if c.keep:
                raise OSError(error.errno, f"keep: {home}: {error.strerror}; {aside.out_of(error)}") from error
            way_out = "to keep it, set WORKBENCH_CACHE to a folder that can be written"
            self.say(Note(f"the archive of this run is not kept: {home}: {error.strerror}; {way_out}", "warning"))
            scratch.mkdir()
            return scratch
        if c.reuse:
            self.cache = cache_root() / "foundry-compiled"
        return home

    def _kept(self) -> dict[str, Any] | None:
        """What the capture of an earlier run said, where it was of these settings and its archive is still there."""
        if not self.config.reuse:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, archive.Refused):
            said: dict[str, Any] = json.loads(self.path.with_suffix(".json").read_text())
            if (
                said["fields"] == json.loads(archive.canonical(self.fields))
                and said["id"] == archive.read(self.path).id
            ):
                self.say(Note(f"an archive of these settings is there; it was captured in {said['seconds']:.1f} s"))
                self._done = CAPTURED
                return said
        return None

    def _capture(self) -> dict[str, Any]:
        """torch.compile's answers, and the seconds of what the process was at.

        Where nothing is compiled yet, that process is the way "cold" before it captures, and stays to take its turns.
        """
        ways, cold = self.folder / "ways", "cold" in self.config.ways and not self.config.reuse
        job = {"do": "capture", **self.fields, "path": str(self.path), "cold": str(ways) if cold else "", "stay": cold}
        began_s, ear = self._now(), self._ear("capture", CAPTURED)
        process = procs.Process(
            job, self.folder / "capturing", "capture", cache=ways / "cache" if cold else self.cache,
            threads=self.config.threads,
        )  # fmt: skip
        with contextlib.ExitStack() as standing:
            standing.callback(process.close)
            answer = process.answer(patience_s=self.config.patience_s, hear=ear.hear, stop=self.stop)
            if cold:
                one = rivals.from_json(answer.pop("cold"))
                self.there, self.cache = {"cold": (one, process)}, ways / "cache"
                (ways / "warm.made").touch()
                self._points("cold", one)
                self.standing.push(standing.pop_all())
        self._heard(ear, began_s, CAPTURED)
        made = {**answer, "at": ear.seconds, "fields": self.fields, "id": archive.read(self.path).id}
        with aside.whole(self.path.with_suffix(".json")) as out:
            out.write(archive.canonical(made))
        return made

    def _rebuild(self, path: Path, *, taken: int = 0, again: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "do": "rebuild", "path": str(path), "verify": self.config.verify, "seed": self.config.seed, "taken": taken,
            "again": again or {}, "prompt": self._prompt if self.config.vllm != "no" else [], "tokens": engines.SAID,
        }  # fmt: skip

    @property
    def _prompt(self) -> list[int]:
        """What vLLM and our steps are given."""
        return engines.prompt(self.config.seed, decode(archive.read(self.path)).model["vocab"])

    def _engines(self, ours: list[int]) -> list[Engine]:
        """Starts of vLLM beside ours."""
        found, spans = engines.starts(
            self.config, self.folder, ours, say=self.say, stop=self.stop, began=self.began, done=self._done
        )
        self.held += spans
        self.acts()
        return found

    def _ways(self) -> dict[str, list[rivals.Measured]]:
        """Ours and the others, a process each; what was asked for is done between two of them."""
        names, rounds = self.config.ways, self.config.rounds
        end = COMPARED if self.config.vllm == "no" else ENGINES
        each = (end - self._done) / (rounds * (len(names) + 1) + ("aoti" in names))
        ear, began_s = None, 0.0

        def said(way: str, making: bool) -> None:
            nonlocal ear, began_s
            lane = f"{WAYS[way]}: build" if making else WAYS.get(way, STEPPING)
            began_s, ear = self._now(), self._ear(lane, self._done + each)

        def hear(fields: dict[str, Any]) -> None:
            assert ear is not None
            ear.hear(fields)

        def heard(way: str, one: rivals.Measured | None) -> None:
            assert ear is not None
            self._heard(ear, began_s, min(end, self._done + each))
            if one:
                self._points(way, one)
            self.acts()  # those that are ready stand still meanwhile

        return rivals.compare(
            self.path, ways=names, rounds=rounds, steps=self.config.steps, folder=self.folder / "ways",
            timeout_s=self.config.patience_s, said=said, heard=heard, hear=hear, stop=self.stop, there=self.there,
        )  # fmt: skip

    def _points(self, way: str, one: rivals.Measured) -> None:
        for i, at_s in enumerate(sorted(one.at_s.values())):
            self.say(Point(f"{WAYS[way]}: time to ladder (s)", i + 1, at_s))

    # -- what a user may do ------------------------------------------------------------------------------------

    def acts(self) -> None:
        """Do what was asked for since, and offer it again."""
        while not self.asked.empty():
            name = self.asked.get()
            label, group, _ = OFFERS[name]
            self.say(Offer(name, label, group, self.occupied() if name == TAKEN else self.damaged(name)))

    def damaged(self, kind: str, again: bool = True) -> str:
        """A damaged copy, loaded in a fresh process that captures `again` when it is refused; what came of it."""
        copy = self.path.with_name(f"damaged-{len(self.damages) + 1}.foundry")
        what = damage(kind, self.path, copy, self.config.seed)
        try:
            job = self._rebuild(copy, again={**self.fields, "path": str(copy), "cold": ""} if again else None)
            answer, ear = self._ask(f"damaged copy {len(self.damages) + 1}", job, self._done, self.cache)
        finally:
            copy.unlink(missing_ok=True)
        told, took = ear.refused, answer.get("recaptured_s", 0.0)
        equal = answer["said"] == self.said if "said" in answer else None
        cause, why = (told["cause"], told["why"]) if told else ("", "nobody saw it")
        self.damages.append(
            Damaged(
                what=WORDS[kind],
                cause=cause,
                why=f"{what}: {why}",
                refused_s=told.get("at_s", 0.0),
                recaptured_s=took,
                equal=equal,
            )
        )
        after = f", then captured again in {took:.1f} s, bits {'equal' if equal else 'DIFFERENT'}" if again else ""
        level: Literal["info", "error"] = "info" if told and equal is not False else "error"
        self.say(Note(f"{what}: {f'refused, {cause}: {why}' if told else 'NOT refused'}{after}.", level))
        return f"refused: {cause}{after}" if told else "NOT refused"

    def occupied(self) -> str:
        """A fresh process whose arena cannot lie where it was captured; what came of it."""
        answer, _ = self._ask("place taken", self._rebuild(self.path, taken=self.found.base), self._done)
        equal = bool(answer["relocated"] and answer["said"] == self.said)
        self.elsewhere = equal and self.elsewhere is not False
        after = f"it lies elsewhere, bits {'equal' if equal else 'DIFFERENT'}"
        self.say(Note(f"The arena's place was taken: {after}.", "info" if equal else "error"))
        return after

    # -- the result --------------------------------------------------------------------------------------------

    def _facts(
        self, captured: dict[str, Any], rebuilt: dict[str, Any], found: dict[str, list[rivals.Measured]]
    ) -> dict[str, Any]:
        c, raw = self.found, archive.read(self.path)
        templates = anatomy.topologies(c)
        labels, shown, cells = anatomy.cells(c, templates[0].key)
        return {
            "rows": [row for way, all_ in found.items() for i, one in enumerate(all_) for row in _rows(way, i, one, c)],
            "processes": [one.process(way, i) for way, all_ in found.items() for i, one in enumerate(all_)],
            "held": self.held,
            "sizes": [_size(c, size, captured["at"], self.said, rebuilt) for size in sorted(c.graphs)],
            "templates": templates,
            "labels": labels,
            "shown": shown,
            "cells": cells,
            "damages": self.damages,
            "facts": Facts(
                id=raw.id,
                archive_mb=raw.nbytes / MB,
                weights_mb=c.weights["bytes"] / MB,
                arena_mb=c.size / MB,
                binaries=len(c.binaries),
                binaries_mb=sum(map(len, c.binaries.values())) / MB,
            ),
            "capture_s": captured["seconds"],
            "drift": captured["drift"],
            "said": sha256(repr(sorted(self.said.items())).encode()).hexdigest()[:16],
            "imported": rebuilt["heavy"],
            "elsewhere": self.elsewhere,
        }


def _size(found: Capture, size: int, seconds: dict[str, float], said: dict[str, Any], rebuilt: dict[str, Any]) -> Size:
    graph = found.graphs[size]
    first = found.graphs[anatomy.sizes_of(found, graph.template)[0]]
    mine, key = said[str(size)], str(size)
    return Size(
        size=size, template=graph.template, record_s=seconds.get(f"batch {size}", 0.0),
        parameter_bytes=len(graph.slots),
        differing=anatomy.differing(first, graph), equal=rebuilt["said"][key] == mine and rebuilt["back"],
        control_differs=rebuilt["control"][key] != mine,
    )  # fmt: skip


def _rows(way: str, round_: int, one: rivals.Measured, found: Capture) -> list[Row]:
    return [
        Row(
            way=way,
            round=round_,
            size=size,
            ready_s=one.at_s[size],
            step_us=one.step_us[size],
            median_us=one.median_us[size],
            equal=one.tokens[size] == found.graphs[size].probe,
        )
        for size in sorted(found.graphs)
    ]

"""Traces of preemptible machines: who is there when. Files of five kinds, and a generator that needs none.

    bamboo      `480000,add,node1`: milliseconds, add or remove, node                      (uclasystem/bamboo, MIT)
    counts      `25435,2`: seconds, number; or `2021-12-11, 11:11:30, 55`: date, time, number      (the same)
    parcae      `[0, "add", {"nodes": [...], "duration": 60000}]`: JSON lines, milliseconds        (JF-D/Parcae, MIT)
    skypilot    `{"metadata": {"gap_seconds": 600}, "data": [...]}`: 0 available, 1 not; or numbers    (spot-traces)
    own         CSV with a header: `time_s,event,instance`, event add or remove

A trace is a list of events in order of time, with names: where a file only counts, those that leave are the youngest,
and names are made. A folder of them is a trace of several zones, a file each. None of these files is shipped.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.rlboost.events import Event, Trace, merged

__all__ = ["G4DN", "NOTICE_S", "P3", "ZONES", "Event", "Trace", "TraceError", "Weather", "made", "read"]

NOTICE_S = {
    "aws": 120.0,
    "gcp": 30.0,
    "azure": 30.0,
    "none": 0.0,
}  # before a machine is taken, by the clouds' own words

KINDS = "'480000,add,node1', '25435,2', '2021-12-11, 11:11:30, 55', JSON of Parcae or SkyPilot, or CSV with a header"
ENDINGS = (".csv", ".txt", ".json", ".jsonl")  # of a folder's traces
MOST = 100_000  # instances: a count beyond is a time or an id in the wrong column


class TraceError(ValueError):
    """A file that is no trace; the message names file, line and the way out."""


@dataclass(frozen=True)
class _Row:
    """An event and the line that it stands in."""

    line: int
    event: Event


def read(file: Path, unit_s: float = 1.0) -> Trace:
    """A trace file of any of the kinds. TraceError names the line that does not fit and what would; OSError as it is.

    A folder is read as one trace: a file is a zone, called by its name up to the first "_", and instance i1 of
    us-east-1a_v100_1.json is "us-east-1a/i1". It lasts as long as the shortest. TraceError for a folder without traces
    and for two files of one zone.

    `unit_s`: what a unit of time of a file of `time,number` is, in seconds; such files do not say it (Bamboo's are
    seconds and hours, Parcae's milliseconds). ValueError where it is not above 0.
    """
    if not (unit_s > 0 and math.isfinite(unit_s)):
        raise ValueError(f"a unit of time lasts more than 0 s and not for ever, not {unit_s} s")
    if file.is_dir():
        return _folder(file, unit_s)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{file} cannot be read: {error.strerror}; give a trace, or a folder of them") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TraceError(f"{file}, line {line}: no text ({error.reason}); save the trace as UTF-8") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise TraceError(f"{file}, line 1: the file is empty; a trace has an event a line, as {KINDS}")
    first = lines[0][1]
    if first.startswith("{"):
        return _skypilot(file, text)
    if first.startswith("["):
        return _finish(_parcae(file, lines), file)
    if first.replace(" ", "").startswith("time_s,"):
        return _finish(_own(file, text), file)
    parts = [p.strip() for p in first.split(",")]
    if len(parts) == 3 and parts[1] in ("add", "remove"):
        return _finish(_bamboo(file, lines), file)
    return _from_counts(sorted(_counts(file, lines, unit_s), key=lambda row: row[0]), file.name)


def _folder(folder: Path, unit_s: float) -> Trace:
    found: dict[str, Path] = {}
    for file in sorted(one for one in folder.iterdir() if one.is_file() and one.suffix in ENDINGS):
        zone = file.stem.partition("_")[0] or file.stem
        if zone in found:
            said = f"{folder}: {found[zone].name} and {file.name} are both of zone {zone}"
            raise TraceError(f"{said}; a folder has one file a zone: move one away")
        found[zone] = file
    if not found:
        raise TraceError(f"{folder}: no trace is in it; a folder has a file a zone, {', '.join(ENDINGS)}: {KINDS}")
    parts = {zone: read(file, unit_s) for zone, file in found.items()}
    return merged(parts, f"{folder.name}, {len(parts)} zone{'s' if len(parts) > 1 else ''}")


def _bad(file: Path, line: int, what: str, instead: str) -> TraceError:
    return TraceError(f"{file}, line {line}: {what}; {instead}")


def _bamboo(file: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Row]:
    for number, line in lines:
        parts = [p.strip() for p in line.split(",")]
        if len(parts) != 3 or parts[1] not in ("add", "remove") or not parts[2]:
            wanted = "this file has 'milliseconds,add|remove,node' in each line"
            raise _bad(file, number, f"not 'milliseconds,add|remove,node' but {line[:60]!r}", wanted)
        yield _Row(number, Event(_number(file, number, parts[0]) / 1e3, parts[1], parts[2]))  # type: ignore[arg-type]


def _parcae(file: Path, lines: Sequence[tuple[int, str]]) -> Iterator[_Row]:
    wanted = """this file has '[ms, "add", {"nodes": ["n1"]}]' in each line, or "remove" or "no-op"""
    for number, line in lines:
        try:
            at, kind, told = json.loads(line)
            names = list(told["nodes"]) if isinstance(told["nodes"], list) else None
        except (ValueError, TypeError, KeyError) as error:
            raise _bad(file, number, f"not such an event ({type(error).__name__}): {line[:60]!r}", wanted) from None
        if names is None or any(not isinstance(name, str | int) for name in names):
            raise _bad(file, number, f"nodes are no list of names: {line[:60]!r}", wanted)
        if kind in ("add", "remove"):
            at_s = _number(file, number, at) / 1e3
            yield from (_Row(number, Event(at_s, kind, str(name))) for name in names)
        elif kind != "no-op":
            raise _bad(file, number, f"neither add nor remove but {kind!r}", wanted)


def _own(file: Path, text: str) -> Iterator[_Row]:
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    wanted = "the columns are time_s (seconds), event (add or remove) and instance (a name)"
    if missing := {"event", "instance"} - set(table.fieldnames or ()):
        raise _bad(file, 1, f"needs a column {' and '.join(sorted(missing))}", wanted)
    try:
        for row in table:
            if row["event"] not in ("add", "remove") or not row["instance"]:
                told = f"needs time_s, event and instance, not {[row['time_s'], row['event'], row['instance']]}"
                raise _bad(file, table.line_num, told, wanted)
            at_s = _number(file, table.line_num, row["time_s"])
            yield _Row(table.line_num, Event(at_s, row["event"], row["instance"]))  # type: ignore[arg-type]
    except csv.Error as error:
        raise _bad(file, table.line_num, f"no CSV ({error})", wanted) from None


def _counts(file: Path, lines: Sequence[tuple[int, str]], unit_s: float) -> Iterator[tuple[float, int]]:
    first: datetime | None = None
    for number, line in lines:
        parts = [p.strip() for p in line.split(",")]
        if len(parts) == 3:
            try:
                at = datetime.fromisoformat(f"{parts[0]} {parts[1]}")
            except ValueError:
                wanted = "write '2021-12-11, 11:11:30, 55'"
                raise _bad(file, number, f"no date and time in {line[:60]!r}", wanted) from None
            first = first or at
            if at < first:
                raise _bad(file, number, f"{at} is before the first line, {first}", "put the lines in order of time")
            seconds = (at - first).total_seconds()
        elif len(parts) == 2:
            seconds = _number(file, number, parts[0]) * unit_s
        else:
            raise _bad(file, number, f"no trace that is known here: {line[:60]!r}", f"known are {KINDS}")
        yield seconds, _count(file, number, parts[-1])


def _skypilot(file: Path, text: str) -> Trace:
    wanted = 'a SkyPilot trace is {"metadata": {"gap_seconds": 600}, "data": [0, 1, ...]}'
    try:
        told = json.loads(text)
    except json.JSONDecodeError as error:
        raise _bad(file, error.lineno, f"no JSON ({error.msg})", wanted) from None
    try:
        gap, data = told["metadata"]["gap_seconds"], list(told["data"])
    except (KeyError, TypeError) as error:
        raise _bad(file, 1, f"no SkyPilot trace: {type(error).__name__} at {error}", wanted) from None
    gap_s = _number(file, _line_of(text, '"gap_seconds"'), gap)
    if not gap_s or not data:
        said = "data are empty" if gap_s else "gap_seconds is 0"
        raise _bad(file, _line_of(text, '"data"' if gap_s else '"gap_seconds"'), said, wanted)
    numbers = []
    for at, n in enumerate(data):
        try:
            numbers.append(_count(file, 1, n))
        except TraceError:  # its line is looked for only now
            _count(file, _line_of(text, '"data"', at), n, f"data[{at}] ")
            raise
    one = set(numbers) <= {0, 1} and "_1" in file.stem and "16-node" not in str(file)
    there = [1 - n for n in numbers] if one else numbers
    return _from_counts([(at * gap_s, n) for at, n in enumerate(there)], file.name, len(there) * gap_s)


def _line_of(text: str, key: str, entry: int = 0) -> int:
    """The line of a key of JSON text, or of the value so many commas behind it."""
    at = max(0, text.find(key))
    for _ in range(entry):
        at = text.find(",", at + 1)
    if entry:
        at += 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
    return text.count("\n", 0, at) + 1


def _number(file: Path, line: int, value: Any, what: str = "") -> float:
    """A time or count: finite, 0 or more."""
    wanted = "times and counts are finite and 0 or more"
    try:
        if isinstance(value, bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _bad(file, line, f"{what}{value!r} is no number", wanted) from None
    if not math.isfinite(found):
        raise _bad(file, line, f"{what}{value!r} is no finite number", wanted)
    if found < 0:
        raise _bad(file, line, f"{what}{value!r} is below 0", wanted)
    return found


def _count(file: Path, line: int, value: Any, what: str = "") -> int:
    found = _number(file, line, value, what)
    if found != int(found):
        raise _bad(file, line, f"{what}{value!r} is no whole number", "instances are counted whole; round it")
    if found > MOST:
        raise _bad(file, line, f"{what}{value!r} instances are more than {MOST}", "a count stands in the last column")
    return int(found)


def _from_counts(counts: Sequence[tuple[float, int]], source: str, end_s: float | None = None) -> Trace:
    """Names for numbers: who comes is new, who goes is the youngest."""
    there: list[str] = []
    events, made, last = [], 0, 0.0
    for at, wanted in counts:
        last = at
        while len(there) < wanted:
            made += 1
            there.append(f"i{made}")
            events.append(Event(at, "add", there[-1]))
        while len(there) > wanted:
            events.append(Event(at, "remove", there.pop()))
    return Trace(tuple(events), last if end_s is None else end_s, source)


def _finish(rows: Iterable[_Row], file: Path) -> Trace:
    """In order of time; who is added is not there, who is removed is."""
    ordered = sorted(rows, key=lambda row: row.event.time_s)  # stable: of equal times the file's order
    if not ordered:
        raise _bad(file, 1, "nobody comes or goes in it", f"a trace has an event a line, as {KINDS}")
    since: dict[str, int] = {}  # who is there, by the line that added it
    for row in ordered:
        event, name = row.event, row.event.instance
        if event.kind == "add" and name in since:
            said = f"{name} is there already at {event.time_s:g} s, since line {since[name]}"
            raise _bad(file, row.line, said, "remove it before it is added again, or give it another name")
        if event.kind == "remove" and name not in since:
            said = f"{name} is not there at {event.time_s:g} s"
            raise _bad(file, row.line, said, "add it first, or take the line out")
        if event.kind == "add":
            since[name] = row.line
        else:
            del since[name]
    return Trace(tuple(row.event for row in ordered), ordered[-1].event.time_s, file.name)


@dataclass(frozen=True)
class Weather:
    """How machines come and go in a made trace. The defaults are those of the two Bamboo traces, by their statistics.

    p3: 32 at most, mean 24.0, median life 59 min, 21 of 167 removals followed by an add within 2 min, up to 6 at once;
    g4dn: 24 at most, mean 12.8, median life 61 min. Lives are exponential with that median; removals come in bursts of
    geometric size; what was lost comes back after an exponential wait that gives the mean.
    """

    most: int = 24
    mean: float = 12.8
    median_life_s: float = 61 * 60.0
    burst: float = 1.6  # mean number that goes at once
    back_at_once: float = 0.126  # share of removals whose place is filled within two minutes
    source: str = "made by a generator with the statistics of Bamboo's g4dn trace (AWS, November 2020)"

    def __post_init__(self) -> None:
        if not 0 < self.mean <= self.most:
            raise ValueError(f"the mean number of instances lies between 0 and {self.most}, not at {self.mean}")
        if self.median_life_s <= 0 or self.burst < 1 or not 0 <= self.back_at_once <= 1:
            raise ValueError("lives are above 0 s, bursts 1 or more, and back_at_once is a share")


ZONES = "abcdefgh"  # of made traces
P3 = Weather(32, 24.0, 59 * 60.0, 1.8, 21 / 167, "made by a generator with the statistics of Bamboo's p3 trace (AWS)")
G4DN = Weather()


def made(weather: Weather, hours: float, seed: int, zones: int = 1) -> Trace:
    """A trace of so many hours: the same seed, the same trace. ValueError without hours, and for zones not 1 to 8.

    Several zones, called a, b and so on, share the instances and have weather of the same kind, each its own.
    """
    if not hours > 0:
        raise ValueError(f"a trace has more than 0 hours, not {hours}")
    if zones not in range(1, len(ZONES) + 1):
        raise ValueError(f"zones of a made trace are 1 to {len(ZONES)}, not {zones}")
    if zones == 1:
        return _made(weather, hours, seed)
    one = replace(weather, most=math.ceil(weather.most / zones), mean=weather.mean / zones)
    parts = {zone: _made(one, hours, seed * len(ZONES) + at) for at, zone in enumerate(ZONES[:zones])}
    return merged(parts, f"{weather.source}, in {zones} zones of {one.mean:.3g} instances each, seed {seed}")


def _made(weather: Weather, hours: float, seed: int) -> Trace:
    lot, end_s = random.Random(seed), hours * 3600
    life_s = weather.median_life_s / 0.6931
    wait_s = life_s * (weather.most - weather.mean) / weather.mean  # a place is empty so long, on average
    slow_s = max(0.0, wait_s - weather.back_at_once * 60) / (1 - weather.back_at_once or 1)
    there = [f"i{n}" for n in range(1, round(weather.mean) + 1)]
    events = [Event(0.0, "add", name) for name in there]
    made_count, now, empty = (
        len(there),
        0.0,
        [lot.expovariate(1 / max(slow_s, 1e-9)) for _ in range(weather.most - len(there))],
    )
    while True:
        next_add = min(empty, default=float("inf"))
        next_loss = now + lot.expovariate(len(there) / (life_s * weather.burst)) if there else float("inf")
        now = min(next_add, next_loss)
        if now >= end_s:
            return Trace(tuple(events), end_s, f"{weather.source}, seed {seed}")
        if next_add <= next_loss:
            empty.remove(next_add)
            made_count += 1
            there.append(f"i{made_count}")
            events.append(Event(now, "add", there[-1]))
            continue
        gone = 1
        while gone < min(6, len(there)) and lot.random() < 1 - 1 / weather.burst:
            gone += 1
        for name in lot.sample(there, gone):
            there.remove(name)
            events.append(Event(now, "remove", name))
            quick = lot.random() < weather.back_at_once
            empty.append(now + (lot.uniform(1, 120) if quick else lot.expovariate(1 / max(slow_s, 1e-9))))

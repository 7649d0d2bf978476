"""Who is there when: machines come and go, each in a zone, as events in order of time.

    trace.counts(), trace.mean(), trace.lifetimes_s()       what it is like
    trace.part(0, 3600), trace.sample(0.5, seed)            less of it
    merged({"a": one, "b": other}, "two zones")             several zones as one trace: "a/i1", "b/i1"

A zone is the part of an instance's name before "/", and "" where there is none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["add", "remove"]


def zone_of(instance: str) -> str:
    """The zone of an instance, by its name: "a" of "a/i1", "" of "i1"."""
    zone, slash, _ = instance.partition("/")
    return zone if slash else ""


@dataclass(frozen=True, order=True)
class Event:
    """At `time_s` seconds an instance comes or goes."""

    time_s: float
    kind: Kind
    instance: str


@dataclass(frozen=True)
class Trace:
    """Events in order, from second 0 to `end_s`; `source` says where it is from."""

    events: tuple[Event, ...]
    end_s: float
    source: str

    def counts(self) -> list[tuple[float, int]]:
        """(time, instances from then on), one entry a change."""
        there, found = 0, [(0.0, 0)]
        for event in self.events:
            there += 1 if event.kind == "add" else -1
            if found[-1][0] == event.time_s:
                found[-1] = (event.time_s, there)
            else:
                found.append((event.time_s, there))
        return found

    def mean(self) -> float:
        """Instances, over time."""
        steps = [*self.counts(), (self.end_s, 0)]
        return sum(n * (b - a) for (a, n), (b, _) in pairwise(steps)) / self.end_s if self.end_s else 0.0

    def zones(self) -> list[str]:
        """Those that its instances are of, in order of their names."""
        return sorted({zone_of(event.instance) for event in self.events})

    def lifetimes_s(self) -> list[float]:
        """Seconds from coming to going, of those that went."""
        born: dict[str, float] = {}
        found = []
        for event in self.events:
            if event.kind == "add":
                born[event.instance] = event.time_s
            elif event.instance in born:
                found.append(event.time_s - born.pop(event.instance))
        return found

    def part(self, start_s: float, end_s: float) -> Trace:
        """Cut out [start_s, end_s): who is there at the start comes at 0. ValueError for an empty part."""
        if not 0 <= start_s < end_s:
            raise ValueError(f"a part of a trace ends after it begins, not {start_s} to {end_s}")
        there: dict[str, None] = {}
        for event in self.events:
            if event.time_s > start_s:
                break
            there.pop(event.instance, None) if event.kind == "remove" else there.setdefault(event.instance)
        first = [Event(0.0, "add", name) for name in there]
        later = [Event(e.time_s - start_s, e.kind, e.instance) for e in self.events if start_s < e.time_s < end_s]
        return Trace(
            (*first, *later), min(end_s, self.end_s) - start_s, f"{self.source}, {start_s:.0f} to {end_s:.0f} s"
        )

    def sample(self, share: float, seed: int) -> Trace:
        """Each instance stays with this probability: what the paper did with 50 %. ValueError outside [0, 1]."""
        if not 0 <= share <= 1:
            raise ValueError(f"a share lies between 0 and 1, not at {share}")
        names = sorted({e.instance for e in self.events})
        by = "" if self.source.endswith(f"seed {seed}") else f", seed {seed}"
        lot = random.Random(seed)
        kept = set(lot.sample(names, round(share * len(names))))
        events = tuple(e for e in self.events if e.instance in kept)
        return Trace(events, self.end_s, f"{self.source}, {100 * share:.0f} % of instances" + by)

    def faster(self, factor: float) -> Trace:
        """The same with time divided by `factor`. ValueError where it is not above 0."""
        if not factor > 0:
            raise ValueError(f"time is divided by more than 0, not by {factor}")
        events = tuple(Event(e.time_s / factor, e.kind, e.instance) for e in self.events)
        return Trace(events, self.end_s / factor, f"{self.source}, {factor:g} times as fast")


def merged(parts: Mapping[str, Trace], source: str) -> Trace:
    """Traces of several zones as one, for as long as all of them are known: instance i1 of zone a is called "a/i1".

    ValueError without a zone, and for a zone whose name has a "/" or is empty.
    """
    if not parts or any(not zone or "/" in zone for zone in parts):
        raise ValueError(f"zones have names without '/', one or more of them, not {list(parts)}")
    end_s = min(trace.end_s for trace in parts.values())
    events = [
        Event(e.time_s, e.kind, f"{zone}/{e.instance}")
        for zone, trace in parts.items() for e in trace.events if e.time_s < end_s
    ]  # fmt: skip
    return Trace(tuple(sorted(events, key=lambda e: e.time_s)), end_s, source)  # stable: at one time by zone

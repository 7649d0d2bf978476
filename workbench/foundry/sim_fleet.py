"""One fleet through a burst on a virtual clock: requests, replicas that take time to start, an autoscaler. Modelled.

    found = simulate(Traffic(burst=4.0), Fleet(slots=16), start_s=36.0)
    found.late, found.lost, found.gpu_h, found.counts, found.spans()

Requests arrive by a Poisson process whose rate is higher during the burst, and wait in one queue. A replica decodes
`slots` sequences at once at a fixed time a token. Every look_s the autoscaler compares what runs and waits with what
replicas can hold at its target load, and starts what is missing; whoever is too many for idle_s drains. A request that
waits longer than patience_s has left. Virtual time; the same seed gives the same requests to every fleet.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.system import Span


@dataclass(frozen=True)
class Traffic:
    """Requests a second outside and times as many inside the burst; tokens of an answer are drawn exponentially."""

    rate_s: float = 6.0
    burst: float = 4.0
    burst_at_s: float = 60.0
    burst_for_s: float = 120.0
    horizon_s: float = 360.0
    tokens: float = 200.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rate_s, self.burst, self.tokens, self.horizon_s) <= 0 or self.burst_for_s < 0:
            raise ValueError("rate_s, burst, tokens and horizon_s are more than 0, burst_for_s is 0 or more")
        if not 0 <= self.burst_at_s <= self.burst_at_s + self.burst_for_s <= self.horizon_s:
            raise ValueError(f"the burst has to lie within 0 and horizon_s ({self.horizon_s:g} s)")
        if self.expected() > 300_000:
            raise ValueError(f"{self.expected():.0f} requests are too many to simulate: 300,000 at most")

    def expected(self) -> float:
        """Requests to be expected."""
        return self.rate_s * (self.horizon_s + (self.burst - 1) * self.burst_for_s)

    def arrivals(self) -> list[tuple[float, float]]:
        """(second, tokens of the answer), in order."""
        draw, made, at, end_s = random.Random(self.seed), [], 0.0, self.burst_at_s + self.burst_for_s
        highest = self.rate_s * max(1.0, self.burst)
        while (at := at + draw.expovariate(highest)) < self.horizon_s:  # thinned to the rate of the moment
            rate = self.rate_s * (self.burst if self.burst_at_s <= at < end_s else 1.0)
            keep, tokens = draw.random() * highest < rate, draw.expovariate(1 / self.tokens)
            if keep:
                made.append((at, max(1.0, tokens)))
        return made


@dataclass(frozen=True)
class Fleet:
    """Replicas and the autoscaler. All of this is set; none of it is the paper's.

    spare: replicas ready beyond what the target load asks for. slower_eager: a token without graphs over one with.
    """

    slots: int = 16
    token_ms: float = 20.0
    prefill_s: float = 0.1
    slower_eager: float = 1.5
    slo_s: float = 2.0  # until the first token
    patience_s: float = 10.0
    load: float = 0.7  # share of the slots that the autoscaler aims at
    look_s: float = 2.0
    idle_s: float = 60.0
    most: int = 64
    spare: int = 0

    def __post_init__(self) -> None:
        if self.slots < 1 or self.most < 1 or self.spare < 0 or not 0 < self.load <= 1:
            raise ValueError("slots and most are 1 or more, spare 0 or more, load more than 0 and at most 1")
        if min(self.token_ms, self.look_s, self.slower_eager) <= 0:
            raise ValueError("token_ms, look_s and slower_eager are more than 0")
        if min(self.prefill_s, self.slo_s, self.patience_s, self.idle_s) < 0:
            raise ValueError("prefill_s, slo_s, patience_s and idle_s are 0 or more")

    def replicas(self, sequences: float) -> int:
        """How many the autoscaler wants for so many sequences that run or wait, spares included."""
        return min(self.most, max(1, math.ceil(sequences / (self.slots * self.load))) + self.spare)


@dataclass
class _Replica:
    name: int
    asked_s: float
    ready_s: float
    end_s: float = math.inf
    batch: int = 0
    draining: bool = False
    served: int = 0
    busy_s: float = 0.0
    switches: int = 0
    since_s: float = 0.0


@dataclass(frozen=True)
class Lived:
    """A replica's life: asked for, ready, gone (seconds; `end_s` is the horizon at most), and the requests it took."""

    asked_s: float
    ready_s: float
    end_s: float
    served: int


@dataclass(frozen=True)
class Outcome:
    """One fleet through one burst. late: answered after the SLO. lost: gone before anybody took them.

    switching: share of decoding time, 0 to 1, that giving executables other parameters takes at most: once for every
    change of the batch to another size of the ladder. It is not in the other numbers. counts: (second, ready, starting,
    waiting) at every look.
    """

    start_s: float
    requests: int
    late: int
    lost: int
    first_token_s: tuple[float, ...]  # of those answered, sorted
    gpu_h: float
    switching: float
    counts: tuple[tuple[float, int, int, int], ...] = field(repr=False)
    lives: tuple[Lived, ...] = field(repr=False)

    @property
    def missed(self) -> float:
        """Share of requests late or lost, 0 to 1."""
        return (self.late + self.lost) / self.requests if self.requests else 0.0

    @property
    def peak(self) -> int:
        """Most replicas ready at a look."""
        return max((ready for _, ready, _, _ in self.counts), default=0)

    def first_token(self, share: float) -> float:
        """Seconds within which that share of the answered had their first token; nan when none was answered."""
        found = self.first_token_s
        return found[min(len(found) - 1, int(share * len(found)))] if found else math.nan

    def row(self) -> dict[str, float]:
        """Numbers for a table."""
        return {
            "start_s": self.start_s, "requests": self.requests, "late": self.late, "lost": self.lost,
            "missed (%)": 100 * self.missed, "p50_s": self.first_token(0.5), "p99_s": self.first_token(0.99),
            "gpu_h": self.gpu_h, "peak_replicas": self.peak, "switching (%)": 100 * self.switching,
        }  # fmt: skip

    def spans(self) -> list[Span]:
        """A lane for each replica: starting, then serving."""
        made = []
        for number, life in enumerate(self.lives, 1):
            lane, ready_s = f"replica {number}", min(life.ready_s, life.end_s)
            if ready_s > life.asked_s:
                made.append(Span(lane, life.asked_s, ready_s, "starting", "start", {"start_s": self.start_s}))
            if life.end_s > ready_s:
                made.append(
                    Span(lane, ready_s, life.end_s, f"{life.served} requests", "serve", {"served": life.served})
                )
        return made


class _World:
    """One run of the clock."""

    def __init__(
        self, traffic: Traffic, fleet: Fleet, start_s: float, slower: float, sizes: Sequence[int] | None
    ) -> None:
        self.traffic, self.fleet, self.start_s, self.slower = traffic, fleet, start_s, slower
        # the graph that a batch runs on; without a ladder there is nothing to switch
        self.graph = [bisect_left(sizes, b) if sizes else 0 for b in range(fleet.slots + 1)]
        self.queue: deque[tuple[float, float]] = deque()
        self.replicas: list[_Replica] = []
        self.gone: list[_Replica] = []
        self.agenda: list[tuple[float, int, str, _Replica | None]] = []
        self.order, self.running, self.excess_since = 0, 0, math.inf
        self.first_token_s: list[float] = []
        self.lost = 0
        self.counts: list[tuple[float, int, int, int]] = []

    def run(self) -> None:
        """Until every request has been answered or has left."""
        service_s = self.fleet.prefill_s + self.traffic.tokens * self.fleet.token_ms * self.slower / 1e3
        for _ in range(self.fleet.replicas(self.traffic.rate_s * service_s)):
            self.replicas.append(_Replica(len(self.replicas), 0.0, 0.0))
        arrivals = self.traffic.arrivals()
        at = 0
        self._later(0.0, "look")
        while self.agenda or at < len(arrivals):
            if at < len(arrivals) and (not self.agenda or arrivals[at][0] < self.agenda[0][0]):
                now = arrivals[at][0]
                self.queue.append(arrivals[at])
                at += 1
            else:
                now, _, kind, replica = heapq.heappop(self.agenda)
                if kind == "done":
                    assert replica is not None
                    self._done(replica, now)
                elif kind == "look":
                    self._look(now)
                    if now < self.traffic.horizon_s or self.queue:
                        self._later(now + self.fleet.look_s, "look")
            self._deal(now)

    def _later(self, at: float, kind: str, replica: _Replica | None = None) -> None:
        self.order += 1
        heapq.heappush(self.agenda, (at, self.order, kind, replica))

    def _deal(self, now: float) -> None:
        """The head of the queue to the emptiest replica that is ready; whoever waited too long has left."""
        fleet, queue = self.fleet, self.queue
        while queue:
            came, tokens = queue[0]
            if now - came > fleet.patience_s:
                queue.popleft()
                self.lost += 1
                continue
            best = None
            for each in self.replicas:
                if each.ready_s <= now and not each.draining and each.batch < (best.batch if best else fleet.slots):
                    best = each
            if best is None:
                return
            queue.popleft()
            self._batch(best, now, 1)
            best.served += 1
            self.running += 1
            self.first_token_s.append(now - came + fleet.prefill_s)
            self._later(now + fleet.prefill_s + tokens * fleet.token_ms * self.slower / 1e3, "done", best)

    def _batch(self, replica: _Replica, now: float, by: int) -> None:
        if replica.batch:
            replica.busy_s += now - replica.since_s
        before, replica.batch, replica.since_s = replica.batch, replica.batch + by, now
        if before and replica.batch:  # else it did nothing before or does nothing after
            replica.switches += self.graph[before] != self.graph[replica.batch]

    def _done(self, replica: _Replica, now: float) -> None:
        self._batch(replica, now, -1)
        self.running -= 1
        if replica.draining and not replica.batch:
            self._end(replica, now)

    def _end(self, replica: _Replica, now: float) -> None:
        replica.end_s = now
        self.replicas.remove(replica)
        self.gone.append(replica)

    def _look(self, now: float) -> None:
        """Start what is missing; end what has been too much for idle_s."""
        here = [each for each in self.replicas if not each.draining]
        wanted = self.fleet.replicas(self.running + len(self.queue))
        for _ in range(wanted - len(here)):
            made = _Replica(len(self.replicas) + len(self.gone), now, now + self.start_s)
            self.replicas.append(made)
            self._later(made.ready_s, "ready")
        self.excess_since = min(self.excess_since, now) if wanted < len(here) else math.inf
        if now - self.excess_since >= self.fleet.idle_s:
            here.sort(key=lambda each: (each.ready_s <= now, each.batch))  # those that do not even serve first
            for each in here[: len(here) - wanted]:
                each.draining = True
                if not each.batch:
                    self._end(each, now)
            self.excess_since = math.inf
        ready = sum(each.ready_s <= now for each in self.replicas)
        self.counts.append((now, ready, len(self.replicas) - ready, len(self.queue)))


def simulate(
    traffic: Traffic,
    fleet: Fleet,
    start_s: float,
    *,
    gpus: int = 1,
    slower: float = 1.0,
    sizes: Sequence[int] | None = None,
    update_s: float = 0.0,
) -> Outcome:
    """A fleet of replicas that take start_s to start, on so many GPUs each. ValueError for a negative start.

    sizes, update_s: the ladder whose sizes share executables, and what changing their parameters costs.
    """
    if not start_s >= 0 or gpus < 1:
        raise ValueError(f"a start takes 0 s or more on one GPU or more, not {start_s} s on {gpus}")
    world = _World(traffic, fleet, start_s, slower, sizes)
    world.run()
    horizon_s = traffic.horizon_s
    all_of_them = sorted([*world.gone, *world.replicas], key=lambda each: each.name)
    lives = tuple(
        Lived(each.asked_s, each.ready_s, min(each.end_s, horizon_s), each.served)
        for each in all_of_them
        if each.asked_s < horizon_s
    )
    first = sorted(world.first_token_s)
    busy_s = sum(each.busy_s for each in all_of_them)
    return Outcome(
        start_s, len(first) + world.lost, sum(s > fleet.slo_s for s in first), world.lost, tuple(first),
        gpus * sum(life.end_s - life.asked_s for life in lives) / 3600,
        sum(each.switches for each in all_of_them) * update_s / busy_s if busy_s else 0.0,
        tuple(world.counts), lives,
    )  # fmt: skip

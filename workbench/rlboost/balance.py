"""Algorithm 2 of RLBoost: which instance a request goes to, and when a request moves to another.

    select       the fewest pending among those with fewer than Theta; nobody: wait (delayed dispatch)
    rebalance    (a) an instance without pending takes pending ones from the fullest, one at a time;
                 (b) else a fully idle one takes what the busiest executes beyond B, its batch at the plateau
    Plateau      B, from the step times of the step before, at the mean context of now

Executing requests that move are migrations: their prompt and tokens are prefilled anew, no token is lost. Source: arXiv
2510.19225, Algorithm 2. The public code has only the delayed dispatch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

FAR = 8  # times the largest batch seen: a plateau beyond is none that anybody saw


@dataclass(frozen=True)
class Load:
    """Requests of one instance: waiting in its queue, and in its batch."""

    pending: int
    executing: int

    def __post_init__(self) -> None:
        if self.pending < 0 or self.executing < 0:
            raise ValueError(f"an instance has 0 requests or more, not {self.pending} and {self.executing}")


@dataclass(frozen=True)
class Move:
    """Take `count` requests from one instance's queue (pending) or batch (executing: a migration) to another."""

    source: str
    target: str
    count: int
    executing: bool
    why: str


def select(loads: Mapping[str, Load], theta: int) -> str | None:
    """The instance for one more request: the fewest pending, among those with fewer than `theta`; None: none has room.

    Ties go to the one that executes least, then to the first by name. ValueError for a threshold under 1.
    """
    if theta < 1:
        raise ValueError(f"theta must be 1 or more, or nothing is ever dispatched; not {theta}")
    room = [(load.pending, load.executing, name) for name, load in loads.items() if load.pending < theta]
    return min(room)[2] if room else None


def rebalance(loads: Mapping[str, Load], plateau: int | None) -> list[Move]:
    """What to move now; without a plateau (the first step) only pending ones. It ends: each move lowers a maximum."""
    pending = {name: load.pending for name, load in loads.items()}
    moves: list[Move] = []
    while pending:
        hungry = min(pending, key=lambda n: (pending[n], loads[n].executing, n))
        full = max(pending, key=lambda n: (pending[n], n))
        if pending[hungry] or not pending[full]:
            break
        if pending[full] == 1 and loads[hungry].executing >= loads[full].executing:
            break  # the one that waits would wait there too
        pending[hungry] += 1
        pending[full] -= 1
        moves.append(
            Move(full, hungry, 1, executing=False, why=f"{hungry} has none waiting, {full} {pending[full] + 1}")
        )
    if moves or plateau is None:
        return moves
    return _from_batches(loads, plateau)


def _from_batches(loads: Mapping[str, Load], plateau: int) -> list[Move]:
    """(b): each fully idle instance relieves the busiest of what it executes beyond the plateau."""
    executing = {name: load.executing for name, load in loads.items()}
    idle = sorted(n for n, load in loads.items() if not load.pending and not load.executing)
    moves = []
    for name in idle:
        busiest = max(executing, key=lambda n: (executing[n], n))
        more = executing[busiest] - plateau
        if more <= 0:
            break
        count = min(more, (executing[busiest] + 1) // 2)  # not beyond an even split: else it would come back
        executing[busiest] -= count
        executing[name] += count
        moves.append(
            Move(busiest, name, count, executing=True, why=f"{busiest} runs {more} beyond the plateau {plateau}")
        )
    return moves


@dataclass
class Plateau:
    """B: the batch beyond which an engine hardly gets faster, from seen step times. One for each kind of engine.

    A step takes a + b n + c n L seconds for n requests of mean context L, so an engine makes n / (a + b n + c n L)
    tokens/s and at most 1 / (b + c L). B is where `share` of that is reached: share / (1 - share) * a / (b + c L).
    A two-dimensional table of batch and context was tried in the paper and was worse.
    """

    share: float = 0.8
    least: int = 16  # samples before anything is said
    seen: list[tuple[float, float, float]] = field(default_factory=list)  # (n, n L, seconds) of the running step
    fitted: tuple[float, float, float] | None = None  # of the step before
    largest: int = 0  # batch that it has seen

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share lies between 0 and 1, not {self.share}")

    def observe(self, batch: int, mean_context: float, step_s: float) -> None:
        """One decode step of `batch` requests. ValueError for what no step can be."""
        if batch < 1 or mean_context < 0 or not step_s > 0:
            raise ValueError(f"a step has 1 request or more and takes time, not {batch}, {mean_context}, {step_s}")
        self.seen.append((batch, batch * mean_context, step_s))

    def next_step(self) -> None:
        """The step is over: what it showed is the profile of the next, unless it was too little."""
        if len(self.seen) >= self.least and len({n for n, _, _ in self.seen}) > 1:
            self.fitted = _fit(self.seen)
            self.largest = int(max(n for n, _, _ in self.seen))
        self.seen = []

    def batch(self, mean_context: float) -> int | None:
        """B at this context; None before anything was learnt, or where it lies far beyond what was seen."""
        if self.fitted is None:
            return None
        fixed, each, per_token = self.fitted
        slope = each + per_token * mean_context
        found = self.share / (1 - self.share) * fixed
        return max(1, math.ceil(found / slope)) if found < FAR * self.largest * slope else None


def _fit(seen: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Least squares of a + b n + c n L with none below 0: columns whose weight would be are taken out one by one."""
    table = np.array(seen)
    x = np.column_stack([np.ones(len(table)), table[:, 0], table[:, 1]])
    y, kept = table[:, 2], [0, 1, 2]
    while kept:
        solved, *_ = np.linalg.lstsq(x[:, kept], y, rcond=None)
        if (solved >= -1e-12).all():
            break
        kept.pop(int(np.argmin(solved)))
    found = [0.0, 0.0, 0.0]
    for at, value in zip(kept, solved if kept else []):
        found[at] = max(0.0, float(value))
    return found[0], found[1], found[2]

"""Engines and the weight link on simpy's clock. An engine moves from event to event in closed form, not token by token.

All requests of a batch gain tokens at one rate, so an engine counts virtual tokens: a request that joins at v with m to
go leaves at v + m, and the next event is the smallest such number. Contexts grow by a token a step, so steps grow by
n c, and d tokens from a step of s seconds take s d + n c d^2 / 2: exact, with nothing to look at in between.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from workbench.rlboost.balance import Load, Plateau
from workbench.rlboost.rates import Curve


@dataclass(slots=True)
class Request:
    """One response: `length` tokens in the end, `done` of them made, prompt and done tokens prefilled where it goes."""

    name: int
    prompt: int
    length: int
    done: float = 0.0
    moves: int = 0
    made: list[tuple[str, float, float]] = field(default_factory=list)  # (engine, from token, to token)

    @property
    def left(self) -> float:
        return self.length - self.done


class Engine:
    """A queue, a batch of at most `slots`, and the tokens it makes. `finished(request)` is told of each end."""

    def __init__(self, env: simpy.Environment, name: str, curve: Curve, finished: Callable[[Request], None]) -> None:
        self.env, self.name, self.curve, self.finished = env, name, curve, finished
        self.slots = curve.slots
        self.plateau: Plateau | None = None
        self.pending: deque[Request] = deque()
        self.batch: dict[int, tuple[Request, float, float]] = {}  # name -> (request, v at joining, done at joining)
        self._order: list[tuple[float, int]] = []  # (v at the end, name)
        self._v, self._at, self._context = 0.0, env.now, 0.0
        self._step_s = self._grows_s = 0.0  # of a decode step now, and by how much each is longer than the one before
        self._stall_until = 0.0
        self.tokens = self.busy_s = self.prefilled = 0.0
        self.alive = True
        self._due: simpy.Event | None = None  # the event that it goes on with; another that comes is out of date
        self._poked = False

    @property
    def load(self) -> Load:
        return Load(len(self.pending), len(self.batch))

    def give(self, request: Request) -> None:
        """One more request, at the end of the queue."""
        self.pending.append(request)
        self._poke()

    def take(self, count: int, *, executing: bool) -> list[Request]:
        """Give up requests: the last of the queue, or those of the batch with most to go, with the tokens they have."""
        self._advance()
        if not executing:
            return [self.pending.pop() for _ in range(min(count, len(self.pending)))]
        chosen = sorted(self.batch.values(), key=lambda row: -row[0].left)[:count]
        for request, _, _ in chosen:
            self._leave(request)
        self._poke()
        return [request for request, _, _ in chosen]

    def empty(self) -> list[Request]:
        """Everything it has, with the tokens made so far: at a kill, a drain or the end of seeding."""
        return [*self.take(len(self.batch), executing=True), *self.take(len(self.pending), executing=False)]

    def die(self) -> list[Request]:
        """Gone for good; returns what it had."""
        rest = self.empty()
        self.alive = False
        self._poke()
        return rest

    def _poke(self) -> None:
        """Look again, at this instant but after what goes on now."""
        if not self._poked and self.alive:
            self._poked = True
            self._go_on_in(0.0)

    def _go_on_in(self, wait_s: float) -> None:
        self._due = simpy.Timeout(self.env, wait_s)
        self._due.callbacks.append(self._turn)  # no process: these are half of the simulator's events

    def _leave(self, request: Request) -> None:
        """Out of the batch, its tokens booked."""
        _, joined, before = self.batch.pop(request.name)
        request.done = min(float(request.length), before + self._v - joined)
        if request.done > before:
            request.made.append((self.name, before, request.done))
            self.tokens += request.done - before
        self._context -= request.prompt + before - joined

    def _admit(self) -> None:
        while self.pending and len(self.batch) < self.slots:
            request = self.pending.popleft()
            tokens = request.prompt + request.done
            start = max(self._stall_until, self.env.now)
            self._stall_until = start + tokens / self.curve.prefill_tok_s  # a prefill holds the batch up
            self.prefilled += tokens
            self.batch[request.name] = (request, self._v, request.done)
            heapq.heappush(self._order, (self._v + request.left, request.name))
            self._context += request.prompt + request.done - self._v

    def _advance(self) -> None:
        """Bring virtual tokens up to now."""
        now = self.env.now
        spent = now - max(self._at, min(self._stall_until, now))
        if self.batch and spent > 0:
            root = math.sqrt(self._step_s**2 + 2 * self._grows_s * spent)
            gained = 2 * spent / (self._step_s + root)
            self._v += gained
            self._step_s += self._grows_s * gained
        if self.batch:
            self.busy_s += now - self._at
        self._at = now

    def _mean_context(self) -> float:
        return self._context / len(self.batch) + self._v if self.batch else 0.0

    def _turn(self, event: simpy.Event) -> None:
        """What has ended leaves, who waits joins, and the time of the next end is set."""
        if event is not self._due or not self.alive:
            return
        self._poked = True  # whoever is told of an end may give more: that is admitted now
        self._advance()
        self._end_finished()
        self._admit()
        self._poked = False
        if not self.batch:
            self._due = None
            return
        count, context = len(self.batch), self._mean_context()
        self._step_s, self._grows_s = self.curve.step_s(count, context), count * self.curve.token_s
        if self.plateau is not None:
            self.plateau.observe(count, context, self._step_s)
        more = self._order[0][0] - self._v
        wait = more * (self._step_s + self._grows_s * more / 2) + max(0.0, self._stall_until - self.env.now)
        self._go_on_in(max(wait, 1e-9))

    def _end_finished(self) -> None:
        while self._order:
            end_v, name = self._order[0]
            row = self.batch.get(name)
            if row is None or abs(row[1] + row[0].length - row[2] - end_v) > 1e-6:  # it left, and perhaps came back
                heapq.heappop(self._order)
                continue
            if end_v > self._v + 1e-6:
                return
            heapq.heappop(self._order)
            request = row[0]
            self._leave(request)
            request.done = float(request.length)
            self.finished(request)


class Link:
    """Weights on their way: each puller has its own bandwidth, all share the sender's, from change to change."""

    def __init__(self, env: simpy.Environment, sender_gb_s: float, puller_gb_s: float) -> None:
        if not (sender_gb_s > 0 and puller_gb_s > 0):
            raise ValueError(f"bandwidths are above 0 GB/s, not {sender_gb_s} and {puller_gb_s}")
        self.env, self.sender, self.puller = env, sender_gb_s, puller_gb_s
        self.left: dict[str, float] = {}
        self._at, self._changed = env.now, env.event()

    def pull(self, name: str, gb: float) -> Generator[Any, Any, None]:
        """Transfer `gb`; a process that is interrupted leaves the link to the others."""
        self._turn()
        self.left[name] = gb
        self._notify()
        try:
            while self.left[name] > 1e-9:
                rate = self._rate()
                yield self.env.any_of([self.env.timeout(self.left[name] / rate), self._changed])
                self._turn()
        finally:
            self._turn()
            self.left.pop(name, None)
            self._notify()

    def _rate(self) -> float:
        return min(self.puller, self.sender / max(1, len(self.left)))

    def _turn(self) -> None:
        """Book what has come since the last change, at the rate of then."""
        gone = self._rate() * (self.env.now - self._at)
        self._at = self.env.now
        for name in self.left:
            self.left[name] = max(0.0, self.left[name] - gone)

    def _notify(self) -> None:
        before, self._changed = self._changed, self.env.event()
        if not before.triggered:
            before.succeed()

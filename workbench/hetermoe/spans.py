"""When a rank did what: starts and ends of its stages and messages, for a measured timeline.

    with spans.at("attention", "forward", layer=0, micro_batch=1): ...
    spans.take()                     -> what ended since, [Span, ...]

Times are seconds of the monotonic clock, which processes of one machine share. A message's span includes waiting for
its partners. kind: attention, head, expert, offload (an expert on an attention rank) | dispatch, combine, peers out,
peers back (messages) | sum (gradients), update (optimizer) | pace (after a stage of a rank that is slowed down on
purpose, with its layer and micro-batch; no work).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from workbench.hetermoe.pace import Pace

COMPUTE = ("attention", "head", "expert", "offload", "update")
PACE = "pace"


class Span(NamedTuple):
    """One of them. way: forward, backward or "". layer, micro_batch: -1 where there is none. cpu_s: of its thread."""

    kind: str
    way: str
    layer: int
    micro_batch: int
    start_s: float
    end_s: float
    cpu_s: float


class Spans:
    """Of one rank; its threads add to it. pace: what is paid after each of its stages."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.pace = pace
        self._ended: list[Span] = []

    @contextlib.contextmanager
    def at(self, kind: str, way: str = "", layer: int = -1, micro_batch: int = -1) -> Iterator[None]:
        """A span around what is done within."""
        start, cpu = time.monotonic(), time.thread_time()
        yield
        used, end = time.thread_time() - cpu, time.monotonic()
        self._ended.append(Span(kind, way, layer, micro_batch, start, end, used))
        if self.pace is not None and kind in COMPUTE:
            paid = self.pace.pay(used)
            self._ended.append(Span(PACE, way, layer, micro_batch, end, time.monotonic(), paid))

    def add(self, span: Span) -> None:
        """One whose time was taken elsewhere."""
        self._ended.append(span)

    def take(self) -> list[Span]:
        """What ended since the last call, by start."""
        taken, self._ended = self._ended, []
        return sorted(taken, key=lambda span: span.start_s)


def busy(spans: Sequence[Span], seconds: float) -> float:
    """Share of `seconds` that a rank computed, from its compute spans, which do not overlap."""
    return sum(span.end_s - span.start_s for span in spans if span.kind in COMPUTE) / seconds if seconds > 0 else 0.0

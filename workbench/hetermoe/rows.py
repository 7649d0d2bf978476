"""A step of a run in numbers, put together from what its ranks say of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.hetermoe.spans import PACE, Span, busy


@dataclass(frozen=True)
class Row:
    """A step. start_s: when the first rank began, but not before the step before had ended on all ranks; end_s: when
    the last rank ended; in seconds of the run's clock. So steps that follow one another add up to their time.

    spans and busy (the share of the step's time that it computed) by rank. routed[layer][expert]: copies of tokens that
    went to an expert; empty where the engine does not tell.
    """

    step: int
    loss: float
    tokens: int
    start_s: float
    end_s: float
    spans: Mapping[int, Sequence[Span]]
    routed: tuple[tuple[int, ...], ...] = ()

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Part of a layer's copies that each expert got: `Load.shares`, for a planner that looks at drift."""
        return tuple(tuple(n / sum(row) for n in row) for row in self.routed)

    @property
    def seconds(self) -> float:
        """How long the step took."""
        return self.end_s - self.start_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the batch over its time."""
        return self.tokens / self.seconds

    @property
    def paced_s(self) -> dict[int, float]:
        """Seconds that each paced rank was held up on purpose; no rank that is not."""
        held = {rank: [s.end_s - s.start_s for s in spans if s.kind == PACE] for rank, spans in self.spans.items()}
        return {rank: sum(seconds) for rank, seconds in held.items() if seconds}

    @property
    def busy(self) -> dict[int, float]:
        """Utilisation by rank."""
        return {rank: busy(spans, self.seconds) for rank, spans in self.spans.items()}


def row_of(ranks: Mapping[int, Mapping[str, Any]], tokens: int, before: Row | None = None) -> Row:
    """The step from what each rank said: fields of rank.Told. tokens: of its batch.

    before: the step right before it, if there was one. An expert rank is done with a step while attention ranks are at
    their last backward, and begins to wait for the next: that time is the step's that is not over.
    """
    loss = next(told["loss"] for told in ranks.values() if told["loss"] is not None)
    spans = {rank: [Span(*span) for span in ranks[rank]["spans"]] for rank in sorted(ranks)}
    start, end = min(t["start_s"] for t in ranks.values()), max(t["end_s"] for t in ranks.values())
    start = start if before is None else max(start, before.end_s)
    routed = [told["routed"] for told in ranks.values() if told.get("routed")]
    total = tuple(tuple(map(sum, zip(*layer))) for layer in zip(*routed))
    return Row(next(iter(ranks.values()))["step"], loss, tokens, start, end, spans, total)

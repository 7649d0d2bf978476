"""A Span that a result can hold: what every system's record keeps of its timeline."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from workbench.system import Span


class Held(BaseModel):
    """A Span as JSON holds it; times in seconds of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    lane: str
    start_s: float
    end_s: float
    label: str
    kind: str
    why: dict[str, float | str] = Field(default_factory=dict)

    @classmethod
    def of(cls, span: Span) -> Held:
        """From an event of the timeline."""
        return cls(
            lane=span.lane, start_s=span.start_s, end_s=span.end_s, label=span.label, kind=span.kind, why=dict(span.why)
        )

    def span(self) -> Span:
        """As an event of the timeline."""
        return Span(self.lane, self.start_s, self.end_s, self.label, self.kind, self.why)

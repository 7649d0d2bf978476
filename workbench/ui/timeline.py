"""The timeline of a run, and why each thing in it was decided: by a click, or with the keyboard.

A span is chosen by clicking it or by Enter on it, by Earlier and Later, or from the list; a window of time can be cut
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from workbench import theme
from workbench.system import Span, System
from workbench.ui import draw
from workbench.ui.sliders import take_place
from workbench.ui.view import View, table

_LISTED = 400  # entries of the list; beyond that Earlier and Later reach the rest


class Timeline(widgets.VBox):  # type: ignore[misc]
    """Spans of one run in lanes. `chosen` is the index of the span that is explained, None at first."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.spans: list[Span] = []
        self.chosen: int | None = None
        self._order: list[str] = []
        self._busy = False
        self.picture, self.why = View(), View()
        self.earlier = widgets.Button(description="Earlier", tooltip="Explain the span before")
        self.later = widgets.Button(description="Later", tooltip="Explain the span after")
        self.listed = widgets.Dropdown(options=[("choose a span", -1)], tooltip="All spans, in order")
        self.window = self._ranging(1.0)
        steps = widgets.HBox([self.earlier, self.later, self.listed])
        steps.add_class("wb-steps")
        super().__init__([self.window, self.picture, steps, self.why])
        self.add_class("wb-timeline")
        self.earlier.on_click(lambda _: self.step(-1))
        self.later.on_click(lambda _: self.step(1))
        self.listed.observe(self._on_listed, "value")
        self.picture.on_pick(lambda name: self.choose(int(name)))
        self.load([])

    def load(self, spans: Sequence[Span]) -> None:
        """Show these spans, in the order of their start."""
        self.spans = sorted(spans, key=lambda s: (s.start_s, s.lane))
        self._order = list(dict.fromkeys(s.lane for s in spans))
        self.chosen = None
        end = max((s.end_s for s in self.spans), default=1.0) or 1.0
        self._busy = True
        try:
            if self.window.max != end:
                self.window = take_place(self, self.window, self._ranging(end))
            self.window.value = (0.0, end)
            self.listed.options = [
                ("choose a span", -1),
                *((_name(s), at) for at, s in enumerate(self.spans[:_LISTED])),
            ]
            self.listed.value = -1
        finally:
            self._busy = False
        self.window.layout.display = "" if self.spans else "none"
        for button in (self.earlier, self.later, self.listed):
            button.disabled = not self.spans
        self._draw()

    def _ranging(self, end: float) -> Any:
        slider = widgets.FloatRangeSlider(
            description="Show (s)", min=0, max=end, step=end / 200, value=(0, end), continuous_update=False,
            readout_format=".3g",
        )  # fmt: skip
        slider.add_class("wb-window")
        slider.observe(lambda _: self._draw(), "value")
        return slider

    def choose(self, at: int) -> None:
        """Explain the `at`-th span."""
        if not 0 <= at < len(self.spans):
            return
        self.chosen = at
        self._busy = True
        self.listed.value = at if at < min(_LISTED, len(self.spans)) else -1
        self._busy = False
        self._draw()

    def step(self, by: int) -> None:
        """Explain the next span (1) or the one before (-1)."""
        if self.spans:
            self.choose(0 if self.chosen is None else min(max(self.chosen + by, 0), len(self.spans) - 1))

    def _on_listed(self, change: dict[str, Any]) -> None:
        if not self._busy and change["new"] is not None and change["new"] >= 0:
            self.choose(change["new"])

    def _draw(self) -> None:
        if self._busy:
            return
        if not self.spans:
            self.picture.html = '<div class="wb-blank">The timeline appears when a run has ended.</div>'
            self.why.html = ""
            return
        self.picture.html = draw.lanes(
            self.spans,
            title="Timeline",
            window=self.window.value,
            bar=26,
            pickable=True,
            chosen=self.chosen,
            order=self._order,
        )
        self.why.html = self._why()

    def _why(self) -> str:
        if self.chosen is None:
            return (
                '<div class="wb-quiet">Click a span, or step with Earlier and Later, to see why it was decided.</div>'
            )
        span = self.spans[self.chosen]
        said = self.system.detail(span) if self.system.detail else ""
        rows = [[escape(theme.split_unit(k)[0]), _value(k, v)] for k, v in span.why.items()]
        known = table(["what was known then", "value"], rows) if rows else '<p class="wb-quiet">No reason recorded.</p>'
        head = f"{_name(span)} ({self.chosen + 1} of {len(self.spans)})"
        return f'<section class="wb-why" role="status"><h4>{escape(head)}</h4><p>{escape(said)}</p>{known}</section>'

    def __repr__(self) -> str:
        return f"Timeline({self.system.name!r})"


def _name(span: Span) -> str:
    return f"{span.lane}: {span.label}, {theme.number(span.start_s)} to {theme.number(span.end_s)} s"


def _value(name: str, value: float | str) -> str:
    return escape(value) if isinstance(value, str) else theme.quantity(name, float(value))

"""Replay: a slider over the events of a run that has ended; what was seen live is seen again at each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from workbench import theme
from workbench.system import Act, Event
from workbench.ui.acts import marks_html
from workbench.ui.live import Live, Story
from workbench.ui.sliders import take_place
from workbench.ui.view import View


class Replay(widgets.VBox):  # type: ignore[misc]
    """Scrubs a run's events on `live`. The last place is the end of the run, shown under its own state.

    What was done by hand stands below the slider; a press goes there.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self._events: Sequence[tuple[float, Event]] = ()
        self._end = ("ready", "")
        self._busy = False
        self.slider = self._scrubber(0)
        self.where, self.marks = widgets.Label(""), View()
        self._acts: list[tuple[int, float, Act]] = []
        self._scrub = widgets.HBox([self.slider, self.where])
        self._scrub.add_class("wb-scrub")
        self.marks.layout.display = "none"
        super().__init__([self._scrub, self.marks])
        self.marks.on_pick(self._on_mark)

    def load(self, events: Sequence[tuple[float, Event]], state: str, text: str) -> None:
        """Offer the events of a run that ended as `state`, with `text` as its status line."""
        self._events, self._end = list(events), (state, text)
        self._acts = [(at, t, act) for at, (t, act) in enumerate(events, 1) if isinstance(act, Act)]
        self.marks.layout.display = "" if self._acts else "none"
        self._busy = True
        if self.slider.max != len(self._events):
            self.slider = take_place(self._scrub, self.slider, self._scrubber(len(self._events)))
        self.slider.value = len(self._events)
        self._busy = False
        self.slider.disabled = not self._events
        self._say(len(self._events))

    def _scrubber(self, most: int) -> Any:
        slider = widgets.IntSlider(
            description="Replay", min=0, max=most, readout=False, disabled=True,
            tooltip="Event by event, with arrow keys too",
        )  # fmt: skip
        slider.observe(self._on_slide, "value")
        return slider

    def lock(self) -> None:
        """No replay while a run is going."""
        self.slider.disabled = True
        self.where.value = ""
        self.marks.layout.display = "none"

    def _on_mark(self, place: str) -> None:
        if not self.slider.disabled:
            self.slider.value = int(place)

    def _on_slide(self, change: dict[str, Any]) -> None:
        if self._busy:
            return
        place = change["new"]
        story = Story(self._events[:place])
        at_end = place == len(self._events)
        state, text = (
            self._end if at_end else ("replay", f"replay at {theme.number(story.at_s)} s: {story.progress.note}")
        )
        self.live.paint(story, state, text)
        self._say(place)

    def _say(self, place: int) -> None:
        at_s = self._events[place - 1][0] if place else 0.0
        self.where.value = f"event {place} of {len(self._events)}, {theme.number(at_s)} s" if self._events else ""
        self.marks.html = marks_html(self._acts, place)

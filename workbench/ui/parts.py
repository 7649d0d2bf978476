"""The parts of a run: its graph while it fills, and the text of one of them while it is written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from html import escape

import ipywidgets as widgets

from workbench.system import MOST_VERTICES, Vertex
from workbench.ui import graph
from workbench.ui.view import View

MOST_TEXT = 20_000  # characters of a text that are shown: its last ones
_COLUMNS = 5  # a graph of more has the text below it, not beside it
_serial = itertools.count()


class Parts(widgets.VBox):  # type: ignore[misc]
    """Takes no room before a run tells of parts. `chosen` is the one whose text is shown; "" follows what is written.

    `on_edit(call)` shows a button that calls `call(vertices)`: what is seen becomes a setting.
    """

    def __init__(self) -> None:
        self.chosen = ""
        self._vertices: dict[str, Vertex] = {}
        self._texts: dict[str, list[str]] = {}
        self._serial = f"wbg{next(_serial)}"
        self._editing: Callable[[Sequence[Vertex]], None] | None = None
        self.picture, self.reading = View(), View()
        self.picture.add_class("wb-drawnparts")
        self.reading.add_class("wb-readparts")
        both = widgets.HBox([self.picture, self.reading])
        both.add_class("wb-bothparts")
        self.edit = widgets.Button(description="Edit this graph", tooltip="Take it into the form, to change and run")
        self.edit.layout.display = "none"
        super().__init__([both, self.edit])
        self.add_class("wb-parts")
        self.layout.display = "none"
        self.picture.on_pick(self.choose)
        self.edit.on_click(lambda _: self._on_edit())

    def paint(self, vertices: Mapping[str, Vertex], texts: Mapping[str, list[str]]) -> None:
        """Show this graph, by name, and these texts, in the pieces in which they came."""
        self._vertices, self._texts = dict(vertices), dict(texts)
        self._draw()

    def choose(self, name: str) -> None:
        """Show what this part says; the chosen one again: follow what is written."""
        self.chosen = "" if name == self.chosen else name
        self._draw()

    def on_edit(self, call: Callable[[Sequence[Vertex]], None]) -> None:
        """Offer to edit the graph: `call(vertices)` when that is wanted."""
        self._editing = call

    @property
    def some(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._vertices or self._texts)

    @property
    def shown(self) -> str:
        """The part whose text is shown: the chosen, else the first that runs, else the last that began to speak."""
        if self.chosen in self._vertices or self.chosen in self._texts:
            return self.chosen
        running = [v.name for v in self._vertices.values() if v.state == "running"]
        spoke = [*self._texts][-1:] or [*self._vertices][:1]
        return next(iter(running + spoke), "")

    def _draw(self) -> None:
        vertices, texts = self._vertices, self._texts
        self.layout.display = "" if self.some else "none"
        if not self.some:
            return
        self.edit.layout.display = "" if vertices and self._editing else "none"
        for view, html in ((self.picture, self._picture(vertices, texts)), (self.reading, self._reading())):
            if view.html != html:
                view.html = html

    def _picture(self, vertices: Mapping[str, Vertex], texts: Mapping[str, list[str]]) -> str:
        shown = self.shown
        streams = [_stream(name, name == shown) for name in texts if name not in vertices]
        head = f'<div class="wb-partshead"><h4>Graph</h4>{_summary(list(vertices.values()))}{"".join(streams)}</div>'
        if not vertices:
            self.add_class("wb-broad")  # no picture that the text could stand beside
            return head.replace("<h4>Graph</h4>", "<h4>Texts</h4>")
        drawn = list(vertices.values())
        broad = graph.columns(drawn) > _COLUMNS
        (self.add_class if broad else self.remove_class)("wb-broad")
        wide = 900 if broad else 620
        svg = graph.picture(drawn, title="Graph of the run", serial=self._serial, chosen=shown, wide=wide)
        return f'{head}<div class="wb-graphbox">{svg}</div>'

    def _reading(self) -> str:
        name = self.shown
        vertex = self._vertices.get(name)
        text = "".join(self._texts.get(name, ()))
        title = escape(f"{name}: {vertex.label}" if vertex else name)
        state = f"{graph.MARKS[vertex.state]} {graph.standing(vertex)}" if vertex else f"{len(text):,} characters"
        needs = f" · needs {', '.join(vertex.needs)}" if vertex and vertex.needs else ""
        left = max(0, len(text) - MOST_TEXT)
        cut = f'<span class="wb-quiet">… the first {left:,} characters are not shown</span>\n' if left else ""
        body = f"{cut}{escape(text[left:])}" if text else '<span class="wb-quiet">Nothing is written yet.</span>'
        stick = " data-stick" if vertex is None or vertex.state == "running" else ""
        follows = "follows what is written; pick a part to stay" if self.chosen != name else ""
        head = f'<h4>{title}</h4><span class="wb-quiet">{escape(state)}{escape(needs)}</span>'
        return (
            f'<section class="wb-reading" aria-label="text of {escape(name)}"><div class="wb-partshead">{head}'
            f'<span class="wb-quiet wb-follows">{follows}</span></div>'
            f'<div class="wb-text" tabindex="0" data-key="{escape(name)}"{stick}>{body}</div></section>'
        )

    def _on_edit(self) -> None:
        if self._editing is not None:
            self._editing(list(self._vertices.values()))

    def __repr__(self) -> str:
        return "Parts()"


def _summary(vertices: Sequence[Vertex]) -> str:
    """Counts in words, and what the thick line is; parts that are not drawn are told."""
    if not vertices:
        return ""
    more = len(vertices) - MOST_VERTICES
    said = escape(graph.counts(vertices)) + (f" {more} of them are not drawn." if more > 0 else "")
    thick = ""
    if any(v.critical for v in vertices):
        line = '<svg width="26" height="8" aria-hidden="true"><path class="wb-trunk" d="M0,4 H26"/></svg>'
        thick = f'<span class="wb-key wb-quiet">{line}critical path</span>'
    return f'<span class="wb-quiet">{said}</span>{thick}'


def _stream(name: str, shown: bool) -> str:
    """A text without a vertex, as a button."""
    on = "true" if shown else "false"
    return f'<button class="wb-stream" data-pick="{escape(name)}" aria-pressed="{on}">{escape(name)}</button>'

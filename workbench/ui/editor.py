"""A graph as a setting: lines of text and the drawn graph, of which each follows the other.

In the graph an edge is made or taken away by clicking what is needed and then what needs it, or with Enter on both; the
lists below do the same. What is no graph (workbench.dag) is refused with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets

from workbench import dag
from workbench.system import Vertex
from workbench.ui import graph
from workbench.ui.view import View

_HINT = "Click a part, then one that needs it; the same again takes the edge away."
_MOST_UNDO = 100
_serial = itertools.count()


class DagEdit(widgets.VBox):  # type: ignore[misc]
    """`value` is the text, valid or not; `vertices` is the last valid graph; `chosen` the id that is edited, or 0."""

    value = traitlets.Unicode("")
    disabled = traitlets.Bool(False)

    def __init__(self) -> None:
        self.vertices: list[dag.Vertex] = []
        self.chosen = self.armed = 0  # armed: an edge is being drawn from here
        self.fault = ""  # why the text is no graph
        self._wrong = ""  # what else is wrong with it, as its form says
        self._serial = f"wbe{next(_serial)}"
        self._past: list[str] = []
        self._busy = False
        self.lines = widgets.Textarea(
            placeholder="1: What comes first?\n2 <- 1: What follows from it?", rows=9, tooltip="A part a line"
        )
        self.told, self.drawn, self.needs = View(), View(), View()
        self.listed = widgets.Dropdown(description="Part", options=[("none", 0)], tooltip="The part to edit")
        self.ask = widgets.Text(description="Text", continuous_update=False, tooltip="What this part asks")
        self.more = widgets.Button(description="Add a part", tooltip="A new one at the end")
        self.less = widgets.Button(description="Remove it", tooltip="Take the chosen part out; the rest is renumbered")
        self.undo = widgets.Button(description="Undo", tooltip="Take the last change back")
        super().__init__([self._layout()])
        self.add_class("wb-dag")
        self._connect()
        self._read()

    def _layout(self) -> Any:
        buttons = widgets.HBox([self.more, self.less, self.undo])
        buttons.add_class("wb-steps")
        row = widgets.HBox([self.listed, self.ask])
        row.add_class("wb-dagrow")
        left, right = widgets.VBox([self.lines, self.told, buttons]), widgets.VBox([self.drawn, row, self.needs])
        left.add_class("wb-dagtext")
        right.add_class("wb-daggraph")
        both = widgets.HBox([left, right])
        both.add_class("wb-dagboth")
        return both

    def _connect(self) -> None:
        self.lines.observe(self._on_lines, "value")
        self.observe(self._on_value, "value")
        self.observe(self._on_disabled, "disabled")
        self.drawn.on_pick(lambda name: self.pick(int(name)))
        self.needs.on_pick(self._on_switch)
        self.listed.observe(self._on_listed, "value")
        self.ask.observe(self._on_ask, "value")
        self.more.on_click(lambda _: self.add())
        self.less.on_click(lambda _: self.remove(self.chosen))
        self.undo.on_click(lambda _: self.back())

    # -- what a user does ------------------------------------------------------------------------------------------

    def pick(self, at: int) -> None:
        """A part was clicked: the first is where an edge starts, the second where it ends."""
        if self.armed and at != self.armed:
            need, self.armed = self.armed, 0
            if self.toggle(need, at):
                self.choose(at)
        else:
            self.armed = 0 if self.armed else at
            self.choose(at)

    def choose(self, at: int) -> None:
        """Edit this part; 0 for none."""
        self.chosen = at if 0 <= at <= len(self.vertices) else 0
        self._draw()

    def toggle(self, need: int, at: int) -> bool:
        """Part `at` needs `need`, or no longer. False when refused, with the reason in `told`."""
        if not at or self._refused(f"{at} cannot need {need}: only earlier parts can be needed" if need >= at else ""):
            return False
        old = self.vertices[at - 1]
        new = set(old.needs) ^ {need}
        return self._take(replace(v, needs=tuple(sorted(new))) if v is old else v for v in self.vertices)

    def rename(self, at: int, label: str) -> bool:
        """Part `at` asks this. False when refused."""
        label = " ".join(label.split())
        if self._refused("" if label else f"part {at} has to ask something"):
            return False
        return self._take(replace(v, label=label) if v.id == at else v for v in self.vertices)

    def add(self) -> bool:
        """One more part at the end, which is then edited."""
        if self._refused(""):
            return False
        at = len(self.vertices) + 1
        self.chosen, self.armed = at, 0
        return self._take([*self.vertices, dag.Vertex(at, "new question")])

    def remove(self, at: int) -> bool:
        """Take a part out: who needed it does so no longer, and later ids move up."""
        if not at or self._refused(""):
            return False
        self.chosen = self.armed = 0

        def moved(i: int) -> int:
            return i - (i > at)

        left = [v for v in self.vertices if v.id != at]
        return self._take(replace(v, id=moved(v.id), needs=tuple(moved(n) for n in v.needs if n != at)) for v in left)

    def back(self) -> None:
        """Take back the last change, of the graph or of the text."""
        if self._past:
            self.armed = 0
            self.value = self._past.pop()
            self._draw()

    # -- text and graph follow each other ----------------------------------------------------------------------------

    def _take(self, vertices: Any) -> bool:
        """Write this graph into the text; it was checked, and is read again all the same."""
        text = dag.write(vertices)
        try:
            dag.read(text)
        except dag.DagError as error:
            return not self._refused(str(error))
        self._past = [*self._past[-_MOST_UNDO:], self.value]
        self.value = text
        self._draw()
        return True

    def tell(self, wrong: str) -> None:
        """Show what is wrong with the setting, "" when nothing is."""
        self._wrong = wrong
        self._draw()

    def _refused(self, why: str) -> bool:
        """Whether an edit is refused: for `why`, or because the text is no graph."""
        why = f"mend the text first: {self.fault}" if self.fault else why
        if why:
            self._draw(f'<div class="wb-error" role="alert">Refused: {escape(why)}</div>')
        return bool(why)

    def _on_value(self, change: dict[str, Any]) -> None:
        if self.lines.value != change["new"]:
            self._busy = True
            self.lines.value = change["new"]
            self._busy = False
        self._read()

    def _on_lines(self, change: dict[str, Any]) -> None:
        if not self._busy:
            self._past = [*self._past[-_MOST_UNDO:], self.value]  # what was typed is a change like others
            self.value = change["new"]

    def _on_listed(self, change: dict[str, Any]) -> None:
        if not self._busy and change["new"] is not None:
            self.armed = 0
            self.choose(change["new"])

    def _on_switch(self, name: str) -> None:
        self.toggle(int(name), self.chosen)

    def _on_ask(self, change: dict[str, Any]) -> None:
        if not self._busy and self.chosen and change["new"] != self.vertices[self.chosen - 1].label:
            self.rename(self.chosen, change["new"])

    def _on_disabled(self, _: Any) -> None:
        self.layout.display = "none" if self.disabled else ""

    def _read(self) -> None:
        """The graph follows the text; a text that is none leaves the last graph, dimmed."""
        try:
            self.vertices, self.fault = dag.read(self.value), ""
        except dag.DagError as error:
            self.fault = str(error)
        if self.chosen > len(self.vertices):
            self.chosen = 0
        if self.armed > len(self.vertices):
            self.armed = 0
        self._draw()

    def _draw(self, said: str = "") -> None:
        shown = [Vertex(str(v.id), v.label, tuple(map(str, v.needs))) for v in self.vertices]
        title = "Graph of the setting"
        marks = {"chosen": str(self.chosen) if self.chosen else None, "armed": str(self.armed) if self.armed else None}
        svg = graph.picture(shown, title=title, serial=self._serial, states=False, wide=500, **marks) if shown else ""
        blank = '<div class="wb-blank">The graph appears as its lines are written.</div>'
        self.drawn.html = f'<div class="wb-graphbox{" wb-dim" if self.fault else ""}">{svg or blank}</div>'
        hint = f"From {self.armed}: now the part that needs it, or {self.armed} again." if self.armed else _HINT
        wrong = self.fault or self._wrong
        fault = f'<div class="wb-error" role="alert">{escape(wrong)}</div>' if wrong else ""
        self.told.html = said or fault or f'<div class="wb-help" role="status">{hint}</div>'
        self._controls()

    def _controls(self) -> None:
        """The lists and buttons under the graph."""
        vertex = self.vertices[self.chosen - 1] if self.chosen else None
        options = [("choose a part", 0), *((f"{v.id}: {v.label}", v.id) for v in self.vertices)]
        self._busy = True
        try:
            if list(self.listed.options) != options:
                self.listed.options = options
            self.listed.value = self.chosen
            self.ask.value = vertex.label if vertex else ""
        finally:
            self._busy = False
        self.ask.disabled = self.less.disabled = vertex is None
        self.undo.disabled = not self._past
        self.needs.html = _toggles(self.vertices, vertex)

    def __repr__(self) -> str:
        return "DagEdit()"


def _toggles(vertices: Sequence[dag.Vertex], chosen: dag.Vertex | None) -> str:
    """The parts that the chosen one may need, each a switch."""
    if chosen is None:
        return '<div class="wb-toggles wb-quiet">Choose a part to edit what it asks and needs.</div>'
    if chosen.id == 1:
        return '<div class="wb-toggles wb-quiet">1 is the first: there is nothing that it could need.</div>'
    parts = []
    for vertex in vertices[: chosen.id - 1]:
        on = "true" if vertex.id in chosen.needs else "false"
        tip = escape(f"{chosen.id} needs {vertex.id}: {vertex.label}")
        parts.append(
            f'<button class="wb-toggle" role="switch" data-pick="{vertex.id}" aria-checked="{on}" title="{tip}" '
            f'aria-label="{tip}"><span aria-hidden="true">{"✓ " if vertex.id in chosen.needs else ""}</span>'
            f"{vertex.id}</button>"
        )
    return f'<div class="wb-toggles" role="group" aria-label="needs"><b>{chosen.id} needs</b>{"".join(parts)}</div>'


def from_vertices(vertices: Sequence[Vertex]) -> str:
    """The graph of a run as the text of a setting: ids in the order in which its parts were told."""
    ids = {v.name: at for at, v in enumerate(vertices, start=1)}
    rows = []
    for at, v in enumerate(vertices, start=1):
        needs = tuple(sorted(ids[n] for n in v.needs if ids.get(n, at) < at))
        rows.append(dag.Vertex(at, " ".join(v.label.split()), needs, v.weight))
    return dag.write(rows)

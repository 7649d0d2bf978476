"""The tabs under the live strip: figure, model, table, timeline, events, comparison and past runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from workbench import theme
from workbench.records import Record
from workbench.system import Act, Event, Note, Offer, Point, Progress, Result, Span, System, Text, Vertex
from workbench.ui import export, graph, show
from workbench.ui.beside import Beside
from workbench.ui.pane import FigurePane
from workbench.ui.past import Past
from workbench.ui.preview import Preview
from workbench.ui.timeline import Timeline
from workbench.ui.view import View, table

_CARDS = 8  # numbers over the figure, in the order of the summary
_EVENTS = 300  # rows of the event table
_GATHER_S = 1.0  # a text comes token by token: so much of it is one row
_QUOTE = 120.0  # about that many letters of it
_BLANK = '<div class="wb-blank">{} appears when a run is done.</div>'


class Results(widgets.Tab):  # type: ignore[misc]
    """What runs found. It keeps the last good result until another takes its place."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.result: Result | None = None
        self.head, self.rows, self.said = View(), View(), View()
        self.figure = FigurePane()
        self.preview = Preview(system.preview, system.board) if system.preview else None
        self.timeline, self.beside, self.past = Timeline(system), Beside(), Past(system.name)
        self.past.on_found = self.beside.offer
        self.beside.offer(self.past.found)
        pages: list[tuple[str, Any]] = [("Figure", widgets.VBox([self.head, self.figure]))]
        pages += [("Model", self.preview)] if self.preview else []
        pages += [("Table", self.rows), ("Timeline", self.timeline), ("Events", self.said)]
        pages += [("Compare", self.beside), ("History", self.past)]
        self.at = {title: at for at, (title, _) in enumerate(pages)}
        super().__init__([page for _, page in pages], titles=[title for title, _ in pages], selected_index=0)
        self.add_class("wb-tabs")
        if self.preview:
            self.preview.look(False)
            self.observe(self._turned, "selected_index")
        if system.board:
            self.turn("Model")  # there is something to do there before the first run
        self.head.html = _BLANK.format("The figure")
        self.rows.html = _BLANK.format("The table")
        self.said.html = '<div class="wb-blank">What a run says appears here, event by event.</div>'

    def show(self, result: Result, spans: Sequence[Span]) -> None:
        """Show a result in Figure, Table and Timeline; `spans` stand in when the result has none."""
        figure = result.figure()
        if self.system.board and self.result is None:
            self.turn("Figure")
        self.head.html = _headline(result)
        self.figure.show(figure)
        self.rows.html = (
            f"{show.summary_html(result)}{show.claims_html(result.claims())}{export.frame_html(result, 200)}"
            f'<p class="wb-quiet">{show.provenance_html(result)}</p>'
        )
        self.timeline.load(result.spans() or spans)
        self.result = result

    def say(self, events: Sequence[tuple[float, Event]]) -> None:
        """List the last events."""
        told = _gathered(events)
        rows = [[f"{at:.3f}", type(event).__name__, _words(event)] for at, event in reversed(told[-_EVENTS:])]
        more = " Texts and vertices are gathered by the second." if len(told) < len(events) else ""
        more += f" The last {_EVENTS} are shown." if len(told) > _EVENTS else ""
        caption = f"{len(events)} events, the newest first.{more}"
        body = table(["after (s)", "what", "said"], rows, caption=caption)
        self.said.html = f'<div class="wb-scroll">{body}</div>'

    def dim(self, on: bool) -> None:
        """Say by its look that the result is of an earlier run."""
        for part in (self.head, self.figure, self.rows, self.timeline):
            (part.add_class if on else part.remove_class)("wb-dim")

    def turn(self, title: str) -> None:
        """Bring a tab to the front by its title."""
        self.selected_index = self.at[title]

    def _turned(self, change: dict[str, Any]) -> None:
        if self.preview:
            self.preview.look(change["new"] == self.at["Model"])

    def remember(self, key: str, one: Result | Record, name: str = "") -> None:
        """Offer a result for comparison, shown as `name`, else by its key: a run's id where it has one."""
        self.beside.add(key, one, name)

    def __repr__(self) -> str:
        return f"Results({self.system.name!r})"


def _headline(result: Result) -> str:
    """The sentence and a card a number, each with its badge."""
    badges = result.provenance.badges
    cards = []
    numbers = list(result.summary().items())
    for name, value in numbers[:_CARDS]:
        words, unit = theme.split_unit(name)
        mark = show.badge(badges[name]) if name in badges else ""
        number = f"<b>{theme.number(value)}</b>{f' <i>{escape(unit)}</i>' if unit else ''}"
        cards.append(f'<div class="wb-card"><span>{escape(words)}</span><div>{number}</div>{mark}</div>')
    more = len(numbers) - len(cards)
    rest = f'<p class="wb-quiet">{more} more numbers are in Table.</p>' if more > 0 else ""
    sentence = f'<p class="wb-sentence">{escape(result.sentence())}</p>'
    return f'{sentence}<div class="wb-cards">{"".join(cards)}</div>{rest}'


def _gathered(events: Sequence[tuple[float, Event]]) -> list[tuple[float, Event]]:
    """The events, with the texts of one name within _GATHER_S as one, and of a vertex in one state the latest."""
    told: list[tuple[float, Event]] = []
    open_rows: dict[tuple[str, ...], int] = {}
    for at, event in events:
        key = ("text", event.name) if isinstance(event, Text) else ()
        key = (event.name, event.state) if isinstance(event, Vertex) else key
        row = open_rows.get(key) if key else None
        if row is None or at - told[row][0] > _GATHER_S:
            told.append((at, event))
            open_rows |= {key: len(told) - 1} if key else {}
        else:
            begun, before = told[row]
            if isinstance(event, Text) and isinstance(before, Text):
                event = Text(event.name, before.added + event.added)  # noqa: PLW2901  the row's, which grows
            told[row] = (begun, event)
    return told


def _words(event: Event) -> str:
    match event:
        case Progress(done, total, note):
            return f"{theme.number(done)} of {theme.number(total)} {escape(note)}"
        case Point(series, x, y):
            return f"{escape(series)}: {theme.number(x)}, {theme.number(y)}"
        case Span():
            took = f"{theme.number(event.start_s)} to {theme.number(event.end_s)} s"
            return escape(f"{event.lane}: {event.label} ({event.kind}), {took}")
        case Note(text, level):
            return f"<b>{level}</b> {escape(text)}"
        case Vertex():
            return escape(graph.told(event))
        case Offer():
            what = f"{event.group}: {event.label}" if event.group else event.label
            return f"{'offered' if event.open else 'taken back'}: {escape(what)} {escape(event.note)}".rstrip()
        case Act():
            return f"<b>done by hand</b> {escape(event.label)}"
        case Text(name, added):
            return f"{escape(name)}: <q>{escape(graph.fit(added, _QUOTE, 1.0))}</q>"

"""The live strip: progress, status line, what may be done, small pictures and the graph, folded from a run's events.

`Story` is the fold and knows no widget; `Live` paints a story, as often as its owner asks. Replay paints the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from workbench.system import Act, Event, Note, Offer, Point, Progress, Span, Text, Vertex
from workbench.ui import draw
from workbench.ui.acts import Acts, Board
from workbench.ui.parts import Parts
from workbench.ui.view import View

STATES = {  # state -> icon; the word is always beside it
    "ready": "○",
    "waiting": "◌",
    "running": "◐",
    "done": "●",
    "cancelled": "■",
    "failed": "▲",
    "replay": "◇",
}
_CURVES = 3
_HIGH = 205  # pixels for lanes or curves; more lanes than fit are scrolled to


class Story:
    """What has been said so far: the latest progress, all spans, curves, notes, the graph, its texts, the offers."""

    def __init__(self, events: Iterable[tuple[float, Event]] = ()) -> None:
        self.at_s, self.count = 0.0, 0
        self.progress = Progress(0, 1)
        self.spans: list[Span] = []
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self.notes: list[Note] = []
        self.vertices: dict[str, Vertex] = {}
        self.texts: dict[str, list[str]] = {}
        self.board = Board()
        self.take(events)

    def take(self, events: Iterable[tuple[float, Event]]) -> None:
        """Fold in more events: (seconds since the run began, event)."""
        for at_s, event in events:
            self.at_s, self.count = at_s, self.count + 1
            match event:
                case Progress():
                    self.progress = event
                case Span():
                    self.spans.append(event)
                case Point(series, x, y):
                    self.curves.setdefault(series, []).append((x, y))
                case Note():
                    self.notes.append(event)
                case Vertex():
                    self.vertices[event.name] = event
                case Text(name, added):
                    self.texts.setdefault(name, []).append(added)
                case Offer() | Act():
                    self.board.hear(self.count, at_s, event)

    @property
    def share(self) -> float:
        """Progress from 0 to 1."""
        total = self.progress.total
        return min(1.0, max(0.0, self.progress.done / total)) if total > 0 else 0.0


class Live:
    """`head` (state, status, progress), `acts` (buttons), `body` (pictures), `parts` (the graph): a message each."""

    def __init__(self) -> None:
        self.head, self.acts, self.body, self.parts = View(), Acts(), View(), Parts()
        self.paints = 0

    def paint(self, story: Story, state: str, text: str) -> None:
        """Show `story` under `state`, one of STATES, with `text` as the status line."""
        head, body = head_html(story, state, text), body_html(story)
        self.paints += 1
        self.head.html = head
        self.acts.paint(story.board, live=state == "running")
        if self.body.html != body:
            self.body.html = body
        self.parts.paint(story.vertices, story.texts)
        alone = self.parts.some and not (story.spans or story.curves or story.notes)
        self.body.layout.display = "none" if alone else ""  # an empty strip over a graph says nothing


def by_quantity(series: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Quantity -> part -> points: "compute: position (tokens)" is the part compute of the position."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in series.items():
        part, _, quantity = name.rpartition(": ")
        charts.setdefault(quantity, {})[part] = points
    return charts


def head_html(story: Story, state: str, text: str) -> str:
    """State in a word, icon and colour, the status line, and the bar."""
    share = 1.0 if state == "done" else story.share
    bar = (
        f'<div class="wb-bar" role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}"><i style="width:{100 * share:.1f}%"></i></div>'
    )
    pill = f'<span class="wb-pill"><span aria-hidden="true">{STATES[state]}</span> {state}</span>'
    line = f'<span class="wb-line" title="{escape(text)}">{escape(text)}</span>'
    spoken = "off" if state in ("running", "replay") else "polite"  # seconds pass ten times a second: the bar has it
    told = f'<span role="status" aria-live="polite">{pill}</span><span role="status" aria-live="{spoken}">{line}</span>'
    return f'<div class="wb-head wb-{state}"><div>{told}</div>{bar}</div>'


def body_html(story: Story) -> str:
    """Lanes, curves and notes; what the run does not say takes no room."""
    panes = []
    if story.spans:
        bar = min(44, max(14, _HIGH // len({s.lane for s in story.spans}) - 20))
        panes.append(("lanes", "Timeline", draw.lanes(story.spans, title="Timeline so far", bar=bar)))
    if story.curves:
        charts = by_quantity(story.curves)
        names = list(charts)[:_CURVES]
        tall = min(150, _HIGH // len(names) - 42)
        rows = [draw.curves(name, charts[name], tall) for name in names]
        more = len(charts) - len(names)
        rows += [f'<div class="wb-quiet">and {more} more curves</div>'] if more else []
        panes.append(("curves", "Curves", "".join(rows)))
    if story.notes:
        said = (f'<li class="wb-{n.level}"><b>{n.level}</b> {escape(n.text)}</li>' for n in reversed(story.notes[-20:]))
        panes.append(("notes", "Notes", f"<ul>{''.join(said)}</ul>"))
    if not panes:
        return '<div class="wb-views wb-empty">Press Run: progress, timeline and notes of the run appear here.</div>'
    cells = "".join(f'<section class="wb-view wb-{kind}"><h4>{name}</h4>{html}</section>' for kind, name, html in panes)
    return f'<div class="wb-views">{cells}</div>'

"""A graph as SVG text: boxes that fill as their share grows, edges that bend around them, the critical path thicker.

States are told by icon and word beside colour. Each box is a button: Tab reaches one, arrow keys the others.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from html import escape

from workbench.system import MOST_VERTICES, Vertex
from workbench.ui.layers import Layers, arrange

MARKS = {"waiting": "○", "running": "◐", "done": "●", "cut": "■"}
_SIZES = ((4.6, 50, 61, 2), (7.1, 34, 41, 1), (99.0, 26, 34, 0))  # up to so many rows: height, pitch, lines of label
_SENTENCE = 16  # boxes that the text alternative names one by one
_TEXT, _SMALL = 11.5, 10.5  # font sizes
_BOLD = 1.12  # how much wider bold letters are


def picture(
    vertices: Sequence[Vertex],
    *,
    title: str,
    serial: str,
    chosen: str | None = None,
    armed: str | None = None,
    states: bool = True,
    wide: int = 620,
) -> str:
    """The graph of the first MOST_VERTICES, all of them to be picked by name. `serial` keeps its ids from others'.

    `chosen` is marked and is what Tab reaches; an edge is being drawn from `armed`. Without `states` all look alike.
    `wide` is how many pixels it fills where its boxes allow it.
    """
    shown = vertices[:MOST_VERTICES]
    laid = _laid(shown)
    size = _Size(laid, wide)
    by_name = {v.name: v for v in shown}
    trunk = _critical(by_name, laid)
    entry = chosen if chosen in by_name else next(iter(by_name), None)
    edges = sorted(laid.ways.items(), key=lambda way: way[0] in trunk)  # the critical ones over the others
    parts = [_edge(edge, places, by_name, size, edge in trunk, serial, states) for edge, places in edges]
    for vertex in shown:
        names = [
            name
            for name, on in {
                "wb-vertex": True,
                f"wb-{vertex.state}": states,
                "wb-critical": vertex.critical,
                "wb-chosen": vertex.name == chosen,
                "wb-armed": vertex.name == armed,
            }.items()
            if on
        ]
        stop = 0 if vertex.name == entry else -1
        parts.append(_box(vertex, laid.at[vertex.name], size, " ".join(names), stop, states))
    text = escape(f"{title}. {describe(shown, states)}")
    return (
        f'<svg class="wb-graph" role="group" data-arrows="plane" data-lm-suppress-shortcuts="true" '
        f'aria-label="{text}" viewBox="0 0 {size.width:.0f} {size.height:.0f}" '
        f'style="max-width:{size.width:.0f}px;min-width:{0.8 * size.width:.0f}px">'
        f"<title>{escape(title)}</title><desc>{text}</desc>{_heads(serial)}{''.join(parts)}</svg>"
    )


def columns(vertices: Sequence[Vertex]) -> int:
    """How many boxes the picture has side by side."""
    return _laid(vertices[:MOST_VERTICES]).columns


def _laid(shown: Sequence[Vertex]) -> Layers:
    return arrange({v.name: v.needs for v in shown}, 6 if len(shown) <= 16 else 8)


def describe(vertices: Sequence[Vertex], states: bool = True) -> str:
    """The graph in words: its text alternative."""
    if not vertices:
        return "No part is known yet."
    if len(vertices) > _SENTENCE or not states:
        return counts(vertices) if states else f"{len(vertices)} parts, {sum(len(v.needs) for v in vertices)} edges."
    return f"{counts(vertices)} {'; '.join(told(v) for v in vertices)}."


def counts(vertices: Sequence[Vertex]) -> str:
    """How many parts are in which state."""
    number = {state: sum(v.state == state for v in vertices) for state in MARKS}
    said = ", ".join(f"{n} {state}" for state, n in number.items() if n)
    return f"{len(vertices)} part{'s' * (len(vertices) != 1)}: {said}."


def told(vertex: Vertex, states: bool = True) -> str:
    """One vertex in words."""
    parts = [f"{vertex.name}: {vertex.label}"]
    parts += [standing(vertex)] if states else []
    parts += [f"needs {', '.join(vertex.needs)}"] if vertex.needs else ["needs nothing"]
    parts += ["on the critical path"] if vertex.critical else []
    return ", ".join(parts)


def standing(vertex: Vertex) -> str:
    """State, share and note in words: "running 42 %, 20 of 48 tokens"."""
    share = f" {100 * vertex.share:.0f} %" if vertex.state == "running" or 0 < vertex.share < 1 else ""
    return f"{vertex.state}{share}{f', {vertex.note}' if vertex.note else ''}"


class _Size:
    """Pixels: boxes and the room between, by how many columns and rows there are."""

    def __init__(self, laid: Layers, wide: int) -> None:
        self.high, self.pitch, self.lines = next(s[1:] for s in _SIZES if laid.rows <= s[0])
        columns = max(laid.columns, 1)
        self.gap = 44 if columns <= 4 else 38 if columns <= 7 else 26
        self.wide = min(196.0, max(70.0, (wide - (columns - 1) * self.gap) / columns))
        self.width = columns * (self.wide + self.gap) - self.gap + 8
        self.height = max(laid.rows, 1) * self.pitch + 4

    def corner(self, place: tuple[int, float]) -> tuple[float, float]:
        """Left and upper end of the box at a place."""
        return 4 + place[0] * (self.wide + self.gap), 2 + place[1] * self.pitch + 0.5 * (self.pitch - self.high)


def _critical(by_name: Mapping[str, Vertex], laid: Layers) -> set[tuple[str, str]]:
    """Edges of the critical path: to each vertex on it from the last one before."""
    found = set()
    for vertex in by_name.values():
        before = [n for n in vertex.needs if n in by_name and by_name[n].critical]
        if vertex.critical and before:
            found.add((max(before, key=lambda n: laid.at[n][0]), vertex.name))
    return found


def _heads(serial: str) -> str:
    """Arrow heads of the two kinds of edges."""
    return "<defs>" + "".join(
        f'<marker id="{serial}-{kind}" class="wb-head-{kind}" viewBox="0 0 8 8" refX="7" refY="4" '
        f'markerWidth="{wide}" markerHeight="{wide}" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0,0.6 L8,4 L0,7.4 z"/></marker>'
        for kind, wide in (("plain", 8), ("trunk", 10))
    ) + "</defs>"  # fmt: skip


def _edge(
    edge: tuple[str, str],
    places: Sequence[tuple[int, float]],
    by_name: Mapping[str, Vertex],
    size: _Size,
    critical: bool,
    serial: str,
    states: bool,
) -> str:
    """A curve from box to box, level where it passes between others."""
    (x, y), *rest = [(size.corner(p)[0], size.corner(p)[1] + size.high / 2) for p in places]
    x += size.wide
    path = f"M{x:.1f},{y:.1f}"
    for at, (left, to) in enumerate(rest, start=1):
        mid = (x + left) / 2
        path += f" C{mid:.1f},{y:.1f} {mid:.1f},{to:.1f} {left - (2 if at == len(rest) else 0):.1f},{to:.1f}"
        x, y = left, to
        if at < len(rest):
            x += size.wide
            path += f" H{x:.1f}"
    ready = not states or by_name[edge[0]].state == "done"
    names = f"wb-edge{' wb-trunk' if critical else ''}{'' if ready else ' wb-open'}"
    return f'<path class="{names}" d="{path}" marker-end="url(#{serial}-{"trunk" if critical else "plain"})"/>'


def _box(vertex: Vertex, place: tuple[int, float], size: _Size, names: str, stop: int, states: bool) -> str:
    """One vertex: a filling, an outline, its label, its state."""
    (x, y), wide, high = size.corner(place), size.wide, size.high
    share = {"done": 1.0, "waiting": 0.0}.get(vertex.state, min(1.0, max(0.0, vertex.share)))
    body = f'<rect class="wb-ground" x="1.5" y="1.5" width="{wide - 3:.1f}" height="{high - 3}" rx="6"/>'
    if states and share:
        body += f'<rect class="wb-fill" x="1.5" y="1.5" width="{share * (wide - 3):.1f}" height="{high - 3}" rx="6"/>'
    body += f'<rect class="wb-outline" x="1.5" y="1.5" width="{wide - 3:.1f}" height="{high - 3}" rx="6"/>'
    said = escape(told(vertex, states))
    return (
        f'<svg x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high}" class="{names}" role="button" '
        f'data-pick="{escape(vertex.name)}" tabindex="{stop}" aria-label="{said}"><title>{said}</title>'
        f"{body}{_words(vertex, size, states)}</svg>"
    )


def _words(vertex: Vertex, size: _Size, states: bool) -> str:
    """Label over state; in small boxes the state is its icon alone, and the word is in the tooltip."""
    room, high = size.wide - 16, size.high
    head = vertex.name if len(vertex.name) <= 4 and not vertex.label.startswith(vertex.name) else ""
    mark = MARKS[vertex.state] if states else ""
    if size.lines == 0:
        lead = f"{mark} {head}".strip()
        label = fit(vertex.label, room - long(lead + " ", _TEXT), _TEXT)
        return (
            f'<text x="8" y="{high / 2 + 4:.0f}"><tspan class="wb-name">{escape(lead)}</tspan> {escape(label)}</text>'
        )
    lines = wrap(f"{head} {vertex.label}".strip(), room, _TEXT, size.lines + (0 if states else 1))
    top = 15.5 if states else (high - 13 * len(lines)) / 2 + 10.5
    said = []
    for at, line in enumerate(lines):
        name = head if at == 0 and head and line.startswith(head) else ""
        bold = f'<tspan class="wb-name">{escape(name)}</tspan>' if name else ""
        said.append(f'<text x="8" y="{top + 13 * at:.1f}">{bold}{escape(line[len(name) :])}</text>')
    if states:
        share = f"{vertex.state} {100 * vertex.share:.0f} %" if vertex.state == "running" else vertex.state
        forms = [f"{mark} {form}" for form in (standing(vertex), share, share.split(" ", 1)[-1])]
        state = next((form for form in forms if long(form, _BOLD * _SMALL) <= room), mark)
        said.append(f'<text class="wb-state" x="8" y="{high - 7}">{escape(state)}</text>')
    return "".join(said)


def long(text: str, font: float) -> float:
    """About how many pixels a text takes."""
    return sum(_width(c) for c in text) * font


def _width(c: str) -> float:
    if unicodedata.east_asian_width(c) in "WF":
        return 1.02
    return 0.34 if c in "iljtfI.,:;|!'()[] " else 0.92 if c in "mwMW%@◐○●■" else 0.7 if c.isupper() else 0.6


def fit(text: str, room: float, font: float) -> str:
    """The text, or as much of it as has room, and an ellipsis."""
    if long(text, font) <= room:
        return text
    left, kept = room - long("…", font), ""
    for c in text:
        left -= _width(c) * font
        if left < 0:
            break
        kept += c
    return f"{kept.rstrip()}…"


def wrap(text: str, room: float, font: float, lines: int) -> list[str]:
    """The text in at most so many lines, broken between words where it can be; the last may end in an ellipsis."""
    done: list[str] = []
    rest = text.strip()
    while rest and len(done) < lines - 1 and long(rest, font) > room:
        kept = fit(rest, room + long("…", font), font)[:-1]
        if len(kept) < len(rest) and rest[len(kept)] != " " and " " in kept and kept.isascii():
            kept = kept.rsplit(" ", 1)[0]
        if not kept:
            break
        done.append(kept.rstrip())
        rest = rest[len(kept) :].strip()
    return [*done, fit(rest, room, font)] if rest else done

"""Small pictures as SVG text: lanes of spans, and one curve. Widths are per cent, so they fit any pane unscaled.

Every picture has role="img", a title and a sentence, and tells kinds apart by hatching as well as by colour.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape

from workbench import theme
from workbench.system import Span

MOST = 1200  # rectangles in one picture; more are thinned by joining neighbours
_HATCHES = (
    "",
    "M0,6 L6,0",
    "M3,2 L3,4",
    "M0,0 L6,6",
    "M0,6 L6,0 M0,0 L6,6",
    "M0,3 L6,3",
    "M3,0 L3,6",
)
_ROLES = {  # the notebook's own shortcuts would take the arrow keys and Enter
    False: 'role="img"',
    True: 'role="group" data-lm-suppress-shortcuts="true"',
}
_serial = itertools.count()  # pattern ids must differ between pictures: one in a hidden tab would blank the others


def lanes(
    spans: Sequence[Span],
    *,
    title: str,
    window: tuple[float, float] | None = None,
    bar: int = 16,
    pickable: bool = False,
    chosen: int | None = None,
    order: Sequence[str] = (),
) -> str:
    """Spans over time in their lanes, those of `order` first. `window` is (from, to) in s.

    With `pickable` each span is a button, one of them in the order of Tab: `chosen`, else the first that is drawn.
    """
    lo, hi = window or (0.0, max((s.end_s for s in spans), default=1.0))
    hi = hi if hi > lo else lo + 1e-9
    names = list(dict.fromkeys([*order, *(s.lane for s in spans)]))
    kinds = list(dict.fromkeys(s.kind for s in spans))
    serial, row = next(_serial), bar + 20
    tops = {lane: 16 + at * row for at, lane in enumerate(names)}
    parts = [_hatch(kind, f"wbh{serial}-{at}") for at, kind in enumerate(kinds)]
    for lane, top in tops.items():
        parts.append(f'<text class="wb-lane" x="0" y="{top - 4}">{escape(lane)}</text>')
        parts.append(f'<rect class="wb-track" x="0" y="{top}" width="100%" height="{bar}" rx="2"/>')
    drawn = _thinned(spans, lo, hi, chosen)
    entry = chosen if chosen in [at for at, _, _ in drawn] else next((at for at, _, _ in drawn), None)
    for at, start, end in sorted(drawn, key=lambda d: _instant(spans[d[0]])):  # instants over the spans beside them
        span = spans[at]
        left, width = 100 * (start - lo) / (hi - lo), max(100 * (end - start) / (hi - lo), 0.15)
        pick = _pick(span, at, entry) if pickable else ""
        if _instant(span) and start == end:
            parts.append(_flag(span, left, tops[span.lane], bar, pick, at == chosen))
            continue
        hatch = f"wbh{serial}-{kinds.index(span.kind)}"
        parts.append(_rect(span, left, width, tops[span.lane], bar, hatch, pick, at == chosen))
    height = 16 + len(names) * row + 2
    parts.append(_ticks(lo, hi, height - 6))
    text = describe(spans)
    label = escape(f"{title}. {text}")
    return (
        f'{_legend(kinds)}<svg class="wb-lanes" {_ROLES[pickable]} aria-label="{label}" width="100%" height="{height}">'
        f"<title>{escape(title)}</title><desc>{escape(text)}</desc>{''.join(parts)}</svg>"
    )


def describe(spans: Sequence[Span]) -> str:
    """Lanes in a sentence: the text alternative of the picture."""
    if not spans:
        return "Nothing has happened yet."
    said = []
    for lane in dict.fromkeys(s.lane for s in spans):
        own = [s for s in spans if s.lane == lane]
        said.append(f"{lane}: {len(own)} spans up to {theme.number(max(s.end_s for s in own))} s")
    return "; ".join(said) + "."


def curves(quantity: str, parts: Mapping[str, Sequence[tuple[float, float]]], tall: int = 34) -> str:
    """Series of one quantity as lines on one scale, with their names and last values above them.

    Points that are not finite are left out: one would blank the whole line, or stretch its scale to nothing.
    """
    parts = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in parts.items()
    }
    every = [point for points in parts.values() for point in points]
    x0, x1 = min((x for x, _ in every), default=0.0), max((x for x, _ in every), default=1.0)
    y0, y1 = min([0.0, *(y for _, y in every)]), max([0.0, *(y for _, y in every)])
    lines, said, keys = list[str](), list[str](), list[str]()
    for name, points in parts.items():
        style = theme.kind(name) if name in theme.KINDS else theme.series(len(lines))
        last = theme.number(points[-1][1]) if points else "–"
        said.append(f"{name or quantity}: {len(points)} points, now {last}")
        keys.append(f'<span>{escape(name or quantity)}</span><b style="border-color:{style.colour}">{last}</b>')
        lines.append(_line(points, (x0, (x1 - x0) or 1.0), (y0, (y1 - y0) or 1.0), style))
    text = escape("; ".join(said))
    head = f'<div class="wb-curve-of">{escape(quantity)}</div>' if any(parts) else ""
    return (
        f'<div class="wb-curve">{head}{"".join(f"<div>{key}</div>" for key in keys)}'
        f'<svg role="img" aria-label="{text}" viewBox="0 0 100 40" preserveAspectRatio="none" width="100%" '
        f'height="{tall}"><title>{escape(quantity)}</title><desc>{text}</desc>{"".join(lines)}</svg></div>'
    )


def bars(caption: str, rows: Sequence[tuple[str, float, bool]], marks: str = "") -> str:
    """Numbers of one unit as bars from nothing, under a caption: (name, value, whether it is modelled) a row.

    `marks` is HTML beside the caption. What is modelled is hatched. A bar below zero or of no finite length is left
    out; its number stays.
    """
    finite = [value for _, value, _ in rows if math.isfinite(value)]
    most = max([*finite, 1e-12])
    name, parts = f"wbh{next(_serial)}", list[str]()
    for at, (label, value, modelled) in enumerate(rows):
        top = 18 * at
        length = 36 * max(value, 0.0) / most if math.isfinite(value) else 0.0
        look = f'fill="url(#{name})"' if modelled else f'fill="{theme.BLUE}"'
        parts.append(f'<text x="0" y="{top + 11}">{escape(label)}</text>')
        parts.append(f'<rect x="38%" y="{top + 2}" width="{length:.2f}%" height="11" rx="1.5" {look}/>')
        parts.append(f'<text class="wb-value" x="100%" y="{top + 11}">{theme.number(value)}</text>')
    hatch = (
        f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" fill='
        f'"{theme.ORANGE}"/><path d="{_HATCHES[1]}" stroke="#fff" stroke-opacity="0.7" stroke-width="1.4"/></pattern>'
    )
    said = (f"{label} {theme.number(value)}{' (modelled)' if modelled else ''}" for label, value, modelled in rows)
    text = escape(f"{caption}: {', '.join(said)}")
    return (
        f'<div class="wb-bars"><div class="wb-scale"><span aria-hidden="true">{escape(caption)}</span>{marks}</div>'
        f'<svg role="img" aria-label="{text}" width="100%" height="{18 * len(rows)}"><title>{text}</title>{hatch}'
        f"{''.join(parts)}</svg></div>"
    )


def _line(
    points: Sequence[tuple[float, float]], x: tuple[float, float], y: tuple[float, float], style: theme.Style
) -> str:
    """A polyline in a box of 100 by 40; `x` and `y` are (least, extent)."""
    thin = points[:: max(1, len(points) // 200)]
    dots = " ".join(
        f"{100 * (a - x[0]) / x[1]:.1f},{38 - 36 * (b - y[0]) / y[1]:.1f}" for a, b in [*thin, *points[-1:]]
    )
    dash = {"solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3"}.get(style.dash, "10 4")
    return (
        f'<polyline points="{dots}" fill="none" stroke="{style.colour}" stroke-width="2" stroke-dasharray="{dash}" '
        f'vector-effect="non-scaling-stroke"/>'
    )


def _hatch(kind: str, name: str) -> str:
    style = theme.kind(kind)
    lines = _HATCHES[theme.STYLES.index(style)]
    return (
        f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" '
        f'fill="{style.colour}"/><path d="{lines}" stroke="#fff" stroke-opacity="0.55" stroke-width="1"/></pattern>'
    )


def _legend(kinds: list[str]) -> str:
    keys = []
    for kind in kinds:
        name = f"wbk{next(_serial)}"
        swatch = (
            f'<svg width="14" height="10" aria-hidden="true">{_hatch(kind, name)}<rect width="14" height="10" rx="2"'
        )
        keys.append(f'<span class="wb-key">{swatch} fill="url(#{name})"/></svg>{escape(kind)}</span>')
    return f'<div class="wb-legend">{"".join(keys)}</div>' if keys else ""


def _rect(span: Span, left: float, width: float, top: int, bar: int, hatch: str, pick: str, chosen: bool) -> str:
    """One span; `left` and `width` in per cent, `top` and `bar` in pixels."""
    name = "wb-span wb-chosen" if chosen else "wb-span"
    text = (
        f'<text x="4" y="{bar - 5}">{escape(span.label)}</text>'
        if bar >= 20 and width > 1.5 + 1.15 * len(span.label)
        else ""
    )
    return (
        f'<svg x="{left:.3f}%" y="{top}" width="{width:.3f}%" height="{bar}" class="{name}"{pick}>'
        f'<title>{escape(_tip(span))}</title><rect width="100%" height="100%" fill="url(#{hatch})"/>{text}</svg>'
    )


def _instant(span: Span) -> bool:
    return span.start_s == span.end_s


def _flag(span: Span, left: float, top: int, bar: int, pick: str, chosen: bool) -> str:
    """What took no time: a flag in its lane that begins there, `left` in per cent; at the right end it points back."""
    name = "wb-span wb-instant wb-chosen" if chosen else "wb-span wb-instant"
    tip = (-0.6 if left > 97 else 0.6) * min(bar, 24)
    shape = f"M0,1 L{tip:g},{bar / 2:g} L0,{bar - 1} z"
    return (
        f'<svg x="{left:.3f}%" y="{top}" width="1" height="{bar}" class="{name}"{pick}><title>{escape(_tip(span))}'
        f'</title><path d="{shape}" fill="{theme.kind(span.kind).colour}"/></svg>'
    )


def _pick(span: Span, at: int, entry: int | None) -> str:
    """What makes a span one that can be chosen: Tab reaches one of them, arrow keys go on from there (ui/view.py)."""
    stop = 0 if at == entry else -1
    return f' data-pick="{at}" role="button" tabindex="{stop}" aria-label="{escape(_tip(span))}"'


def _tip(span: Span) -> str:
    if _instant(span):
        return f"{span.label}: at {theme.number(span.start_s)} s"
    return f"{span.label}: {theme.number(span.start_s)} s to {theme.number(span.end_s)} s"


def _ticks(lo: float, hi: float, y: int) -> str:
    """Round times along the bottom, six at the most."""
    least = (hi - lo) / 5
    power = 10 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10, 20) if m * power >= least)
    marks = []
    for at in range(math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9) + 1):
        x = 100 * (at * step - lo) / (hi - lo)
        anchor = "start" if x < 4 else "end" if x > 93 else "middle"
        text = f"{round(at * step, 9):g} s"
        marks.append(f'<text class="wb-tick" x="{x:.2f}%" y="{y}" text-anchor="{anchor}">{text}</text>')
    return "".join(marks)


def _thinned(spans: Sequence[Span], lo: float, hi: float, chosen: int | None) -> list[tuple[int, float, float]]:
    """(index, start, end) of what is inside the window; neighbours of a kind are joined when there are too many."""
    inside = [
        (at, max(s.start_s, lo), min(s.end_s, hi)) for at, s in enumerate(spans) if s.end_s >= lo and s.start_s <= hi
    ]
    if len(inside) <= MOST:
        return inside
    least = (hi - lo) / MOST * 2
    kept: dict[tuple[str, str], int] = {}
    joined: list[tuple[int, float, float]] = []
    for at, start, end in inside:
        key = (spans[at].lane, spans[at].kind)
        last = kept.get(key)
        if last is not None and start - joined[last][2] < least and end - joined[last][1] < 4 * least and at != chosen:
            joined[last] = (joined[last][0], joined[last][1], max(end, joined[last][2]))
        else:
            kept[key] = len(joined)
            joined.append((at, start, end))
    return joined

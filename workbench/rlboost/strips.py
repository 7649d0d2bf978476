"""What happened where: machines over time, and the engine that made each token of a step."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from workbench import theme
from workbench.held import Held
from workbench.rlboost.result import TESTED, RLBoostResult

LANES = 10  # instances that are drawn
STEPS = 3  # of a simulated run, in the timeline
RESPONSES = 48  # on the strip
BOXES = {  # kind of a span -> (what the legend says, place in theme.STYLES)
    "compute": ("train", 0),
    "seed": ("roll out", 2),
    "decode": ("roll out", 2),
    "transfer": ("pull weights", 5),
    "wait": ("join", 6),
    "join": ("join", 6),
    "drain": ("drain", 4),
}
FLAGS = {  # of an instant -> (what the legend says, place in theme.STYLES, marker)
    "kill": ("taken away", 1, "x"),
    "notice": ("notice", 4, "triangle-down"),
    "move": ("responses move", 3, "diamond"),
    "migrate": ("responses move", 3, "diamond"),
    "seeds": ("seeds handed on", 3, "diamond-open"),
}
FIRST = ("trainer", "reserved")


def timeline(fig: go.Figure, result: RLBoostResult, row: int, col: int) -> None:
    """A lane a machine: what it did and when it was lost. Of a simulated run the steps in which most were lost."""
    (start, end), named = window(result)
    held = [h for h in result.held if h.end_s >= start and h.start_s <= end and h.kind != "step"]
    held += _working(held, result, end)
    lanes, hidden = chosen(held)
    per, unit = clock(end - start)
    shown = [h for h in held if h.lane in lanes]
    drawn = _boxes(fig, _joined([h for h in shown if h.kind in BOXES]), (start, end), (per, unit), row, col)
    _flags(fig, [h for h in shown if h.kind in FLAGS], per, unit, row, col)
    if not drawn and not shown:  # a run in which nothing was told: the axes stay
        fig.add_trace(go.Scatter(x=[], y=[], mode="markers", showlegend=False), row=row, col=col)
    for one in result.of(TESTED):
        if start < one.start_s < end:
            fig.add_vline(one.start_s / per, line={"color": theme.QUIET, "width": 1, "dash": "dot"}, row=row, col=col)
    more = f"{hidden} more instance{'s' if hidden > 1 else ''}" if hidden else ""
    order = lanes[::-1] or ["nobody"]
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4],
        title_text=f"machine, {more} not shown" if more else "machine", row=row, col=col,
    )  # fmt: skip
    fig.update_xaxes(title_text=f"time, {named} ({unit})", range=[start / per, end / per], row=row, col=col)


def clock(seconds: float) -> tuple[float, str]:
    """(seconds in a unit, the unit) in which so long a time reads well."""
    for least, per, unit in ((4 * 3600, 3600.0, "h"), (400, 60.0, "min")):
        if seconds >= least:
            return per, unit
    return 1.0, "s"


def window(result: RLBoostResult) -> tuple[tuple[float, float], str]:
    """(from, to) in s that the timeline shows, and in words."""
    rows = result.of(TESTED)
    if result.measured or len(rows) <= STEPS:
        last = rows[-1].start_s + rows[-1].seconds
        begin = min([rows[0].start_s, *(h.start_s for h in result.held)])
        return (begin, last), "all steps"
    told = max((h.end_s for h in result.held), default=0.0)  # a long run holds the spans of its beginning
    known = [at for at in range(len(rows) - STEPS + 1) if rows[at + STEPS - 1].start_s < told] or [0]
    score = [(sum(r.lost_instances for r in rows[at : at + STEPS]), rows[at + 1].lost_instances, -at) for at in known]
    first = -max(score)[2]
    end = rows[first + STEPS - 1]
    said = f"steps {rows[first].step + 1} to {end.step + 1} of {len(rows)}"
    said += ", in which most were taken away" if max(score)[0] else ""
    return (rows[first].start_s, end.start_s + end.seconds), said


def _working(held: Sequence[Held], result: RLBoostResult, end: float) -> list[Held]:
    """A simulated instance rolls out from the end of its pull to what happened to it next, or to the step's end."""
    if result.measured or any(h.kind == "decode" for h in held):
        return []
    ends = [r.start_s + r.seconds for r in result.of(TESTED)]
    found = []
    for pull in held:
        if pull.kind == "transfer":
            later = [h.start_s for h in held if h.lane == pull.lane and h.start_s >= pull.end_s]
            until = min([*later, *(e for e in ends if e > pull.end_s), end])
            found.append(Held(lane=pull.lane, start_s=pull.end_s, end_s=until, label="roll out", kind="decode"))
    return found


def chosen(held: Sequence[Held]) -> tuple[list[str], int]:
    """Lanes that are drawn, and how many instances are not: those to which most happened stay, then the busiest."""
    happened, busy = defaultdict[str, int](int), defaultdict[str, float](float)
    for h in held:
        happened[h.lane] += h.kind in ("kill", "notice", "move", "migrate")
        busy[h.lane] += h.end_s - h.start_s
    first = [lane for lane in busy if lane in FIRST]
    others = sorted((lane for lane in busy if lane not in FIRST), key=lambda lane: (-happened[lane], -busy[lane]))
    return [*sorted(first, reverse=True), *sorted(others[:LANES], key=_natural)], max(0, len(others) - LANES)


def _natural(lane: str) -> tuple[str, int]:
    """i2 before i10."""
    found = re.search(r"\d+$", lane)
    return (lane[: found.start()], int(found[0])) if found else (lane, 0)


def _joined(boxes: Sequence[Held]) -> list[Held]:
    """Neighbours of one lane and kind with hardly a gap become one: a step has many micro-batches."""
    found: list[Held] = []
    last: dict[tuple[str, str], int] = {}
    for box in sorted(boxes, key=lambda h: h.start_s):
        at = last.get((box.lane, box.kind))
        if at is not None and box.kind == "compute" and box.start_s - found[at].end_s < 0.004 * _length(boxes):
            found[at] = found[at].model_copy(update={"end_s": box.end_s, "label": "train, several micro-batches"})
        else:
            last[box.lane, box.kind] = len(found)
            found.append(box)
    return found


def _length(boxes: Sequence[Held]) -> float:
    return max(h.end_s for h in boxes) - min(h.start_s for h in boxes)


def _boxes(
    fig: go.Figure,
    boxes: Sequence[Held],
    shown: tuple[float, float],
    unit: tuple[float, str],
    row: int,
    col: int,
) -> bool:
    """A trace a kind; True when there is one."""
    (start, end), (per, name) = shown, unit
    kinds = dict.fromkeys(BOXES[h.kind] for h in boxes)
    for said, look in sorted(kinds, key=lambda k: k[1]):
        of = [h for h in boxes if BOXES[h.kind][0] == said]
        begins = [max(h.start_s, start) / per for h in of]
        fig.add_trace(
            go.Bar(
                base=[round(b, 4) for b in begins], y=[h.lane for h in of], orientation="h", width=0.62, name=said,
                x=[round(min(h.end_s, end) / per - b, 4) for h, b in zip(of, begins, strict=True)],
                hovertext=[f"{h.lane}: {h.label}, {h.start_s / per:.4g} to {h.end_s / per:.4g} {name}" for h in of],
                hoverinfo="text", **theme.series(look).bar(),
            ),
            row=row, col=col,
        )  # fmt: skip
    return bool(kinds)


def _flags(fig: go.Figure, flags: Sequence[Held], per: float, unit: str, row: int, col: int) -> None:
    kinds = dict.fromkeys(FLAGS[h.kind] for h in flags)
    for kind in sorted(kinds, key=lambda k: k[2] != "x"):  # a loss and what it moved are one instant: both are seen
        said, look, marker = kind
        size = {"x": 16, "diamond": 8}.get(marker, 11)
        rim = {"width": 2} if marker.endswith("open") else {"color": theme.PAPER, "width": 1.2}
        of = [h for h in flags if FLAGS[h.kind] == kind]
        colour = theme.series(look).colour
        fig.add_trace(
            go.Scatter(
                x=[round(h.start_s / per, 4) for h in of], y=[h.lane for h in of], mode="markers", name=said,
                hovertext=[f"{h.lane}: {h.label}, at {h.start_s / per:.4g} {unit}" for h in of], hoverinfo="text",
                marker={"symbol": marker, "size": size, "color": colour, "line": rim},

            ),
            row=row, col=col,
        )  # fmt: skip


def engines_of(result: RLBoostResult) -> list[str]:
    """Engines of the ledger and of the queues, the reserved one first: the place is the engine's colour."""
    names = {piece[0] for one in result.ledger for piece in one.pieces} | {who for _, who, *_ in result.queues}
    return sorted(names, key=lambda name: (name not in FIRST, _natural(name)))


def ledger(fig: go.Figure, result: RLBoostResult, row: int, col: int) -> None:
    """A row a response, its tokens coloured by the engine that made them; those that moved most are on top."""
    moved = result.ledger
    order = sorted(moved, key=lambda m: (-len(m.pieces), m.request))[:RESPONSES]
    for at, engine in enumerate(engines_of(result)):
        parts = [(one, piece) for one in order for piece in one.pieces if piece[0] == engine]
        fig.add_trace(
            go.Bar(
                base=[p[2] for _, p in parts], x=[p[3] for _, p in parts], y=[one.request for one, _ in parts],
                orientation="h", width=0.82, name=engine, hoverinfo="text",
                hovertext=[
                    f"response {one.request}: tokens {p[2]} to {p[2] + p[3] - 1} by {p[0]}, weights {p[1]}"
                    for one, p in parts
                ],
                **_engine(at),
            ),
            row=row, col=col,
        )  # fmt: skip
    left = f", {len(moved) - len(order)} more not shown" if len(moved) > len(order) else ""
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=[one.request for one in order][::-1],
        title_text=f"response, most moved first{left}", showticklabels=False, row=row, col=col,
    )  # fmt: skip
    fig.update_xaxes(title_text="position in the response (tokens)", rangemode="tozero", row=row, col=col)


def _engine(at: int) -> dict[str, Any]:
    """Look of an engine; beyond the palette the pattern is another one."""
    look, around = theme.series(at), theme.series(at + at // len(theme.STYLES))
    return theme.Style(look.colour, look.dash, look.marker, around.pattern).bar()

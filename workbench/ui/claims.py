"""How the table of all claims looks: an overview, every claim of each system to unfold, and one picture of them all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from workbench import theme
from workbench.claimed import NEAR_PCT, Claims, Row
from workbench.system import NAMES, system
from workbench.ui.show import PLOTLY, figure_json, how, unit
from workbench.ui.view import table

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOWS = ("measured", "modelled", "fitted")  # place in the series' looks
APART, STEP = 0.028, 0.075  # of two dots: in log10 of the ratio, in heights of a system's line
FAR = 16.0  # a ratio beyond it, either way, is drawn at the edge
HEAD = ["claim", "paper", "here", "how", "here / paper", "where in the paper"]


def display(claims: Claims) -> None:
    """Show the table and the picture as two outputs, as a result is shown."""
    from IPython.display import display

    put: Any = display
    put({"text/plain": repr(claims), "text/html": html(claims)}, raw=True)
    if len(claims):
        put({"text/plain": claims.sentence(), PLOTLY: figure_json(figure(claims))}, raw=True)


def html(claims: Claims) -> str:
    """Overview, then a part to unfold for each system; what could not be read stands below."""
    parts = [f"<p><b>{escape(claims.sentence())}</b></p>", _overview(claims)]
    for name in NAMES:
        if rows := list(claims.of(name)):
            parts.append(f"<details><summary>{escape(system(name).title)}: {len(rows)} rows</summary>")
            parts += [_system(rows), "</details>"]
    if claims.skipped:
        parts.append("".join(f"<p>Not read: {escape(said)}</p>" for said in claims.skipped))
    return "".join(parts)


def _overview(claims: Claims) -> str:
    frame = claims.overview()
    rows = [
        [escape(system(row["system"]).short), *(_cell(value) for value in list(row.values())[1:])]
        for row in frame.to_dict("records")
    ]
    return table(["system", *map(escape, frame.columns[1:])], rows, numeric=1) if rows else ""


def _cell(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:g}"


def _system(rows: list[Row]) -> str:
    """The claims of one system by the run that they are of, each run with its command, device and commit."""
    found = []
    for preset in dict.fromkeys(row.preset for row in rows):
        mine = [row for row in rows if row.preset == preset]
        one = mine[0]
        where = "this machine's history" if one.here else "a shipped record"
        said = f"{one.command} · {where} · {one.device} · {one.started_at} · commit {one.commit or 'unknown'}"
        found.append(table(HEAD, [_claim(row) for row in mine], caption=said))
    return "".join(found)


def _claim(row: Row) -> list[str]:
    c = row.claim
    tried = c.ours is not None
    return [
        escape(c.what),
        f"{theme.number(c.paper)}&nbsp;{unit(c)}",
        f"{theme.number(c.ours)}&nbsp;{unit(c)}" if tried else "not tried",
        how(c),
        "" if math.isnan(row.ratio) else f"{row.ratio:.2f}",
        escape(c.source),
    ]


def figure(claims: Claims) -> go.Figure:
    """Ours over the paper's (`Row.ratio`) on a logarithmic axis, a dot a claim; the band is `NEAR_PCT` either way."""
    import plotly.graph_objects as go

    fig = go.Figure()
    names = [name for name in NAMES if len(claims.of(name))]
    fig.add_vrect(x0=1 - NEAR_PCT / 100, x1=1 + NEAR_PCT / 100, fillcolor=theme.GRID, line_width=0, layer="below")
    fig.add_vline(x=1, line={"color": theme.QUIET, "dash": "dot", "width": 1.5})
    dots = [dot for at, name in enumerate(names) for dot in _swarm(claims.of(name), at)]
    for at, kind in enumerate(HOWS):
        mine = [(x, y, row) for x, y, row in dots if row.how == kind]
        style = theme.series(at)
        fig.add_scatter(
            x=[x for x, _, _ in mine], y=[y for _, y, _ in mine], text=[_told(row) for _, _, row in mine],
            mode="markers", name=kind, hoverinfo="text",
            marker={"color": style.colour, "symbol": style.marker, "size": 8, "opacity": 0.8},
        )  # fmt: skip
    ticks = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16]
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=["1/16", "1/8", "1/4", "1/2", "1", "2", "4", "8", "16"])
    fig.update_xaxes(range=[math.log10(1 / FAR / 1.15), math.log10(FAR * 1.15)])
    titles = [system(name).short for name in names]
    fig.update_yaxes(tickvals=list(range(len(names))), ticktext=titles, range=[len(names) - 0.5, -0.5])
    fig.update_yaxes(showgrid=False, zeroline=False)
    said = (
        f"{claims.sentence()} Dots to the left of 1 say less than the paper, dots to the right more; the grey band is "
        f"{NEAR_PCT:g} % either way."
    )
    title = "Published numbers: what comes out here"
    return theme.finish(fig, title, said, x="here / paper (×)", y="system", height=130 + 64 * len(names))


def _swarm(rows: Sequence[Row], at: int) -> Iterator[tuple[float, float, Row]]:
    """Dots (ratio, height, row) around the line `at`, moved up and down by as little as keeps them apart."""
    taken: list[tuple[float, int]] = []  # log10 of the ratio, place
    places = [0, *(place for n in range(1, 7) for place in (n, -n))]
    for row in sorted((row for row in rows if row.ratio > 0), key=lambda row: row.ratio):
        ratio = min(max(row.ratio, 1 / FAR), FAR)
        x = math.log10(ratio)
        near = {place for other, place in taken if abs(other - x) < APART}
        place = next((place for place in places if place not in near), 0)
        taken.append((x, place))
        yield round(ratio, 4), round(at + STEP * place, 3), row


def _told(row: Row) -> str:
    """A dot in words."""
    c = row.claim
    here = f"{theme.number(c.ours)} {c.unit}"
    return f"{c.what}<br>paper {theme.number(c.paper)} {c.unit}, here {here}<br>{row.how}, {row.command}"

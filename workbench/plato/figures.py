"""Figures of Plato: the answer over time, the ways beside each other, what a wider step costs."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.plato.result import WAYS, Piece, PlatoResult, Row

if TYPE_CHECKING:
    from workbench.plato.config import PlatoConfig
    from workbench.plato.cost import StepCost

LOOKS = {"prompt reused": 5, "prompt computed": 0, "plan": 3, "plain answer": 6, "part": 2}
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)
BELOW: dict[str, Any] = {"yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.0, "xanchor": "left"}


def overview(result: PlatoResult) -> go.Figure:
    """Top: every sequence of the shown answer over time. Below: times of all ways, and tokens per second by width."""
    fig = make_subplots(
        rows=2, cols=2, specs=[[{"colspan": 2}, None], [{}, {}]], row_heights=[0.52, 0.48], vertical_spacing=0.17,
        horizontal_spacing=0.14,
    )  # fmt: skip
    gantt(fig, result.pieces, set(result.critical()), row=1, col=1)
    bars(fig, result.rows, row=2, col=1)
    widths(fig, result, row=2, col=2)
    s = result.summary()
    badge = result.badge
    tested = WAYS[result.config.way]
    refused = "plan refused, " if s.get("refused") else ""
    title = (
        f"{tested}: {refused}{theme.number(s['total_s'])} s, {s['speedup_vs_sequential']:.2f}x sequential decoding, "
        f"planning included ({badge})"
    )
    fig.update_layout(legend=BELOW | {"entrywidth": 190, "font": {"size": 12}}, margin={"b": 120}, barmode="overlay")
    return theme.finish(fig, title, result.sentence(), height=720)


def gantt(fig: go.Figure, pieces: Sequence[Piece], critical: set[int], row: int, col: int) -> None:
    """A lane a sequence: its prompt (reused or computed), then its tokens; the critical path has a dark outline."""
    shown = [p for p in pieces if p.kind != "trunk"]
    lanes = [_lane(p) for p in shown]
    seen: set[str] = set()
    for piece in shown:
        for name, start, end in _boxes(piece):
            style = theme.series(LOOKS[name])
            hot = piece.node in critical and name == "part"
            fig.add_trace(
                go.Bar(
                    x=[max(end - start, 1e-4)], base=[start], y=[_lane(piece)], orientation="h", name=name,
                    legendgroup=name, showlegend=name not in seen, width=0.62, hoverinfo="text",
                    hovertext=[_hover(piece, name, start, end)],
                    marker=style.bar()["marker"] | {
                        "line": {"color": theme.INK if hot else style.colour, "width": 2.4 if hot else 1}
                    },
                ),
                row=row, col=col,
            )  # fmt: skip
            seen.add(name)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=list(dict.fromkeys(lanes))[::-1], row=row, col=col,
        title_text="dark outline: critical path" if critical else "sequence",
    )  # fmt: skip
    fig.update_xaxes(title_text="time since the query (s)", rangemode="tozero", row=row, col=col)


def _lane(piece: Piece) -> str:
    return f"part {piece.node}" if piece.kind == "node" else piece.name


def _boxes(piece: Piece) -> list[tuple[str, float, float]]:
    """(name in LOOKS, start, end) of what the sequence did."""
    first = min(max(piece.first_s, piece.start_s), piece.end_s)
    prompt = "prompt reused" if piece.reused > piece.prefilled else "prompt computed"
    said = {"plan": "plan", "plain": "plain answer"}.get(piece.kind, "part")
    return [(prompt, piece.start_s, first), (said, first, piece.end_s)]


def _hover(piece: Piece, name: str, start: float, end: float) -> str:
    text = f"<b>{_lane(piece)}</b>, {name}: {start:.2f} to {end:.2f} s"
    if name.startswith("prompt"):
        return f"{text}<br>{piece.reused} prompt tokens reused, {piece.prefilled} computed"
    said = shorten(piece.text.replace("\n", " "), 90, placeholder=" …")
    return f"{text}<br>{piece.tokens} tokens, ended by {piece.ended}<br>{said}"


def bars(fig: go.Figure, rows: Sequence[Row], row: int, col: int) -> None:
    """Median time of each way as a bar, its rounds as points, what was predicted as a diamond."""
    from statistics import median

    ways = [w for w in WAYS if any(r.way == w for r in rows)]
    names = [WAYS[w] for w in ways]
    mid = [median(r.total_s for r in rows if r.way == w) for w in ways]
    modelled = rows[0].badge == "modelled"
    style = theme.series(6 if modelled else 0)
    fig.add_trace(
        go.Bar(
            x=mid, y=names, orientation="h", name=f"total, {rows[0].badge}", width=0.55, hoverinfo="x+y",
            marker={"color": theme.faded(style.colour, 0.55), "line": {"color": style.colour, "width": 1}},
        ),
        row=row, col=col,
    )  # fmt: skip
    if not modelled:
        fig.add_trace(
            go.Scatter(
                x=[r.total_s for r in rows], y=[WAYS[r.way] for r in rows], mode="markers", name="a round, measured",
                marker={"color": style.colour, "size": 7, "line": {"color": theme.PAPER, "width": 1}},
            ),
            row=row, col=col,
        )  # fmt: skip
        told = [(r.predicted_s, WAYS[r.way]) for r in rows if r.predicted_s is not None and r.round == 0]
        fig.add_trace(
            go.Scatter(
                x=[x for x, _ in told], y=[y for _, y in told], mode="markers", name="predicted, modelled",
                marker={"color": theme.VERMILLION, "size": 12, "symbol": "diamond-open", "line": {"width": 2}},
            ),
            row=row, col=col,
        )  # fmt: skip
    _ways(fig, names, mid, row, col)


def _ways(fig: go.Figure, names: Sequence[str], times: Sequence[float], row: int, col: int) -> None:
    """Axes of the bars: a way's time stands below its name, since it does not fit into a short bar."""
    told = [f"{name}<br><b>{theme.number(time)} s</b>" for name, time in zip(names, times, strict=True)]
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], title_text="way",
        tickvals=names, ticktext=told, row=row, col=col,
    )  # fmt: skip
    fig.update_xaxes(title_text="time to the whole answer (s)", rangemode="tozero", row=row, col=col)


def widths(fig: go.Figure, result: PlatoResult, row: int, col: int) -> None:
    """Tokens per second against sequences decoded at once: the fitted cost, its samples, and what is free."""
    if result.machine is None:
        return
    _width_lines(fig, result.machine.cost(), row, col)
    points = [(rows, rows / seconds) for tokens, rows, kv, seconds in result.machine.samples if tokens == rows <= 16
              and kv <= 160 * rows]  # fmt: skip
    if points:
        fig.add_trace(
            go.Scatter(
                x=[x for x, _ in points], y=[y for _, y in points], mode="markers", name="step, measured",
                marker={"color": theme.BLUE, "size": 8, "symbol": "square"},
            ),
            row=row, col=col,
        )  # fmt: skip


def _width_lines(fig: go.Figure, cost: StepCost, row: int, col: int) -> None:
    one = 1 / cost.step_s(1, 1, 128)
    speed = [w / cost.step_s(w, w, 128 * w) for w in WIDTHS]
    blue = theme.series(0)
    fig.add_trace(
        go.Scatter(
            x=list(WIDTHS), y=speed, mode="lines", name="step cost, fitted", line={"color": blue.colour, "width": 2}
        ),
        row=row, col=col,
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(
            x=list(WIDTHS), y=[one * w for w in WIDTHS], mode="lines", name="if branches were free",
            line={"color": theme.QUIET, "width": 1.2, "dash": "dot"},
        ),
        row=row, col=col,
    )  # fmt: skip
    fig.update_xaxes(title_text="sequences at once (rows)", rangemode="tozero", row=row, col=col)
    fig.update_yaxes(title_text="decoding (tokens per s)", rangemode="tozero", row=row, col=col)


def preview(config: PlatoConfig) -> go.Figure:
    """What the scheduler expects of the form's plan by every way, with a cost model and no run."""
    from workbench.plato.simulate import simulated, stand_in_cost

    cost = stand_in_cost(config)
    outcomes = simulated(config, cost)
    pieces = [Piece.of(p) for p in outcomes["plato"].parts]
    plan = outcomes["plato"].plan
    tokens = {p.node: p.tokens for p in pieces if p.kind == "node"}
    fig = make_subplots(rows=1, cols=2, column_widths=[0.6, 0.4], horizontal_spacing=0.24)
    gantt(fig, pieces, set(plan.critical_path(tokens)) if plan else set(), row=1, col=1)
    names, times = [WAYS[w] for w in outcomes], [o.total_s for o in outcomes.values()]
    fig.add_trace(
        go.Bar(
            x=times, y=names, orientation="h", name="total, modelled", showlegend=False, width=0.55,
            marker={"color": theme.faded(theme.GREY, 0.55), "line": {"color": theme.GREY, "width": 1}},
        ),
        row=1, col=2,
    )  # fmt: skip
    _ways(fig, names, times, 1, 2)
    sequential = min(outcomes[w].total_s for w in ("plain", "nodes"))
    gain = sequential / outcomes["plato"].total_s
    title = f"Modelled: Plato {theme.number(outcomes['plato'].total_s)} s, {gain:.2f}x sequential decoding"
    text = f"{title}; steps as of {cost.source}, not measured on this machine."
    whose = "; the model's own plan shows when it runs" if config.planner in ("model", "free") else ""
    note = theme.quiet(f"steps as of {cost.source}{whose}")
    fig.update_layout(legend=BELOW, margin={"b": 96, "t": 76}, barmode="overlay")
    return theme.finish(fig, title + note, text, height=400).update_layout(title_y=0.93)  # two lines

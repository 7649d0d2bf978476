"""Figures of HeterMoE: a predicted step above the measured one, who is busy, ways side by side, lengths, ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.hetermoe import gantt
from workbench.hetermoe.beside import OVER_EP
from workbench.hetermoe.result import SHORT, TESTED, Drawn, HeterMoEResult, Ratio

if TYPE_CHECKING:
    from workbench.hetermoe.config import HeterMoEConfig

TITLE = 28  # pixels from the upper edge to about the middle of its first line
GAP = 92  # pixels between rows, for axis titles and the line of keys
OVER = {"ep": 0, "distep": 1, "ideal": 2, "plain": 3}  # what zebra is held against over lengths -> look
DASHES = {"solid": "━━", "dash": "╍╍", "dot": "┉┉", "dashdot": "━╍"}
PUBLISHED = "published, over EP, mean"


def overview(result: HeterMoEResult) -> go.Figure:
    """All of a result."""
    steps = shown(result)
    priced = any(r.usd_per_million is not None for r in result.ratios)
    ways = result.ways()
    lanes = max(len(d.used) for d in steps)
    tall = [*(gantt.height(d) for d in steps), max(120, 38 * max(len(ways), 1.4 * lanes)), 220, 200]
    fig = grid([*([1] * len(steps)), 2, 1, 2 if priced else 1], tall)
    end = max(d.step_s for d in steps)
    for at, one in enumerate(steps, 1):
        gantt.gantt(fig, one, at, end)
    row = len(steps) + 1
    utilisation(fig, steps, row)
    bars(fig, result, ways, row)
    over_lengths(fig, result.lengths, result.crossings, row + 1, result.config.tokens_of_sequence)
    _measured_ratio(fig, result, row + 1)
    over_ratios(fig, result.ratios, result.config.expert, row + 2, priced)
    keys(fig, steps, row + 1)
    theme.keys(fig, row + 2, 1, [("◯", theme.BLUE, "this run's")], head="Over ratio")
    s = result.summary()
    badge = result.badge
    title = f"HeterMoE: {s['tokens_per_s']:,.0f} tokens per second ({badge})"
    if "speedup_vs_ep" in s:
        title += f", {s['speedup_vs_ep']:.2f}x expert parallelism"
        title += f" ({s['predicted_speedup']:.2f}x predicted)" if result.measured else ""
    attention, expert = s["utilisation_attention"], s["utilisation_expert"]
    told = quiet(f"attention ranks are busy {attention:.0%} of the step, expert ranks {expert:.0%}")
    told += quiet(f"prices: {result.prices}")
    return finish(fig, title + told, result.sentence(), tall)


def shown(result: HeterMoEResult) -> list[Drawn]:
    """Steps that are drawn: of zebra predicted and measured; what was moved by hand below what the planner has."""
    return [one for one in result.drawn if one.way in {TESTED, "hand"}]


def grid(panels: Sequence[int], tall: Sequence[int | float]) -> go.Figure:
    """Rows of one wide or two panels."""
    specs: list[list[Any]] = [[{"colspan": 2}, None] if number == 1 else [{}, {}] for number in panels]
    whole = sum(tall) + GAP * (len(tall) - 1)
    return make_subplots(
        rows=len(tall), cols=2, specs=specs, row_heights=list(tall), horizontal_spacing=0.2,
        vertical_spacing=GAP / whole,
    )  # fmt: skip


def finish(fig: go.Figure, title: str, text: str, tall: Sequence[int | float]) -> go.Figure:
    """The house's look, with room above for the title's lines and two lines of keys, however tall the figure is."""
    top = 92 + 18 * title.count("<br>")
    height = round(sum(tall) + GAP * (len(tall) - 1) + top + 60)
    fig.update_layout(barmode="overlay", showlegend=False, margin={"t": top, "b": 60}, bargap=0.3)
    return theme.finish(fig, title, text, height=height).update_layout(title_y=1 - TITLE / height)


def quiet(text: str) -> str:
    """Quiet lines below the title."""
    return "".join(theme.quiet(line) for line in wrap(text, 140))


def utilisation(fig: go.Figure, steps: Sequence[Drawn], row: int) -> None:
    """Share of the step that each rank computes; where it was measured, what was predicted is a diamond."""
    last = steps[-1]
    lanes = [name.replace("attention and experts", "both") for name in last.lanes[: len(last.used)]]
    look = theme.series(0 if last.badge == "measured" else 5)
    fig.add_trace(
        go.Bar(
            x=[round(100 * share, 2) for share in last.used], y=lanes, orientation="h", width=0.6, showlegend=False,
            text=[f"{100 * share:.0f} %" for share in last.used], textposition="inside", insidetextanchor="start",
            textangle=0, constraintext="none", textfont={"color": theme.INK}, hoverinfo="x+y",
            marker={"color": theme.faded(look.colour, 0.45), "line": {"color": look.colour, "width": 1.2}},
        ),
        row=row, col=1,
    )  # fmt: skip
    if len(steps) > 1 and len(steps[0].used) == len(last.used):
        _diamonds(fig, [round(100 * share, 2) for share in steps[0].used], lanes, row, 1)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=lanes[::-1], title_text="rank", row=row, col=1
    )  # fmt: skip
    fig.update_xaxes(title_text="busy (% of the step)", range=[0, 104], row=row, col=1)


def _diamonds(fig: go.Figure, x: Sequence[float], y: Sequence[str], row: int, col: int) -> None:
    marker = {"color": theme.VERMILLION, "size": 12, "symbol": "diamond-open", "line": {"width": 2}}
    fig.add_trace(
        go.Scatter(x=list(x), y=list(y), mode="markers", name="predicted", marker=marker, hoverinfo="x+y"),
        row=row, col=col,
    )  # fmt: skip


def bars(fig: go.Figure, result: HeterMoEResult, ways: Sequence[str], row: int) -> None:
    """Tokens a second of each way; where measured, the prediction is a diamond."""
    names = [SHORT[way] for way in ways]
    speed = [result.speed(way) for way in ways]
    colours = [theme.BLUE if way in {TESTED, "hand"} else theme.GREY for way in ways]
    fig.add_trace(
        go.Bar(
            x=[round(v, 1) for v in speed], y=names, orientation="h", width=0.6, showlegend=False,
            text=[f"{v:,.0f}" for v in speed], textposition="inside", insidetextanchor="start", textangle=0,
            constraintext="none", textfont={"color": theme.INK}, hoverinfo="x+y",
            marker={"color": [theme.faded(c, 0.45) for c in colours], "line": {"color": colours, "width": 1.2}},
        ),
        row=row, col=2,
    )  # fmt: skip
    if result.measured:
        known = [(result.predicted(way), SHORT[way]) for way in ways if result.predicted(way) > 0]
        _diamonds(fig, [round(v, 1) for v, _ in known], [name for _, name in known], row, 2)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], title_text="way", tickvals=names,
        ticktext=["<br>".join(wrap(name, 14)) for name in names], row=row, col=2,
    )  # fmt: skip
    badge = result.badge
    fig.update_xaxes(title_text=f"throughput, {badge} (tokens per second)", rangemode="tozero", row=row, col=2)


def over_lengths(
    fig: go.Figure, rows: Sequence[tuple[int, Mapping[str, float]]], crossings: Mapping[str, Sequence[float]], row: int,
    here: int,
) -> None:  # fmt: skip
    """Zebra over every other way at each length; dotted where it passes expert parallelism; published points."""
    top = 1.0
    for way, look in OVER.items():
        seen = [(n, at[TESTED] / at[way]) for n, at in rows if at.get(way) and at.get(TESTED)]
        if not seen:
            continue
        top = max(top, *(y for _, y in seen))
        fig.add_trace(
            go.Scatter(
                x=[x for x, _ in seen], y=[round(y, 4) for _, y in seen], mode="lines+markers",
                name=f"over {SHORT[way]}", **theme.series(look).line(2.2),
                hovertemplate=f"%{{x:,}} tokens: %{{y:.2f}}x {SHORT[way]}<extra></extra>",
            ),
            row=row, col=1,
        )  # fmt: skip
    low, high = rows[0][0], rows[-1][0]
    points = [(n, y) for n, y in OVER_EP.items() if low <= n <= high]
    if points:
        marker = {"symbol": "star", "size": 13, "color": theme.ORANGE, "line": {"color": theme.INK, "width": 1}}
        fig.add_trace(
            go.Scatter(
                x=[n for n, _ in points], y=[y for _, y in points], mode="markers", name=PUBLISHED, marker=marker,
                hovertemplate="the paper's mean: %{y:.2f}x at %{x:,} tokens<extra></extra>",
            ),
            row=row, col=1,
        )  # fmt: skip
        top = max(top, *(y for _, y in points))
    line = {"color": theme.QUIET, "width": 1.2}
    fig.add_hline(1.0, line=line, row=row, col=1)
    fig.add_vline(here, line=line | {"dash": "dash"}, row=row, col=1)
    for at in crossings.get("ep", ()):
        fig.add_vline(at, line={"color": theme.BLUE, "width": 1.2, "dash": "dot"}, row=row, col=1)
    ticks = [n for n, _ in rows]
    fig.update_xaxes(
        type="log", tickvals=ticks, ticktext=[f"{n:,}" for n in ticks], title_text="sequence (tokens)", row=row, col=1
    )  # fmt: skip
    fig.update_yaxes(title_text="zebra over it (ratio)", range=[0, 1.1 * top], row=row, col=1)


def _measured_ratio(fig: go.Figure, result: HeterMoEResult, row: int) -> None:
    """What this run measured, into the lengths."""
    if not result.measured:
        return
    here, top = result.config.tokens_of_sequence, fig.get_subplot(row, 1).yaxis.range[1]
    for way, look in OVER.items():
        if result.speed(way) > 0:
            y = result.speed(TESTED) / result.speed(way)
            top = max(top, 1.1 * y)
            style = theme.series(look)
            marker = {
                "color": theme.PAPER,
                "size": 12,
                "symbol": style.marker,
                "line": {"color": style.colour, "width": 3},
            }
            fig.add_trace(
                go.Scatter(
                    x=[here], y=[round(y, 4)], mode="markers", marker=marker, showlegend=False,
                    hovertemplate=f"measured: %{{y:.2f}}x {SHORT[way]}<extra></extra>",
                ),
                row=row, col=1,
            )  # fmt: skip
    fig.update_yaxes(range=[0, top], row=row, col=1)


def over_ratios(fig: go.Figure, rows: Sequence[Ratio], here: int, row: int, priced: bool) -> None:
    """Throughput of so many expert ranks, and what a million tokens cost where both prices are known."""
    runs = [r for r in rows if r.tokens_per_s]
    _line(fig, [(r.expert, r.tokens_per_s) for r in runs], "throughput by ratio", 0, row, 1, here)
    of = f"expert ranks to {rows[0].attention} attention rank{'s' if rows[0].attention > 1 else ''} (count)"
    fig.update_xaxes(title_text=of, dtick=1 if len(rows) <= 16 else None, row=row, col=1)
    fig.update_yaxes(title_text="modelled (tokens/s)", rangemode="tozero", row=row, col=1)
    if priced:
        known = [(r.expert, r.usd_per_million) for r in runs if r.usd_per_million is not None]
        _line(fig, known, "cost by ratio", 1, row, 2, here)
        fig.update_xaxes(title_text=of, dtick=1 if len(rows) <= 16 else None, row=row, col=2)
        fig.update_yaxes(title_text="modelled ($ per million tokens)", rangemode="tozero", row=row, col=2)


def _line(
    fig: go.Figure, points: Sequence[tuple[int, float]], name: str, look: int, row: int, col: int, here: int
) -> None:  # fmt: skip
    style = theme.series(look)
    fig.add_trace(
        go.Scatter(
            x=[x for x, _ in points], y=[float(f"{y:.5g}") for _, y in points], mode="lines+markers", name=name,
            showlegend=False, line={"color": style.colour, "dash": style.dash, "width": 2.2},
            marker={
                "color": [style.colour if x != here else theme.PAPER for x, _ in points], "symbol": style.marker,
                "size": [8 if x != here else 12 for x, _ in points], "line": {"color": style.colour, "width": 2},
            },
        ),
        row=row, col=col,
    )  # fmt: skip


# -- a line that names what is drawn, above each panel ---------------------------------------------------------------


def keys(fig: go.Figure, steps: Sequence[Drawn], lengths_row: int) -> None:
    """What plotly's legend would wrap over the axes."""
    for row, one in enumerate(steps, 1):
        there = {box[1] for box in one.boxes}
        names = [said for stage, (said, _, _) in gantt.STAGES.items() if stage in there]
        word = {"measured": "Measured", "modelled": "Predicted"}[one.badge] + (", by hand" if one.way == "hand" else "")
        marks = [(*gantt.mark(name), name) for name in (*names, gantt.BUBBLE)]
        theme.keys(fig, row, 1, marks, head=word, per=5)
    two = lengths_row - 1
    diamond = [("◇", theme.VERMILLION, "predicted")] if len(steps) > 1 and steps[-1].badge == "measured" else []
    theme.keys(fig, two, 1, diamond, head="Utilisation")
    theme.keys(fig, two, 2, diamond, head="Ways")
    theme.keys(fig, lengths_row, 1, _length_keys(fig), head="Over length", per=5)


def _length_keys(fig: go.Figure) -> list[tuple[str, str, str]]:
    found = []
    for trace in fig.data:
        name = trace.name or ""
        if name == PUBLISHED:
            found.append(("★", theme.ORANGE, name))
        elif name.startswith("over "):
            found.append((DASHES[trace.line.dash], trace.line.color, name))
    return [*found, ("┊", theme.QUIET, "this length")]


def preview(config: HeterMoEConfig) -> go.Figure:
    """The predicted step of a config, and how it stands over lengths: redrawn as experts and lengths are dragged."""
    from workbench.hetermoe.preview import preview as drawn

    return drawn(config)

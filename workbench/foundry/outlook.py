"""Modelled pictures of Foundry: starts by phase, ladders, a burst; and what a config would give, before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.foundry import expected, sim
from workbench.foundry.config import FoundryConfig
from workbench.foundry.figures import GAP, _keys, _lanes, _log, _note
from workbench.foundry.modelled import LADDERS, NAMES, arms_of, kind_of, setting_of
from workbench.foundry.result import SIMULATED, WAYS

if TYPE_CHECKING:
    from workbench.foundry.result import FoundryResult

LOOK = {"capture": 0, "eager start": 6, "one by one": 4, "foundry start": 2, "checkpoint": 3}
SHADES = {"wait": 6, "load": 1, "compile": 4, "import": 5, "capture": 3, "transfer": 0, "run": 2, "join": 4}
ESTIMATED = {"foundry": 2, "cold": 0, "warm": 5, "aoti": 1, "eager": 6}


def overview(result: FoundryResult) -> go.Figure:
    """Top: starts by phase. Below: seconds over the ladder's size, and who waits in a burst."""
    phases = {SIMULATED[way]: dict(parts) for way, parts in result.phases.items()}
    tall = [36 * len(phases) + 40, 250]
    total = sum(tall) + GAP
    fig = make_subplots(
        rows=2, cols=2, specs=[[{"colspan": 2}, None], [{}, {}]], row_heights=tall, vertical_spacing=GAP / total,
        horizontal_spacing=0.11,
    )  # fmt: skip
    kinds = dict.fromkeys(phase for each in phases.values() for phase in each)
    _lanes(fig, phases, {phase: (phase, SHADES[kind_of(phase)]) for phase in kinds}, "the start")
    curves = {way: sorted((r.size, r.ready_s) for r in result.rows if r.way == way) for way in result.phases}
    short = {way: words.split(",")[0] for way, words in SIMULATED.items()}
    _curves(fig, curves, short, LOOK, row=2)
    fig.update_xaxes(title_text="ladder: decode graphs (count)", row=2, col=1)
    _burst(fig, result)
    _keys(fig, {(1, 1): 5, (2, 1): 2, (2, 2): 1})
    c, s = result.config, result.summary()
    title = (
        f"{c.sim_model}, {c.sim_graphs} graphs: ready in {theme.number(s['start_foundry_s'])} s instead of "
        f"{theme.number(s['start_capture_s'])} s (modelled)"
    )
    about = (
        f"{c.sim_ranks} GPU{'s' * (c.sim_ranks > 1)}; constants fitted to the paper's numbers, environment and weights "
        "are set by us; no GPU and no Foundry is behind these numbers"
    )
    notes = _note(about)
    fig.update_layout(barmode="stack", showlegend=False, margin={"t": 100 + 17 * len(notes), "b": 64})
    return theme.finish(fig, title + "".join(notes), result.sentence(), height=total + 165 + 17 * len(notes))


def _curves(
    fig: go.Figure, curves: Mapping[str, Sequence[tuple[float, float]]], words: Mapping[str, str],
    look: Mapping[str, int], row: int,
) -> None:  # fmt: skip
    """Seconds over the ladder's size, a line a way."""
    for way, points in curves.items():
        style, ours = theme.series(look[way]), way.startswith("foundry")
        dash, width = ("solid", 3.5) if ours else (style.dash, 2)
        fig.add_trace(
            go.Scatter(
                x=[x for x, _ in points], y=[y for _, y in points], mode="lines+markers", name=words[way],
                line={"color": style.colour, "dash": dash, "width": width},
                marker={"color": style.colour, "symbol": style.marker, "size": 7},
                hovertemplate="%{x} sizes: %{y:.2f} s<extra>" + words[way] + "</extra>",
            ),
            row=row, col=1,
        )  # fmt: skip
    seconds = [y for points in curves.values() for _, y in points]
    fig.update_yaxes(title_text="start to ready (s)", **_log(min(seconds), max(seconds)), row=row, col=1)


def _burst(fig: go.Figure, result: FoundryResult) -> None:
    """Requests that wait, over time, for each way that replicas start."""
    for one in result.bursts:
        style = theme.series(LOOK[one.way])
        fig.add_trace(
            go.Scatter(
                x=[at for at, *_ in one.counts], y=[waiting for *_, waiting in one.counts], mode="lines",
                name=f"{SIMULATED[one.way].split(',')[0]}: {one.late:,} late, {one.lost:,} lost",
                line={"color": style.colour, "dash": style.dash, "width": 3 if "foundry" in one.way else 1.8},
                hovertemplate="%{x:.0f} s: %{y} wait<extra>" + SIMULATED[one.way] + "</extra>",
            ),
            row=2, col=2,
        )  # fmt: skip
    fig.update_xaxes(title_text="time, the burst from 60 to 180 s (s)", row=2, col=2)
    fig.update_yaxes(title_text="requests that wait (count)", row=2, col=2)


# -- before a run ----------------------------------------------------------------------------------------------------


def preview(config: FoundryConfig) -> go.Figure:
    """What the model expects of a config: seconds over the ladder's size, this ladder marked.

    Backend cuda has no cost model of its own, as nothing of it was measured: the simulated models stand there.
    """
    simulated = config.backend in ("sim", "cuda")
    if simulated:
        setting = setting_of(config)
        counts = sorted({*LADDERS, config.sim_graphs})
        curves: dict[str, list[tuple[float, float]]] = {
            NAMES[arm]: [(n, sim.start(replace(setting, sizes=n), arm).total_s) for n in counts]
            for arm in arms_of(config)
        }
        here, words, look = config.sim_graphs, SIMULATED, LOOK
        gpus = f"{config.sim_ranks} GPU{'s' * (config.sim_ranks > 1)}"
        about = f"{config.sim_model} on {gpus}: cost model fitted to the paper's numbers; none ran here"
    else:
        curves = expected.curves(config)
        here, words, look = len(config.sizes), WAYS, ESTIMATED
        about = f"not measured on this machine: {expected.SOURCE}"
    fig = make_subplots(rows=1, cols=1)
    _curves(fig, curves, words, look, row=1)
    ours, theirs = ("foundry start", "capture") if simulated else ("foundry", "cold")
    at = {way: _at(curves[way], here) for way in (ours, theirs)}
    fig.add_vline(x=here, line={"color": theme.QUIET, "width": 1.2, "dash": "dash"})
    fig.update_xaxes(title_text="ladder: batch sizes (count)")
    _keys(fig, {(1, 1): 3})
    took, instead = theme.number(at[ours]), theme.number(at[theirs])
    title = f"Modelled: a ladder of {here} is ready in {took} s instead of {instead} s"
    notes = _note(about)
    fig.update_layout(showlegend=False, margin={"t": 100 + 17 * len(notes), "b": 64})
    text = f"{title}: {words[ours]} against {words[theirs]}; {about}."
    return theme.finish(fig, title + "".join(notes), text, height=440)


def _at(points: Sequence[tuple[float, float]], here: float) -> Any:
    return next(y for x, y in points if x == here)

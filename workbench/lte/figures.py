"""Pictures of a run: what sparsity costs and gains, which experts a text uses, how training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.lte.recorded import NAMES, ORACLES
from workbench.lte.result import ALL, CHANCE, TORCH

if TYPE_CHECKING:
    from workbench.lte.result import Activity, LteResult, Row, What

MAP = [[0.0, "#F6F8FA"], [0.5, theme.SKY], [1.0, "#0B2E4F"]]  # share of experts in use
ORDER = ("dense", "LTE", *NAMES.values(), CHANCE)
SCORES = ("accuracy", "perplexity")
HOVER = (
    "%{x:.0f} % of the weights unread, %{customdata[2]:.0f} % of the neurons left out:<br>"
    "%{y:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g})"
)
LEGENDS = ((0.0, 0.724), (0.58, 0.724), (0.0, 0.34), (0.58, 0.305))
LOOKS = {name: at for at, name in enumerate(("dense", "LTE", *NAMES.values()))} | {CHANCE: 4, NAMES["bare"]: 1}


def overview(result: LteResult) -> go.Figure:
    """Scores by sparsity; kernel and decode; the experts of the text and the union of a batch."""
    trained = any(r.what == "train" for r in result.rows)
    titles = (
        "Accuracy by sparsity, held-out sentences",
        "How training went" if trained else "Perplexity by sparsity, held-out articles",
        "FFNs of one token: times as fast as all experts",
        "Whole tokens, one thread",
        "Share of experts that each token uses",
        "Experts that a batch needs together",
    )
    fig = make_subplots(rows=3, cols=2, subplot_titles=titles, horizontal_spacing=0.16, vertical_spacing=0.15)
    _scores(fig, result, "accuracy", 1)
    if trained:
        _training(fig, result)
    else:
        _scores(fig, result, "perplexity", 2)
    _kernel(fig, result)
    _decode(fig, result)
    _tokens(fig, result.activity)
    _union(fig, result)
    for at, (x, y) in enumerate(LEGENDS):
        fig.update_layout({f"legend{at + 1 if at else ''}": _legend(x, y)})
    s = result.summary()
    fig.update_layout(margin={"b": 70, "t": 90}, bargap=0.4)
    name = result.score
    title = f"{100 * s['sparsity']:.0f} % of the FFN left out: {name} {s[name]:.3g}, dense {s['dense_' + name]:.3g}"
    return theme.finish(fig, f"{title} (measured)", result.sentence(), height=1280)


def _legend(x: float, y: float) -> dict[str, object]:
    return {"x": x, "y": y, "xanchor": "left", "yanchor": "top", "orientation": "h", "font": {"size": 11}}


def _curves(result: LteResult, unit: str) -> dict[str, list[Row]]:
    """Rows of one score by series, recorded ones sorted by sparsity, in the order of the legend."""
    own = [r for r in result.rows if r.what == "score" and r.unit == unit]
    by_name = {n: sorted((r for r in own if r.name == n), key=_unread) for n in ORDER}
    return {name: rows for name, rows in by_name.items() if rows}


def _unread(row: Row) -> float:
    """Where a score stands: the share of weights unread, in which methods that choose differently can be compared."""
    return row.x if row.unread is None else row.unread


def _scores(fig: go.Figure, result: LteResult, unit: str, col: int) -> None:
    """Recorded curves as lines, this run's points on top as stars; oracles look at what they save."""
    shown = _curves(result, unit)
    if not shown:
        return _empty(fig, 1, col, f"no {unit} was measured: no such model is shipped")
    named = {trace.name for trace in fig.data}  # one key for both panels
    for name, rows in shown.items():
        style = theme.series(LOOKS[name])
        before = [r for r in rows if r.source != "this run"]
        now = [r for r in rows if r.source == "this run"]
        line = style.line(3 if name == "LTE" else 1.8)
        line["line"]["dash"] = "dot" if name in ORACLES else "solid"
        if name == NAMES["bare"]:  # LTE's own look, hollow
            line["marker"]["symbol"] = "square-open"
        if before:
            fig.add_trace(_line(before, name, line, told=name not in named), row=1, col=col)
        if now:
            told = not before and f"{name}, this run" not in named
            fig.add_trace(_stars(now, name, style, told=told), row=1, col=col)
    fig.update_xaxes(title_text="FFN weights that are not read (%)", range=[-3, 100], row=1, col=col)
    if unit == "perplexity":
        fig.update_yaxes(title_text="perplexity (exp of nats a token)", type="log", range=[1.25, 4.4], row=1, col=col)
    else:
        fig.update_yaxes(title_text="accuracy (share right)", row=1, col=col)
    return None


def _line(rows: Sequence[Row], name: str, look: dict[str, object], *, told: bool) -> go.Scatter:
    hovered = [(r.low, r.high, 100 * r.x) for r in rows]
    return go.Scatter(
        x=[100 * _unread(r) for r in rows], y=[r.value for r in rows], mode="lines+markers", name=name, showlegend=told,
        customdata=np.array(hovered, float), hovertemplate=HOVER + f"<extra>{name}</extra>", **look,
    )  # fmt: skip


def _stars(rows: Sequence[Row], name: str, style: theme.Style, *, told: bool) -> go.Scatter:
    reach = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3}
    up = [(r.high or r.value) - r.value for r in rows]
    down = [r.value - (r.low or r.value) for r in rows]
    return go.Scatter(
        x=[100 * _unread(r) for r in rows], y=[r.value for r in rows], mode="markers", name=f"{name}, this run",
        showlegend=told, error_y=reach | {"array": up, "arrayminus": down},
        marker={"symbol": "star", "size": 13, "color": style.colour, "line": {"color": "#FFFFFF", "width": 1}},
    )  # fmt: skip


def _kernel(fig: go.Figure, result: LteResult) -> None:
    """Speed over itself dense against the straight line of no loss, and where memory ends it."""
    rows = [r for r in result.rows if r.what == "kernel"]
    by = {r.name: r for r in rows}
    if ALL not in by:
        return _empty(fig, 2, 1, "no kernel was timed")
    dense = by[ALL].value
    xs = np.linspace(0, 0.93, 40)
    ideal = theme.series(6)
    fig.add_trace(
        go.Scatter(x=100 * xs, y=1 / (1 - xs), mode="lines", name="linear", legend="legend3",
                   line={"color": ideal.colour, "dash": "dot", "width": 1.8}),
        row=2, col=1,
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(x=100 * xs, y=dense / by["memory roofline"].value / (1 - xs), mode="lines", name="roofline",
                   legend="legend3", line={"color": theme.PURPLE, "dash": "dash", "width": 1.8}),
        row=2, col=1,
    )  # fmt: skip
    lots = sorted((r for r in rows if r.name == ALL or r.name.startswith("by lot")), key=lambda r: r.x)
    marks = (
        ("by lot", lots, 0), ("as routed", [by["as routed"]], 1),
        ("with routers", [by["router included"]], 2), ("torch", [by[TORCH]], 4),
    )  # fmt: skip
    for name, own, at in marks:
        style = theme.series(at)
        fig.add_trace(
            go.Scatter(x=[100 * r.x for r in own], y=[dense / r.value for r in own], name=name, legend="legend3",
                       mode="lines+markers" if len(own) > 1 else "markers", **style.line(2)),
            row=2, col=1,
        )  # fmt: skip
    fig.update_xaxes(title_text="FFN left out (%)", row=2, col=1)
    fig.update_yaxes(title_text="times as fast (1 = all experts)", type="log", row=2, col=1)
    return None


def _decode(fig: go.Figure, result: LteResult) -> None:
    """Tokens a second of each way, and the ceiling that the dense token's own shares set."""
    names = [(TORCH, "torch, dense"), ("dense", "our kernels, dense"), ("sparse", "our kernels, sparse")]
    found = [(label, result.one("decode", name)) for name, label in names]
    found = [(label, value) for label, value in found if value == value]  # noqa: PLR0124  nan is no value
    if not found:
        return _empty(fig, 2, 2, "nothing was decoded")
    for at, (label, value) in enumerate(found):
        fig.add_trace(
            go.Bar(x=[label], y=[value], name=label, showlegend=False, **theme.series((4, 0, 1)[at % 3]).bar()),
            row=2,
            col=2,
        )
    ceiling = result.one("share", "Amdahl ceiling") * result.one("decode", "dense")
    if ceiling == ceiling:  # noqa: PLR0124
        fig.add_trace(
            go.Scatter(x=[label for label, _ in found], y=[ceiling] * len(found), mode="lines", legend="legend4",
                       name="ceiling (Amdahl)",
                       line={"color": theme.INK, "dash": "dash", "width": 1.5}),
            row=2, col=2,
        )  # fmt: skip
    told = [f"{label.replace(', ', ',<br>')}<br><b>{theme.number(value)}</b>" for label, value in found]
    fig.update_xaxes(
        title_text="way of decoding", type="category", tickvals=[label for label, _ in found], ticktext=told,
        tickangle=0, row=2, col=2,
    )  # fmt: skip
    fig.update_yaxes(title_text="speed (tokens/s)", rangemode="tozero", row=2, col=2)
    return None


def _tokens(fig: go.Figure, found: Activity | None) -> None:
    if found is None:
        return _empty(fig, 3, 1, "no text was run")
    fig.add_trace(token_map(found, found.tau, bar={"x": 0.425, "y": 0.117, "len": 0.235, "thickness": 9}), row=3, col=1)
    _words(fig, found, 3, 1)
    return None


def token_map(found: Activity, tau: float, bar: dict[str, float] | None = None) -> go.Heatmap:
    """Layer by token: the share of experts that run."""
    share = 100 * found.active(tau).mean(axis=2)
    return go.Heatmap(
        z=np.round(share).astype(np.uint8), zmin=0, zmax=100, colorscale=MAP,
        hovertemplate="layer %{y}, %{x}: %{z} % of experts<extra></extra>",
        colorbar={"title": {"text": "%", "side": "top"}, "outlinewidth": 0} | (bar or {}),
    )  # fmt: skip


def _words(fig: go.Figure, found: Activity, row: int, col: int) -> None:
    every = max(1, len(found.words) // 20)
    at = list(range(0, len(found.words), every))
    fig.update_xaxes(
        title_text="tokens of the text", tickvals=at, ticktext=[found.words[i] for i in at], tickangle=-90,
        tickfont_size=10, row=row, col=col,
    )  # fmt: skip
    fig.update_yaxes(title_text="layer (from the input)", dtick=max(1, found.layers // 6), row=row, col=col)


def _union(fig: go.Figure, result: LteResult) -> None:
    """Share of experts over the batch: measured, and what rows would need that agree by chance alone."""
    for name, label, at in (("measured", "texts of the task", 1), ("independent", "if rows agreed by chance", 6)):
        rows = result.found("union", name)
        fig.add_trace(
            go.Scatter(x=[r.x for r in rows], y=[100 * r.value for r in rows], mode="lines+markers", name=label,
                       legend="legend5", **theme.series(at).line(2)),
            row=3, col=2,
        )  # fmt: skip
    fig.update_layout(legend5=_legend(0.58, -0.04))
    fig.update_xaxes(title_text="batch (rows)", type="log", tickvals=[1, 2, 4, 8, 16], row=3, col=2)
    fig.update_yaxes(title_text="experts needed (%)", range=[0, 103], row=3, col=2)


def _empty(fig: go.Figure, row: int, col: int, text: str) -> None:
    """Words where there is nothing to draw."""
    fig.add_trace(go.Scatter(x=[0], y=[0], mode="text", text=[text], showlegend=False), row=row, col=col)
    fig.update_xaxes(visible=False, row=row, col=col)
    fig.update_yaxes(visible=False, row=row, col=col)


def _training(fig: go.Figure, result: LteResult, row: int = 1, col: int = 2) -> None:
    """Task loss of both arms, smoothed; the sparsity that the controller steers."""
    for name, unit, at, label in (
        ("dense", "loss (nats)", 0, "loss, dense"),
        ("LTE", "loss (nats)", 1, "loss, LTE"),
        ("LTE", "sparsity", 2, "left out (share)"),
    ):
        rows = result.found("train", name, unit)
        values = np.array([r.value for r in rows])
        if unit != "sparsity" and len(values):
            weight = np.ones(min(9, len(values)))
            values = np.convolve(values, weight, "same") / np.convolve(np.ones(len(values)), weight, "same")
        fig.add_trace(
            go.Scatter(x=[r.x for r in rows], y=np.round(values, 4), mode="lines", name=label, legend="legend2",
                       line={"color": theme.series(at).colour, "dash": theme.series(at).dash, "width": 2}),
            row=row, col=col,
        )  # fmt: skip
    fig.update_xaxes(title_text="training (steps)", row=row, col=col)
    fig.update_yaxes(title_text="loss (nats), share left out", rangemode="tozero", row=row, col=col)


def training(result: LteResult) -> go.Figure:
    """Loss of both arms and the sparsity, over the steps."""
    fig = make_subplots(rows=1, cols=1)
    _training(fig, result, 1, 1)
    fig.update_layout(legend2={"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "orientation": "h"})
    text = (
        "Task loss of the dense and of the LTE arm by step, and the share of the FFN that the hard routers leave out."
    )
    return theme.finish(fig, "Training both arms on the same batches (measured)", text, height=420)


def token_by_token(found: Activity) -> go.Figure:
    """Layer by expert for one token at a time: a slider goes through the text."""
    active = found.active()
    words = range(len(found.words))
    fig = go.Figure([
        go.Heatmap(
            z=active[:, at].astype(np.uint8), zmin=0, zmax=1, colorscale=MAP, showscale=False, xgap=1, ygap=1,
            hovertemplate="layer %{y}, expert %{x}: %{z}<extra></extra>", visible=at == 0,
        )
        for at in words
    ])  # fmt: skip
    steps = [
        {"label": word, "value": str(at), "method": "update", "args": [{"visible": [w == at for w in words]}]}
        for at, word in enumerate(found.words)
    ]
    fig.update_layout(sliders=[{"steps": steps, "active": 0, "currentvalue": {"prefix": "token: "}, "pad": {"t": 46}}])
    share = 100 * float(active.mean())
    text = (
        f"Which of {found.experts} experts run in each of {found.layers} layers, token by token: {share:.0f} % in all."
    )
    title = f"Experts that run, token by token ({share:.0f} % of them in all)"
    return theme.finish(fig, title, text, x="expert (32 neurons each)", y="layer (from the input)", height=520)


def modelled(result: LteResult) -> go.Figure:
    """How many times as fast a token gets, modelled from bytes, beside the published cut."""
    fig = go.Figure()
    for name, label, at in (("ceiling", "by bytes, router free", 6), ("times as fast", "router included", 1)):
        rows: What = "model"
        own = result.found(rows, name)
        fig.add_trace(go.Scatter(x=[100 * r.x for r in own], y=[r.value for r in own], name=label,
                                 mode="lines+markers", **theme.series(at).line(2)))  # fmt: skip
    if result.config.sim_model == "LLaMA2-7B":
        fig.add_trace(go.Scatter(x=[50], y=[1 / 0.75], mode="markers", name="paper: 25 % less time at about 50 %",
                                 marker={"symbol": "star", "size": 14, "color": theme.VERMILLION}))  # fmt: skip
    title = f"{result.config.sim_model} on {result.config.sim_device}, batch 1 (modelled)"
    return theme.finish(fig, title, result.sentence(), x="FFN left out (%)", y="times as fast (1 = dense)", height=460)

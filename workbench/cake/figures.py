"""Pictures of CAKE: the two pointers in time and position, TTFT over bandwidth, the grid of what pays where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.cake import model_time
from workbench.cake.policy import Policy
from workbench.cake.result import Curve, Stroke

if TYPE_CHECKING:
    from workbench.cake.config import CakeConfig
    from workbench.cake.result import CakeResult
    from workbench.system import Span

NAMES = {"compute": "computed", "load": "loaded"}
CURVES = (("compute_s", "compute", "compute only"), ("load_s", "load", "load only"), ("cake_s", "cake", "CAKE"))
MEASURED = {"load": "load", "cake": "cake", "raw load": "load", "raw cake": "cake"}
ORACLES = {"oracle split": "oracle_ttft_s", "lower bound": "lower_bound_ttft_s"}
GRID_TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
GRID_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)


def overview(result: CakeResult) -> go.Figure:
    """Left: who made which positions ready, when. Right: TTFT over the store's bandwidth, points over the model."""
    badge = result.rows[0].badge
    fig = make_subplots(cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.11)
    s = result.summary()
    ends = [
        ("compute only", s["compute_only_ttft_s"]),
        ("load only", s["load_only_ttft_s"]),
        *((name, s[key]) for name, key in ORACLES.items() if key in s),
    ]
    _pointers(fig, result.strokes, ends, tail=result.prompt_tokens if result.config.requests == 1 else None)
    _curves(fig, result.curve)
    _points(fig, result)
    fig.update_yaxes(title_text="position in the prompt (tokens)", col=1)
    fig.update_xaxes(title_text="time since the request (s)", col=1)
    store = "store bandwidth (MB/s)" + (", throttled reads" if badge == "measured" else "")
    fig.update_xaxes(title_text=store, type="log", dtick=1, col=2)
    fig.update_yaxes(title_text="TTFT (s)", type="log", dtick=1, col=2)
    faster = f"{s['speedup_vs_best_single']:.2f}x as fast as the better single resource"
    title = f"{_tested(result)}: {s['ttft_s']:.2f} s to the first token, {faster} ({badge})"
    fig.update_layout(legend={"y": -0.2, "yanchor": "top", "x": 0.0, "xanchor": "left"}, margin={"b": 110})
    return theme.finish(fig, title, result.sentence(), height=480)


def _tested(result: CakeResult) -> str:
    return {"cake": "CAKE", "compute": "Compute only", "load": "Load only"}[result.config.policy]


def _pointers(fig: go.Figure, strokes: Sequence[Stroke], ends: Sequence[tuple[str, float]], tail: int | None) -> None:
    """Each pass and each read as a box: width its time, height its tokens. Requests are stacked."""
    heights = [0] * (max((k.request for k in strokes), default=0) + 2)
    for k in strokes:
        heights[k.request + 1] = max(heights[k.request + 1], k.last_token)
    base = [sum(heights[: i + 1]) for i in range(len(heights))]
    for lane, name in NAMES.items():
        boxes = [k for k in strokes if k.lane == lane]
        x, y, hover = list[float](), list[float](), list[str]()
        for k in boxes:
            low, high = base[k.request] + k.first_token, base[k.request] + k.last_token
            x += [k.start_s, k.end_s, k.end_s, k.start_s, k.start_s, np.nan]
            y += [low, low, high, high, low, np.nan]
            hover += [f"tokens {k.first_token:,} to {k.last_token:,}: {k.why.get('reason', lane)}", *[""] * 5]
        style = theme.kind(lane)
        fig.add_trace(
            go.Scatter(
                x=np.array(x, np.float32), y=np.array(y, np.float32), name=name, text=hover, hoverinfo="text",
                mode="lines", fill="toself", legendgroup=lane,
                line={"color": style.colour, "width": 1}, fillpattern={"shape": style.pattern, "fgcolor": style.colour,
                "size": 6, "solidity": 0.35} if style.pattern else None, fillcolor=_faded(style.colour),
            ),
            row=1, col=1,
        )  # fmt: skip
    _meeting(fig, strokes)
    shown = max((k.end_s for k in strokes), default=0.0)
    for label, seconds in ends:
        _end_line(fig, label, seconds)
        shown = max(shown, seconds)
    top = tail or base[-1]
    fig.update_xaxes(range=[0, shown * 1.06], col=1)
    fig.update_yaxes(range=[0, top * 1.13], col=1)


def _meeting(fig: go.Figure, strokes: Sequence[Stroke]) -> None:
    """Mark where the two sides met (one request)."""
    loads = [k for k in strokes if k.lane == "load" and "unused_grains" not in k.why]
    if not loads or any(k.request for k in strokes):
        return
    last = min(loads, key=lambda k: k.first_token)
    fig.add_trace(
        go.Scatter(
            x=[last.end_s], y=[last.first_token], mode="markers", name="meeting point", hoverinfo="text",
            text=[f"met at token {last.first_token:,}"],
            marker={"symbol": "star", "size": 15, "color": theme.INK, "line": {"color": theme.PAPER, "width": 1}},
        ),
        row=1, col=1,
    )  # fmt: skip


def _end_line(fig: go.Figure, label: str, seconds: float) -> None:
    dash = "dot" if label in ("oracle split", "lower bound") else "dash"
    fig.add_vline(x=seconds, line={"color": theme.QUIET, "width": 1.2, "dash": dash}, row=1, col=1)
    fig.add_annotation(
        x=seconds, y={"load only": 0.0, "compute only": 0.08, "oracle split": 0.16}.get(label, 0.24), yref="y domain",
        xref="x", text=f"{label} {theme.number(seconds)} s", showarrow=False, xanchor="right", yanchor="bottom",
        font={"size": 11, "color": theme.QUIET}, bgcolor="rgba(255,255,255,0.8)",
    )  # fmt: skip


def _curves(fig: go.Figure, curve: Curve) -> None:
    for field, kind, name in CURVES:
        style = theme.kind(kind) if kind != "cake" else theme.series(2)
        fig.add_trace(
            go.Scatter(x=curve.link_mb_s, y=getattr(curve, field), mode="lines", name=f"{name}, modelled",
                       line={"color": style.colour, "dash": "solid" if kind == "cake" else style.dash,
                             "width": 3.5 if kind == "cake" else 2}),
            row=1, col=2,
        )  # fmt: skip
    if not curve.oracle_s:
        return
    fig.add_trace(
        go.Scatter(x=curve.link_mb_s, y=curve.oracle_s, mode="lines", name="oracle split, modelled",
                   line={"color": theme.INK, "dash": "dot", "width": 1.2}),
        row=1, col=2,
    )  # fmt: skip


def _points(fig: go.Figure, result: CakeResult) -> None:
    """Measured restores over the modelled lines; open symbols are the disk without a limit."""
    for mode, kind in MEASURED.items():
        rows = [r for r in result.rows if r.mode == mode and r.badge == "measured"]
        if not rows:
            continue
        style = theme.kind(kind) if kind != "cake" else theme.series(2)
        raw = mode.startswith("raw")
        name = f"{'CAKE' if kind == 'cake' else 'load only'}, measured" + (", raw disk" if raw else "")
        fig.add_trace(
            go.Scatter(
                x=[r.link_mb_s for r in rows], y=[r.ttft_s for r in rows], mode="markers", name=name,
                marker={"color": style.colour, "size": 11, "symbol": style.marker + ("-open" if raw else ""),
                        "line": {"width": 2 if raw else 1, "color": style.colour if raw else theme.PAPER}},
            ),
            row=1, col=2,
        )  # fmt: skip


def _faded(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},0.28)"


def _why(why: Any) -> str:
    words = {k: v for k, v in why.items() if k != "reason"}
    numbers = ", ".join(f"{theme.label(k)}: {theme.number(v) if isinstance(v, float) else v}" for k, v in words.items())
    return f"{why.get('reason', '')}" + (f" ({numbers})" if numbers else "")


def _seconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f} s"


def explain(span: Span) -> str:
    """Why this chunk was claimed there, in a sentence or two."""
    why, text = dict(span.why), f"{span.label} took {theme.number(span.end_s - span.start_s)} s. "
    unused = "unused_grains" in why
    match why.get("reason"):
        case "front":
            return text + (
                f"{why['gap_tokens']:,.0f} tokens were unclaimed. Loading them all would have taken "
                f"{_seconds(why['load_rest_s'])}, computing them all {why['compute_rest_s']:.2f} s; both together end "
                f"soonest when compute takes {why['compute_share_tokens']:,.0f} of them, so it claimed this pass from "
                f"the front."
            )
        case "back":
            return text + (
                f"Loading it was expected to take {why['load_s']:.2f} s; compute would have reached it only after "
                f"{why['compute_reaches_it_in_s']:.2f} s, so the loader claimed it from the back."
                + (f" {why['unused_grains']:.0f} of its grains failed or came late: computed." if unused else "")
            )
        case "hedge: the load is late":
            return text + (
                f"Its load was late ({_seconds(why['load_left_s'])} still to go), computing it takes "
                f"{why['compute_s']:.2f} s: compute took it over."
            )
        case "hole" | "taken":
            return text + "It could not be loaded (missing, damaged or late), so it was computed."
        case "tail: not in the store":
            return text + "No store holds these tokens: the last ones give the first logits and are always computed."
        case _:
            return text + _why(why)


def preview(config: CakeConfig) -> go.Figure:
    """What the cost model expects of a config, with no run: the pointers, and what pays at other sizes and links."""
    from workbench.cake.measure import to_stroke
    from workbench.cake.sim import Request, simulate
    from workbench.cake.work import simulated_costs

    shown = config if config.backend == "sim" else config.model_copy(update={"sim_hardware": "this machine"})
    costs, _, link, source = simulated_costs(shown)
    step, run, grain, lengths = config.pass_tokens, config.run or 1, config.grain, config.lengths
    policy = Policy(costs, step, run, config.policy, config.batch, config.hedge)
    done = simulate(policy, [Request(n) for n in lengths], grain, trace=True)
    fig = make_subplots(cols=2, column_widths=[0.52, 0.48], horizontal_spacing=0.13)
    compute_s, load_s = model_time.single_s(costs, lengths[0], grain, step, run)
    ends = [("compute only", compute_s), ("load only", load_s)] if len(lengths) == 1 else []
    _pointers(fig, [to_stroke(s) for s in done.spans], ends, tail=lengths[0] if len(lengths) == 1 else None)
    pays = model_time.grid(replace(costs), list(GRID_TOKENS), list(GRID_FACTORS), step, run, grain)
    fig.add_trace(
        go.Heatmap(
            z=pays, x=[f"{link * f:.3g}" for f in GRID_FACTORS], y=[f"{n // 1024}k" for n in GRID_TOKENS],
            colorscale="Viridis", zmin=1, zmax=2.2, colorbar={"title": {"text": "speed-up (x)"}, "thickness": 12},
            texttemplate="%{z:.2f}", textfont={"size": 11},
            hovertemplate="%{y} tokens at %{x} MB/s: %{z:.2f}x<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    fig.update_xaxes(title_text="time since the request (s)", col=1)
    fig.update_yaxes(title_text="position in the prompt (tokens)", col=1)
    fig.update_xaxes(title_text="store bandwidth (MB/s)", type="category", col=2)
    fig.update_yaxes(title_text="prompt (tokens)", type="category", col=2)
    mean = sum(done.ttft_s) / len(done.ttft_s)
    text = (
        f"Modelled, {source}: {lengths[0]:,} tokens over {link:,.0f} MB/s are ready after {mean:.2f} s by "
        f"{config.policy}, {compute_s:.2f} s by computing alone, {load_s:.2f} s by loading alone. The grid shows the "
        f"speed-up over the better single resource by length and bandwidth; it is never below 1."
    )
    fig.update_layout(legend={"y": -0.24, "yanchor": "top", "x": 0.0, "xanchor": "left"}, margin={"b": 100})
    return theme.finish(
        fig, f"Expected: ready after {mean:.2f} s over {theme.number(link)} MB/s (modelled)", text, height=420
    )

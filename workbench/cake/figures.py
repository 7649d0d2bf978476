"""Pictures of CAKE: the two pointers in time and position, TTFT over bandwidth, the grid of what pays where."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.cake import model_time, paper
from workbench.cake.policy import Policy
from workbench.cake.result import Curve, Stroke
from workbench.cake.why import explain

if TYPE_CHECKING:
    from workbench.cake.config import CakeConfig
    from workbench.cake.costs import Costs
    from workbench.cake.result import CakeResult

__all__ = ["explain", "overview", "preview"]

NAMES = {"compute": "computed", "load": "loaded"}
MODES = {"compute": "compute only", "load": "load only", "cake": "CAKE"}
ORACLES = {"oracle split": "oracle_ttft_s", "lower bound": "lower_bound_ttft_s"}
STORES = {
    "disk": "raw disk",
    "lmcache-ram": "raw, LMCache in memory",
    "lmcache-disk": "raw, LMCache on disk",
    "lmcache-server": "raw, LMCache on its server",
}
LEVELS = {"warm": "vLLM's prefix cache, warm, measured", "lmcache-mp load": "LMCache's own connector, measured"}
# a legend at the foot of the picture, whatever the height of the plot: it can never lie on an axis title
BELOW: dict[str, Any] = {"yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.0, "xanchor": "left"}
GRID_TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
GRID_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)


def overview(result: CakeResult) -> go.Figure:
    """Left: who made which positions ready, when. Right: TTFT over the store's bandwidth, points over the model."""
    badge = result.badge
    fig = make_subplots(cols=2, column_widths=[0.52, 0.48], horizontal_spacing=0.1)
    s = result.summary()
    slowed = " (throttled)" if badge == "measured" and result.link_mb_s > 0 else ""
    ends = [
        ("compute only", s["compute_only_ttft_s"]),
        (f"load only{slowed}", s["load_only_ttft_s"]),
        *((name, s[key]) for name, key in ORACLES.items() if key in s),
    ]
    _pointers(fig, result.strokes, ends, tail=result.prompt_tokens if result.config.requests == 1 else None)
    _curves(fig, result.curve)
    _points(fig, result)
    _levels(fig, result)
    fig.update_yaxes(title_text="position in the prompt (tokens)", col=1)
    fig.update_xaxes(title_text="time since the request (s)", col=1)
    fig.update_xaxes(title_text="store bandwidth (MB/s)", type="log", dtick=1, col=2)
    several = "TTFT of the last" if result.aim == "makespan_s" else "mean TTFT"
    mean = several if result.config.requests > 1 else "TTFT"
    fig.update_yaxes(title_text=f"{mean} (s)", type="log", dtick=1, col=2)
    faster = f"{s['speedup_vs_best_single']:.2f}x as fast as the better single resource"
    tested = MODES[result.config.policy]
    title = f"{tested[0].upper()}{tested[1:]}: {theme.number(s['ttft_s'])} s to the first token, {faster} ({badge})"
    fig.update_layout(
        legend=BELOW | {"entrywidth": 225, "font": {"size": 12}},
        margin={"b": 175},
    )
    return theme.finish(fig, title, result.sentence(), height=560)


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
                "size": 6, "solidity": 0.35} if style.pattern else None, fillcolor=theme.faded(style.colour),
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
    """A mode that ended, as a line over the whole height; labels stand at heights of their own."""
    modelled = label in ORACLES
    fig.add_vline(
        x=seconds, line={"color": theme.QUIET, "width": 1.2, "dash": "dot" if modelled else "dash"}, row=1, col=1
    )
    height = 0.24 if label == "lower bound" else 0.16 if modelled else 0.08 if label == "compute only" else 0.0
    fig.add_annotation(
        x=seconds, y=height, yref="y domain",
        xref="x", text=f"{label} {theme.number(seconds)} s", showarrow=False, xanchor="right", yanchor="bottom",
        font={"size": 11, "color": theme.QUIET}, bgcolor="rgba(255,255,255,0.8)",
    )  # fmt: skip


def _look(kind: str) -> theme.Style:
    return theme.series(2) if kind == "cake" else theme.kind(kind)


def _curves(fig: go.Figure, curve: Curve) -> None:
    """The modelled lines: three modes, and what nobody can beat."""
    for kind, name in MODES.items():
        dash, width = ("solid", 3.5) if kind == "cake" else (_look(kind).dash, 2)
        line = {"color": _look(kind).colour, "dash": dash, "width": width}
        _line(fig, curve.link_mb_s, getattr(curve, f"{kind}_s"), f"{name}, modelled", line)
    ink = {"color": theme.INK, "width": 1.2}
    _line(fig, curve.link_mb_s, curve.oracle_s, "oracle split, modelled", ink | {"dash": "dot"})
    _line(fig, curve.link_mb_s, curve.bound_s, "lower bound, modelled", ink | {"dash": "longdashdot"})


def _line(fig: go.Figure, x: Sequence[float], y: Sequence[float], name: str, line: dict[str, Any]) -> None:
    if y:
        fig.add_trace(go.Scatter(x=list(x), y=list(y), mode="lines", name=name, line=line), row=1, col=2)


def _points(fig: go.Figure, result: CakeResult) -> None:
    """Measured restores over the modelled lines; open symbols are the store without a limit.

    Compute-only, which no link touches, stands at the run's link.
    """
    raw_mb_s = [r.link_mb_s for r in result.rows if r.mode == "raw load"]
    found: dict[tuple[str, bool, bool], list[tuple[float, float]]] = {}
    for row in result.rows:
        kind = row.mode.removeprefix("raw ")
        if row.badge != "measured" or kind not in MODES:
            continue
        raw = kind != "compute" and (row.mode.startswith("raw") or row.link_mb_s == 0)
        at = row.link_mb_s or (median(raw_mb_s) if raw and raw_mb_s else result.link_mb_s or _middle(result.curve))
        found.setdefault((kind, raw, not raw and kind != "compute"), []).append((at, row.ttft_s))
    for (kind, raw, slowed), points in found.items():
        name = f"{MODES[kind]}, {'throttled, ' * slowed}measured" + (f", {STORES[result.config.store]}" if raw else "")
        style = _look(kind)
        fig.add_trace(
            go.Scatter(
                x=[x for x, _ in points], y=[y for _, y in points], mode="markers", name=name,
                marker={"color": style.colour, "size": 11, "symbol": style.marker + ("-open" if raw else ""),
                        "line": {"width": 2 if raw else 1, "color": style.colour if raw else theme.PAPER}},
            ),
            row=1, col=2,
        )  # fmt: skip


def _middle(curve: Curve) -> float:
    return curve.link_mb_s[len(curve.link_mb_s) // 2]


def _levels(fig: go.Figure, result: CakeResult) -> None:
    """Baselines of other systems: a point where their bandwidth is known, else a level over all bandwidths."""
    for at, (mode, name) in enumerate(LEVELS.items()):
        rows = [r for r in result.rows if r.mode == mode]
        style, ends = theme.series(3 + at), (result.curve.link_mb_s[0], result.curve.link_mb_s[-1])
        if known := [r for r in rows if r.link_mb_s > 0]:
            marker = {"color": style.colour, "size": 11, "symbol": style.marker}
            x, y = [r.link_mb_s for r in known], [r.ttft_s for r in known]
            fig.add_trace(go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker), row=1, col=2)
        elif rows:
            level = median(r.ttft_s for r in rows)
            _line(fig, ends, [level, level], name, {"color": style.colour, "dash": style.dash, "width": 1.6})


def preview(config: CakeConfig) -> go.Figure:
    """What the cost model expects of a config, with no run: the pointers, and what pays at other sizes and links.

    On the paper's hardware its four models stand below, at the config's length. The config's own cells are framed.
    """
    from workbench.cake.result import to_stroke
    from workbench.cake.sim import Request, simulate
    from workbench.cake.work import simulated_costs

    ours = config.backend != "sim" or config.sim_device == "one CPU core"
    shown = config.model_copy(update={"sim_device": "one CPU core"}) if ours else config
    costs, token_bytes, link, source = simulated_costs(shown)
    step, run, grain, lengths = config.pass_tokens, config.run or 1, config.grain, config.lengths
    policy = Policy(costs, step, run, config.policy, config.batch, config.hedge)
    done = simulate(policy, [Request(n) for n in lengths], grain, trace=True)
    fig = make_subplots(
        rows=1 if ours else 2, cols=2, column_widths=[0.48, 0.52], vertical_spacing=0.16,
        horizontal_spacing=0.12 if ours else 0.18,
        row_heights=None if ours else [0.6, 0.4],
        specs=[[{}, {}]] if ours else [[{"rowspan": 2}, {}], [None, {}]],
    )  # fmt: skip
    compute_s, load_s = model_time.single_s(costs, lengths[0], grain, step, run)
    ends = [("compute only", compute_s), ("load only", load_s)] if len(lengths) == 1 else []
    _pointers(fig, [to_stroke(s) for s in done.spans], ends, tail=lengths[0] if len(lengths) == 1 else None)
    fig.update_xaxes(title_text="time since the request (s)", col=1)
    fig.update_yaxes(title_text="position in the prompt (tokens)", col=1)
    _pays(fig, costs, config, link, None if ours else token_bytes)
    mean_s = sum(done.ttft_s) / len(done.ttft_s)
    at = f"{theme.number(link)} MB/s" + ("" if config.link_mb_s else ", the balance point")
    title, said = _expected(config, ours, mean_s, at, source)
    text = (
        f"{title}; {said}. {lengths[0]:,} tokens by {config.policy}: {mean_s:.2f} s; by computing alone {compute_s:.2f}"
        f" s, by loading alone {load_s:.2f} s. The grid shows the speed-up over the better single resource by length"
        f"{'' if ours else ', and by model,'} and bandwidth: at least 1 throughout."
    )
    lines = wrap(said, len(said) // (1 + len(said) // 150) + 12)  # of like length, at most about 150
    note = "".join(theme.quiet(line) for line in lines)
    margin = {"b": 90, "t": 62 + 17 * len(lines)}
    fig.update_layout(legend=BELOW, margin=margin)
    return theme.finish(fig, title + note, text, height=430 if ours else 520)


def _expected(config: CakeConfig, ours: bool, mean_s: float, at: str, source: str) -> tuple[str, str]:
    """(title, whose cost model this is and what it leaves out)."""
    tiny = ours and config.model == "tiny"
    title = f"Modelled{' for SmolLM2-135M' if tiny else ''}: ready after {theme.number(mean_s)} s over {at}"
    left_out = {
        "the tiny test model has none of its own": tiny,
        "the raw disk is not modelled": config.link_mb_s == 0,
        "the built-in engine, not vLLM": ours and config.engine == "vllm" and config.backend != "sim",
        "one thread": ours and config.threads > 1,
        "a store without gaps": bool(config.damage_pct or config.store_limit_mb),
    }
    said = [f"not measured on this machine: cost model of {source}", *(k for k, v in left_out.items() if v)]
    return title, "; ".join(said)


def _pays(fig: go.Figure, costs: Costs, config: CakeConfig, link: float, token_bytes: int | None) -> None:
    """Heat maps of the speed-up over the better single resource: length x bandwidth; models x bandwidth below.

    token_bytes: of the config's model on the paper's hardware; None where there are no models to compare.
    """
    step, run, grain, own = config.pass_tokens, config.run or 1, config.grain, config.prompt_tokens
    near = min(range(len(GRID_TOKENS)), key=lambda i: abs(np.log(GRID_TOKENS[i] / own)))
    lengths = [own if i == near else n for i, n in enumerate(GRID_TOKENS)]
    names = [f"<b>{n:,}</b>" if n == own else f"{n:,}" for n in lengths]
    links = [link * f for f in GRID_FACTORS]
    here = GRID_FACTORS.index(1)
    x = [f"<b>{theme.number(v)}</b>" if i == here else theme.number(v) for i, v in enumerate(links)]
    _heat(fig, model_time.grid(costs, lengths, GRID_FACTORS, step, run, grain), x, names, 1, (here, near))
    fig.update_yaxes(title_text="prompt (tokens)", row=1, col=2)
    if token_bytes is not None:
        share, models = float(config.sim_share), list(paper.KV_BYTES)
        table = model_time.model_grid(config.sim_device, share, models, [own], links, step, run, grain)
        mine = models.index(config.sim_model)
        names = [f"<b>{m}</b>" if m == config.sim_model else m for m in models]
        _heat(fig, [table[m][0] for m in models], x, names, 2, (here, mine))
        fig.update_yaxes(title_text=f"model ({own:,} tokens)", row=2, col=2)
        fig.update_xaxes(visible=False, row=1, col=2)  # the one below is the same
    fig.update_xaxes(title_text="store bandwidth (MB/s)", col=2, row=1 if token_bytes is None else 2)
    bar = {"title": {"text": "speed-up<br>over the<br>better one", "font": {"size": 11}}, "thickness": 12, "len": 0.9}
    fig.update_layout(coloraxis={"colorscale": theme.PALE, "cmin": 1, "cmax": 2.2, "colorbar": bar})


def _heat(fig: go.Figure, z: list[list[float]], x: list[str], y: list[str], row: int, framed: tuple[int, int]) -> None:
    fig.add_trace(
        go.Heatmap(
            z=z, x=x, y=y, coloraxis="coloraxis", texttemplate="%{z:.2f}", xgap=1, ygap=1,
            textfont={"size": 11, "color": theme.INK},
            hovertemplate="%{y} at %{x} MB/s: %{z:.2f}x<extra></extra>",
        ),
        row=row, col=2,
    )  # fmt: skip
    fig.update_xaxes(type="category", tickangle=0, tickfont={"size": 11}, row=row, col=2)
    fig.update_yaxes(type="category", row=row, col=2)
    at, up = framed
    fig.add_shape(
        type="rect", x0=at - 0.5, x1=at + 0.5, y0=up - 0.5, y1=up + 0.5, row=row, col=2,
        line={"color": theme.VERMILLION, "width": 2.5},
    )  # fmt: skip

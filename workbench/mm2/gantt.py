"""Pictures of the modelled schedule: who works on what when, what each part of the design is worth, how work lies.

Everything here is modelled by workbench/mm2/sim.py from real segments, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.mm2.plan import of_preview, plan, sample
from workbench.mm2.reads import real_reads

if TYPE_CHECKING:
    from workbench.mm2.config import Mm2Config
    from workbench.mm2.result import Plan

KINDS = ("short kernel", "mid", "long segment", "shared segment")  # of strokes
LINES = {"full design": 0, "not sorted": 1, "not split": 2, "not pooled": 3, "none of these": 4}


def overview(plan: Plan, sentence: str) -> go.Figure:
    """Gantt of some units, ends of all designs over their bounds, units at work over time, Lorenz curves."""
    fig = make_subplots(
        rows=2,
        cols=2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.2,
        vertical_spacing=0.3,
        subplot_titles=(
            "Who works on what, this run's design",
            "End of a batch by design",
            "Units at work on long segments",
            "How unevenly work lies",
        ),
    )
    _strokes(fig, plan)
    _ends(fig, plan)
    _levels(fig, plan)
    lorenz(fig, plan)
    legends(fig, {1: (0.0, 0.57), 2: (0.6, 0.57), 3: (0.0, -0.08), 4: (0.6, -0.08)})
    fig.update_layout(barmode="overlay", margin={"b": 140, "t": 84})
    end, best = plan.asked, plan.asked_bound_s
    title = f"{plan.device}, {plan.batch_mbp:g} Mb a batch: {end * 1e3:,.1f} ms, bound {best * 1e3:,.1f} ms (modelled)"
    return theme.finish(fig, title, sentence, height=860)


def legends(fig: go.Figure, at: dict[int, tuple[float, float]]) -> None:
    """A legend below each plot of a grid (from 1, by row), and its title above, both left."""
    for number, (x, y) in at.items():
        name, axis = ("legend", "y") if number == 1 else (f"legend{number}", f"y{number}")
        for trace in fig.data:
            if (trace.yaxis or "y") == axis:
                trace.legend = name
        look = {"orientation": "v", "x": x, "xanchor": "left", "y": y, "yanchor": "top", "font": {"size": 11.5}}
        fig.update_layout({name: look | {"bgcolor": "rgba(0,0,0,0)"}})
        fig.layout.annotations[number - 1].update(x=x, xanchor="left", font={"size": 13, "color": theme.INK})


def _strokes(fig: go.Figure, plan: Plan) -> None:
    """A box a span: kernels of small segments over all units, long segments on the first units."""
    lanes = list(dict.fromkeys(s.lane for s in plan.strokes))
    units = sorted((lane for lane in lanes if lane.startswith("unit")), key=lambda lane: int(lane[5:]))
    order = [*(lane for lane in lanes if not lane.startswith("unit")), *units]
    for kind in KINDS:
        x, y, said = list[float](), list[float](), list[tuple[float, float]]()
        for s in (s for s in plan.strokes if s.kind == kind):
            low = order.index(s.lane) - 0.38
            start, end = s.start_s * 1e3, s.end_s * 1e3
            x += [start, end, end, start, start, np.nan]
            y += [low, low, low + 0.76, low + 0.76, low, np.nan]
            said += [(end - start, float(s.why.get("pairs", 0)) / 1e6)] * 6
        if not x:
            continue
        style = theme.kind(kind)
        fig.add_trace(
            go.Scatter(
                x=np.array(x, np.float32), y=np.array(y, np.float32), customdata=np.array(said, np.float32),
                hovertemplate="%{customdata[0]:.3g} ms, %{customdata[1]:,.1f} million pairs",
                name="mid kernel" if kind == "mid" else kind,
                mode="lines", fill="toself", line={"color": style.colour, "width": 1},
                fillcolor=theme.faded(style.colour, 0.3),
                fillpattern={"shape": style.pattern, "fgcolor": style.colour, "size": 6, "solidity": 0.3}
                if style.pattern else None,
            ),
            row=1, col=1,
        )  # fmt: skip
    shown = [lane if lane.endswith("kernel") else lane[5:] for lane in order]
    fig.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=shown,
        range=[len(order) - 0.4, -0.6],
        title_text="unit",
        row=1,
        col=1,
    )
    fig.update_xaxes(title_text="time since the batch began (ms)", rangemode="tozero", row=1, col=1)


def _ends(fig: go.Figure, plan: Plan) -> None:
    """A bar a design; the mark is its bound."""
    names = list(plan.ends_s)
    ends = [plan.ends_s[name] * 1e3 for name in names]
    full = plan.ends_s["full design"]
    text = [f"{plan.ends_s[name] / full:.2f}x" if full else "" for name in names]
    fig.add_trace(
        go.Bar(y=names, x=ends, orientation="h", text=text, textposition="outside", cliponaxis=False,
               name="end of the batch", showlegend=False, hovertemplate="%{y}: %{x:.2f} ms<extra></extra>",
               **theme.series(0).bar()),
        row=1, col=2,
    )  # fmt: skip
    fig.add_trace(
        go.Scatter(
            y=names, x=[plan.bounds_s[name] * 1e3 for name in names], mode="markers", name="no order ends sooner",
            hovertemplate="%{y}: bound %{x:.2f} ms<extra></extra>",
            marker={"symbol": "line-ns-open", "size": 17, "color": theme.VERMILLION, "line": {"width": 3}},
        ),
        row=1, col=2,
    )  # fmt: skip
    fig.update_yaxes(autorange="reversed", title_text="design", type="category", row=1, col=2)
    fig.update_xaxes(title_text="batch (ms)", range=[0, max(ends) * 1.17 or 1], row=1, col=2)


def _levels(fig: go.Figure, plan: Plan) -> None:
    for name, levels in plan.levels.items():
        if not levels:
            continue
        style = theme.series(LINES.get(name, 5))
        fig.add_trace(
            go.Scatter(
                x=np.array([at * 1e3 for at, _ in levels], np.float32),
                y=np.array([level for _, level in levels], np.int16), mode="lines", name=name,
                line={"shape": "hv", "color": style.colour, "dash": style.dash, "width": 2},
                hovertemplate="%{x:.2f} ms: %{y} units<extra>" + name + "</extra>",
            ),
            row=2, col=1,
        )  # fmt: skip
    if not any(plan.levels.values()):
        fig.add_annotation(
            text="no segment of this batch is long", showarrow=False, x=0.5, y=0.5, xref="x3 domain", yref="y3 domain",
            font={"size": 13, "color": theme.QUIET},
        )  # fmt: skip
        fig.add_trace(go.Scatter(x=[], y=[], showlegend=False), row=2, col=1)
    shown = [plan.ends_s[name] for name in plan.levels if name != "none of these"]  # that one may go on and on
    end = 1.08e3 * max(shown, default=1.0) or 1.0
    fig.update_xaxes(title_text="time since the batch began (ms)", range=[0, end], row=2, col=1)
    fig.update_yaxes(title_text="units at work (units)", rangemode="tozero", row=2, col=1)


def lorenz(fig: go.Figure, plan: Plan) -> None:
    """How much of the batch's work lies in how few of its segments and reads; in row 2, column 2."""
    for at, (name, (x, y)) in enumerate(plan.lorenz.items()):
        style = theme.series((0, 1)[at])
        fig.add_trace(
            go.Scatter(
                x=np.array(x, np.float32) * 100, y=np.array(y, np.float32) * 100, mode="lines",
                name=f"{name}, most work first",
                line={"color": style.colour, "dash": style.dash, "width": 2.5},
                hovertemplate="%{x:.3g} % of " + name + " hold %{y:.3g} % of pairs<extra></extra>",
            ),
            row=2, col=2,
        )  # fmt: skip
    even = {"color": theme.QUIET, "dash": "dot", "width": 1.2}
    ramp = np.geomspace(1e-3, 100, 30, dtype=np.float32)
    fig.add_trace(go.Scatter(x=ramp, y=ramp, mode="lines", name="if all were alike", line=even), row=2, col=2)
    fig.update_xaxes(title_text="share of segments or reads (%)", type="log", range=[-2.4, 2], dtick=1, row=2, col=2)
    fig.update_yaxes(title_text="share of all pairs (%)", range=[0, 102], row=2, col=2)


def preview(config: Mm2Config) -> go.Figure:
    """The schedule that a config would get, from the real segments of a few of its reads; nothing is mapped or timed.

    Where the real reads are not at hand, simulated ones stand for them and the picture says so.
    """
    stand_in = config.reads == "real" and real_reads() is None
    shown = config.model_copy(update={"reads": "simulated"}) if stand_in else config
    parts, lengths = sample(of_preview(shown))
    found = plan(shown, parts, lengths)
    said = f"{sum(lengths) / 1e6:.1f} Mb of {'simulated' if shown.reads == 'simulated' else shown.reads} reads seeded"
    if stand_in:
        said += "; the real ones are not here"
    full = found.ends_s["full design"]
    worst = max(found.ends_s, key=lambda name: found.ends_s[name])
    text = (
        f"Modelled on the {found.device}: {said}, and as many drawn from them as make {found.batch_mbp:g} Mb. The full "
        f"design ends after {full * 1e3:,.1f} ms, the slowest ('{worst}') after {found.ends_s[worst] * 1e3:,.1f} ms."
    )
    fig = overview(found, text)
    note = theme.quiet(f"{said}; cost of a segment assumed, not measured")
    fig.update_layout(title_text=f"{fig.layout.title.text}{note}", margin={"t": 100})
    return fig

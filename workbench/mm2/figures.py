"""Pictures of a measured run: dot plot, what the modes chain differently, work and how it lies, loops, mappers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.mm2.gantt import legends, lorenz
from workbench.mm2.result import MAPPY, MINIMAP2, MODE_WORDS, bins, ours, theirs

if TYPE_CHECKING:
    from workbench.mm2.result import Dots, Drawn, Mm2Result, Read

FOUND_BY = {  # of chains -> name, place in the palette
    "both": ("chain, both modes", 2),
    "full": ("chain, only with every predecessor", 0),
    "exact_skip25": ("chain, only with the heuristic", 1),
}
SCATTERED = 900  # reads in the plot of work over length
STAGES = {"seed": 5, "chain": 0, "join": 3, "hits": 4}
GAP = 0.22  # between groups of bars


def overview(result: Mm2Result) -> go.Figure:
    """A read and what the modes chain differently; work per read and how it lies; loops and whole mappers."""
    fig = make_subplots(
        rows=3,
        cols=2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.2,
        vertical_spacing=0.178,
        subplot_titles=(
            "The read with most work, against the reference",
            "Where the two modes chain differently",
            "Work per base by read length",
            "How unevenly work lies",
            "Scoring chains, against minimap2's heuristic loop",
            "Reads to PAF, one thread",
        ),
    )
    for col, dots in ((1, result.dots), (2, result.differs)):
        if dots is not None:
            _anchors(fig, dots, 1, col)
            _chains(fig, dots, 1, col, ("both", "full", "exact_skip25"))
        _axes(fig, dots, 1, col)
    if result.differs is None:
        alike(fig, "every chain of the reads with most work<br>is the same in both modes")
    _work(fig, result.reads)
    lorenz(fig, result.plan)
    _loops(fig, result)
    _mappers(fig, result)
    legends(fig, {1 + at: (0.6 * (at % 2), (0.735, 0.344, -0.05)[at // 2]) for at in range(6)})
    fig.update_layout(barmode="group", bargap=GAP, margin={"b": 140, "t": 84})
    s = result.summary()
    title = f"{s['reads']:,.0f} reads, nothing to chain (measured)"
    if (speed := s.get("dp_speedup_vs_minimap2")) is not None:
        exact = f"exact on {100 * s['exact_fraction']:.4g} %" if "exact_fraction" in s else "none found"
        title = f"Chains of {s['reads']:,.0f} reads, {exact}, {speed:.2f}x minimap2's loop (measured)"
    return theme.finish(fig, title, result.sentence(), height=1340)


def alike(fig: go.Figure, text: str) -> None:
    """Words in the place of the second plot, which has nothing to show."""
    fig.add_annotation(
        text=text, showarrow=False, x=0.5, y=0.5, xref="x2 domain", yref="y2 domain",
        font={"size": 13, "color": theme.QUIET},
    )  # fmt: skip
    fig.add_trace(go.Scatter(x=[], y=[], showlegend=False), row=1, col=2)


def _anchors(fig: go.Figure, dots: Dots, row: int, col: int, told: bool = True) -> None:
    """One mark an anchor, forward and reverse told apart by shade and shape."""
    reverse = np.array(dots.reverse, bool)
    x, y = np.array(dots.x, np.float64) / 1e3, np.array(dots.y, np.float64) / 1e3
    for on, name, colour, symbol in ((False, "anchor", "#8C959F", "circle"), (True, "anchor, reverse", "#B9A58A", "x")):
        own = reverse == on
        if own.any():
            fig.add_trace(
                go.Scatter(
                    x=x[own].astype(np.float32), y=y[own].astype(np.float32), mode="markers", name=name,
                    hovertemplate="reference %{x:,.1f} kb, read %{y:,.1f} kb<extra>" + name + "</extra>",
                    marker={"size": 3, "color": colour, "symbol": symbol, "opacity": 0.75},
                    showlegend=told,
                ),
                row=row, col=col,
            )  # fmt: skip


def _chains(fig: go.Figure, dots: Dots, row: int, col: int, kinds: Sequence[str]) -> None:
    """Each kind of chain as one trace: lines with gaps between."""
    for kind in kinds:
        name, at = FOUND_BY[kind]
        own = [c for c in dots.chains if c.found_by == kind]
        if not own:
            continue
        style = theme.series(at)
        fig.add_trace(
            go.Scatter(
                **_lines(own), name=name,
                line={"color": style.colour, "dash": style.dash, "width": 2.4},
            ),
            row=row, col=col,
        )  # fmt: skip


def _lines(chains: Sequence[Drawn]) -> dict[str, Any]:
    """Keywords of one trace: corners with a gap after each chain, and what is said of each corner's chain."""
    x = [v for chain in chains for v in (*chain.x, np.nan)]
    y = [v for chain in chains for v in (*chain.y, np.nan)]
    said = [(chain.anchors, chain.score) for chain in chains for _ in (*chain.x, 0)]
    return {
        "x": (np.array(x) / 1e3).astype(np.float32),
        "y": (np.array(y) / 1e3).astype(np.float32),
        "customdata": np.array(said, np.int32),
        "hovertemplate": "chain of %{customdata[0]:,} anchors, score %{customdata[1]:,}<extra></extra>",
        "mode": "lines",
    }


def _axes(fig: go.Figure, dots: Dots | None, row: int, col: int) -> None:
    target = dots.target if dots else "reference"
    name = target if len(target) <= 28 else f"{target[:25]}..."
    digits = ",.0f" if dots is None or dots.high - dots.low > 10_000 else ",.1f"
    fig.update_xaxes(title_text=f"{name} (kb)", tickformat=digits, row=row, col=col)
    fig.update_yaxes(title_text="read (kb)", tickformat=digits, row=row, col=col)
    if dots:
        pad = (dots.end - dots.begin) / 1e3 * 0.02
        fig.update_xaxes(range=[dots.begin / 1e3 - pad, dots.end / 1e3 + pad], row=row, col=col)
        pad = (dots.high - dots.low) / 1e3 * 0.02
        fig.update_yaxes(range=[dots.low / 1e3 - pad, dots.high / 1e3 + pad], row=row, col=col)


def _work(fig: go.Figure, reads: Sequence[Read]) -> None:
    """A mark a read, and the mean over reads of like length."""
    known = [r for r in reads if r.length and r.pairs]
    shown = known[:: max(1, math.ceil(len(known) / SCATTERED))]
    fig.add_trace(
        go.Scatter(
            x=np.array([r.length / 1e3 for r in shown], np.float32),
            y=np.array([r.pairs / r.length for r in shown], np.float32),
            mode="markers", name="read", hovertemplate="%{x:,.1f} kb: %{y:,.0f} pairs a base<extra></extra>",
            marker={"size": 5, "color": theme.SKY, "symbol": "diamond", "opacity": 0.65},
        ),
        row=2, col=1,
    )  # fmt: skip
    if known:
        lengths = np.array([r.length for r in known])
        group = np.digitize(lengths, np.geomspace(lengths.min(), lengths.max() + 1, 9))
        parts = [[r for r, g in zip(known, group, strict=True) if g == at] for at in np.unique(group)]
        fig.add_trace(
            go.Scatter(
                x=[float(np.exp(np.mean(np.log([r.length / 1e3 for r in part])))) for part in parts],
                y=[sum(r.pairs for r in part) / sum(r.length for r in part) for part in parts],
                mode="lines+markers", name="mean of reads of like length", **theme.series(1).line(),
            ),
            row=2, col=1,
        )  # fmt: skip
    fig.update_xaxes(title_text="read length (kb)", type="log", dtick="D2", row=2, col=1)
    fig.update_yaxes(title_text="pairs of anchors per base (1/base)", type="log", dtick="D2", row=2, col=1)


def _loops(fig: go.Figure, result: Mm2Result) -> None:
    """Speed of each loop over minimap2's, by read length; below the line is a loss."""
    there = [b for b in (*bins(), "all") if not math.isnan(result.median_s("loop", MINIMAP2, b))]
    names = [name for name in result.names("loop") if name != MINIMAP2]
    for at, name in enumerate(names):
        speed = [result.median_s("loop", MINIMAP2, b) / result.median_s("loop", name, b) for b in there]
        fig.add_trace(
            go.Bar(
                x=there, y=speed, name=name,
                hovertemplate="%{x} kb: %{y:.2f} times minimap2's loop<extra>" + name + "</extra>",
                **theme.series((4, 2, 0, 3, 5, 1)[at % 6]).bar(),
            ),
            row=3, col=1,
        )  # fmt: skip
        place = (at - (len(names) - 1) / 2) * (1 - GAP) / len(names)  # of its bar beside the middle of the group
        for group, value in enumerate(speed if name == result.tested else ()):
            fig.add_annotation(
                x=group + place, y=value, text=f"<b>{value:.2g}</b>", showarrow=False, yanchor="bottom", yshift=2,
                bgcolor="#fff", borderpad=0, font={"size": 11, "color": theme.INK}, row=3, col=1,
            )  # fmt: skip
    fig.add_hline(y=1, line={"color": theme.INK, "dash": "dash", "width": 1.4}, row=3, col=1)
    fig.update_xaxes(title_text="read length (kb)", type="category", row=3, col=1)
    fig.update_yaxes(title_text="speed over minimap2's loop (×)", rangemode="tozero", row=3, col=1)


def _mappers(fig: go.Figure, result: Mm2Result) -> None:
    """A bar a mapper; ours cut into its stages by their share of the traced pass."""
    t, mode = result.totals, result.config.mode
    order = [theirs("full"), theirs("exact_skip25"), MAPPY, ours("full"), ours("exact_skip25")]
    names = [n for n in order if n in result.names("mapping")]
    total = {n: result.median_s("mapping", n) for n in names}
    traced = {"seed": t.seed_s, "chain": t.chain_s, "join": t.join_s, "hits": t.hits_s}
    cut = (
        "" if result.provenance.backend in ("cuda", "hip") else ours(mode)
    )  # on a GPU stages were timed elsewhere than the bars
    whole = max(sum(traced.values()), 1e-12)
    labels = {n: n.replace(" (with", ",<br>(with").replace(", ", ",<br>", 1) for n in names}
    for stage, at in STAGES.items():
        x = [total[n] * traced[stage] / whole if n == cut else 0 for n in names]
        fig.add_trace(
            go.Bar(y=[labels[n] for n in names], x=x, orientation="h", name=f"ours, {MODE_WORDS[mode]}: {stage}",
                   offsetgroup="one", base=_stacked(traced, stage, whole, total, names, cut),
                   hovertemplate=stage + ": %{x:.3f} s<extra></extra>", **theme.series(at).bar()),
            row=3, col=2,
        )  # fmt: skip
    rest = [0 if n == cut else total[n] for n in names]
    fig.add_trace(
        go.Bar(y=[labels[n] for n in names], x=rest, orientation="h", name="all stages together", offsetgroup="one",
               hovertemplate="%{y}: %{x:.3f} s<extra></extra>", **theme.series(6).bar()),
        row=3, col=2,
    )  # fmt: skip
    for n in names:
        fig.add_annotation(
            x=total[n], y=labels[n], text=f" {theme.number(total[n])} s", showarrow=False, xanchor="left",
            font={"size": 12, "color": theme.INK}, row=3, col=2,
        )  # fmt: skip
    fig.update_yaxes(title_text="mapper", type="category", row=3, col=2)
    fig.update_xaxes(title_text="processor time (s)", range=[0, max(total.values(), default=1) * 1.16], row=3, col=2)


def _stacked(
    traced: dict[str, float], stage: str, whole: float, total: dict[str, float], names: Sequence[str], own: str
) -> list[float]:
    """Where this stage's piece of our bar begins."""
    before = sum(traced[s] for s in list(traced)[: list(traced).index(stage)])
    return [total[n] * before / whole if n == own else 0 for n in names]


def difference(dots: Dots) -> go.Figure:
    """The drawn read twice: left what every predecessor finds, right what minimap2's heuristic finds."""
    fig = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=("Every predecessor", "minimap2's heuristic")
    )
    for col, mode in ((1, "full"), (2, "exact_skip25")):
        _anchors(fig, dots, 1, col, told=col == 1)
        _chains(fig, dots, 1, col, ("both", mode) if col == 1 else (mode,))
        if col == 2:
            _again(fig, dots)
        _axes(fig, dots, 1, col)
    fig.update_yaxes(title_text="read (kb)", row=1, col=2)
    fig.update_annotations(font={"size": 13, "color": theme.INK})
    counts = dots.counts
    text = (
        f"Read {dots.read} of {dots.length:,} bases with {dots.anchors:,} anchors, of which {dots.shown:,} lie in the "
        f"part shown: {counts.get('both', 0):,} chains are the same in both modes, {counts.get('full', 0):,} are found "
        f"only by looking at every predecessor, {counts.get('exact_skip25', 0):,} only by the heuristic."
    )
    title = (
        f"Chains of one read in two modes: {counts.get('both', 0):,} alike, {counts.get('full', 0):,} and "
        f"{counts.get('exact_skip25', 0):,} of one alone (measured)"
    )
    fig.update_layout(legend={"y": -0.2, "yanchor": "top", "x": 0.0, "xanchor": "left"}, margin={"b": 110, "t": 84})
    return theme.finish(fig, title, text, height=520)


def _again(fig: go.Figure, dots: Dots) -> None:
    """Chains of both modes on the right too, without a second entry in the legend."""
    name, at = FOUND_BY["both"]
    style = theme.series(at)
    line: dict[str, Any] = {"color": style.colour, "dash": style.dash, "width": 2.4}
    shared = [c for c in dots.chains if c.found_by == "both"]
    trace = go.Scatter(**_lines(shared), name=name, line=line, showlegend=False)
    fig.add_trace(trace, row=1, col=2)

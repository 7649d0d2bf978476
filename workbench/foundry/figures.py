"""Pictures of Foundry: a start by phase, time to a ladder, steps against others, the archive's anatomy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.foundry import engine_figure
from workbench.foundry.explorer import grid

if TYPE_CHECKING:
    from workbench.foundry.result import FoundryResult

PHASES: Mapping[str, tuple[str, int]] = {  # phase -> (what the legend says, place in theme.STYLES)
    "import": ("interpreter and imports", 6),
    "load": ("load weights, archive", 1),
    "first": ("compile and first run", 0),
    "capture": ("capture at two places", 3),
    "rest": ("replay, compare, write", 2),
}
LOOK = {
    "foundry": 2,
    "cold": 0,
    "warm": 5,
    "mega": 4,
    "aoti": 1,
    "eager": 6,
    "recapture": 3,
}  # way -> place in theme.STYLES
PATTERNS = {"": "■", "/": "▨", ".": "▒", "\\": "▧", "x": "▩", "-": "▤", "|": "▥"}
DASHES = {"solid": "━━", "dash": "╍╍", "dot": "┉┉", "dashdot": "━╍", "longdash": "━ ━", "longdashdot": "━ ╍"}
GAP = 104  # px between two rows: axis titles below, a line of keys above


def overview(result: FoundryResult) -> go.Figure:
    """Top: starts by phase, of ways and engines. Then time to a ladder, and steps. Below: a layer's parameters."""
    if not result.measured:
        from workbench.foundry.outlook import overview as modelled

        return modelled(result)
    drawn = starts(result)
    tall = [max(150, 34 * len(drawn) + 30), 250]
    if result.engines:
        tall.insert(1, 46 * (1 + len(result.engines)) + 20)
    if result.cells:
        tall.append(max(220, 21 * len(result.labels)))
    total, two = sum(tall) + GAP * (len(tall) - 1), 2 + bool(result.engines)
    specs: list[list[Any]] = [[{"colspan": 2}, None] for _ in tall]
    specs[two - 1] = [{}, {}]
    fig = make_subplots(
        rows=len(tall), cols=2, specs=specs, row_heights=tall, vertical_spacing=GAP / total, horizontal_spacing=0.11
    )
    _lanes(fig, drawn, PHASES, "the process was started", list(drawn)[-1])
    _ladder(fig, result, two)
    _steps(fig, result, two)
    keys = {(1, 1): 3, (two, 1): 4}  # the other panel of the row has the same ways
    if result.engines:
        engine_figure.draw(fig, result, 2)
        keys |= {(2, 1): 4}
    if result.cells:
        grid(fig, result, row=len(tall))
    _keys(fig, keys)
    s = result.summary()
    title = f"Ready in {theme.number(s['load_s'])} s: {len(result.sizes)} decode steps from an archive (measured)"
    if "reduction_vs_cold" in s:
        title += f", {100 * s['reduction_vs_cold']:.1f} % less than cold torch.compile"
    notes = [*_note(_about(result)), *_note(result.refusals().removeprefix("; "))]
    notes += _note(engine_figure.about(result.engines)) if result.engines else []
    fig.update_layout(barmode="stack", showlegend=False, margin={"t": 104 + 17 * len(notes), "b": 64})
    height = total + 172 + 17 * len(notes)
    return theme.finish(fig, title + "".join(notes), result.sentence(), height=height)


def _about(result: FoundryResult) -> str:
    c = result.config
    model = "tiny random Llama" if c.model == "tiny" else "SmolLM2-135M"
    threads = "one thread" if c.threads == 1 else f"{c.threads} threads"
    cuda = result.provenance.backend == "cuda"
    whose = "of torch's own graphs" if cuda else "of torch.compile"
    bits = f"rebuilt bits are those {whose}" if result.exact else "NOT all bits are equal"
    what = f"CUDA graphs on {result.provenance.device}" if cuda else f"{threads}; CPU analogue of a CUDA graph"
    return f"{model}, {c.depth} layer{'s' * (c.depth > 1)}, float32, {what}; {bits}"


def _note(text: str) -> list[str]:
    """A quiet line or two below the title."""
    return [theme.quiet(line) for line in wrap(text, 140)]


# -- a start, by phase -----------------------------------------------------------------------------------------------


def starts(result: FoundryResult) -> dict[str, dict[str, float]]:
    """Seconds by phase of the first process of each lane: the capture, what was built, then every way, ours last."""
    captured = _sorted([h for h in result.held if h.lane == "capture" and h.label != "ask torch.compile"])
    lanes: dict[str, dict[str, float]] = {"capture, once": captured}
    if not captured:
        lanes = {"capture, in an earlier run": {"capture": result.capture_s}}
    for lane in dict.fromkeys(h.lane for h in result.held if h.lane.endswith(": build")):
        spans = [h for h in result.held if h.lane == lane]
        lanes[f"{lane}, once"] = _sorted(spans)
    for way in [*(w for w in result.ways() if w != "foundry"), "foundry"]:
        p = next(p for p in result.of(way))
        lanes[result.named(way)] = {
            "import": p.import_s,
            "load": p.load_s - p.import_s,
            "first": max(0.0, p.ready_s - p.load_s),
        }
    return lanes


def _sorted(spans: Sequence[Any]) -> dict[str, float]:
    kinds = {"wait": "import", "import": "import", "load": "load", "capture": "capture", "compile": "first"}
    made: dict[str, float] = {}
    for h in spans:
        phase = kinds.get(h.kind, "rest")
        made[phase] = made.get(phase, 0.0) + h.end_s - h.start_s
    return made


def _lanes(
    fig: go.Figure, lanes: Mapping[str, Mapping[str, float]], phases: Mapping[str, tuple[str, int]], since: str,
    ours: str = "",
) -> None:  # fmt: skip
    """A bar a lane, of seconds by phase, into the first row. phases: words and place in the series; ours is bold."""
    names = list(lanes)
    for phase, (words, place) in phases.items():
        if not any(phase in each for each in lanes.values()):
            continue
        fig.add_trace(
            go.Bar(
                y=names, x=[lanes[n].get(phase, 0.0) for n in names], orientation="h", name=words, width=0.62,
                hovertemplate="%{y}: %{x:.2f} s<extra>" + words + "</extra>", **theme.series(place).bar(),
            ),
            row=1, col=1,
        )  # fmt: skip
    longest = max(sum(each.values()) for each in lanes.values())
    for name, each in lanes.items():
        whole, bold = sum(each.values()), name == ours
        fig.add_annotation(
            x=whole, y=name, text=f"{'<b>' * bold}{theme.number(whole)} s{'</b>' * bold}", showarrow=False,
            xanchor="left", xshift=6, font={"size": 12, "color": theme.INK}, row=1, col=1,
        )  # fmt: skip
    fig.update_xaxes(title_text=f"time since {since} (s)", range=[0, 1.12 * longest], row=1, col=1)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], title_text="way to start", row=1, col=1,
        title_standoff=14,
    )  # fmt: skip


# -- a ladder, and its steps -----------------------------------------------------------------------------------------


def _look(way: str) -> theme.Style:
    return theme.series(LOOK[way])


def _line(way: str, name: str, x: Sequence[float], y: Sequence[float], hover: str) -> go.Scatter:
    style, ours = _look(way), way == "foundry"
    return go.Scatter(
        x=list(x), y=list(y), mode="lines+markers", name=name, hovertemplate=hover,
        line={"color": style.colour, "dash": "solid" if ours else style.dash, "width": 3.5 if ours else 2},
        marker={"color": style.colour, "symbol": style.marker, "size": 9 if ours else 7},
    )  # fmt: skip


def _ladder(fig: go.Figure, result: FoundryResult, row: int) -> None:
    """Seconds until the first k sizes have run, by k."""
    low, high = float("inf"), 0.0
    for way in result.ways():
        rows = sorted((r for r in result.rows if r.way == way and r.round == 0), key=lambda r: r.size)
        seconds = [r.ready_s for r in rows]
        low, high = min(low, *seconds), max(high, *seconds)
        hover = "%{x} sizes: %{y:.2f} s<extra>" + result.named(way) + "</extra>"
        fig.add_trace(_line(way, result.named(way), range(1, len(rows) + 1), seconds, hover), row=row, col=1)
    fig.update_xaxes(
        title_text="ladder: batch sizes that are ready (count)", dtick=_tick(len(result.sizes)), row=row, col=1
    )
    fig.update_yaxes(title_text="since the start (s)", **_log(low, high), row=row, col=1)


def _steps(fig: go.Figure, result: FoundryResult, row: int) -> None:
    """A step's time over ours, by batch size; alone, in milliseconds."""
    ours = result.step_us("foundry")
    ways = result.ways()
    alone = ways == ["foundry"]
    for way in ways:
        theirs = result.step_us(way)
        y = [theirs[b] / 1e3 for b in theirs] if alone else [theirs[b] / ours[b] for b in theirs]
        unit = " ms" if alone else " times ours"
        hover = "batch %{x}: %{y:.3g}" + unit + "<extra>" + result.named(way) + "</extra>"
        fig.add_trace(_line(way, result.named(way), list(theirs), y, hover), row=row, col=2)
    sizes = [s.size for s in result.sizes]
    fig.update_xaxes(
        title_text="batch size (sequences, tokens of a step)", type="log", tickvals=_spread(sizes),
        ticktext=[str(n) for n in _spread(sizes)], row=row, col=2,
    )  # fmt: skip
    title = "time of a step (ms)" if alone else "time of a step over Foundry's (x)"
    fig.update_yaxes(title_text=title, rangemode="tozero" if alone else "normal", row=row, col=2)


def _tick(count: int) -> int:
    return 1 if count <= 12 else 2 if count <= 24 else 8


def _spread(sizes: Sequence[int]) -> list[int]:
    """Sizes far enough apart to be labelled on a logarithmic axis."""
    kept: list[int] = []
    for size in sizes:
        if not kept or size >= 1.3 * kept[-1]:
            kept.append(size)
    return kept


def _log(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with labels at 1, 2, 5 of each decade in sight; a plain one where values are alike."""
    if high < 4 * low:
        return {"rangemode": "tozero"}
    ticks = [m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)]
    seen = [t for t in ticks if low / 1.6 <= t <= high * 1.6]
    ends = [math.log10(low / 1.5), math.log10(high * 1.5)]
    return {"type": "log", "tickvals": seen, "ticktext": [f"{t:g}" for t in seen], "range": ends}


# -- keys ------------------------------------------------------------------------------------------------------------


def _keys(fig: go.Figure, places: Mapping[tuple[int, int], int]) -> None:
    """Lines above panels that name what is drawn there, so many a line."""
    for (row, col), per in places.items():
        panel = fig.get_subplot(row, col)
        own = panel.xaxis.plotly_name.replace("axis", "")
        named = [t for t in fig.data if t.name and (t.xaxis or "x") == own]
        theme.keys(fig, row, col, [(*_mark(t), t.name) for t in named], per=per)


def _mark(trace: Any) -> tuple[str, str]:
    """(a sign that looks like the trace, its colour)."""
    if trace.type == "bar":
        return PATTERNS[trace.marker.pattern.shape or ""], trace.marker.color
    return DASHES[trace.line.dash or "solid"], trace.line.color

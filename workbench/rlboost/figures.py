"""Figures of RLBoost: machines over time, the window and the cap that follow them, ways and what a token costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.rlboost.result import ALONE, ARMS, TESTED, RLBoostResult
from workbench.rlboost.strips import clock, engines_of, ledger, timeline

if TYPE_CHECKING:
    from workbench.rlboost.config import RLBoostConfig
    from workbench.rlboost.sweep import SweepRow

MOST = 8  # instances of the preview, where the config does not ask for more
DISCOUNTS = tuple(n / 10 for n in range(10))
POINTS = 160  # of a curve
PATTERNS = {"": "■", "/": "▨", ".": "▒", "\\": "▧", "x": "▩", "-": "▤", "|": "▥"}
SYMBOLS = {"x": "✖", "triangle-down": "▼", "diamond": "◆", "diamond-open": "◇", "circle": "●"}
DASHES = {"solid": "━━", "dash": "╍╍", "dot": "┉┉", "dashdot": "━╍", "longdash": "━ ━", "longdashdot": "━ ╍"}
SHORT = {ALONE: "co-located (veRL)", "doubled": "doubled (veRL.2x)", "disaggregated": "Disagg.BAL"}


def overview(result: RLBoostResult) -> go.Figure:
    """Machines over time on top, what the scheduler made of them, and the ways; of a live run its ledger too."""
    ways = result.ways()
    tall = [max(210, 27 * _lanes(result)), 190, *((230, 190) if result.measured else ()), max(110, 34 * len(ways))]
    rows, last = len(tall), len(tall)
    wide = [{"colspan": 2}, None]
    specs = [wide, [{}, {}], *([wide, [{}, {}]] if result.measured else []), [{}, {}]]
    gap = 86
    height = sum(tall) + gap * (rows - 1) + 210
    fig = make_subplots(
        rows=rows, cols=2, specs=specs, row_heights=tall, horizontal_spacing=0.11,
        vertical_spacing=gap / (sum(tall) + gap * (rows - 1)),
    )  # fmt: skip
    timeline(fig, result, 1, 1)
    instances(fig, result, 2, 1)
    seconds(fig, result, 2, 2)
    if result.measured:
        ledger(fig, result, 3, 1)
        queues(fig, result, 4, 1)
        rewards(fig, result, 4, 2)
    bars(fig, result, ways, last)
    fig.update_layout(barmode="overlay")
    places = [(1, 1), (2, 1), (2, 2), *([(3, 1), (4, 1), (4, 2)] if result.measured else [])]
    _keys(fig, places)
    fig.update_layout(showlegend=False)
    s = result.summary()
    badge = result.badge
    without = ", ".join(sorted(result.config.without))
    name = f"RLBoost without {without}" if without else "RLBoost"
    title = (
        f"{name}: {s['throughput_ratio']:.2f}x tokens per second ({badge}), "
        f"{s['cost_efficiency_ratio']:.2f}x per dollar (modelled)"
    )
    lines = [
        *_note("over the reserved machines alone"),
        *_note(f"prices: {result.paid.told}"),
        *_note(f"{'kills' if result.measured else 'machines'}: {result.source}"),
    ]
    fig.update_layout(margin={"t": 84 + 17 * len(lines), "b": 60})
    return theme.finish(fig, title + "".join(lines), result.sentence(), height=height)


def _lanes(result: RLBoostResult) -> int:
    return min(12, len({h.lane for h in result.held}))


def _note(text: str) -> list[str]:
    """A quiet line or two below the title."""
    return [theme.quiet(line) for line in wrap(text, 140)]


def _keys(fig: go.Figure, places: Sequence[tuple[int, int]]) -> None:
    """A line above each panel that names what is drawn in it."""
    for row, col in places:
        panel = fig.get_subplot(row, col)
        own = panel.xaxis.plotly_name.replace("axis", "")
        named = [t for t in fig.data if t.name and (t.xaxis or "x") == own and t.x]
        theme.keys(fig, row, col, [(*_mark(t), t.name) for t in named])


def _mark(trace: Any) -> tuple[str, str]:
    """(a sign that looks like the trace, its colour)."""
    if trace.type == "bar":
        return PATTERNS[trace.marker.pattern.shape or ""], trace.marker.color
    if trace.mode == "markers":
        return SYMBOLS[trace.marker.symbol], trace.marker.color
    return DASHES[trace.line.dash or "solid"], trace.line.color


def instances(fig: go.Figure, result: RLBoostResult, row: int, col: int) -> None:
    """Instances offered and at work over time, and how many the scheduler would have."""
    rows = result.of(TESTED)
    per, unit, end = _time(result)
    there = [(at, n) for at, n in result.there if at <= end]
    offered = [*there, (end, there[-1][1] if there else 0)]
    _steps(
        fig, [at / per for at, _ in offered], [n for _, n in offered], "joined" if result.measured else "offered", 6,
        row, col,
    )  # fmt: skip
    _steps(fig, *_by_step(result, [r.instances for r in rows], per), "held, mean of a step", 0, row, col)
    _steps(fig, *_by_step(result, [r.n_prem for r in rows], per), "N_prem, worth holding", 3, row, col)
    most = max([1.0, *(n for _, n in offered), *(r.instances for r in rows)])
    caps = [r.n_prem for r in rows if math.isfinite(r.n_prem)]
    top = max(most, min(max(caps, default=0.0), 2.5 * most))
    fig.update_yaxes(title_text="instances (count)", range=[0, 1.12 * top], row=row, col=col)
    fig.update_xaxes(title_text=f"time ({unit})", range=[rows[0].start_s / per, end / per], row=row, col=col)


def _time(result: RLBoostResult) -> tuple[float, str, float]:
    """(seconds in a unit, unit, end of the last step in s) of the way under test."""
    last = result.of(TESTED)[-1]
    end = last.start_s + last.seconds
    return *clock(end), end


def _by_step(result: RLBoostResult, values: Sequence[float | None], per: float) -> tuple[list[float], list[Any]]:
    """A level from the start of each step to its end; a gap where there is no finite value, or between live steps."""
    rows = result.of(TESTED)
    if result.measured:  # which wait for machines between two steps
        ends = [(r.start_s, r.start_s + r.seconds) for r in rows]
        known = [v if v is not None and math.isfinite(v) else None for v in values]
        return [at / per for a, b in ends for at in (a, b, b)], [v for one in known for v in (one, one, None)]
    x = [r.start_s / per for r in rows] + [(rows[-1].start_s + rows[-1].seconds) / per]
    y = [v if v is not None and math.isfinite(v) else None for v in values]
    return x, [*y, y[-1]]


def _steps(fig: go.Figure, x: Sequence[float], y: Sequence[Any], name: str, look: int, row: int, col: int) -> None:
    if all(v is None for v in y):
        return
    style = theme.series(look)
    fig.add_trace(
        go.Scatter(
            x=[round(v, 4) for v in x], y=[v if v is None else round(v, 3) for v in y], mode="lines", name=name,
            line={"color": style.colour, "dash": style.dash if look != 6 else "solid", "width": 2, "shape": "hv"},
            fill="tozeroy" if look == 6 else None, fillcolor=theme.faded(style.colour, 0.14),
            hovertemplate=f"{name}: %{{y:.3g}}<extra></extra>",
        ),
        row=row, col=col,
    )  # fmt: skip


def seconds(fig: go.Figure, result: RLBoostResult, row: int, col: int) -> None:
    """How long steps took, the window in which reserved machines roll out, and how long the trainer waited."""
    rows = result.of(TESTED)
    per, unit, _ = _time(result)
    told = {"step": (0, [r.seconds for r in rows]), "T_seed": (2, [r.t_seed_s for r in rows])}
    told["trainer waits"] = (4, [r.wait_train_s for r in rows])
    for name, (look, values) in told.items():
        if result.measured:
            _dots(fig, [(r.step + 1, v) for r, v in zip(rows, values, strict=True)], name, look, row, col)
        else:
            _steps(fig, *_by_step(result, values, per), name, look, row, col)
    known = [(r.step + 1, r.predicted_s) for r in rows if r.predicted_s is not None]
    if known:
        marker = {"color": theme.VERMILLION, "size": 12, "symbol": "diamond-open", "line": {"width": 2}}
        x, y = zip(*known, strict=True)
        fig.add_trace(go.Scatter(x=x, y=y, mode="markers", name="predicted", marker=marker), row=row, col=col)
    fig.update_yaxes(title_text="of a step (s)", rangemode="tozero", row=row, col=col)
    title, every = ("training steps", max(1, len(rows) // 8)) if result.measured else (f"time ({unit})", None)
    fig.update_xaxes(title_text=title, dtick=every, row=row, col=col)


def _dots(fig: go.Figure, points: Sequence[tuple[int, float]], name: str, look: int, row: int, col: int) -> None:
    """A point a step, joined by a line."""
    seen = [(x, round(y, 3)) for x, y in points if math.isfinite(y)]
    style = {**theme.series(look).line(2), "mode": "lines+markers", "name": name}
    if seen:
        fig.add_trace(go.Scatter(x=[x for x, _ in seen], y=[y for _, y in seen], **style), row=row, col=col)


def queues(fig: go.Figure, result: RLBoostResult, row: int, col: int) -> None:
    """Responses at each engine: those it computes, and dotted those that wait there."""
    per, unit = clock(max((at for at, *_ in result.queues), default=1.0))
    engines = [e for e in engines_of(result) if any(who == e for _, who, *_ in result.queues)]
    told = False
    for engine in engines:
        seen = [(round(t / per, 3), waiting, busy) for t, who, waiting, busy in result.queues if who == engine]
        seen = seen[:: max(1, len(seen) // POINTS)]
        style = theme.series(engines_of(result).index(engine))
        busy = {"color": style.colour, "dash": "longdash" if style.dash == "dot" else style.dash, "width": 1.8}
        waits = {"color": style.colour, "dash": "dot", "width": 1.2}
        for which, line, name in ((2, busy, engine), (1, waits, "" if told else "waiting there")):  # one key for all
            if which == 1 and not any(one[1] for one in seen):
                continue
            told = told or which == 1
            fig.add_trace(
                go.Scatter(
                    x=[one[0] for one in seen], y=[one[which] for one in seen], mode="lines", name=name,
                    line=line | {"shape": "hv"},
                    hovertemplate=f"{engine} {'computes' if which == 2 else 'has waiting'}: %{{y}}<extra></extra>",
                ),
                row=row, col=col,
            )  # fmt: skip
    if not engines:
        fig.add_trace(go.Scatter(x=[], y=[], mode="lines", showlegend=False), row=row, col=col)
    fig.update_yaxes(title_text="at an engine (responses)", rangemode="tozero", row=row, col=col)
    fig.update_xaxes(title_text=f"time ({unit})", row=row, col=col)


def rewards(fig: go.Figure, result: RLBoostResult, row: int, col: int) -> None:
    """Mean reward of each step, with and without kills."""
    for way, look in ((ALONE, 6), (TESTED, 0)):
        rows = [r for r in result.of(way) if r.reward is not None]
        style = theme.series(look)
        symbol, size = ("circle-open", 15) if look else ("circle", 8)  # of equal runs both are seen
        fig.add_trace(
            go.Scatter(
                x=[r.step + 1 for r in rows], y=[r.reward for r in rows], mode="lines+markers", name=ARMS[way],
                line={"color": style.colour, "dash": "dot" if look else "solid", "width": 2.2},
                marker={"color": style.colour, "symbol": symbol, "size": size},
            ),
            row=row, col=col,
        )  # fmt: skip
    fig.update_yaxes(title_text="mean reward (0 to 1)", row=row, col=col)
    fig.update_xaxes(title_text="training steps", row=row, col=col)


def bars(fig: go.Figure, result: RLBoostResult, ways: Sequence[str], row: int) -> None:
    """Arms beside each other: tokens per second over the reserved machines alone, and what a token costs."""
    alone = result.throughput(ALONE)
    names = [_short(way, result) for way in ways]
    ratio = [result.throughput(way) / alone for way in ways]
    cost = [result.usd_per_million(way) for way in ways]
    for col, values, text in (
        (1, ratio, [f"{v:.2f}x" for v in ratio]),
        (2, cost, [f"${v:.2f}" if v < 100 else f"${theme.number(v)}" for v in cost]),
    ):
        colours = [theme.BLUE if way == TESTED else theme.GREY for way in ways]
        fig.add_trace(
            go.Bar(
                x=[round(v, 4) for v in values], y=names, orientation="h", width=0.6, text=text, showlegend=False,
                textposition="inside", insidetextanchor="start", textangle=0, hoverinfo="x+y",
                textfont={"color": theme.INK},
                marker={"color": [theme.faded(c, 0.5) for c in colours], "line": {"color": colours, "width": 1.2}},
            ),
            row=row, col=col,
        )  # fmt: skip
        fig.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], row=row, col=col)
    line = {"color": theme.QUIET, "width": 1.2, "dash": "dot"}
    fig.add_vline(1.0, line=line, row=row, col=1)
    fig.add_vline(result.usd_per_million(ALONE), line=line, row=row, col=2)
    fig.update_yaxes(title_text="way", row=row, col=1)
    fig.update_yaxes(visible=False, row=row, col=2)  # its names stand on the left
    fig.update_xaxes(title_text="tokens per second, over co-located (ratio)", rangemode="tozero", row=row, col=1)
    fig.update_xaxes(title_text="cost, modelled ($ per million tokens)", rangemode="tozero", row=row, col=2)


def _short(way: str, result: RLBoostResult) -> str:
    if way == TESTED:
        return "RLBoost, this run" if result.config.without else "RLBoost"
    return SHORT.get(way, way.replace("no ", "without "))


# -- without a run ---------------------------------------------------------------------------------------------------


def preview(config: RLBoostConfig) -> go.Figure:
    """Simulated: what discount and number of instances are worth. Live: what will be taken away when."""
    return _worth(config) if config.backend == "sim" else _schedule(config)


def _worth(config: RLBoostConfig) -> go.Figure:
    from workbench.rlboost.prices import rates
    from workbench.rlboost.simulate import setting_of
    from workbench.rlboost.sweep import sweep

    price = config.priced()
    steady = config.instances if config.weather == "steady" and not config.trace else 0
    numbers = sorted({*range(0, max(MOST, steady) + 1, max(1, steady // MOST)), steady})
    rows = sweep(setting_of(config, without=config.without), numbers, (*DISCOUNTS, price.discount), price)
    by = {(r.instances, r.discount): r for r in rows}
    here = [by[n, price.discount] for n in numbers]
    best = by[steady, price.discount] if steady else max(here, key=lambda r: r.cost_efficiency_ratio)
    fig = make_subplots(cols=2, column_widths=[0.64, 0.36], horizontal_spacing=0.08)
    _heat(fig, by, numbers, price.discount)
    look = theme.series(0)
    fig.add_trace(
        go.Bar(
            x=[round(r.throughput_ratio, 3) for r in here], y=numbers, orientation="h", showlegend=False, width=0.7,
            text=[f"{r.throughput_ratio:.2f}x" for r in here], textposition="inside", insidetextanchor="start",
            marker={"color": theme.faded(look.colour, 0.4), "line": {"color": look.colour, "width": 1}}, textangle=0,
            textfont={"color": theme.INK}, hovertemplate="%{y} instances: %{x:.2f}x<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    fig.update_xaxes(title_text="tokens per second, over co-located (ratio)", rangemode="tozero", row=1, col=2)
    fig.update_yaxes(title_text="instances all the time (count)", tickvals=numbers, row=1, col=1)
    fig.update_yaxes(visible=False, row=1, col=2)
    fig.update_xaxes(title_text="discount of spot over on-demand (%)", ticksuffix="", row=1, col=1)
    which = f"{best.instances} instance{'' if best.instances == 1 else 's'}"
    even = f"it breaks even at {100 * best.break_even:.0f} %" if best.break_even > 0 else "it pays at any discount"
    if math.isnan(best.break_even):
        even = "with no instance there is nothing to gain"
    title = (
        f"Modelled, {config.sim_model}: {which} at {100 * price.discount:.0f} % discount give "
        f"{best.cost_efficiency_ratio:.2f}x the tokens for a dollar; {even}"
    )
    told = (
        "tokens for a dollar over reserved machines alone; the dark line is where a token costs the same. Prices: "
        f"{rates(price).told}"
    )
    lines = _note(told)
    fig.update_layout(margin={"t": 66 + 17 * len(lines), "b": 60})
    fig.update_layout(title_y=0.95)
    return theme.finish(fig, title + "".join(lines), f"{title}. {told}.", height=430)


def _heat(fig: go.Figure, by: dict[tuple[int, float], SweepRow], numbers: Sequence[int], discount: float) -> None:
    """Tokens for a dollar, where it breaks even, and the discount of the form."""
    z = [[round(by[n, d].cost_efficiency_ratio, 3) for d in DISCOUNTS] for n in numbers]
    fig.add_trace(
        go.Heatmap(
            x=[100 * d for d in DISCOUNTS], y=list(numbers), z=z, zmid=1, xgap=1, ygap=1, showscale=False,
            colorscale=[[0, "#E8863F"], [0.5, theme.PAPER], [1, theme.SKY]], texttemplate="%{z:.2f}",
            textfont={"size": 11, "color": theme.INK},
            hovertemplate="%{y} instances at %{x} %: %{z:.2f}x the tokens for a dollar<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    even = [(100 * by[n, discount].break_even, n) for n in numbers if not math.isnan(by[n, discount].break_even)]
    even = [(max(x, -5.0), n) for x, n in even]
    fig.add_trace(
        go.Scatter(
            x=[round(x, 2) for x, _ in even], y=[n for _, n in even], mode="lines", showlegend=False,
            line={"color": theme.INK, "width": 1.8, "shape": "spline", "smoothing": 0.6},
            hovertemplate="%{y} instances break even at %{x:.0f} %<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    fig.add_vline(
        100 * discount, line={"color": theme.INK, "width": 1.5, "dash": "dash"}, row=1, col=1,
        annotation={"text": f"{100 * discount:.0f} %, as set", "font": {"size": 11, "color": theme.INK}, "yshift": 14},
        annotation_position="top",
    )  # fmt: skip
    fig.update_xaxes(range=[-5, 95 if discount <= 0.95 else 101], dtick=10, row=1, col=1)


def _schedule(config: RLBoostConfig) -> go.Figure:
    """In which steps of a live run machines are taken away, and how."""
    from workbench.rlboost.chaos import TURN, schedule

    due = schedule(config.kills, config.steps) if config.nodes else {}
    steps = [step for step, count in sorted(due.items()) for _ in range(count)]
    ways = [TURN[at % len(TURN)] if config.kill == "mixed" else config.kill for at in range(len(steps))]
    said = {"node": "SIGKILL of the raylet", "actor": "SIGKILL of the engine", "notice": "notice, drain, then SIGKILL"}
    fig = go.Figure()
    for at, (way, name) in enumerate(said.items()):
        count = [sum(s == step and w == way for s, w in zip(steps, ways, strict=True)) for step in range(config.steps)]
        if any(count) or (not steps and way == "node"):
            fig.add_trace(
                go.Bar(x=list(range(1, config.steps + 1)), y=count, name=name, width=0.7, **theme.series(at + 1).bar())
            )
    model = "a random Llama" if config.model == "tiny" else "SmolLM2-135M"
    lost = "no node is taken away" if not steps else f"{len(steps)} of its nodes are taken away and replaced"
    title = f"Live: {config.steps} steps of GRPO of {model} on Ray with {config.nodes} spot nodes; {lost}"
    told = (
        f"{config.prompts} prompts of {config.group} responses of up to {config.tokens} tokens a step. A kill waits "
        "until the instance has begun responses that have not ended, and takes the one with most to lose. "
        f"{config.priced().name}, {config.priced().on}: {config.priced().source}"
    )
    lines = _note(told)
    margin = {"t": 92 + 17 * len(lines)}
    fig.update_layout(barmode="stack", margin=margin, showlegend=bool(steps), title_y=0.93)
    top = max([2, *due.values()])
    fig.update_yaxes(range=[0, top + 0.5], dtick=max(1, top // 5))
    fig.update_xaxes(range=[0.4, config.steps + 0.6], dtick=max(1, config.steps // 12))
    text = f"{title}. {told}."
    return theme.finish(fig, title + "".join(lines), text, x="training steps", y="nodes taken away (count)", height=380)

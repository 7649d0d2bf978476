"""Figures of systems put together: seconds to the next token, experts that no row needs, tokens over start-up time."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import theme
from workbench.combine.join import CURVE_S, Start, named

if TYPE_CHECKING:
    from workbench.combine.join import Join
    from workbench.combine.migrate import Migration
    from workbench.combine.union import Rows, Union

NAMES = {"smollm2": "SmolLM2-135M", "tiny": "a tiny random Llama"}
BACK: dict[str, tuple[int, str]] = {  # way -> place in theme.STYLES, its name
    "recompute": (6, "recompute, as RLBoost does"),
    "compute": (5, "recompute, by CAKE's engine"),
    "load": (1, "load the checkpoint"),
    "cake": (0, "both ends (CAKE)"),
}
SETS: dict[Rows, tuple[int, str]] = {
    "siblings": (0, "siblings of one plan"),
    "strangers": (1, "unrelated prompts"),
    "copies": (2, "copies of one (control)"),
    "lots": (6, "drawn by lot (control)"),
}


def _titled(title: str, text: str, width: int = 130) -> str:
    """A title, and quiet lines below it."""
    quiet = "".join(theme.quiet(line) for line in wrap(text, width))
    return title + quiet


def _done(fig: go.Figure, title: str, quiet: str, text: str, *, keys: int = 3) -> go.Figure:
    """`keys`: lines of the keys above the panels."""
    above = 50 + 17 * (len(wrap(quiet, 130)) + keys)
    fig.update_layout(showlegend=False, margin={"t": above, "b": 62})
    return theme.finish(fig, _titled(title, quiet), text, height=above + 350)


def migration(result: Migration) -> go.Figure:
    """Bars: median seconds to the next token by way, a panel a length; dots: every round."""
    lengths, links = result.lengths, result.links
    fig = make_subplots(rows=1, cols=len(lengths), horizontal_spacing=0.09)
    top = 1.15 * max(row.seconds for row in result.rows)
    for col, tokens in enumerate(lengths, 1):
        rate = {r.link: r.link_mb_s for r in result.rows if r.tokens == tokens and r.link}
        ticks = ["no link"] + [f"{link:g}x<br>{rate[link]:.3g} MB/s" for link in links]
        for way, (at, _) in BACK.items():
            plain = way in ("recompute", "compute")
            places = [0] if plain else list(range(1, len(links) + 1))
            given = [0.0] if plain else links
            offset = -0.2 if way in ("recompute", "load") else 0.2
            x = [place + offset for place in places]
            y = [result.seconds(way, tokens, link) for link in given]  # type: ignore[arg-type]
            look = theme.series(at)
            fig.add_bar(
                x=x,
                y=y,
                width=0.36,
                text=[f"{s:.2f}" for s in y],
                textposition="outside",
                textfont={"color": theme.INK},
                **look.bar(),
                row=1,
                col=col,
            )
            dots = [
                (place, row.seconds)
                for place, link in zip(x, given)
                for row in result.rows
                if (row.way, row.tokens, row.link) == (way, tokens, link)
            ]
            fig.add_scatter(
                x=[place + 0.18 for place, _ in dots], y=[s for _, s in dots], mode="markers", hoverinfo="y",
                marker={"color": theme.PAPER, "size": 6, "line": {"color": theme.INK, "width": 1.2}}, row=1, col=col,
            )  # fmt: skip
        fig.update_xaxes(
            tickvals=list(range(len(ticks))), ticktext=ticks, range=[-0.6, len(links) + 0.6], row=1, col=col,
            title_text="link of the checkpoint, over the balance point (×)",
        )  # fmt: skip
        fig.update_yaxes(title_text="time to the next token (s)", range=[0, top], row=1, col=col)
        theme.keys(fig, 1, col, _bars(), head=f"a response of {tokens} tokens", per=2)
    how = "every token as undisturbed" if result.exact else "NOT EXACT"
    title = f"A dead engine's responses go on elsewhere: KV loaded, computed, or both (measured; {how})"
    quiet = (
        f"{NAMES.get(result.model, result.model)}, float32, one thread; grains of {result.grain} tokens, written as "
        f"the engine decoded until it was killed: {100 * result.keeping:.1f} % of its decoding. Circles: rounds; bars: "
        "medians."
    )
    fig.update_layout(bargap=0)
    return _done(fig, title, quiet, result.sentence())


def _bars() -> list[tuple[str, str, str]]:
    signs = {"": "■", "/": "▨", "-": "▤", "|": "▥"}
    return [(signs[theme.series(at).pattern], theme.series(at).colour, name) for at, name in BACK.values()]


def unions(result: Union) -> go.Figure:
    """Left: share that no row needs, over width, with both expectations. Right: by layer, at the widest."""
    fig = make_subplots(rows=1, cols=2, horizontal_spacing=0.1, column_widths=[0.52, 0.48])
    widths = result.widths
    for name, (at, _) in SETS.items():
        look = theme.series(at)
        rows = [r for r in result.table if r.rows == name and r.layer < 0]
        fig.add_scatter(x=widths, y=[100 * r.sparsity for r in rows], mode="lines+markers", **look.line(), row=1, col=1)
        if name not in ("siblings", "strangers"):
            continue
        faint = {"color": look.colour, "width": 1.5, "dash": "dot"}
        fig.add_scatter(x=widths, y=[100 * r.by_expert for r in rows], mode="lines", line=faint, row=1, col=1)
        layers = [r for r in result.table if (r.rows, r.width) == (name, widths[-1]) and r.layer >= 0]
        where = [r.layer + 1 for r in layers]
        fig.add_scatter(
            x=where, y=[100 * r.sparsity for r in layers], mode="lines+markers", **look.line(), row=1, col=2
        )
        fig.add_scatter(x=where, y=[100 * r.by_expert for r in layers], mode="lines", line=faint, row=1, col=2)
    fig.update_xaxes(title_text="rows that are decoded together", type="log", tickvals=widths, row=1, col=1)
    fig.update_xaxes(title_text="layer", row=1, col=2)
    for col in (1, 2):
        fig.update_yaxes(title_text="experts that no row needs (%)", rangemode="tozero", row=1, col=col)
    marks = [(_line(at), theme.series(at).colour, name) for at, name in SETS.values()]
    theme.keys(fig, 1, 1, marks, per=2, head="")
    dotted = ("┉┉", theme.INK, "independent rows")
    theme.keys(fig, 1, 2, [*marks[:2], dotted], head=f"width {widths[-1]}, by layer", per=2)
    own, other = (100 * result.of_chance(name, widths[-1]) for name in ("siblings", "strangers"))
    title = (
        f"{widths[-1]} branches of a plan need {own:.0f} % of the experts that chance predicts, unrelated {other:.0f} %"
    )
    quiet = (
        f"SmolLM2-135M with the shipped routers (measured), plan '{result.plan}', {result.tokens} tokens a row. "
        "Dotted: what rows would leave out together that share nothing but how popular each expert is (computed)."
    )
    return _done(fig, title, quiet, result.sentence())


def _line(at: int) -> str:
    return {"solid": "━━", "dash": "╍╍", "dot": "┉┉"}.get(theme.series(at).dash, "━╍")


def joins(result: Join) -> go.Figure:
    """Left: tokens, right: dollars a token, both over the seconds of a start; marks are ways of the Foundry run."""
    fig = make_subplots(rows=1, cols=2, horizontal_spacing=0.11)
    curve = _curve(result)
    for col, field, title in (
        (1, "tok_s", "trained tokens, over no start (%)"),
        (2, "usd_per_million", "dollars a token, over no start (%)"),
    ):
        x = [s for s, _ in curve]
        y = [100 * result.ratio(way, field) for _, way in curve]  # type: ignore[arg-type]
        grey = theme.series(6)
        fig.add_scatter(x=x, y=y, mode="lines+markers", **grey.line(1.5), row=1, col=col)
        for at, start in enumerate(result.starts):
            look = theme.series(at)
            marker = {
                "color": look.colour,
                "symbol": look.marker,
                "size": 12,
                "line": {"color": theme.PAPER, "width": 1},
            }
            fig.add_scatter(
                x=[start.seconds], y=[100 * result.ratio(start.way, field)], mode="markers", marker=marker,  # type: ignore[arg-type]
                hovertext=start.way, row=1, col=col,
            )  # fmt: skip
        fig.update_yaxes(title_text=title, row=1, col=col)
    ticks = [0.5, 1, 3, 10, 30, 60, 180, 600, 1800]
    fig.update_xaxes(title_text="from the start of the process to the first token (s)", type="log", tickvals=ticks)
    marks = [(_sign(at), theme.series(at).colour, f"{s.way} {s.seconds:.3g} s") for at, s in enumerate(result.starts)]
    theme.keys(fig, 1, 1, marks, per=1, head="starts of the Foundry run")
    theme.keys(fig, 1, 2, [("○", theme.GREY, "starts of round numbers (assumed)")])
    badge = result.starts[0].badge
    lost = 100 * result.per_minute()
    title = f"A minute of a start costs RLBoost {lost:.1f} % of its tokens (modelled; starts {badge}: {result.source})"
    quiet = (
        f"{result.joins:.0f} instances come in {result.hours:g} h, {result.boot_s:g} s from taking one to its process; "
        f"means over {len(result.of(result.starts[0].way))} made traces, whose steps fall otherwise with every "
        f"second, by one or two tenths of a per cent. Prices: {result.told}"
    )
    return _done(fig, title, quiet, result.sentence(), keys=1 + len(marks))


def _curve(result: Join) -> list[tuple[float, str]]:
    """(seconds, way) of all starts, rising."""
    return sorted((s.seconds, s.way) for s in (*result.starts, *(Start(named(s), s, "assumed") for s in CURVE_S)))


def _sign(at: int) -> str:
    signs = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "x": "✖"}
    return signs.get(theme.series(at).marker, "○")

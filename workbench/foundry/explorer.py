"""The archive explorer: every 8-byte parameter of a layer's nodes, what it is, and whether it changes with the size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench import theme

if TYPE_CHECKING:
    from workbench.foundry.parts import Cell
    from workbench.foundry.result import FoundryResult

KINDS = {  # kind -> (letter in the cell, what the key says, place in theme.STYLES)
    "weight": ("W", "address in the weights", 1),
    "state": ("K", "address in the KV cache", 0),
    "input": ("I", "address of tokens or positions", 4),
    "scratch": ("S", "address in scratch", 5),
    "number": ("n", "number", 6),
}
DIFFERS = "≠"
LABEL = 30  # characters of a node's label


def grid(fig: go.Figure, result: FoundryResult, row: int, col: int = 1) -> None:
    """Draw the cells: a row a node, a column an argument. A letter says the kind, a sign what differs between sizes."""
    labels = [_label(i, text) for i, text in enumerate(result.labels)]
    columns = 1 + max((c.position for c in result.cells), default=0)
    kinds = list(KINDS)
    z: list[list[int | None]] = [[None] * columns for _ in labels]
    text = [[""] * columns for _ in labels]
    hover = [[""] * columns for _ in labels]
    for cell in result.cells:
        z[cell.node][cell.position] = kinds.index(cell.kind)
        text[cell.node][cell.position] = KINDS[cell.kind][0] + DIFFERS * cell.differs
        hover[cell.node][cell.position] = f"{labels[cell.node]}, argument {cell.position}: {said(cell, result.shown)}"
    steps = [(i / len(kinds), (i + 1) / len(kinds), _tint(k)) for i, k in enumerate(kinds)]
    fig.add_trace(
        go.Heatmap(
            z=z, x=list(range(columns)), y=labels, text=text, texttemplate="%{text}", customdata=hover,
            hovertemplate="%{customdata}<extra></extra>", showscale=False, xgap=2, ygap=2, zmin=-0.5,
            zmax=len(kinds) - 0.5, colorscale=[[edge, colour] for a, b, colour in steps for edge in (a, b)],
            textfont={"size": 11, "color": theme.INK},
        ),
        row=row, col=col,
    )  # fmt: skip
    fig.update_yaxes(
        type="category", autorange="reversed", title_text="node of the graph, in order", showgrid=False,
        tickfont={"size": 11}, row=row, col=col,
    )  # fmt: skip
    fig.update_xaxes(title_text="argument (8 bytes each)", dtick=1, showgrid=False, zeroline=False, row=row, col=col)
    panel = fig.get_subplot(row, col)
    fig.add_annotation(
        text=_key(), x=panel.xaxis.domain[0], y=panel.yaxis.domain[1], xref="paper", yref="paper", xanchor="left",
        yanchor="bottom", yshift=3, showarrow=False, font={"size": 12, "color": theme.INK}, align="left",
    )  # fmt: skip


def said(cell: Cell, shown: list[int]) -> str:
    """A cell in words: what it is, and its values."""
    values = ", ".join(f"{v:,}" for v in (cell.values if cell.differs else cell.values[:1]))
    if cell.kind == "number":
        return f"{values} at batch {', '.join(map(str, shown))}" if cell.differs else f"{values} at every batch size"
    where = f"address in {cell.of}, {values} bytes behind the arena's base"
    return where + (f" at batch {', '.join(map(str, shown))}" if cell.differs else "")


def _label(at: int, text: str) -> str:
    short = text.removeprefix("cpp_fused_").strip("_")
    return f"{at} {short if len(short) <= LABEL else short[: LABEL - 1] + '…'}"


def _tint(kind: str) -> str:
    """A light shade of the kind's colour: the letter on it is read."""
    colour = theme.series(KINDS[kind][2]).colour
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    light = 0.82 if kind == "number" else 0.62
    return "#{:02X}{:02X}{:02X}".format(*(round(v + (255 - v) * light) for v in (r, g, b)))


def _key() -> str:
    boxes = [
        f'<span style="color:{theme.series(place).colour}"><b>■</b></span>&nbsp;{letter}&nbsp;{words}'
        for letter, words, place in KINDS.values()
    ]
    boxes.append(f"<b>{DIFFERS}</b>&nbsp;not the same at every batch size")
    return "<br>".join("&nbsp;&nbsp; ".join(line) for line in (boxes[:3], boxes[3:]))


def picture(result: FoundryResult) -> go.Figure:
    """The grid alone. ValueError for a modelled run, which has no archive."""
    from plotly.subplots import make_subplots

    if not result.cells:
        raise ValueError("a modelled run has no archive: take backend='cpu'")
    t = result.templates[0]
    fig = make_subplots(rows=1, cols=1)
    grid(fig, result, row=1)
    n = len(result.cells)
    addresses, differ = (sum(c.kind != "number" for c in result.cells), sum(c.differs for c in result.cells))
    title = f"Parameters of the first {len(result.labels)} of {t.nodes} nodes, the same for {len(t.sizes)} batch sizes"
    text = (
        f"{title} (measured): of {n} parameters of 8 bytes {addresses} are addresses, found as the bytes that differ "
        f"between two captures at different places; {differ} change with the batch size."
    )
    fig.update_layout(margin={"t": 96, "b": 60})
    return theme.finish(fig, f"{title} (measured)", text, height=200 + 24 * len(result.labels))

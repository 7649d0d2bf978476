"""A step as boxes in lanes: micro-batches alternate in shade, what is left of a lane is its bubble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench import theme
from workbench.hetermoe.result import Box, Drawn

STAGES = {  # stage -> (what it is called, place of its colour, pattern)
    "attention": ("attention", theme.BLUE, ""),
    "expert": ("experts", theme.VERMILLION, ""),
    "offload": ("experts moved here", theme.ORANGE, "x"),
    "head": ("head, loss", theme.GREEN, "."),
    "update": ("update", theme.PURPLE, "|"),
    "dispatch": ("dispatch", theme.SKY, ""),
    "combine": ("combine", theme.GREY, ""),
}
BUBBLE = "bubble"
BUBBLES = "rgba(122,122,122,0.13)"
LIGHT = 0.55  # of every second micro-batch
LANE = 34  # pixels


@dataclass(frozen=True)
class Unit:
    """Of time axes."""

    per_s: float
    name: str


def unit(seconds: float) -> Unit:
    """Milliseconds for what is short."""
    return Unit(1e3, "ms") if seconds < 2 else Unit(1.0, "s")


def height(drawn: Drawn) -> int:
    """Pixels that its lanes ask for."""
    return max(96, LANE * len(drawn.lanes))


def gantt(fig: go.Figure, drawn: Drawn, row: int, end_s: float) -> None:
    """All lanes, from 0 to `end_s`; a dotted line where the backward pass begins."""
    scale = unit(end_s)
    lanes = [_short(name) for name in drawn.lanes]
    computing = lanes[: len(drawn.used)]
    fig.add_trace(
        go.Bar(
            base=[0.0] * len(computing), x=[drawn.step_s * scale.per_s] * len(computing), y=computing, orientation="h",
            width=0.74, name=BUBBLE, marker={"color": BUBBLES, "line": {"width": 0}}, hoverinfo="skip",
        ),
        row=row, col=1,
    )  # fmt: skip
    for stage, (name, colour, pattern) in STAGES.items():
        boxes = [box for box in drawn.boxes if box[1] == stage]
        if boxes:
            fig.add_trace(_bars(boxes, lanes, name, colour, pattern, scale), row=row, col=1)
    heads = [box[5] for box in drawn.boxes if box[1] == "head"]
    if heads:
        line = {"color": theme.QUIET, "width": 1, "dash": "dot"}
        fig.add_vline(min(heads) * scale.per_s, line=line, row=row, col=1)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=lanes[::-1], title_text="rank", row=row, col=1
    )  # fmt: skip
    word = "predicted" if drawn.badge == "modelled" else "measured"
    title = f"one step, {word} ({scale.name})"
    fig.update_xaxes(title_text=title, range=[0, 1.01 * end_s * scale.per_s], row=row, col=1)


def _bars(boxes: Sequence[Box], lanes: Sequence[str], name: str, colour: str, pattern: str, scale: Unit) -> go.Bar:
    shades = [colour if box[3] % 2 == 0 else _mixed(colour, LIGHT) for box in boxes]
    looks: dict[str, Any] = {"color": shades, "line": {"color": theme.PAPER, "width": 0.6}}
    if pattern:
        looks["pattern"] = {"shape": pattern, "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.75)", "size": 6}
    return go.Bar(
        base=[round(box[5] * scale.per_s, 3) for box in boxes],
        x=[round((box[6] - box[5]) * scale.per_s, 3) for box in boxes],
        y=[lanes[box[0]] for box in boxes], orientation="h", width=0.74, name=name, marker=looks,
        hovertext=[_said(box, name) for box in boxes], hoverinfo="text+x",
    )  # fmt: skip


def _said(box: Box, name: str) -> str:
    if box[1] == "update":
        return name
    where = "" if box[1] == "head" else f", layer {box[2]}, {'backward' if box[4] else 'forward'}"
    return f"{name}{where}, micro-batch {box[3]}"


def _mixed(colour: str, share: float) -> str:
    """The colour with so much of it, the rest white."""
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)


def _short(lane: str) -> str:
    return lane.replace(", messages", "").replace("attention and experts", "both")


def mark(name: str) -> tuple[str, str]:
    """(a sign, its colour) of a stage by the name that is drawn."""
    signs = {"": "■", "x": "▩", ".": "▒", "|": "▥"}
    if name == BUBBLE:
        return "□", theme.GREY
    _, colour, pattern = next(stage for stage in STAGES.values() if stage[0] == name)
    return signs[pattern], colour

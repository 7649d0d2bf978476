"""Pictures of vLLM's own start beside ours: what each was at, on one axis of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench import theme
from workbench.foundry.result import WAYS

if TYPE_CHECKING:
    from workbench.foundry.parts import Engine, Process
    from workbench.foundry.result import FoundryResult

GROUPS: Mapping[str, tuple[int, tuple[str, ...]]] = {  # what the key says -> place in theme.STYLES, phases
    "interpreter and imports": (6, ("interpreter", "import torch", "import vLLM", "imports")),
    "configure, workers, engine, KV cache": (5, ("configure", "workers", "engine", "KV cache", "other")),
    "weights: build, read, pack": (1, ("build the model", "load weights", "pack weights")),
    "archive, memory, kernels, replay": (2, ("archive", "graphs", "verify")),
    "compile, or load what was compiled": (4, ("compile", "load compiled code")),
    "warm-up, graph capture": (3, ("warm-up", "graph capture")),
    "first token, or first run of each size": (0, ("first token", "first runs")),
}
Stretch = tuple[str, float, float]  # phase, start, end; s


def ours(process: Process) -> list[Stretch]:
    """Our start in the same words: its phases one after the other."""
    ends = [("imports", process.import_s)]
    for name, phase in (
        ("archive", "archive"),
        ("weights", "load weights"),
        ("graphs", "graphs"),
        ("verify", "verify"),
    ):
        ends.append((phase, ends[-1][1] + process.phases.get(name, 0.0)))
    ends[-1] = (ends[-1][0], process.load_s)  # what lies between them is small
    ends.append(("first runs", process.ready_s))
    starts = [0.0, *(end_s for _, end_s in ends)]
    return [(name, start_s, end_s) for start_s, (name, end_s) in zip(starts, ends, strict=False) if end_s > start_s]


def lanes(result: FoundryResult) -> dict[str, Sequence[Stretch]]:
    """Every start that is drawn, ours last."""
    made: dict[str, Sequence[Stretch]] = {one.lane: one.phases for one in result.engines}
    return made | {WAYS["foundry"]: ours(result.of("foundry")[0])}


def draw(fig: go.Figure, result: FoundryResult, row: int) -> None:
    """Each phase where it lay in time; a bold number says when the first token was there, or all sizes were."""
    drawn = lanes(result)
    for words, (place, phases) in GROUPS.items():
        parts = [(lane, *each) for lane, stretches in drawn.items() for each in stretches if each[0] in phases]
        if not parts:
            continue
        hover = [f"{lane}, {name}: {end_s - start_s:.2f} s" for lane, name, start_s, end_s in parts]
        fig.add_trace(
            go.Bar(
                y=[lane for lane, *_ in parts], base=[start_s for _, _, start_s, _ in parts],
                x=[end_s - start_s for _, _, start_s, end_s in parts], orientation="h", name=words, width=0.62,
                customdata=hover, hovertemplate="%{customdata}<extra></extra>", **theme.series(place).bar(),
            ),
            row=row, col=1,
        )  # fmt: skip
    longest = max(stretches[-1][2] for stretches in drawn.values())
    for lane, stretches in drawn.items():
        whole_s = stretches[-1][2]
        fig.add_annotation(
            x=whole_s, y=lane, text=f"<b>{theme.number(whole_s)} s</b>", showarrow=False, xanchor="left", xshift=6,
            font={"size": 12, "color": theme.INK}, row=row, col=1,
        )  # fmt: skip
    fig.update_xaxes(title_text="time since the process was asked for (s)", range=[0, 1.12 * longest], row=row, col=1)
    fig.update_yaxes(
        type="category", categoryorder="array", categoryarray=[*drawn][::-1], title_text="engine", row=row, col=1,
        title_standoff=14,
    )  # fmt: skip


def picture(result: FoundryResult) -> go.Figure:
    """The starts alone. ValueError for a run without vLLM."""
    from plotly.subplots import make_subplots

    from workbench.foundry.figures import _keys, _note

    if not result.engines:
        raise ValueError("no start of vLLM was measured: take vllm='eager', or the preset 'vllm'")
    fig = make_subplots(rows=1, cols=1)
    draw(fig, result, 1)
    _keys(fig, {(1, 1): 4})
    notes = _note(about(result.engines))
    said = [f"{one.lane} {theme.number(one.total_s)} s" for one in result.engines]
    title = (
        f"Until the first token: {', '.join(said)}; our steps {theme.number(result.median_s('foundry'))} s (measured)"
    )
    text = f"{title}. {about(result.engines)}."
    fig.update_layout(showlegend=False, margin={"t": 118 + 17 * len(notes), "b": 64})
    return theme.finish(fig, title + "".join(notes), text, height=230 + 40 * len(lanes(result)) + 17 * len(notes))


def about(engines: Sequence[Engine]) -> str:
    """What is compared, and what is not."""
    one = engines[0]
    same = "say the same tokens" if all(e.tokens == e.ours for e in engines) else "do NOT say the same tokens"
    spare = ", ".join(f"{theme.number(e.graphable_s)} s ({e.mode})" for e in engines)
    return (
        f"same {one.layers} layer{'s' * (one.layers > 1)}, {one.about.get('dtype', 'float32')}; both {same}; vLLM is a "
        f"whole engine, ours decode steps only; of vLLM's start graphs from an archive could spare at most {spare}"
    )

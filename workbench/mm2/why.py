"""What a span stands for, in words: a stage of a batch, a timing, or a segment on a unit of the modelled GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench import theme
from workbench.system import Span

STAGES = {
    "seed": "The minimizers of {reads} reads ({bases} bases) were looked up in the index: {anchors} anchors",
    "chain": "{anchors} anchors of {reads} reads were scored and walked back into {chains} chains",
    "join": "Chains of {joined} of {reads} reads were chained once more over long gaps, with a tree; the others leave "
    "little of their read uncovered",
    "hits": "Hits, their mapping quality and their lines were made from {chains} chains of {reads} reads",
}
REASONS = {
    "small": "{segments} segments of class {class} ({pairs} pairs) ran in one kernel of {lanes} lanes a segment; the "
    "hardware gives whoever is free the next one",
    "ticket": "The unit was free and drew ticket {ticket}; the list is {order}. The segment has {anchors} anchors and "
    "{pairs} pairs",
    "fixed": "Without persistent blocks place {ticket} of the list belongs to this unit, free or not ({order}). "
    "The segment has {anchors} anchors and {pairs} pairs, and began {waited} after the unit was free",
    "shared": "Alone on one unit this segment ({anchors} anchors, {pairs} pairs) would have taken {alone}, longer than "
    "an even share of all long segments, so {blocks} blocks work on its tiles together",
}


def explain(span: Span) -> str:
    """A sentence or two on what happened there and why."""
    why, took = dict(span.why), f"It took {_time(span.end_s - span.start_s)}."
    if span.kind in STAGES:
        return f"{STAGES[span.kind].format_map(_words(why))}. {took}"
    if why.get("reason") in REASONS:
        return f"{REASONS[str(why['reason'])].format_map(_words(why))}. {took} Modelled."
    if "wall_s" in why:
        return f"{span.label}: {_time(float(why['wall_s']))} by the wall, on the GPU."
    if "cpu_s" in why:
        return (
            f"{span.label}: {_time(float(why['cpu_s']))} of processor. Loops and mappers take turns, so that what else "
            "the machine does hits all of them alike."
        )
    return f"{span.label}. {took}"


def _words(why: Mapping[str, Any]) -> dict[str, str]:
    """Values as they are read; `waited` and `alone` with their unit."""
    words = {name: f"{value:,.0f}" if isinstance(value, int | float) else str(value) for name, value in why.items()}
    return words | {name: _time(float(why[f"{name}_s"])) for name in ("waited", "alone") if f"{name}_s" in why}


def _time(seconds: float) -> str:
    """12 ms, 340 µs, 1.2 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{theme.number(seconds / size)} {unit}"
    return f"{theme.number(seconds * 1e6)} µs"

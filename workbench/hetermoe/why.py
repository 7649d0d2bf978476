"""A span of the timeline in words: what a rank did, and what decides when it may."""

from __future__ import annotations

from workbench.system import Span

RULE = {
    "attention": "Attention ranks run a layer's attention of all micro-batches before the next layer (Theorem 1): "
    "while one micro-batch is with the experts, the next one is here.",
    "expert": "Experts run as soon as a micro-batch's rows are here, in the order in which attention sent them.",
    "offload": "An expert that lies on attention ranks (Asym-EA) fills what would be a bubble: it runs after the "
    "layer's attention of all micro-batches, as rows of the other attention ranks must be here first.",
    "head": "Forward and backward of a micro-batch are adjacent in the last stage: its gradients leave at once.",
    "update": "AdamW over what this rank holds, after the last gradient.",
    "dispatch": "Rows travel to their experts, in backward the gradients of outputs, on a stream of their own: the "
    "ranks compute meanwhile.",
    "combine": "Outputs travel back, in backward the gradients of rows, on a second stream: both directions overlap.",
}


def explain(span: Span) -> str:
    """What it was, for how long, and the rule that placed it there."""
    took = 1e3 * (span.end_s - span.start_s)
    how = "by the simulator" if span.why.get("how") == "predicted" else "measured"
    return f"{span.label}, {took:.3g} ms ({how}). {RULE.get(span.kind, 'Runs when its inputs are here.')}"

"""A span of the timeline in words."""

from __future__ import annotations

from workbench.system import Span


def explain(span: Span) -> str:
    """Why this sequence ran then, and what its prompt cost."""
    why = span.why
    reused, computed = int(float(why.get("reused_tokens", 0))), int(float(why.get("computed_tokens", 0)))
    if span.kind in ("reuse", "prefill"):
        seen = f" It sees parts {why['sees_parts']}." if why.get("sees_parts", "none") != "none" else ""
        return (
            f"The prompt of this sequence had {reused + computed} tokens: the KV of {reused} was there already and was "
            f"forked, that of {computed} was computed.{seen}"
        )
    ended = {
        "budget": "its tokens were used up",
        "stop": "it said what ends an answer",
        "constraint": "its grammar was complete",
        "cancelled": "the scheduler stopped it",
    }.get(str(why.get("ended_by", "")), "it ended")
    told = {
        "plan": "The planner writes the plan; parts start beside it, as soon as their line and their needs are there.",
        "plain": "The plain answer, token by token: the way without a plan, or the hedge beside the planner.",
    }.get(span.kind, "A part of the answer, decoded in the same steps as all others that run.")
    return f"{told} {why.get('tokens', 0)} tokens in {span.end_s - span.start_s:.2f} s; {ended}."

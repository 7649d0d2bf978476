"""A span's decision in words: why this chunk was computed or loaded there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench import theme
from workbench.cake.policy import BACK, FRONT, HEDGED, NOTHING_STORED, PROBE, TAIL
from workbench.system import Span

SINGLE = {
    "compute": "The mode is compute only: nothing is loaded, so compute takes the prompt from its front on.",
    "load": "The mode is load only: whatever is stored is loaded, the last chunk first.",
}
PLAIN = {
    TAIL: "No store holds these tokens: the last ones give the first logits and are always computed.",
    NOTHING_STORED: "Nothing of what was unclaimed is in the store, so all of it is computed.",
    "computing": "Compute had claimed it before: the claim was longer than one pass.",
    "free": "Loading was over (the store was given up, or the request was ending), so what was left is computed.",
    "hole": "It could not be loaded (missing, damaged or given up), so it was computed.",
    "taken": "Its load was late and compute had taken it over before.",
    "loading the rest is sooner": "Loading the rest was sooner than computing it. An engine that cannot admit a "
    "request without a token computes this one beside the loads and forgets it.",
    "the load ends first": "Its load was about to end, sooner than computing it.",
    "the back claimed it first": "The loader had claimed the rest in the same instant.",
    "computing the rest is sooner": "Compute would have had the rest before a load of it could end.",
    "not in the store": "What the loader claimed is not in the store: it is computed.",
    "vLLM's own prefill": "The prompt was not being restored here: this is vLLM's own prefill.",
}


def explain(span: Span) -> str:
    """Why this chunk was claimed there, in a sentence or two."""
    why, took = dict(span.why), f"{span.label} took {theme.number(span.end_s - span.start_s)} s. "
    return took + _because(why) + _unused(why)


def _because(why: Mapping[str, Any]) -> str:
    reason, mode = why.get("reason"), why.get("mode", "cake")
    if reason in (FRONT, BACK) and mode in SINGLE:
        return SINGLE[str(mode)]
    match reason:
        case _ if reason in PLAIN:
            return PLAIN[str(reason)]
        case _ if reason == FRONT:
            return (
                f"{why['gap_tokens']:,.0f} tokens were unclaimed. Loading them all would have taken "
                f"{_seconds(why['load_rest_s'])}, computing them all {_seconds(why['compute_rest_s'])}; both together "
                f"end soonest when compute takes {why['compute_share_tokens']:,.0f} of them, so it claimed this pass "
                f"from the front."
            )
        case _ if reason == BACK:
            return (
                f"Loading it was expected to take {_seconds(why['load_s'])}; compute would have reached it only after "
                f"{_seconds(why['compute_reaches_it_in_s'])}, so the loader claimed it from the back."
            )
        case _ if reason == PROBE:
            return (
                f"The last reads were slow, so that computing the rest was sooner; nothing had been read for a while, "
                f"so the loader tried one chunk again. Compute would have reached it only after "
                f"{_seconds(why['compute_reaches_it_in_s'])}, and takes it over if it is late again."
            )
        case _ if reason == HEDGED:
            return (
                f"Its load was late ({_seconds(why['load_left_s'])} still to go), computing it takes "
                f"{_seconds(why['compute_s'])}: compute took it over."
            )
    return _facts(why)


def _unused(why: Mapping[str, Any]) -> str:
    return f" {why['unused_grains']:.0f} of its grains failed or came late: computed." if "unused_grains" in why else ""


def _seconds(value: float | str) -> str:
    return value if isinstance(value, str) else f"{theme.number(value)} s"


def _facts(why: Mapping[str, Any]) -> str:
    """A reason that is not known here, as it stands."""
    words = {k: v for k, v in why.items() if k not in ("reason", "unused_grains")}
    numbers = ", ".join(f"{theme.label(k)}: {theme.number(v) if isinstance(v, float) else v}" for k, v in words.items())
    return f"{why.get('reason', 'No reason was kept')}" + (f" ({numbers})." if numbers else ".")

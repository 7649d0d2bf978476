"""Plato's published numbers beside ours. Its models, prompts and hardware are not public in full: context, no goal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench.system import Claim

if TYPE_CHECKING:
    from workbench.plato.result import PlatoResult

ABSTRACT = "arXiv 2402.12280, v2, abstract"


def claims(result: PlatoResult) -> list[Claim]:
    """The paper's speed claims; its win rates are an LLM judge's and have no number of ours."""
    badge = result.badge
    s = result.summary()
    gain = 100 * (s["speedup_vs_sequential"] - 1) if result.config.way == "plato" else None
    reused, computed = s.get("kv_tokens_reused", math.nan), s.get("kv_tokens_computed", math.nan)
    share = 100 * reused / (reused + computed) if reused + computed > 0 else None
    small = "another model, other queries; ours is one query with equal text length"
    return [
        Claim(
            what="throughput over autoregressive decoding, at most",
            paper=68.0, ours=gain, unit="%", badge=badge, source=ABSTRACT, note=small,
        ),
        Claim(
            what="prefill overhead removed by reusing KV",
            paper=75.0, ours=share, unit="%", badge=badge, source=ABSTRACT,
            note="ours: share of prompt tokens whose KV was reused",
        ),
        Claim(
            what="net win rate over autoregressive decoding, by an LLM judge",
            paper=40.0, ours=None, unit="%", badge=badge, source=ABSTRACT,
            note="no rate here: known answers, boundary perplexity and redundancy instead; judge=True asks an "
            "endpoint's model about one pair, in both orders",
        ),
    ]  # fmt: skip

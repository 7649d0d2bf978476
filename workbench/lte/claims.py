"""The paper's numbers beside ours (Zheng et al., NeurIPS 2024). Their models are 2.6 to 50 times as large."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench.system import Badge, Claim

if TYPE_CHECKING:
    from workbench.lte.result import LteResult

SMALL = "SmolLM2-135M here, RoBERTa and LLaMA there"


def claims(result: LteResult) -> list[Claim]:
    """Sparsity without loss, linearity of the kernel, latency at half, against this run."""
    s = result.summary()
    badge = result.badge
    left = 100 * result.found("score", "LTE", "accuracy")[0].x if "accuracy" in s else None
    gap = 100 * (s["accuracy"] - s["dense_accuracy"]) if "accuracy" in s else None
    note = "" if gap is None else f"accuracy {gap:+.1f} points against the dense arm, same steps and batches; {SMALL}"
    linear = s.get("linear_fraction")
    said = "1: exactly linear; ours with the trained routers' masks, fresh each call, cache flushed"
    return [
        _claim("FFN left out without loss of accuracy", 80.0, left, "%", badge, "section 5.2, GLUE: 80 to 95 %", note),
        _claim("speed over dense, as a share of linear", 1.0, linear, "1", badge, "section 5.4, near linear", said),
        _latency(result),
    ]


def _latency(result: LteResult) -> Claim:
    s = result.summary()
    if not result.measured:
        llama = result.config.sim_model == "LLaMA2-7B"
        note = "by bytes read; launches and arithmetic are not in it" if llama else "another model than the paper's"
        return _claim("less time per token at half", 25.0, s["latency_cut_pct"], "%", "modelled", "section 5.4", note)
    dense, sparse = s.get("dense_decode_tok_s", math.nan), s.get("decode_tok_s", math.nan)
    cut = None if math.isnan(dense / sparse) else 100 * (1 - dense / sparse)
    left = f"at {100 * s['sparsity']:.0f} % here" if "sparsity" in s else ""
    note = f"LLaMA2-7B on a 3090 Ti at about 50 % there, {left}, over the same kernels dense"
    return _claim("less time per token", 25.0, cut, "%", "measured", "section 5.4", note)


def _claim(what: str, paper: float, ours: float | None, unit: str, badge: Badge, source: str, note: str) -> Claim:
    rounded = None if ours is None else float(f"{ours:.4g}")
    return Claim(what=what, paper=paper, ours=rounded, unit=unit, badge=badge, source=source, note=note)

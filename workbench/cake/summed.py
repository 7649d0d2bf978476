"""What the restores of a measured run of the embedded engine add up to: fitted costs, oracle and bound, the result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cake import model_time
from workbench.cake.bounds import Pass, bounds, contention
from workbench.cake.costs import Costs, fit_compute
from workbench.cake.policy import Mode
from workbench.cake.result import TOLERANCE, CakeResult, Model, Row, Stroke

if TYPE_CHECKING:
    from workbench.cake.engine import Restored
    from workbench.cake.measure import Bench

SINGLE: tuple[Mode, Mode] = ("compute", "load")


def passes_of(bench: Bench) -> list[tuple[int, int, float]]:
    """(start, tokens, seconds) of every pass of the compute-only restores."""
    return [p for row, _, restored in bench.kept if row.mode == "compute" for r in restored for p in r.passes]


def summed(bench: Bench, costs: Costs, link: float, run: int, control: float) -> CakeResult:
    """The result of all restores so far: `link` and `run` are those of the rounds, `control` of the corrupted KV."""
    from workbench.cake.work import assemble

    config, tested = bench.config, bench.config.policy
    costs = replace(costs, **dict(zip(("step_s", "token_s", "pair_s"), fit_compute(passes_of(bench)), strict=True)))
    costs = replace(costs, contention=contention(costs, _beside(bench)))
    loads = _reads(bench, link)
    if loads:  # what reads of this run took; their fixed cost stays the probed one
        per_read = costs.load_request_s / run
        costs = replace(costs, load_token_s=max(1e-12, (median(loads) - per_read) / config.grain))
    token, best_s, bound_s = _bounds(bench, costs, loads, run)
    top = float(max(t.abs().max() for t in bench.reference))
    shown = sorted((k for k in bench.kept if k[0].mode == tested and _at(k[0], link)), key=_ttft)
    row, strokes, _ = shown[(len(shown) - 1) // 2]
    compute_s, load_s = (median(_ttft(k) for k in bench.kept if k[0].mode == m and _at(k[0], link)) for m in SINGLE)
    source = f"fitted to the compute-only passes and load-only reads of this run ({bench.model.name}, {config.weights})"
    like = tested == "cake" and config.requests == 1 and all(bench.usable[0])
    facts: dict[str, Any] = {
        "rows": bench.rows,
        "strokes": strokes,
        "model": Model.of(costs, bench.step, run, bench.token_bytes, source),
        "curve": model_time.curve(costs, bench.token_bytes, config, bench.step, run, link),
        "link_mb_s": round(link, 3),
        "prompt_tokens": len(bench.prompts[0]),
        "oracle_s": best_s,
        "oracle_token": token,
        "bound_s": bound_s,
        "tolerance": TOLERANCE[config.weights] * top,
        "control_max_abs_diff": control,
        "tokens": [t for answer in bench.answers for t in answer],
        "text": bench.model.tokenizer.decode(bench.answers[0]),
        "table": model_time.nearest_claims(compute_s, load_s, row.ttft_s) if like else [],
        "prompt_hash": hashlib.sha256(np.asarray(bench.prompts[0], dtype="<i8").tobytes()).hexdigest()[:16],
    }
    return assemble(config, "cpu", bench.began, facts)


def _reads(bench: Bench, link: float) -> list[float]:
    """Seconds a grain of every read of the load-only restores at this link."""
    alone = [restored for row, _, restored in bench.kept if row.mode == "load" and _at(row, link)]
    return [seconds for restored in alone for r in restored for _, seconds in r.reads]


def _bounds(bench: Bench, costs: Costs, loads: Sequence[float], run: int) -> tuple[int | None, float, float]:
    """(token, TTFT, lower bound) of the oracle: of the measured times of one prompt, gaps in the store included.

    Of several prompts the best order of the simulated ones, and the bound of any schedule, with the fitted costs.
    """
    config = bench.config
    if config.requests > 1:
        return model_time.limits(costs, config, bench.step, run, stored=bench.usable)
    passes = [r.passes for row, _, restored in bench.kept if row.mode == "compute" for r in restored]
    reads = [(config.grain, seconds) for seconds in loads] or [(config.grain, costs.load_s(config.grain, config.grain))]
    tokens, stored = len(bench.prompts[0]), bench.usable[0]
    best, bound_s = bounds(costs, passes, reads, tokens, config.grain, bench.step, stored)
    return best.token, best.ttft_s, bound_s


def _at(row: Row, link: float) -> bool:
    return row.mode == "compute" or row.link_mb_s == round(link, 3)


def _ttft(kept: tuple[Row, list[Stroke], list[Restored]]) -> float:
    return kept[0].ttft_s


def _beside(bench: Bench) -> list[Pass]:
    """Passes of CAKE that ended before both sides met."""
    rows = [r for row, _, restored in bench.kept if row.mode == "cake" for r in restored]
    return [each for r in rows for each in r.passes if each[0] + each[1] <= r.met_at]

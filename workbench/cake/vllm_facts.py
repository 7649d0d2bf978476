"""What the restores of a vLLM run add up to: fitted costs, oracle, the trace that is shown. Fields of CakeResult."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cake import model_time
from workbench.cake.bounds import bounds, contention
from workbench.cake.costs import Costs, Split, fit_compute
from workbench.cake.result import TOLERANCE, Model, Row, Stroke

if TYPE_CHECKING:
    from workbench.cake.vllm_bench import Bench


@dataclass
class Run:
    """One restore as it was measured."""

    row: Row
    spans: list[dict[str, Any]]  # start_s and end_s since the request
    tokens: list[int]
    top: dict[int, float]

    def passes(self) -> list[tuple[int, int, float]]:
        """(start, tokens, seconds) of every pass."""
        lane = [s for s in self.spans if s["lane"] == "compute"]
        return [(s["first_token"], s["last_token"] - s["first_token"], s["end_s"] - s["start_s"]) for s in lane]

    def reads(self) -> list[tuple[int, float]]:
        """(tokens, seconds) of every read."""
        lane = [s for s in self.spans if s["lane"] == "load"]
        return [(s["last_token"] - s["first_token"], s["end_s"] - s["start_s"]) for s in lane]


def apart(one: dict[int, float], two: dict[int, float]) -> float:
    """Largest difference of the log-probabilities; a token that only one side has counts against the other's least.

    That is a lower bound of its true difference, so nothing is called equal that is not.
    """
    least_one, least_two = min(one.values()), min(two.values())
    both = [abs(one[t] - two[t]) for t in one.keys() & two.keys()]
    only = [max(0.0, one[t] - least_two) for t in one.keys() - two.keys()]
    only += [max(0.0, two[t] - least_one) for t in two.keys() - one.keys()]
    return max(both + only)


def fitted(bench: Bench) -> Costs:
    step_s, token_s, pair_s = fit_compute([p for r in bench.runs if r.row.mode == "compute" for p in r.passes()])
    return Costs(step_s, token_s, pair_s, 1.0)


def best_split(bench: Bench, costs: Costs, link: float) -> tuple[Split, float]:
    """Oracle split of the measured passes and reads of the two single modes, and the lower bound."""
    passes = [r.passes() for r in bench.runs if r.row.mode == "compute"]
    reads = [read for r in bench.runs if r.row.mode == "load" and _at(r.row, link) for read in r.reads()]
    grain = bench.config.grain
    reads = reads or [(grain, costs.load_s(grain, bench.run_grains * grain))]
    return bounds(costs, passes, reads, len(bench.ids), grain, bench.step)


def facts(bench: Bench, costs: Costs, link: float, control: float) -> dict[str, Any]:
    """What the parent makes a CakeResult of."""
    config, step = bench.config, bench.step
    own = fitted(bench)
    rows = [r for r in bench.runs if r.row.mode == "cake"]
    beside = [each for r in rows for each in r.passes() if each[0] + each[1] <= r.row.meeting_token]
    costs = replace(costs, step_s=own.step_s, token_s=own.token_s, pair_s=own.pair_s)
    costs = replace(costs, contention=contention(own, beside))
    best, bound_s = best_split(bench, costs, link)
    tested = sorted((r for r in bench.runs if r.row.mode == config.policy and _at(r.row, link)), key=_ttft)
    shown = tested[(len(tested) - 1) // 2]
    single = [median(_ttft(r) for r in bench.runs if r.row.mode == m and _at(r.row, link)) for m in ("compute", "load")]
    table = model_time.nearest_claims(single[0], single[1], _ttft(shown)) if config.policy == "cake" else []
    reference = bench.runs[0]
    source = f"fitted to the compute-only passes of this run (vLLM, {config.model}, {config.weights})"
    return {
        "rows": [r.row.model_dump(mode="json") for r in bench.runs],
        "strokes": [_stroke(s).model_dump(mode="json") for s in shown.spans],
        "model": Model.of(costs, step, bench.run_grains, bench.token_bytes, source).model_dump(mode="json"),
        "curve": model_time.curve(costs, bench.token_bytes, config, step, bench.run_grains, link).model_dump(),
        "link_mb_s": round(link, 3),
        "prompt_tokens": len(bench.ids),
        "oracle_s": best.ttft_s,
        "oracle_token": best.token,
        "bound_s": bound_s,
        "tolerance": TOLERANCE[config.weights] * max(abs(v) for v in reference.top.values()),
        "control_max_abs_diff": control,
        "tokens": reference.tokens,
        "text": bench.tokenizer.decode(reference.tokens),
        "table": [c.model_dump(mode="json") for c in table],
        "prompt_hash": hashlib.sha256(np.asarray(bench.ids, dtype="<i8").tobytes()).hexdigest()[:16],
    }


def _at(row: Row, link: float) -> bool:
    return row.mode == "compute" or row.link_mb_s == round(link, 3)


def _ttft(run: Run) -> float:
    return run.row.ttft_s


def _stroke(span: dict[str, Any]) -> Stroke:
    times = {k: round(span[k], 5) for k in ("start_s", "end_s")}
    return Stroke(**times, **{k: span[k] for k in ("lane", "first_token", "last_token", "why")})

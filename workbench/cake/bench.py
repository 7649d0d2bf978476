"""CAKE measured: `workbench bench cake` appends rows to benchmarks/cake.csv. Ten minutes; leave the machine alone.

Both engines at the balance point of two lengths (three interleaved rounds) and far from it, where little is won or
something lost; eviction orders; the simulator's own speed; the fitted costs that the shipped model holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import workbench as wb
from workbench.cake import SYSTEM, model_time
from workbench.cake.policy import Policy
from workbench.cake.result import CakeResult
from workbench.cake.sim import Request, simulate
from workbench.cake.work import THIS_MACHINE, THIS_TOKEN_BYTES

SIZES: dict[str, dict[str, Any]] = {"balance 8k": {"prompt_tokens": 8001}, "balance 2k": {"prompt_tokens": 2001}}
HALF = {"head-last": [True] * 31 + [False] * 31, "head-first": [False] * 31 + [True] * 31}  # of 62 grains


def main() -> list[dict[str, Any]]:
    """Run everything; one row per number. WORKBENCH_BENCH: engines to measure, "embedded vllm" if not set."""
    rows = [*_simulator(), *_eviction()]
    for engine in os.environ.get("WORKBENCH_BENCH", "embedded vllm").split():
        rows += _measured(engine)
    return rows


def _row(case: str, name: str, value: float, badge: str) -> dict[str, Any]:
    print(f"  {case:<40} {name:<28} {value:10.4g}  {badge}")
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}


def _measured(engine: str) -> Iterator[dict[str, Any]]:
    """Three interleaved rounds at the balance point of each size; then links far from it, where little is won."""
    for size, changes in SIZES.items():
        config = SYSTEM.make("small", engine=engine, rounds=3, sweep_points=2, **changes)
        result = wb.run("cake", config)
        assert isinstance(result, CakeResult)
        for name, value in result.summary().items():
            yield _row(f"{engine}, {size}", name, value, result.provenance.badges[name])
        for name in ("step_s", "token_s", "pair_s", "contention"):
            yield _row(f"{engine}, {size}", f"fitted {name}", getattr(result.model, name), "measured")
        yield from _far(f"{engine}, {size}", result)


def _far(case: str, result: CakeResult) -> Iterator[dict[str, Any]]:
    """Both single modes and CAKE at the other links of the run: at their ends CAKE wins nothing or loses."""
    compute_s = result.summary()["compute_only_ttft_s"]
    for link in sorted({row.link_mb_s for row in result.rows if row.throttled} - {result.link_mb_s}):
        at = {row.mode: row.ttft_s for row in result.rows if row.throttled and row.link_mb_s == link}
        for mode, seconds in at.items():
            yield _row(f"{case}, {link:g} MB/s", f"{mode} ttft_s", seconds, "measured")
        best_s = min(compute_s, at["load"])
        yield _row(f"{case}, {link:g} MB/s", "speedup_vs_best_single", best_s / at["cake"], "measured")


def _simulator() -> Iterator[dict[str, Any]]:
    """Seconds of processor time for one prompt, and for a grid of 4 models x 7 lengths x 5 bandwidths."""
    costs = replace(THIS_MACHINE, load_token_s=THIS_TOKEN_BYTES / 17e6)
    began = time.process_time()
    for _ in range(20):
        simulate(Policy(costs), [Request(8001)])
    yield _row("simulator, one prompt of 8,001 tokens", "cpu_s", (time.process_time() - began) / 20, "measured")
    began = time.process_time()
    for scale in (1.0, 2.5, 6.0, 20.0):
        model_time.grid(costs.scaled(compute=scale), [1024 * 2**i for i in range(7)], [0.25, 0.5, 1, 2, 4], 512, 1, 128)
    yield _row("simulator, 4 x 7 x 5 grid, 1k to 64k", "cpu_s", time.process_time() - began, "measured")


def _eviction() -> Iterator[dict[str, Any]]:
    """A store that holds half of an 8k prompt: which half is worth more to a reader from both ends."""
    costs = replace(THIS_MACHINE, load_token_s=THIS_TOKEN_BYTES / 17e6)
    for name, stored in HALF.items():
        seconds = simulate(Policy(costs), [Request(8001, stored=stored)]).ttft_s[0]
        yield _row(f"half the store, {name}", "ttft_s", seconds, "modelled")

"""Modelled times: TTFT over bandwidth, the grid of model, length and bandwidth, the paper's table 3 again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from workbench.cake import paper
from workbench.cake.bounds import Restore, batch_bound, bounds, lower_bound_s, measured_oracle
from workbench.cake.config import CakeConfig
from workbench.cake.costs import Costs, Split, oracle
from workbench.cake.learn import RAW_MB_S
from workbench.cake.policy import Batch, Mode, Policy
from workbench.cake.result import Curve
from workbench.cake.sim import Request, simulate, ttft
from workbench.system import Claim, Event, Note

__all__ = [
    "bounds", "curve", "grid", "lower_bound_s", "measured_oracle", "model_grid", "nearest_claims", "oracle_split",
    "single_s", "table_3",
]  # fmt: skip
CURVE_POINTS = 13
MODES: tuple[Mode, ...] = ("compute", "load", "cake")


def balanced(
    costs: Costs, config: CakeConfig, token_bytes: int, tokens: int, raw_mb_s: float, say: Callable[[Event], None]
) -> tuple[float, Costs, float]:
    """(link MB/s, costs at that link, s a token from the bare disk).

    The link is the config's, or the one on which loading `tokens` takes as long as computing them; a disk that gave
    nothing is believed to be as fast as `learn` believes one that was never read.
    """
    raw_token_s = token_bytes / ((raw_mb_s or RAW_MB_S) * 1e6)
    link = config.link_mb_s
    if link is None:
        whole_s = costs.compute_range_s(0, tokens, config.pass_tokens)
        link = float(f"{tokens * token_bytes / 1e6 / whole_s:.3g}")
        say(Note(f"link set to {link:g} MB/s, where loading everything takes as long as computing everything"))
    load_token_s = max(token_bytes / (link * 1e6) if link else 0.0, raw_token_s)
    return link, replace(costs, load_token_s=load_token_s, load_request_s=config.link_latency_ms / 1e3), raw_token_s


def single_s(costs: Costs, tokens: int, grain: int, step: int, run: int) -> tuple[float, float]:
    """(compute-only, load-only) TTFT in closed form: both end with the tail that no store holds."""
    whole = (tokens - 1) // grain * grain
    tail_s = costs.compute_range_s(whole, tokens - whole, step)
    return costs.compute_range_s(0, whole, step) + tail_s, costs.load_s(whole, run * grain) + tail_s


def oracle_split(costs: Costs, tokens: int, grain: int, step: int, run: int) -> Split:
    """The best split, found by trying every one."""
    grains = (tokens - 1) // grain
    ends = [costs.compute_range_s(0, i * grain, step) for i in range(grains + 1)]
    tail_s = costs.compute_range_s(grains * grain, tokens - grains * grain, step)
    load_s = costs.load_s(run * grain, run * grain) / run
    return oracle(list(np.diff(ends)), [load_s] * grains, grain, tail_s)


def curve(
    costs: Costs,
    token_bytes: int,
    config: CakeConfig,
    step: int,
    run: int,
    link_mb_s: float,
    tick: Callable[[], None] = lambda: None,
) -> Curve:
    """TTFT of the three modes, the oracle and the lower bound over three decades of bandwidth around `link_mb_s`.

    With several requests the mean or the last of them, as config.batch aims, and in the oracle's place the best order
    found. `tick` is called between two simulations and may raise.
    """
    middle = link_mb_s or token_bytes / costs.load_token_s / 1e6
    links = [float(f"{middle * f:.4g}") for f in np.geomspace(1 / 32, 32, CURVE_POINTS)]
    columns: dict[str, list[float]] = {f"{name}_s": [] for name in (*MODES, "oracle", "bound")}
    for link in links:
        at = replace(costs, load_token_s=token_bytes / (link * 1e6))
        for name, seconds in _times(at, config, step, run, tick).items():
            columns[name].append(round(seconds, 5))
    return Curve(link_mb_s=links, **columns)


def _times(costs: Costs, config: CakeConfig, step: int, run: int, tick: Callable[[], None]) -> dict[str, float]:
    """Modelled TTFT by name of a curve."""
    _, best_s, bound_s = limits(costs, config, step, run, tick)
    limit = {"oracle_s": best_s, "bound_s": bound_s}
    if config.requests > 1:
        return limit | {f"{mode}_s": _aimed_s(costs, config, step, run, mode, None, tick) for mode in MODES}
    tokens, grain = config.prompt_tokens, config.grain
    compute_s, load_s = single_s(costs, tokens, grain, step, run)
    tick()
    return limit | {
        "compute_s": compute_s,
        "load_s": load_s,
        "cake_s": ttft(Policy(costs, step, run, hedge=config.hedge), tokens, grain),
    }


def limits(
    costs: Costs,
    config: CakeConfig,
    step: int,
    run: int,
    tick: Callable[[], None] = lambda: None,
    stored: Sequence[Sequence[bool]] | None = None,
) -> tuple[int | None, float, float]:
    """(token of the oracle split, its TTFT, lower bound) with modelled costs.

    Of several requests (`stored`: what the store has of each) the best order found, as the best schedule of all is
    not known, and the bound of any schedule; both of the mean or of the last one, as config.batch aims.
    """
    if config.requests == 1:
        best = oracle_split(costs, config.prompt_tokens, config.grain, step, run)
        return best.token, best.ttft_s, lower_bound_s(costs, config.prompt_tokens, config.grain, step)
    lengths = config.lengths
    restores = [Restore(n, stored[i] if stored else None) for i, n in enumerate(lengths)]
    bound = batch_bound(costs, restores, config.grain, step, run)
    best_s = min(_aimed_s(costs, config, step, run, "cake", batch, tick, stored) for batch in get_args(Batch))
    return None, best_s, bound.makespan_s if config.batch == "makespan" else bound.mean_ttft_s


def _aimed_s(
    costs: Costs,
    config: CakeConfig,
    step: int,
    run: int,
    mode: Mode,
    batch: Batch | None,
    tick: Callable[[], None],
    stored: Sequence[Sequence[bool]] | None = None,
) -> float:
    tick()
    policy = Policy(costs, step, run, mode, batch or config.batch, config.hedge)
    requests = [Request(n, stored=stored[i] if stored else None) for i, n in enumerate(config.lengths)]
    done = simulate(policy, requests, config.grain)
    return done.makespan_s if config.batch == "makespan" else sum(done.ttft_s) / len(done.ttft_s)


def table_3() -> Iterator[tuple[paper.Cell, float, float]]:
    """Each cell of the paper's table 3 with our simulated (over load-only, over compute-only)."""
    for cell in paper.cells():
        costs = paper.costs_at(cell.hardware, cell.share, cell.gbps)
        compute_s, load_s = single_s(costs, paper.TOKENS, paper.GRAIN, paper.STEP, 1)
        cake_s = ttft(Policy(costs, paper.STEP, 1), paper.TOKENS, paper.GRAIN)
        yield cell, load_s / cake_s, compute_s / cake_s


def nearest_claims(compute_s: float, load_s: float, cake_s: float) -> list[Claim]:
    """A measured run beside the cell of table 3 where loading and computing stood in the same proportion."""
    quotient = load_s / compute_s
    cell = min(paper.cells(), key=lambda c: abs(np.log(c.over_load / c.over_compute / quotient)))
    note = (
        f"the paper's {cell.hardware} at {cell.share:g} % and {cell.gbps} Gbit/s, whose load-only takes "
        f"{cell.over_load / cell.over_compute:.2f} times its compute-only; here {quotient:.2f} times"
    )
    pairs = (("load-only", cell.over_load, load_s / cake_s), ("compute-only", cell.over_compute, compute_s / cake_s))
    return [
        Claim(
            what=f"speed-up over {over} at a like balance",
            paper=theirs,
            ours=round(ours, 3),
            unit="x",
            badge="measured",
            source="Table 3 (LongAlpaca-13B, 16k tokens)",
            note=note,
        )
        for over, theirs, ours in pairs
    ]


def grid(
    costs: Costs, lengths: Sequence[int], factors: Sequence[float], step: int, run: int, grain: int
) -> list[list[float]]:
    """Speed-up over the better single resource, [length][bandwidth factor]."""
    table = []
    for tokens in lengths:
        row = []
        for factor in factors:
            at = costs.scaled(load=1 / factor)
            row.append(min(single_s(at, tokens, grain, step, run)) / ttft(Policy(at, step, run), tokens, grain))
        table.append(row)
    return table


def model_grid(
    hardware: str, share: float, models: Sequence[str], lengths: Sequence[int], links_mb_s: Sequence[float],
    step: int = paper.STEP, run: int = 1, grain: int = paper.GRAIN,
) -> dict[str, list[list[float]]]:  # fmt: skip
    """The grid of each of the paper's models on one of its machines: model -> [length][link]."""
    factors = [link * 8 / 1e3 for link in links_mb_s]  # of 1 Gbit/s
    return {m: grid(paper.calibrated(hardware, share, m), lengths, factors, step, run, grain) for m in models}

"""Modelled times: TTFT over bandwidth, the grid of hardware, length and bandwidth, the paper's table again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from workbench.cake import paper
from workbench.cake.config import CakeConfig
from workbench.cake.costs import Costs, Split, oracle
from workbench.cake.costs import lower_bound_s as ideal_s
from workbench.cake.policy import Mode, Policy
from workbench.cake.result import Curve
from workbench.cake.sim import Request, simulate, ttft
from workbench.system import Claim

CURVE_POINTS = 13
MODES: tuple[Mode, ...] = ("compute", "load", "cake")


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


def measured_oracle(
    costs: Costs,
    passes: Sequence[Sequence[tuple[int, int, float]]],
    reads: Sequence[tuple[int, float]],
    tokens: int,
    grain: int,
) -> Split:
    """The best split of measured times: compute-only's passes (start, tokens, s) per round, load-only's (tokens, s).

    Medians over rounds; a pass is shared out over its grains in the proportion of the fitted costs.
    """
    grains = (tokens - 1) // grain
    compute, tails = np.full((len(passes), grains), np.nan), []
    for row, of_round in enumerate(passes):
        for start, length, seconds in of_round:
            inside = min(length, grains * grain - start)
            parts = np.array([costs.compute_s(start + i, grain) for i in range(0, inside, grain)])
            rest_s = costs.compute_s(grains * grain, start + length - grains * grain) if inside < length else 0.0
            spent = seconds * np.append(parts, rest_s) / (parts.sum() + rest_s)
            compute[row, start // grain : start // grain + len(parts)] = spent[:-1]
            if inside < length:
                tails.append(float(spent[-1]))
    per_grain = median(seconds * grain / length for length, seconds in reads)
    return oracle(list(np.nanmedian(compute, axis=0)), [per_grain] * grains, grain, median(tails))


def lower_bound_s(costs: Costs, tokens: int, grain: int, step: int) -> float:
    """TTFT that no split can beat: the ideal cut of the storable tokens, then the tail."""
    whole = (tokens - 1) // grain * grain
    return ideal_s(costs, whole, step) + costs.compute_s(whole, tokens - whole)


def curve(costs: Costs, token_bytes: int, config: CakeConfig, step: int, run: int, link_mb_s: float) -> Curve:
    """TTFT of the three modes and the oracle over three decades of bandwidth around `link_mb_s`.

    With several requests the mean over them, and no oracle: the best schedule of many is not a split of one.
    """
    middle = link_mb_s or token_bytes / costs.load_token_s / 1e6
    links = [float(f"{middle * f:.4g}") for f in np.geomspace(1 / 32, 32, CURVE_POINTS)]
    rows: list[tuple[float, ...]] = []
    for link in links:
        at = replace(costs, load_token_s=token_bytes / (link * 1e6))
        if config.requests > 1:
            rows.append(tuple(_mean_s(at, config, step, run, mode) for mode in MODES))
            continue
        single = single_s(at, config.prompt_tokens, config.grain, step, run)
        cake = ttft(Policy(at, step, run, hedge=config.hedge), config.prompt_tokens, config.grain)
        rows.append((*single, cake, oracle_split(at, config.prompt_tokens, config.grain, step, run).ttft_s))
    compute, load, cake_s, *best = ([round(v, 5) for v in column] for column in zip(*rows, strict=True))
    return Curve(link_mb_s=links, compute_s=compute, load_s=load, cake_s=cake_s, oracle_s=best[0] if best else [])


def _mean_s(costs: Costs, config: CakeConfig, step: int, run: int, mode: Mode) -> float:
    policy = Policy(costs, step, run, mode, config.batch, config.hedge)
    times = simulate(policy, [Request(n) for n in config.lengths], config.grain).ttft_s
    return sum(times) / len(times)


def table_3() -> Iterator[tuple[paper.Cell, float, float]]:
    """Each cell of the paper's table 3 with our simulated (over load-only, over compute-only)."""
    for cell in paper.cells():
        costs = paper.costs_at(cell.hardware, cell.share, cell.gbps)
        compute_s, load_s = single_s(costs, paper.TOKENS, paper.GRAIN, paper.STEP, 1)
        cake_s = ttft(Policy(costs, paper.STEP, 1), paper.TOKENS, paper.GRAIN)
        yield cell, load_s / cake_s, compute_s / cake_s


def paper_claims() -> list[Claim]:
    """Table 3 by rows: geometric means over the five bandwidths, with the error of every cell in the note."""
    found = list(table_3())
    claims = []
    for hardware, share in paper.TABLE_3:
        row = [f for f in found if (f[0].hardware, f[0].share) == (hardware, share)]
        theirs = {"load-only": [c.over_load for c, *_ in row], "compute-only": [c.over_compute for c, *_ in row]}
        mine = {"load-only": [load for _, load, _ in row], "compute-only": [compute for *_, compute in row]}
        for over, told in theirs.items():
            errors = [100 * (ours / paper_s - 1) for ours, paper_s in zip(mine[over], told, strict=True)]
            cells = ", ".join(f"{g}: {e:+.0f} %" for g, e in zip(paper.GBPS, errors, strict=True))
            claims.append(
                Claim(
                    what=f"speed-up over {over}, {hardware} at {share:g} %, mean of 7 to 100 Gbit/s",
                    paper=round(_geomean(told), 3),
                    ours=round(_geomean(mine[over]), 3),
                    unit="x",
                    badge="modelled",
                    source="Table 3 (LongAlpaca-13B, 16k tokens)",
                    note=f"error by Gbit/s: {cells}",
                )
            )
    return claims


def _geomean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


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


def grid(costs: Costs, lengths: list[int], factors: list[float], step: int, run: int, grain: int) -> list[list[float]]:
    """Speed-up over the better single resource, [length][bandwidth factor]."""
    table = []
    for tokens in lengths:
        row = []
        for factor in factors:
            at = costs.scaled(load=1 / factor)
            row.append(min(single_s(at, tokens, grain, step, run)) / ttft(Policy(at, step, run), tokens, grain))
        table.append(row)
    return table

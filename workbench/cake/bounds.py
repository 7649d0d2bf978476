"""What no schedule can beat: the oracle for stores with gaps, a bound for several requests, both from measured times.

Stated for a machine that computes one pass and reads one grain at a time; that a load slows the compute beside it
(`contention`) is left out, so that everything here is at most what a real schedule takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.cake.costs import Costs, Split, oracle
from workbench.cake.costs import lower_bound_s as ideal_s

MOST_REQUESTS = 12  # batch_bound looks at every subset
Pass = tuple[int, int, float]  # start, tokens, seconds


@dataclass(frozen=True)
class Restore:
    """One request: `stored[i]` says whether grain i is in the store; all whole grains where it is None."""

    tokens: int
    stored: Sequence[bool] | None = None


@dataclass(frozen=True)
class BatchBound:
    """No order of several requests does better."""

    mean_ttft_s: float
    makespan_s: float


def oracle_with_gaps(
    compute_s: Sequence[float], load_s: float, stored: Sequence[bool], grain: int, tail_s: float
) -> Split:
    """The best schedule of one prompt of whose grains only `stored` ones can be loaded, by dynamic programming.

    compute_s[i]: seconds of grain i; load_s: of any; tail_s: of what is computed in any case. Grains are computed in
    their order, each after everything before it is there; loads run front to back, which serves the waiting compute
    soonest. Of each unbroken run of stored grains a front part is computed, the rest loaded; missing ones are computed.

        ends[k] = earliest end of compute over the grains so far of which k are loaded
        computed: max(ends[k], k * load_s) + compute_s[i]          loaded: ends[k - 1]

    With nothing missing this is `costs.oracle`. The split's token is the first loaded one (the end where none is).
    """
    n = len(compute_s)
    arrived = np.arange(n + 1) * load_s
    none = np.full(n + 1, np.inf)
    front: NDArray[Any] = none.copy()
    back: NDArray[Any] = none.copy()  # the run's last grain was computed | loaded
    front[0] = 0.0
    first_front: NDArray[Any] = np.full(n + 1, n)
    first_back: NDArray[Any] = np.full(n + 1, n)  # the first loaded grain on the way there
    for i, seconds in enumerate(compute_s):
        after = back < front
        either, first = np.where(after, back, front), np.where(after, first_back, first_front)
        there = bool(stored[i]) if i < len(stored) else False
        before, before_first = (front, first_front) if there else (either, first)
        front, first_front = np.maximum(before, arrived) + seconds, before_first
        if there:
            back = np.append(np.inf, either[:-1])
            first_back = np.append(n, np.minimum(first[:-1], i))
        else:
            back, first_back = none.copy(), np.full(n + 1, n)
    ends = np.minimum(np.maximum(front, arrived), np.maximum(back, arrived))
    best = int(ends.argmin())
    token = int((first_back if back[best] < front[best] else first_front)[best]) * grain
    return Split(token, float(ends[best]) + tail_s)


def grain_costs(
    costs: Costs, tokens: int, grain: int, step: int, stored: Sequence[bool] | None = None
) -> tuple[list[float], float]:
    """(seconds to compute each storable grain, seconds of the tail); a pass's fixed cost is shared by its tokens.

    A tail after a stored grain is a pass of its own: its loads come first. After a missing one it shares a pass.
    """
    grains = (tokens - 1) // grain
    tail = tokens - grains * grain
    fixed_s = costs.step_s / step  # per token
    per_grain = [costs.compute_s(i * grain, grain) - costs.step_s + fixed_s * grain for i in range(grains)]
    tail_s = costs.compute_range_s(grains * grain, tail, step)
    alone = stored is None or bool(stored[grains - 1 : grains] and stored[grains - 1])
    return per_grain, tail_s if alone else tail_s - costs.step_s + fixed_s * tail


def batch_bound(costs: Costs, requests: Sequence[Restore], grain: int, step: int, run: int = 1) -> BatchBound:
    """Bounds on the mean TTFT and the makespan of requests that come together. ValueError above MOST_REQUESTS.

    Makespan of a set: all its grains in one pool, the cheapest computed and the rest loaded, cut where both sides
    end together, in fractions of a grain; tails and missing grains are computed in any case, and after the last load
    some tail is left. Mean: the k-th request to be ready is not ready before the cheapest set of k could be.
    """
    if not 0 < len(requests) <= MOST_REQUESTS:
        raise ValueError(f"requests: a bound is known for 1 to {MOST_REQUESTS}, not {len(requests)}")
    load_s = costs.load_s(run * grain, run * grain) / run
    parts = [_work(costs, request, grain, step) for request in requests]
    least = [
        min(_pooled_s([parts[i] for i in chosen], load_s) for chosen in combinations(range(len(parts)), size))
        for size in range(1, len(parts) + 1)
    ]
    return BatchBound(sum(least) / len(least), least[-1])


def _work(costs: Costs, request: Restore, grain: int, step: int) -> tuple[list[float], float, float]:
    """(compute seconds of the grains that may be loaded, of everything else, of the tail)."""
    per_grain, tail_s = grain_costs(costs, request.tokens, grain, step, request.stored)
    stored = [True] * len(per_grain) if request.stored is None else [*request.stored, *[False] * len(per_grain)]
    free = [s for s, there in zip(per_grain, stored, strict=False) if there]
    return free, sum(per_grain) - sum(free) + tail_s, tail_s


def _pooled_s(parts: Sequence[tuple[list[float], float, float]], load_s: float) -> float:
    """Makespan bound of a set of requests."""
    free = np.sort(np.concatenate([np.array(f) for f, *_ in parts]))
    forced_s = sum(s for _, s, _ in parts)
    after_s = min((tail for f, _, tail in parts if f), default=0.0)
    compute = forced_s + np.append(0.0, np.cumsum(free))  # [number computed]
    load = (len(free) - np.arange(len(free) + 1)) * load_s + after_s
    ahead = compute - load  # rises
    at = int(np.searchsorted(ahead, 0.0))
    if at == 0 or at > len(free):
        return float(compute[min(at, len(free))])
    share = -ahead[at - 1] / (ahead[at] - ahead[at - 1])
    return float(compute[at - 1] + share * (compute[at] - compute[at - 1]))


def lower_bound_s(costs: Costs, tokens: int, grain: int, step: int) -> float:
    """TTFT of one fully stored prompt that no split can beat: the ideal cut of the storable tokens, then the tail."""
    whole = (tokens - 1) // grain * grain
    return ideal_s(costs, whole, step) + costs.compute_s(whole, tokens - whole)


def contention(costs: Costs, beside: Sequence[Pass]) -> float:
    """How much slower the passes `beside` a load ran than the fitted curve says; at least 1."""
    return max([1.0, median(s / costs.compute_s(start, n) for start, n, s in beside)] if beside else [1.0])


def measured_grains(
    costs: Costs, passes: Sequence[Sequence[Pass]], reads: Sequence[tuple[int, float]], tokens: int, grain: int
) -> tuple[list[float], float, float]:
    """(seconds to compute each grain, to load one, of the tail) of compute-only's passes and load-only's reads.

    passes: a list per round; reads: (tokens, seconds). Medians over rounds; a pass is shared out over its grains in
    the proportion of the fitted costs.
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
    return list(np.nanmedian(compute, axis=0)), per_grain, median(tails)


def measured_oracle(
    costs: Costs,
    passes: Sequence[Sequence[Pass]],
    reads: Sequence[tuple[int, float]],
    tokens: int,
    grain: int,
    stored: Sequence[bool] | None = None,
) -> Split:
    """The best split of measured times (see measured_grains); with `stored`, of a store with gaps."""
    compute, load_s, tail_s = measured_grains(costs, passes, reads, tokens, grain)
    if stored is None or all(stored[: len(compute)]):
        return oracle(compute, [load_s] * len(compute), grain, tail_s)
    return oracle_with_gaps(compute, load_s, stored, grain, tail_s)


def bounds(
    costs: Costs,
    passes: Sequence[Sequence[Pass]],
    reads: Sequence[tuple[int, float]],
    tokens: int,
    grain: int,
    step: int,
    stored: Sequence[bool] | None = None,
) -> tuple[Split, float]:
    """(oracle of the measured times, lower bound of the fitted costs, never above the oracle) of one prompt."""
    best = measured_oracle(costs, passes, reads, tokens, grain, stored)
    if stored is None or all(stored[: (tokens - 1) // grain]):
        return best, min(best.ttft_s, lower_bound_s(costs, tokens, grain, step))
    return best, min(best.ttft_s, batch_bound(costs, [Restore(tokens, stored)], grain, step).makespan_s)

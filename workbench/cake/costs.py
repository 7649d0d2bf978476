"""What a chunk costs: to compute, growing with the tokens before it, and to load, the same wherever it lies.

    compute(start, n) = scale * sum over steps of (step_s + token_s * n + pair_s * n * (start + n / 2))
    load(n)           = n * token_bytes / bandwidth + request_s * ceil(n / run)

CAKE, section 3 (the two cost curves of its figure 4). Times in seconds, sizes in tokens and bytes.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Costs:
    """Cost model of one model on one machine and one storage tier.

    `contention` is the factor by which computing slows while a load runs beside it (1 = not at all).
    """

    step_s: float  # fixed cost of one forward pass
    token_s: float  # per token of the pass: the linear layers
    pair_s: float  # per (token, earlier token) pair: attention
    load_token_s: float  # per token loaded: bytes over bandwidth
    load_request_s: float = 0.0  # per read, whatever its size
    contention: float = 1.0

    def compute_s(self, start: int, tokens: int) -> float:
        """One forward pass over positions [start, start + tokens)."""
        if tokens <= 0:
            return 0.0
        return self.step_s + self.token_s * tokens + self.pair_s * tokens * (start + tokens / 2)

    def compute_range_s(self, start: int, tokens: int, step: int) -> float:
        """The same range in passes of `step` tokens. Closed form: the pair terms add up whatever the steps."""
        if tokens <= 0:
            return 0.0
        passes = -(-tokens // step)
        return passes * self.step_s + self.token_s * tokens + self.pair_s * tokens * (start + tokens / 2)

    def load_s(self, tokens: int, run: int) -> float:
        """Load `tokens` tokens, `run` of them per read."""
        if tokens <= 0:
            return 0.0
        return tokens * self.load_token_s + -(-tokens // run) * self.load_request_s

    def scaled(self, compute: float = 1.0, load: float = 1.0) -> Costs:
        """The same machine with computing `compute` times and loading `load` times as dear."""
        return replace(
            self,
            step_s=self.step_s * compute,
            token_s=self.token_s * compute,
            pair_s=self.pair_s * compute,
            load_token_s=self.load_token_s * load,
            load_request_s=self.load_request_s * load,
        )


def fit_compute(passes: Sequence[tuple[int, int, float]]) -> tuple[float, float, float]:
    """Least squares of (step_s, token_s, pair_s), none negative, on measured (start, tokens, seconds) passes.

    Passes weigh by 1 / seconds, so that short ones count too. ValueError below three passes of one size or two.
    """
    from scipy.optimize import nnls

    if len(passes) < 2:
        raise ValueError("fitting the compute curve needs at least two measured passes")
    rows = np.array([[1.0, n, n * (start + n / 2)] for start, n, _ in passes])
    seconds = np.array([s for *_, s in passes])
    scale = rows.max(axis=0)
    found, _ = nnls(rows / scale / seconds[:, None], np.ones(len(seconds)))
    step_s, token_s, pair_s = (float(v) for v in found / scale)
    return step_s, token_s, pair_s


def balanced_split(costs: Costs, start: int, tokens: int, grain: int, step: int, run: int) -> int:
    """How many of `tokens` tokens from `start`, a multiple of `grain`, to compute so that both sides end together.

    Minimises max(compute the front, load the rest); 0 means that loading alone is best, `tokens` computing alone.
    Both terms are monotone in the split, so the best is beside their crossing: bisection, then the two neighbours.
    """
    grains = tokens // grain

    def late_s(front: int) -> float:
        both = 0 < front < grains
        slow = costs.contention if both else 1.0
        compute_s = costs.compute_range_s(start, front * grain, step) * slow
        return max(compute_s, costs.load_s((grains - front) * grain, run))

    cross = bisect.bisect_left(
        range(grains + 1),
        0.0,
        key=lambda m: costs.compute_range_s(start, m * grain, step) - costs.load_s((grains - m) * grain, run),
    )
    candidates = {0, grains, cross, max(0, cross - 1), min(grains, cross + 1)}
    return grain * min(sorted(candidates), key=lambda m: late_s(min(m, grains)))


@dataclass(frozen=True)
class Split:
    """One way to divide a prompt: compute [0, `token`), load the rest."""

    token: int
    ttft_s: float


def oracle(compute_s: Sequence[float], load_s: Sequence[float], grain: int, tail_s: float) -> Split:
    """The best split there is, by trying every one, from per-grain times of the two single modes.

    compute_s[i], load_s[i]: seconds of grain i alone; tail_s: the tokens that must be computed in any case.
    """
    done = np.concatenate([[0.0], np.cumsum(compute_s)])
    left = np.concatenate([np.cumsum(np.asarray(load_s)[::-1])[::-1], [0.0]])
    ends = np.maximum(done, left)
    best = int(ends.argmin())
    return Split(best * grain, float(ends[best]) + tail_s)


def linear_bound_s(compute_only_s: float, load_only_s: float) -> float:
    """Tc * Tl / (Tc + Tl): the best that a split could do if every token cost the same on each side."""
    total = compute_only_s + load_only_s
    return compute_only_s * load_only_s / total if total > 0 else 0.0

"""What a chunk costs: to compute, growing with the tokens before it, and to load, the same wherever it lies.

    compute(start, n) = scale * sum over steps of (step_s + token_s * n + pair_s * n * (start + n / 2))
    load(n)           = n * token_bytes / bandwidth + request_s * (number of reads)

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

    def load_s(self, tokens: int, read: int) -> float:
        """Load `tokens` tokens, `read` of them per read."""
        if tokens <= 0:
            return 0.0
        return tokens * self.load_token_s + -(-tokens // read) * self.load_request_s

    def beside_s(self, compute_s: float, load_s: float) -> float:
        """What `compute_s` seconds of computing take while loads run beside them for `load_s` seconds."""
        if self.contention == 1.0:
            return compute_s
        return min(compute_s * self.contention, compute_s + load_s * (1 - 1 / self.contention))

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

    Passes weigh by 1 / seconds, so that short ones count too. ValueError below two passes.
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


def overlapped_s(costs: Costs, compute_s: float, load_s: float) -> float:
    """End of `compute_s` of computing and `load_s` of loading begun together, computing slowed while a load runs."""
    return max(load_s, costs.beside_s(compute_s, load_s))


def balanced_split(
    costs: Costs,
    start: int,
    tokens: int,
    grain: int,
    step: int,
    run: int,
    compute_ahead_s: float = 0.0,
    load_ahead_s: float = 0.0,
) -> int:
    """How many of `tokens` tokens from `start`, a multiple of `grain`, to compute so that both sides end soonest.

    0 means that loading alone is best, `tokens` computing alone. What is under way on a side counts as its first
    work. The end falls with the split until the sides cross; beyond, it rises unless contention makes the loads of
    the rest dearer than computing it: so the best is beside the crossing, where one grain costs as much as the
    slowdown by its load, or at an end.
    """
    grains = tokens // grain

    def compute_s(front: int) -> float:
        return compute_ahead_s + costs.compute_range_s(start, front * grain, step)

    def load_s(front: int) -> float:
        return load_ahead_s + costs.load_s((grains - front) * grain, run * grain)

    def end_s(front: int) -> float:
        if front == grains and load_ahead_s == 0:
            return compute_s(front)
        if front == 0 and compute_ahead_s == 0:
            return load_s(front)
        return overlapped_s(costs, compute_s(front), load_s(front))

    cross = bisect.bisect_left(range(grains + 1), 0.0, key=lambda m: compute_s(m) * costs.contention - load_s(m))
    candidates = {0, grains, cross - 1, cross, cross + 1}
    if costs.contention > 1 and costs.pair_s > 0:
        loss = costs.load_s(run * grain, run * grain) / run * (1 - 1 / costs.contention)
        even = (loss / grain - costs.token_s) / costs.pair_s - start  # position where a grain costs its load's slowdown
        if 0 <= even <= tokens:
            candidates |= {int(even) // grain, int(even) // grain + 1}
    return grain * min(sorted(m for m in candidates if 0 <= m <= grains), key=end_s)


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


def lower_bound_s(costs: Costs, tokens: int, step: int) -> float:
    """No split of `tokens` tokens can end sooner: cut anywhere, no rounding to steps or grains, no fixed read cost.

    With costs that did not grow with the position this would be Tc * Tl / (Tc + Tl), the bound that CacheFlow
    (arXiv 2604.25080) gives; front tokens are cheaper than the mean, so the true one is lower.
    """

    def compute_s(front: float) -> float:
        return (costs.step_s / step + costs.token_s) * front + costs.pair_s * front * front / 2

    low, high = 0.0, float(tokens)
    for _ in range(60):  # compute_s rises, loading the rest falls: bisection on their crossing
        middle = (low + high) / 2
        if compute_s(middle) < (tokens - middle) * costs.load_token_s:
            low = middle
        else:
            high = middle
    return compute_s(low)

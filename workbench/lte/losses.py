"""The two losses that make routers sparse and sure of themselves (LTE, section 4.2), and what keeps them tame.

    L_eff = mean over layers, experts and tokens of G^2
    L_sep = mean over layers, experts and tokens of 1 / ((G - tau)^2 + eps)       published: eps = 0
    L     = L_task + eta L_eff + lambda(t) L_sep                                  published: lambda = 0.5 from step 0

`keep` marks the tokens that count: padding is taken out before anything is computed of it.

As published L_sep is infinite at the threshold, and a barrier there: experts that start above it never come down.
`SeparabilityOptions` names the ways round that; `PUBLISHED` turns them off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.lte.routers import TAU


@dataclass(frozen=True)
class SeparabilityOptions:
    """How L_sep enters. `delay` and `ramp` are shares of stage 1."""

    weight: float = 0.02  # lambda
    eps: float = 0.01  # caps a term at 1 / eps
    delay: float = 0.5  # lambda is 0 before
    ramp: float = 0.2  # then grows to `weight` over so much

    def at(self, done: float) -> float:
        """Lambda when the share `done` of stage 1 is over."""
        if done < self.delay:
            return 0.0
        if self.ramp <= 0:
            return self.weight
        return self.weight * min(1.0, (done - self.delay) / self.ramp)


PUBLISHED = SeparabilityOptions(weight=0.5, eps=0.0, delay=0.0, ramp=0.0)


def efficiency(gates: Sequence[Tensor], keep: Tensor) -> Tensor:
    """L_eff of each layer, [layers]: the mean of G^2 over the tokens that `keep` marks. gates: [..., experts] each."""
    return torch.stack([_mean(g[keep].square()) for g in gates])


def separability(gates: Sequence[Tensor], keep: Tensor, eps: float, tau: float = TAU) -> Tensor:
    """L_sep, a scalar: the mean of 1 / ((G - tau)^2 + eps) over the tokens that `keep` marks."""
    return torch.stack([_mean(1 / ((g[keep] - tau).square() + eps)) for g in gates]).mean()


def hard_sparsity(gates: Sequence[Tensor], keep: Tensor, tau: float = TAU) -> Tensor:
    """Share of experts that do not run, [layers], over the tokens that `keep` marks; no gradient."""
    return torch.stack([_mean((g.detach()[keep] <= tau).float()) for g in gates])


def _mean(values: Tensor) -> Tensor:
    """Mean over tokens and experts; 0 of no tokens."""
    return values.sum() / max(1, values.numel())

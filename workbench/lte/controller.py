"""Finds eta, the weight of L_eff, so that a requested sparsity is reached: nobody knows eta beforehand.

    eta <- eta * exp(gain * (goal(t) - sparsity))       once a step; goal(t) rises to the target

That is `steer="eta"`. With "bias" eta stays, and the routers' biases are moved after each step of stage 1 as `hold`
moves them in stage 2: the sparsity follows the goal closely, where eta lags and overshoots.

One eta for the whole model (each layer finds its own sparsity), or one a layer (each layer is held to the target).
What remains at the end of stage 1 is closed by `shift`: the one change of the routers' biases that gives the target
on given gates. In stage 2 the model goes on learning under frozen routers, so their inputs drift and the sparsity
with them: `hold` moves the biases against that, and a last `shift` ends it. All of this is ours; the paper tries
values of eta by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class ControllerOptions:
    """`rise`: share of stage 1 after which the goal is the target. `memory`: of the running mean of the sparsity."""

    scope: Literal["global", "layer"] = "global"
    steer: Literal["eta", "bias"] = "eta"
    eta: float = 1.0
    gain: float = 0.2
    rise: float = 0.5
    memory: float = 0.8
    eta_min: float = 1e-3
    eta_max: float = 300.0
    start: float = 0.0  # the goal when stage 1 begins
    hold: float = 0.5  # how far biases move a step, in logits, for each 1.0 off; 0: routers are frozen in stage 2


class Controller:
    """Holds eta [layers] and steers it toward `target`, the share of experts that shall not run."""

    def __init__(self, target: float, layers: int, options: ControllerOptions = ControllerOptions()) -> None:
        if not 0 < target < 1:
            raise ValueError(f"the target sparsity lies between 0 and 1, not {target}")
        self.target, self.options = target, options
        self.eta = torch.full((layers,), float(options.eta))
        self.seen = torch.zeros(layers)
        self.steps = 0

    def goal(self, done: float) -> float:
        """The sparsity asked for when the share `done` of stage 1 is over."""
        share = min(1.0, done / self.options.rise) if self.options.rise > 0 else 1.0
        return self.options.start + (self.target - self.options.start) * share

    def update(self, sparsity: Tensor, done: float) -> None:
        """Take in the hard sparsity [layers] of a step and move eta."""
        memory = self.options.memory if self.steps else 0.0
        self.seen = memory * self.seen + (1 - memory) * sparsity.detach().cpu()
        self.steps += 1
        error = self.goal(done) - self.seen
        if self.options.scope == "global":
            error = error.mean().expand_as(error)
        self.eta = (self.eta * torch.exp(self.options.gain * error)).clamp(self.options.eta_min, self.options.eta_max)

    def hold(self, sparsity: Tensor, done: float = 1.0) -> Tensor:
        """What to add to each layer's router bias, [layers], after a step with `sparsity` [layers].

        `done`: share of stage 1 that is over; 1 in stage 2.
        """
        error = sparsity.detach().cpu() - self.goal(done)
        if self.options.scope == "global":
            error = error.mean().expand_as(error)
        return self.options.hold * error

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on exactly."""
        return {"eta": self.eta.clone(), "seen": self.seen.clone(), "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.eta, self.seen, self.steps = state["eta"].clone(), state["seen"].clone(), int(state["steps"])


def shift(logits: Sequence[Tensor], target: float, scope: str = "global") -> Tensor:
    """What to add to each layer's router bias, [layers], so that the share `target` of the logits is <= 0.

    logits: [tokens, experts] each. Exact on the given tokens up to ties: a quantile, of all layers together or of each.
    """
    flat = torch.stack([layer.float().flatten() for layer in logits])  # [layers, tokens * experts]
    if scope == "layer":
        return -_quantile(flat, target)
    return -_quantile(flat.flatten().unsqueeze(0), target).expand(len(logits)).clone()


def _quantile(rows: Tensor, share: float) -> Tensor:
    """Of each row the value that `share` of its entries do not exceed; torch.quantile takes no long rows."""
    ordered = rows.sort(dim=1).values
    return ordered[:, min(rows.shape[1] - 1, max(0, round(share * rows.shape[1]) - 1))]

"""After stage 2, ours: rounds of steps at a constant rate, on routers fitted anew, each ending with its mean weights.

Stage 2 freezes the routers while the model learns to live with them, so that by its end they choose by what the model
was. A round begins with what experts are worth to the model now (start.py), and ends with the mean of the weights of
its steps, which a falling rate would come to more slowly (stochastic weight averaging: Izmailov et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Mean:
    """The running mean of parameters, in float32."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """One more step's."""
        self.count += 1
        for name, p in parameters.items():
            if self.count == 1:
                self.values[name] = p.detach().float().clone()
            else:
                self.values[name] += (p.detach().float() - self.values[name]) / self.count

    def take(self, parameters: Mapping[str, nn.Parameter], write: Callable[[nn.Parameter, Tensor], None]) -> None:
        """Set the parameters to the mean, and begin anew. Nothing happens where nothing was added."""
        for name, value in self.values.items():
            write(parameters[name], value.to(parameters[name].dtype))
        self.values, self.count = {}, 0

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"values": self.values, "count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` said."""
        self.values, self.count = dict(state["values"]), int(state["count"])

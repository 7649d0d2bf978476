"""The definition: a gated MLP of which each row uses some experts of 32 neurons, in plain torch.

    y[r] = sum over experts e with active[r, e] of  down[:, e] @ (silu(gate[e] @ x[r]) * (up[e] @ x[r]))

bfloat16: x, the weights and the activations are rounded to bfloat16, every sum is in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

NEURONS = 32


def sparse_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, grouping: Tensor, active: Tensor) -> Tensor:
    """MLP of x [n, hidden]: gate, up [inner, hidden]; down [hidden, inner]; grouping [e, 32]; active [n, e].

    Returns [n, hidden] float32. The weights' dtype decides what is rounded.
    """

    def rounded(t: Tensor) -> Tensor:
        return t.to(gate.dtype).double()

    out = torch.zeros(x.shape[0], x.shape[1], dtype=torch.float64)
    for row in range(x.shape[0]):
        for expert in torch.nonzero(active[row]).flatten().tolist():
            own = grouping[expert].long()
            h = fn.silu(rounded(gate[own]) @ rounded(x[row])) * (rounded(up[own]) @ rounded(x[row]))
            out[row] += rounded(down[:, own]) @ rounded(h)
    return out.float()

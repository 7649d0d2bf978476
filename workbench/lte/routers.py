"""The routers of LTE (section 4.2): one linear layer and a sigmoid say how much a token needs each expert.

    G(x) = sigmoid(W x + b)    [tokens, experts]; an expert runs when G > tau, with tau = 0.5

The paper has no bias b. It is ours: at b = 0 a fresh router starts on the threshold and halves the FFN's output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TAU = 0.5


class Router(nn.Module):
    """G(x) of x [..., hidden]: [..., experts] in float32, whatever the dtype of x."""

    def __init__(self, hidden: int, experts: int, bias: float = 1.0, spread: float = 0.02, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(experts, hidden, generator=draw) * spread)
        self.bias = nn.Parameter(torch.full((experts,), float(bias)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """W x + b in float32."""
        return nn.functional.linear(x.float(), self.weight.float(), self.bias.float())


class StraightThrough(torch.autograd.Function):
    """Forward: 1 where G > tau, else 0, exactly. Backward: the gradient of G itself."""

    @staticmethod
    def forward(ctx: object, gates: Tensor, tau: float) -> Tensor:  # noqa: ARG004  autograd's signature
        return (gates > tau).to(gates.dtype)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad, None


def hard(gates: Tensor, tau: float = TAU) -> Tensor:
    """1.0 for the experts that run, 0.0 for the others; no gradient."""
    return (gates.detach() > tau).to(gates.dtype)


def warm_start(fits: Sequence[tuple[Router, Tensor, Tensor]], keep: float, ridge: float = 1e-2) -> None:
    """Set routers from activations: each by ridge regression of log importance on its inputs, one threshold for all.

    fits: a router, x [tokens, hidden], importance [tokens, experts]; importances of several layers must be comparable.
    The share `keep` of all (token, expert) pairs lies above the threshold. In the manner of Deja Vu.
    """
    targets = [importance.float().clamp_min(1e-9).log() for _, _, importance in fits]
    every = torch.cat([t.flatten()[:: max(1, t.numel() // 100_000)] for t in targets])
    centre, scale = every.mean(), every.std().clamp_min(1e-6)
    solutions, logits = [], []
    for (_, x, _), target in zip(fits, targets):
        inputs = torch.cat([x.float(), torch.ones(len(x), 1)], dim=1)
        gram = inputs.T @ inputs / len(x)
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram))
        solved = torch.linalg.solve(gram, inputs.T @ ((target - centre) / scale) / len(x))  # [hidden + 1, experts]
        solutions.append(solved)
        logits.append((inputs @ solved).flatten())
    flat = torch.cat(logits)
    cut = torch.quantile(flat[:: max(1, len(flat) // 1_000_000)], 1 - keep)
    with torch.no_grad():
        for (router, _, _), solved in zip(fits, solutions):
            router.weight.copy_(solved[:-1].T)
            router.bias.copy_(solved[-1] - cut)

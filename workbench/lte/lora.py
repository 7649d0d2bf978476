"""Low-rank adapters, so that a tuned model is a file of a few megabytes: y = W x + (alpha / rank) B A x.

W stays as it is; A [rank, in] and B [out, rank] are float32 and computed in the dtype of x. B starts at zero, so a
fresh adapter changes nothing. (Hu et al. 2021.) Written here because the usual package would be the only use of a
large dependency.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

FFN = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class LoRALinear(nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.base, self.scale = base, alpha / rank
        bound = 1 / math.sqrt(base.in_features)
        self.a = nn.Parameter((torch.rand(rank, base.in_features, generator=draw) * 2 - 1) * bound)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(x, self.a.to(x.dtype)) * self.scale
        flat = torch.addmm(self.base(x).flatten(0, -2), low.flatten(0, -2), self.b.to(x.dtype).T)  # one pass over y
        return flat.view(*x.shape[:-1], -1)

    @property
    def weight(self) -> Tensor:
        """W + (alpha / rank) B A, in the dtype of W."""
        return (self.base.weight.float() + self.scale * (self.b @ self.a)).to(self.base.weight.dtype)


def add(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = FFN + ATTENTION, seed: int = 0) -> int:
    """Put an adapter beside every linear layer whose name ends in one of `targets`; returns how many.

    ValueError when there is none, or the model has adapters already.
    """
    if any(adapters(model)):
        raise ValueError("this model has adapters already: merge or remove them first")
    places = [(m, name) for m in model.modules() for name in targets if isinstance(getattr(m, name, None), nn.Linear)]
    if not places:
        raise ValueError(f"no linear layer of this model is called {', '.join(targets)}")
    for i, (parent, name) in enumerate(places):
        setattr(parent, name, LoRALinear(getattr(parent, name), rank, alpha, seed + i))
    return len(places)


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every adapter with its path."""
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield path, module


def merge(model: nn.Module) -> int:
    """Add every adapter into its layer's weights and take it away; returns how many. Rounds to the weights' dtype."""
    found = list(adapters(model))
    for path, adapter in found:
        with torch.no_grad():
            adapter.base.weight.copy_(adapter.weight)
        _replace(model, path, adapter.base)
    return len(found)


def remove(model: nn.Module) -> int:
    """Take every adapter away, unmerged: the model as it was. Returns how many."""
    found = list(adapters(model))
    for path, adapter in found:
        _replace(model, path, adapter.base)
    return len(found)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)

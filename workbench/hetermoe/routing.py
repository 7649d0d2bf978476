"""Which token goes to which expert: the gate's choice and the order in which copies of tokens travel.

    routing = choose(logits, k)                     experts [T, k], weights [T, k]
    order = Order.of(routing.experts, places)       copies of tokens sorted by where their expert lies
    rows = order.sort(copies(y, k))                 what is sent, [T k, hidden]
    out = h + mixed(order.unsort(outputs), weights)

The gate: softmax over all experts, the k largest, over their sum; for k = 1 the probability itself (Switch), since a
weight of constantly 1 would teach the gate nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def choose(logits: Tensor, k: int) -> Tensor:
    """Experts of each token, largest first, [T, k] int64."""
    return logits.detach().topk(k, dim=-1).indices


def weigh(logits: Tensor, experts: Tensor) -> Tensor:
    """Their weights, [T, k]; the gate learns through them."""
    picked = torch.softmax(logits, -1).gather(-1, experts)
    return picked / picked.sum(-1, keepdim=True) if experts.shape[-1] > 1 else picked


def copies(y: Tensor, k: int) -> Tensor:
    """Every token k times, [T, hidden] -> [T k, hidden], copies of a token side by side."""
    return y[:, None].expand(-1, k, -1).reshape(-1, y.shape[-1])


def mixed(outputs: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over a token's experts, [T k, hidden] and [T, k] -> [T, hidden]."""
    tokens, k = weights.shape
    return (outputs.view(tokens, k, -1) * weights[..., None]).sum(1)


@dataclass(frozen=True)
class Order:
    """A permutation of copies. to: position -> copy. back: copy -> position. counts: copies for each place."""

    to: Tensor
    back: Tensor
    counts: Tensor

    @classmethod
    def of(cls, experts: Tensor, places: Sequence[int]) -> Order:
        """Sorted by the place of their expert, places[i] being the expert at place i; of one expert, as they came."""
        here = experts.device
        place = torch.empty(len(places), dtype=torch.int64, device=here)
        place[torch.tensor(places, dtype=torch.int64, device=here)] = torch.arange(len(places), device=here)
        of_copy = place[experts.flatten()]
        to = of_copy.argsort(stable=True)
        back = torch.empty_like(to)
        back[to] = torch.arange(len(to), device=here)
        return cls(to, back, torch.bincount(of_copy, minlength=len(places)))

    def sort(self, rows: Tensor) -> Tensor:
        """From copies in order of tokens to the order in which they are sent."""
        return rows.index_select(0, self.to)

    def unsort(self, rows: Tensor) -> Tensor:
        """Back to the order of tokens."""
        return rows.index_select(0, self.back)

"""AdamW on every rank over what it holds, and ZeRO stage 1 over the attention ranks.

    update = Update(layout, model, links, spans, Adam(), zero=True)
    update.step()                       gradients -> parameters, the same on every rank that holds them
    update.moments()                    name -> (first, second), for a checkpoint

ZeRO stage 1 (Rajbhandari et al., 2020): the attention side lies in one vector; each attention rank receives the sum of
gradients of its part, keeps the optimizer's state of it alone, updates it and sends it to the others. AdamW works
element by element, so the bits are those without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.hetermoe.exchange import Sum
from workbench.hetermoe.layout import Layout, Links
from workbench.hetermoe.model import MoE, attention_side
from workbench.hetermoe.spans import Spans


@dataclass(frozen=True)
class Adam:
    """AdamW's settings, the same on every rank."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, not {self.lr}")


@dataclass
class State:
    """What the optimizer keeps of a tensor: it and its two moments, of one shape."""

    value: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, value: Tensor) -> State:
        """At the start."""
        return cls(value, torch.zeros_like(value), torch.zeros_like(value))


@torch.no_grad()
def adamw(state: State, gradient: Tensor, steps: int, adam: Adam) -> None:
    """Step number `steps`, from 1 (Loshchilov and Hutter, 2019), in place.

    The arithmetic and its order are torch.optim.AdamW's, which takes ten seconds of imports to construct on a slow
    processor, in every rank; the tests hold them equal bit for bit.
    """
    b1, b2 = adam.betas
    state.value.mul_(1 - adam.lr * adam.weight_decay)
    state.first.lerp_(gradient, 1 - b1)
    state.second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    scale = (state.second.sqrt() / math.sqrt(1 - b2**steps)).add_(adam.eps)
    state.value.addcdiv_(state.first, scale, value=-adam.lr / (1 - b1**steps))


class Update:
    """The optimizer of a rank."""

    def __init__(self, layout: Layout, model: MoE, links: Links, spans: Spans, adam: Adam, zero: bool = False) -> None:
        self.layout, self.model, self.links, self.spans, self.adam = layout, model, links, spans, adam
        self.steps = 0
        self.parameters = model.parameters_by_name()
        self.side = dict(attention_side(model)) if zero and layout.attends else {}
        self.states = {n: State.of(p.data) for n, p in self.parameters.items() if n not in self.side}
        self.part = State.of(self._own(_flat(list(self.side.values())))) if self.side else None

    def step(self) -> None:
        """Sum what is not yet summed, update, drop the gradients."""
        self.model.zero_missing()
        gradients = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        if self.links.same is not None:
            self.links.same.submit([g for n, g in gradients.items() if n.startswith("experts.")]).result()
        mine = self._do(self._sum.scatter, _flat([gradients[n] for n in self.side])) if self.part else None
        self.steps += 1
        with self.spans.at("update"):
            for name, state in self.states.items():
                adamw(state, gradients[name], self.steps, self.adam)
            if self.part is not None and mine is not None:
                adamw(self.part, mine, self.steps, self.adam)
        if self.part is not None:
            self._spread(self.part.value, [p.data for p in self.side.values()])
        for p in self.model.parameters():
            p.grad = None

    def moments(self) -> dict[str, tuple[Tensor, Tensor]]:
        """First and second moment by parameter, whole; attention ranks under ZeRO call it together."""
        found = {name: (state.first, state.second) for name, state in self.states.items()}
        if self.part is not None:
            first = [torch.empty_like(p) for p in self.side.values()]
            second = [torch.empty_like(p) for p in self.side.values()]
            self._spread(self.part.first, first)
            self._spread(self.part.second, second)
            found |= dict(zip(self.side, zip(first, second)))
        return found

    def restore(self, steps: int, moments: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Go on after `steps` steps; the parameters of the model are already those of then."""
        self.steps = steps
        for name, state in self.states.items():
            state.first, state.second = (t.to(state.value.device, copy=True) for t in moments[name])
        if self.part is not None:
            where = self.part.value.device
            first, second = (_flat([moments[name][half].to(where) for name in self.side]) for half in (0, 1))
            self.part = State(self._own(_flat(list(self.side.values()))), self._own(first), self._own(second))

    @property
    def _sum(self) -> Sum:
        assert self.links.attention is not None
        return self.links.attention

    def _own(self, flat: Tensor) -> Tensor:
        """The part of a whole vector that this rank updates, padded as `Sum.scatter` does."""
        part = -(-len(flat) // self._sum.ranks)
        padded = nn.functional.pad(flat, (0, part * self._sum.ranks - len(flat)))
        own: Tensor = padded[self.layout.place * part : (self.layout.place + 1) * part].clone()
        return own

    def _spread(self, part: Tensor, into: Sequence[Tensor]) -> None:
        """All ranks' parts into tensors."""
        whole = self._do(self._sum.gather, part)
        sizes = [t.numel() for t in into]
        for t, value in zip(into, whole[: sum(sizes)].split_with_sizes(sizes)):
            t.copy_(value.view_as(t))

    def _do(self, work: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        return self._sum.stream.submit("update", -1, -1, lambda: work(given)).result()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])

"""Training in one process: what the ranks of any plan must equal.

    single = Single(MoE(config), micro_batches=4)                 plain training with gradient accumulation
    single = Single(MoE(config), micro_batches=4, ranks=2)        the same sums in the order that 2 attention ranks have
    loss = single.step(ids)

One end-to-end autograd graph a micro-batch and one `backward`; nothing here knows of stages, cuts or messages. Floating
point sums depend on their order. With `ranks` M every shard of a micro-batch goes through attention by itself, with
gradients of its own that are added in rank order, and an expert sees the shards' tokens one after the other: then the
parameters of a plan with M attention ranks are equal bit for bit. `groups` G of M ranks each do so for experts too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.hetermoe import routing
from workbench.hetermoe.data import shards
from workbench.hetermoe.model import Kernel, MoE
from workbench.hetermoe.update import Adam


class Single:
    """One process. kernels: of each attention rank, where they differ."""

    def __init__(
        self,
        model: MoE,
        micro_batches: int = 1,
        ranks: int = 1,
        groups: int = 1,
        adam: Adam | None = None,
        kernels: Sequence[Kernel] | None = None,
    ) -> None:
        self.model, self.micro_batches, self.ranks, self.groups = model, micro_batches, ranks, groups
        kernels = kernels or [model.kernel] * (ranks * groups)
        self.replicas = [_shadow(model, kernel) for kernel in kernels]  # own gradients, one storage
        self.parameters = model.parameters_by_name()
        adam = adam or Adam()
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), adam.lr, adam.betas, adam.eps, weight_decay=adam.weight_decay, foreach=False
        )
        self.steps = 0

    def step(self, ids: Tensor) -> float:
        """Loss of a batch [rows, tokens + 1] before the update that it makes."""
        self.gradient(ids)
        loss = self.loss
        self.optimizer.step()
        self.steps += 1
        return loss

    def gradient(self, ids: Tensor) -> None:
        """Gradients of a batch, in `.grad` of the model's parameters; its loss in `self.loss`."""
        tokens = ids[:, 1:].numel()
        told = [0.0] * len(self.replicas)
        for cut in shards(len(ids), self.micro_batches, len(self.replicas)):
            losses = [
                loss
                for g in range(self.groups)
                for loss in self._forward([ids[s] for s in cut[g * self.ranks : (g + 1) * self.ranks]], g, tokens)
            ]
            torch.autograd.backward(losses)
            told = [total + float(loss.detach()) for total, loss in zip(told, losses)]
        self.loss = sum(told)
        self._collect()

    def _forward(self, parts: Sequence[Tensor], group: int, tokens: int) -> list[Tensor]:
        """Losses of the shards of a micro-batch, experts seeing all of them."""
        mine = self.replicas[group * self.ranks : (group + 1) * self.ranks]
        xs = [replica.embed(ids[:, :-1]) for replica, ids in zip(mine, parts)]
        for layer in range(self.model.config.layers):
            xs = self._layer(layer, mine, xs)
        return [replica.loss(x, ids[:, 1:], tokens) for replica, x, ids in zip(mine, xs, parts)]

    def _layer(self, layer: int, mine: Sequence[MoE], xs: Sequence[Tensor]) -> list[Tensor]:
        k, experts = self.model.config.top_k, range(self.model.config.experts)
        residual, weights, orders, pieces = [], [], [], []
        for replica, x in zip(mine, xs):
            h, y, logits = replica.blocks[layer](x)
            picked = routing.choose(logits, k)
            order = routing.Order.of(picked, experts)
            residual += [h]
            weights += [routing.weigh(logits, picked)]
            orders += [order]
            pieces += [order.sort(routing.copies(y.flatten(0, 1), k)).split_with_sizes(order.counts.tolist())]
        outputs: list[list[Tensor]] = [[] for _ in mine]
        for number in experts:  # mine[0] holds the experts of its group
            out = mine[0].expert(layer, number)(torch.cat([piece[number] for piece in pieces]))
            for at, part in enumerate(out.split_with_sizes([len(piece[number]) for piece in pieces])):
                outputs[at] += [part]
        return [
            h + routing.mixed(order.unsort(torch.cat(out)), w).view_as(h)
            for h, w, order, out in zip(residual, weights, orders, outputs)
        ]

    def _collect(self) -> None:
        """Gradients of the replicas to the model's: over ranks for attention, over groups for experts, in order."""
        for replica in self.replicas:
            replica.tied_gradient()
            replica.zero_missing()
        named = [replica.parameters_by_name() for replica in self.replicas]
        for name, p in self.parameters.items():
            found = named[:: self.ranks] if name.startswith("experts.") else named
            total = found[0][name].grad
            assert total is not None
            for other in found[1:]:
                more = other[name].grad
                assert more is not None
                total = total + more
            p.grad = total.clone()
        for replica in self.replicas:
            for q in replica.parameters():
                q.grad = None


def _shadow(model: MoE, kernel: Kernel) -> MoE:
    """The same storage with gradients of its own."""
    shadow = MoE(model.config, kernel)
    ours = dict(model.named_parameters())
    for name, q in shadow.named_parameters():
        q.data = ours[name].data
    return shadow

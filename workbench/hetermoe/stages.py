"""The stages of a rank, with the autograd graph cut between them.

A stage of the attention side begins with what came from experts and ends with rows for experts:

    stage 0        embed, attention 0, gate 0
    stage l        combine of layer l-1, attention l, gate l
    stage L        combine of layer L-1, norm, head, loss: forward and backward at once

Each stage has a graph of its own from leaves (residual h, gate weights w, experts' outputs o) to outputs (h, w, rows).
Its backward takes their gradients: those of h and w are there when the next stage's backward is, that of rows when the
experts' has come back. One `backward` adds the gate's path and the experts' path (section 3.3 of the paper): no graph
crosses a process, and no weight is passed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.hetermoe import routing
from workbench.hetermoe.exchange import Trip
from workbench.hetermoe.model import MoE


@dataclass
class Kept:
    """What an attention stage keeps of a micro-batch until its backward.

    inputs: leaves (h, w, o), or the token ids of stage 0. h [rows, tokens, hidden], w [T, k] and rows [T k, hidden]:
    outputs without graph; h and w are the next stage's. graph: the same with it, None under recomputation.
    """

    inputs: tuple[Tensor, ...]
    picked: Tensor
    order: routing.Order
    h: Tensor
    w: Tensor
    rows: Tensor
    graph: tuple[Tensor, Tensor, Tensor] | None


@dataclass(frozen=True)
class Gradients:
    """Of a stage's leaves: h [rows, tokens, hidden], w [T, k], o [T k, hidden] in the order in which o came."""

    h: Tensor
    w: Tensor
    o: Tensor


class AttentionStages:
    """places[layer]: experts in the order in which rows for them are sent. recompute: keep inputs only."""

    def __init__(self, model: MoE, places: Sequence[Sequence[int]], recompute: bool = False) -> None:
        self.model, self.places, self.recompute = model, places, recompute
        self.k = model.config.top_k

    def forward(self, layer: int, ids: Tensor, before: Kept | None, outputs: Tensor | None) -> Kept:
        """Stage `layer` < L of a micro-batch: from ids, or from the stage before and the experts' outputs for it."""
        inputs = (ids,) if before is None else _leaves(before, outputs)
        order = before.order if before else None
        with torch.set_grad_enabled(not self.recompute):
            h, y, logits = self.model.blocks[layer](self._x(inputs, order))
            picked = routing.choose(logits, self.k)
            sorted_by = routing.Order.of(picked, self.places[layer])
            graph = (h, routing.weigh(logits, picked), sorted_by.sort(routing.copies(y.flatten(0, 1), self.k)))
        plain = [t.detach() for t in graph]
        return Kept(inputs, picked, sorted_by, plain[0], plain[1], plain[2], None if self.recompute else graph)

    def last(self, before: Kept, outputs: Tensor, targets: Tensor, tokens: int) -> tuple[float, Gradients]:
        """Stage L of a micro-batch, forward and backward: its part of the loss, gradients of what came in."""
        inputs = _leaves(before, outputs)
        loss = self.model.loss(self._x(inputs, before.order), targets, tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), _gradients(inputs)

    def backward(self, layer: int, kept: Kept, before: Kept | None, ahead: Gradients, rows: Tensor) -> Gradients | None:
        """Backward of stage `layer`: `ahead` of the stage after it, `rows` the gradient that experts sent back."""
        graph = kept.graph or self._again(layer, kept, before)
        torch.autograd.backward(graph, (ahead.h, ahead.w, rows))
        kept.graph = None
        return _gradients(kept.inputs) if before else None

    def _again(self, layer: int, kept: Kept, before: Kept | None) -> tuple[Tensor, Tensor, Tensor]:
        """The forward once more, to the same experts."""
        h, y, logits = self.model.blocks[layer](self._x(kept.inputs, before.order if before else None))
        rows = kept.order.sort(routing.copies(y.flatten(0, 1), self.k))
        return h, routing.weigh(logits, kept.picked), rows

    def _x(self, inputs: tuple[Tensor, ...], order: routing.Order | None) -> Tensor:
        """What a block reads, [rows, tokens, hidden]."""
        if order is None:
            embedded: Tensor = self.model.embed(inputs[0])
            return embedded
        h, w, o = inputs
        return h + routing.mixed(order.unsort(o), w).view_as(h)


class ExpertStages:
    """The experts of a rank. held[layer]: their numbers, in the order of the rows' counts."""

    def __init__(self, model: MoE, held: Sequence[Sequence[int]], recompute: bool = False) -> None:
        self.model, self.held, self.recompute = model, held, recompute
        self._kept: dict[tuple[int, int], tuple[Tensor, Tensor | None, Tensor]] = {}

    def forward(self, layer: int, j: int, trip: Trip) -> Tensor:
        """Outputs for rows that came, in their order, without graph."""
        if not self.held[layer]:
            return trip.rows
        leaf = trip.rows.requires_grad_()
        with torch.set_grad_enabled(not self.recompute):
            out = self._run(layer, leaf, trip.counts)
        self._kept[layer, j] = leaf, None if self.recompute else out, trip.counts
        return out.detach()

    def backward(self, layer: int, j: int, gradient: Tensor) -> Tensor:
        """Gradient of the rows that came, from that of the outputs; gradients of the experts add up."""
        if not self.held[layer]:
            return gradient
        leaf, out, counts = self._kept.pop((layer, j))
        torch.autograd.backward(self._run(layer, leaf, counts) if out is None else out, gradient)
        assert leaf.grad is not None
        return leaf.grad

    def _run(self, layer: int, rows: Tensor, counts: Tensor) -> Tensor:
        """Each expert over its rows of all members, one after the other."""
        pieces = rows.split_with_sizes(counts.flatten().tolist())  # by member, then expert
        own, members = len(self.held[layer]), len(counts)
        outputs: list[Tensor] = [rows] * len(pieces)
        for at, number in enumerate(self.held[layer]):
            out = self.model.expert(layer, number)(torch.cat(pieces[at::own]))
            outputs[at::own] = out.split_with_sizes(counts[:, at].tolist())
        assert len(outputs) == own * members
        return torch.cat(outputs)


def _leaves(before: Kept, outputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    assert outputs is not None
    return before.h.requires_grad_(), before.w.requires_grad_(), outputs.requires_grad_()


def _gradients(inputs: tuple[Tensor, ...]) -> Gradients:
    """Taken from the leaves."""
    h, w, o = (t.grad for t in inputs)
    assert h is not None
    assert w is not None
    assert o is not None
    return Gradients(h, w, o)

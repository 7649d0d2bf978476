"""An attention rank's step: zebra's order of stages (Theorem 1), experts that lie here included (Asym-EA).

    forward    for each layer: attention of all micro-batches, then the experts here over all of them
    turn       stage L of each micro-batch, forward and backward adjacent
    backward   for each layer from the last: experts here, then attention, micro-batches in the same order

Rows leave as soon as a stage has made them, and are waited for where they are needed; in between the streams carry them
beside compute. A plan of kind ep is the case in which all experts lie on attention ranks, distep that of one
micro-batch.
"""

from __future__ import annotations

from concurrent.futures import Future

import torch
from torch import Tensor

from workbench.hetermoe.data import shards
from workbench.hetermoe.exchange import Link, Trip
from workbench.hetermoe.layout import Layout, Links
from workbench.hetermoe.model import MoE, held_by
from workbench.hetermoe.spans import Spans
from workbench.hetermoe.stages import AttentionStages, ExpertStages, Gradients, Kept


class AttentionRank:
    """Holds the attention side and the experts that the plan leaves here.

    sums: gradients of the attention side are summed over attention ranks stage by stage, beside the backward; ZeRO
    does it otherwise.
    """

    def __init__(
        self, layout: Layout, model: MoE, links: Links, spans: Spans, recompute: bool = False, sums: bool = True
    ) -> None:
        plan = layout.plan
        assert links.attention is not None
        self.layout, self.model, self.spans = layout, model, spans
        self.sum, self.sums = links.attention, sums
        self.layers, self.micro_batches = plan.layers, range(plan.micro_batches)
        self.links = [_used(links, layer) for layer in range(plan.layers)]
        places = [[e for link in row for e in link.places(layer)] for layer, row in enumerate(self.links)]
        held = held_by(plan, layout.local)
        self.peers = [
            links.peers if links.peers and links.peers.places(layer) else None for layer in range(plan.layers)
        ]
        self.kind = "expert" if plan.kind == "ep" else "offload"
        self.stages = AttentionStages(model, places, recompute)
        self.experts = ExpertStages(model, held, recompute)
        self.routed = torch.zeros(plan.layers, plan.experts, dtype=torch.int64)  # copies of a step's tokens, by expert
        self._places = [torch.tensor(row) for row in places]
        self._parts: list[Tensor] = []  # ids of each micro-batch
        self._kept: dict[tuple[int, int], Kept] = {}  # by layer and micro-batch, as what follows
        self._trips: dict[tuple[int, int], list[Future[Trip]]] = {}  # one a link
        self._coming: dict[tuple[int, int], list[Future[Tensor]]] = {}  # from each link

    def step(self, ids: Tensor) -> float:
        """Gradients of a batch [rows, tokens + 1], summed over all ranks; the loss of the batch."""
        plan = self.layout.plan
        cut = shards(len(ids), plan.micro_batches, plan.attention * self.layout.groups)
        self._parts = [ids[row[self.layout.place]] for row in cut]
        self.routed.zero_()
        self._forward()
        loss, ahead = self._turn(ids[:, 1:].numel())
        sums = self._backward(ahead)
        told = self.sum.each(loss)
        for done in sums:
            done.result()
        self._trips.clear()
        return sum(told)

    def _forward(self) -> None:
        for layer in range(self.layers):
            for j in self.micro_batches:
                before = self._kept.get((layer - 1, j))
                outputs = self._arrived(layer - 1, j) if before else None
                with self.spans.at("attention", "forward", layer, j):
                    kept = self.stages.forward(layer, self._parts[j][:, :-1], before, outputs)
                self._kept[layer, j] = kept
                self.routed[layer, self._places[layer]] += kept.order.counts.cpu()
                self._send(layer, j, kept)
            self._experts_forward(layer)

    def _turn(self, tokens: int) -> tuple[float, list[Gradients]]:
        """Stage L: these rows' part of the loss; for each micro-batch the gradients of what came in."""
        loss, ahead, layer = 0.0, list[Gradients](), self.layers - 1
        for j in self.micro_batches:
            outputs = self._arrived(layer, j)
            with self.spans.at("head", "", self.layers, j):
                part, gradients = self.stages.last(self._kept[layer, j], outputs, self._parts[j][:, 1:], tokens)
            loss += part
            ahead += [gradients]
            self._send_gradient(layer, j, gradients)
        self._experts_backward(layer)
        return loss, ahead

    def _backward(self, ahead: list[Gradients]) -> list[Future[None]]:
        """The stages before it, from the last; the gradient sums that are under way."""
        sums = [self._sum(self.layers)]
        for layer in reversed(range(self.layers)):
            for j in self.micro_batches:
                rows = self._arrived(layer, j)
                kept, before = self._kept.pop((layer, j)), self._kept.get((layer - 1, j))
                with self.spans.at("attention", "backward", layer, j):
                    gradients = self.stages.backward(layer, kept, before, ahead[j], rows)
                if gradients is not None:
                    ahead[j] = gradients
                    self._send_gradient(layer - 1, j, gradients)
            sums += [self._sum(layer)]
            if layer:
                self._experts_backward(layer - 1)
        return sums

    def _send(self, layer: int, j: int, kept: Kept) -> None:
        """Rows to their experts, those on attention ranks first."""
        trips, coming = list[Future[Trip]](), list[Future[Tensor]]()
        for link, rows, counts in self._split(layer, kept, kept.rows):
            trips += [link.dispatch(layer, j, rows, counts)]
            if link is not self.peers[layer]:  # experts here answer after they have run
                coming += [link.combine(layer, j, trips[-1])]
        self._trips[layer, j], self._coming[layer, j] = trips, coming

    def _send_gradient(self, layer: int, j: int, gradients: Gradients) -> None:
        """The gradient of experts' outputs to the experts."""
        coming = list[Future[Tensor]]()
        for (link, rows, _), trip in zip(self._split(layer, self._kept[layer, j], gradients.o), self._trips[layer, j]):
            sent = link.dispatch_gradient(layer, j, trip, rows)
            coming += [sent if link is self.peers[layer] else link.combine_gradient(layer, j, trip)]
        self._coming[layer, j] = coming

    def _experts_forward(self, layer: int) -> None:
        """Experts here, over the rows of all attention ranks, when all micro-batches' attention is done."""
        if link := self.peers[layer]:
            for j in self.micro_batches:
                trip = self._trips[layer, j][0]
                came = trip.result()
                with self.spans.at(self.kind, "forward", layer, j):
                    out = self.experts.forward(layer, j, came)
                self._coming[layer, j].insert(0, link.combine(layer, j, trip, out))

    def _experts_backward(self, layer: int) -> None:
        """The same backward; what waited for was the gradient of outputs, what comes then is that of rows."""
        if link := self.peers[layer]:
            for j in self.micro_batches:
                gradient = self._coming[layer, j][0].result()
                with self.spans.at(self.kind, "backward", layer, j):
                    rows = self.experts.backward(layer, j, gradient)
                self._coming[layer, j][0] = link.combine_gradient(layer, j, self._trips[layer, j][0], rows)

    def _arrived(self, layer: int, j: int) -> Tensor:
        """What all links brought for a micro-batch, in the order in which rows were sent."""
        came = [future.result() for future in self._coming.pop((layer, j))]
        return came[0] if len(came) == 1 else torch.cat(came)

    def _split(self, layer: int, kept: Kept, rows: Tensor) -> list[tuple[Link, Tensor, Tensor]]:
        """(link, its rows, rows for each of its places)."""
        links = self.links[layer]
        counts = kept.order.counts.split_with_sizes([len(link.places(layer)) for link in links])
        return list(zip(links, rows.split_with_sizes([int(c.sum()) for c in counts]), counts))

    def _sum(self, stage: int) -> Future[None]:
        """Gradients of a stage, summed over attention ranks beside the stages that follow."""
        model = self.model
        if stage == self.layers:
            modules = [model.norm] if model.config.tied else [model.norm, model.head]
        else:
            modules = [model.blocks[stage], *([] if stage else [model.embed])]
            if stage == 0:
                model.tied_gradient()
        if not self.sums:
            modules = []
        return self.sum.submit([p.grad for m in modules for p in m.parameters() if p.grad is not None])


def _used(links: Links, layer: int) -> list[Link]:
    """Links on which rows of a layer travel, that between attention ranks first."""
    return [link for link in (links.peers, links.experts) if link is not None and link.places(layer)]

"""An expert rank's step: experts of layer 1 over all micro-batches, then layer 2, ...; backward by layer from the last.

What will come is asked for at once, in order: a stream receives the next micro-batch while this one is computed.
"""

from __future__ import annotations

from workbench.hetermoe.exchange import Link
from workbench.hetermoe.layout import Layout
from workbench.hetermoe.model import MoE, held_by
from workbench.hetermoe.spans import Spans
from workbench.hetermoe.stages import ExpertStages


class ExpertRank:
    """Holds the plan's experts of its rank."""

    def __init__(self, layout: Layout, model: MoE, link: Link | None, spans: Spans, recompute: bool = False) -> None:
        plan = layout.plan
        self.spans, self.link = spans, link
        self.experts = ExpertStages(model, held_by(plan, layout.local), recompute)
        self.order = [
            (layer, j)
            for layer in range(plan.layers)
            if link is not None and link.places(layer)
            for j in range(plan.micro_batches)
        ]
        self.backward_order = [at for layer in reversed(range(plan.layers)) for at in self.order if at[0] == layer]

    def step(self) -> None:
        """Gradients of a batch in its experts. A rank without experts in a layer takes part in its messages."""
        if self.link is None:
            return
        trips = {at: self.link.dispatch(*at) for at in self.order}
        for at, trip in trips.items():
            came = trip.result()
            with self.spans.at("expert", "forward", *at):
                out = self.experts.forward(*at, came)
            self.link.combine(*at, trip, out)
        gradients = {at: self.link.dispatch_gradient(*at, trips[at]) for at in self.backward_order}
        for at, gradient in gradients.items():
            came_back = gradient.result()
            with self.spans.at("expert", "backward", *at):
                rows = self.experts.backward(*at, came_back)
            sent = self.link.combine_gradient(*at, trips[at], rows)
        if gradients:
            sent.result()  # a failed message fails the step

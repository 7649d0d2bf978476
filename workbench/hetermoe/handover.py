"""What stands in the place of a DeepSpeed MOELayer: its own gate here, its experts wherever the plan has them.

    layer.moe.deepspeed_moe = Handover(number, layer, places, held, draw)

Its forward runs within a micro-batch's turn (turns.py): the gate says which rows go to which place, the rows are handed
over as a `Sent`, and the turn goes on with the experts' outputs. Its backward hands over the gradient of these outputs
and goes on with that of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.hetermoe import turns
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.theirs import Layer


@dataclass(frozen=True)
class Sent:
    """What a micro-batch hands over at a MoE layer. rows [n, hidden]: sorted by place; counts: for each place.

    Backward, rows are the gradient of the experts' outputs, and counts are those of before.
    """

    layer: int
    back: bool
    rows: Tensor
    counts: Tensor | None = None


class Handover(nn.Module):
    """In the place of DeepSpeed's MOELayer, by the same parameter names: its gate, and experts that are elsewhere.

    places: experts in the order in which rows for them are sent. The combine is DeepSpeed's: gate times output, summed
    over a token's routes; a dropped one adds nothing.
    """

    def __init__(self, number: int, layer: Layer, places: Sequence[int], held: tuple[int, ...], draw: Draws) -> None:
        super().__init__()
        inner = layer.moe.deepspeed_moe
        self.number, self.path, self.draw = number, layer.path, draw
        self.gate, self.experts = inner.gate, inner.experts
        self.l_aux: Any = None
        self.exp_counts: Any = None
        kept = [expert if at in held else nn.Identity() for at, expert in enumerate(layer.experts)]
        self.experts.deepspeed_experts = nn.ModuleList(kept)
        self.place = torch.empty(len(places), dtype=torch.int64)
        self.place[torch.tensor(list(places), dtype=torch.int64)] = torch.arange(len(places))

    def forward(self, x: Tensor, used_token: Tensor | None = None) -> Tensor:
        turn = turns.here()
        if turn is None:
            raise PlanError(f"{self.path}: this model is under a plan and runs in its trainer's step")
        rows = x.reshape(-1, x.shape[-1])
        with self.draw(self.number):
            l_aux, _, _, experts, _, gates, exp_counts = self.gate(rows, used_token, True, False)
        places, tokens = len(self.place), len(rows)
        flat = experts.long().flatten()  # route by route, [k T]; -1 where the capacity was full
        at = torch.where(flat >= 0, self.place[flat.clamp_min(0)], places)
        order = at.argsort(stable=True)
        counts = torch.bincount(at, minlength=places + 1)[:places]
        order = order[: int(counts.sum())]
        slots = torch.full_like(at, len(order))
        slots[order] = torch.arange(len(order))
        sent = rows.index_select(0, order % tokens)
        if not sent.requires_grad:
            sent.requires_grad_()  # whose backward hands over even where nothing before it learns
        came: Tensor = _Away.apply(sent, turn, self.number, counts)  # type: ignore[no-untyped-call]
        self.l_aux, self.exp_counts = l_aux, exp_counts  # now: other micro-batches were here meanwhile
        padded = torch.cat([came, came.new_zeros(1, came.shape[-1])])
        routed = padded.index_select(0, slots).view(len(experts), tokens, -1)
        return (routed * gates.unsqueeze(-1)).sum(0).to(came.dtype).reshape(x.shape)


class _Away(torch.autograd.Function):
    """Rows to experts and outputs back; backward the gradient of outputs there, and of rows back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, turn: turns.Turn, layer: int, counts: Tensor) -> Tensor:
        ctx.turn, ctx.layer = turn, layer
        came: Tensor = turn.hand(Sent(layer, False, rows.detach(), counts))
        return came

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.turn.hand(Sent(ctx.layer, True, gradient)), None, None, None


class Draws:
    """Random numbers of a gate, of (seed, step, rank, micro-batch, layer), whatever the order of micro-batches."""

    def __init__(self, seed: int | None, rank: int) -> None:
        self.seed, self.rank, self.step = seed, rank, 0

    @contextmanager
    def __call__(self, *at: int) -> Iterator[None]:
        if self.seed is None:
            yield
            return
        turn = turns.here()
        key = f"{self.seed} {self.step} {self.rank} {turn.name if turn else ''} {at}"
        before = torch.random.get_rng_state()
        torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
        try:
            yield
        finally:
            torch.random.set_rng_state(before)

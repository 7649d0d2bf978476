"""Somebody else's DeepSpeed-MoE model, trained under a plan. Every rank calls it, where it would deepspeed.initialize.

    of = model_of(model)                                     its layers, experts and top_k
    plan = zebra(1, 1, 2, of.layers, of.experts, of.top_k)
    trainer = adopt(model, plan, loss)                       after init_process_group, on each of the plan's ranks
    told = trainer.step(ids, targets)                        mean loss of the batch; None on expert ranks
    trainer.save(folder); model.load_state_dict(collected(folder))        back to DeepSpeed, by DeepSpeed's names

loss(model, *batch) is the caller's: it runs the model over some rows and gives their mean loss, auxiliary losses in it
as the caller wants them. Its forward and backward stay its own code: a micro-batch is a thread that hands over at each
MoE layer (turns.py), so that stages interleave as Theorem 1 has them, experts run where the plan put them, and no graph
crosses a process. Gates are DeepSpeed's modules, called over the rows of a micro-batch of a rank: capacities and what
they drop are as under DeepSpeed with as many ranks and as many accumulation steps. theirs.py says what is refused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workbench.hetermoe import routing, turns
from workbench.hetermoe.attention_rank import AttentionRank
from workbench.hetermoe.data import shards
from workbench.hetermoe.expert_rank import ExpertRank
from workbench.hetermoe.handover import Draws, Handover, Sent
from workbench.hetermoe.layout import Layout, Links, connect
from workbench.hetermoe.model import held_by
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.rank import Diverged
from workbench.hetermoe.spans import Span, Spans
from workbench.hetermoe.stages import Gradients, Kept
from workbench.hetermoe.theirs import Layer, model_of, read
from workbench.hetermoe.update import Adam, Update

Loss = Callable[..., Tensor]
FILES = "rank*.safetensors"
EXPERTS = "deepspeed_moe.experts.deepspeed_experts"  # below a MoE layer's name


class _Rows(nn.Module):
    """An expert as DeepSpeed calls it: [groups, 1, rows, hidden], and only the first of what it returns."""

    def __init__(self, expert: nn.Module) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, rows: Tensor) -> Tensor:
        out = self.expert(rows[None, None])
        out = out[0] if isinstance(out, tuple) else out
        return out.reshape(rows.shape)


class Held:
    """The parameters that a rank keeps, by DeepSpeed's names, as `Update` and `ExpertStages` want them."""

    def __init__(self, model: nn.Module, layers: list[Layer], held: list[tuple[int, ...]], attends: bool) -> None:
        self.config = SimpleNamespace(top_k=layers[0].top_k, tied=False)
        self._experts = [
            {number: _Rows(layer.experts[number]) for number in row} for layer, row in zip(layers, held, strict=True)
        ]
        kept = {id(p) for row in self._experts for expert in row.values() for p in expert.parameters()}
        others = {id(p) for layer in layers for expert in layer.experts for p in expert.parameters()}
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.dense = {n: p for n, p in named if attends and id(p) not in others}
        self._named = self.dense | {n: p for n, p in named if id(p) in kept}
        for p in self._named.values():
            p.grad = None

    def expert(self, layer: int, number: int) -> nn.Module:
        return self._experts[layer][number]

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter(self._named.values())

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        return dict(self._named)

    def zero_missing(self) -> None:
        for p in self._named.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)


class AdoptedRank(AttentionRank):
    """An attention rank whose stages are pieces of the caller's model."""

    def __init__(self, layout: Layout, held: Held, links: Links, spans: Spans, model: nn.Module, loss: Loss) -> None:
        super().__init__(layout, held, links, spans)  # type: ignore[arg-type]
        self.held, self.theirs, self.loss = held, model, loss
        self.losses: list[float] = []

    def run(self, *batch: Tensor) -> float:
        """Gradients of a batch, summed over all ranks, and its loss."""
        plan, rows = self.layout.plan, len(batch[0])
        parts = plan.micro_batches * plan.attention
        if rows % parts or any(len(t) != rows for t in batch):
            raise PlanError(
                f"{rows} rows do not divide by {plan.attention} attention ranks times {plan.micro_batches} "
                "micro-batches: a mean over all is the mean of means only where they are even"
            )
        cut = shards(rows, plan.micro_batches, plan.attention)
        self.losses = [0.0] * plan.micro_batches
        going = [self._turn_of(j, [t[cut[j][self.layout.place]] for t in batch], parts) for j in self.micro_batches]
        try:
            self._forward_turns(going)
            self._backward_turns(going)
        finally:
            for turn in going:
                turn.end()
        self.held.zero_missing()
        done = self.sum.submit([p.grad for p in self.held.dense.values() if p.grad is not None])
        told = self.sum.each(sum(self.losses))
        done.result()
        self._trips.clear()
        self._kept.clear()
        return sum(told)

    def _turn_of(self, j: int, rows: list[Tensor], parts: int) -> turns.Turn:
        def body(_: turns.Turn) -> None:
            loss = self.loss(self.theirs, *rows) / parts
            if loss.numel() != 1:
                raise PlanError(f"the loss of some rows is one number, their mean, not {list(loss.shape)}")
            self.losses[j] = float(loss.detach())
            loss.backward()  # type: ignore[no-untyped-call]

        return turns.Turn(f"micro-batch {j}", body)

    def _forward_turns(self, going: list[turns.Turn]) -> None:
        self.routed.zero_()
        for layer in range(self.layers):
            for j, turn in enumerate(going):
                outputs = self._arrived(layer - 1, j) if layer else None
                sent = self._go(turn, outputs, "attention", "forward", layer, j, Sent)
                assert sent.counts is not None
                order = routing.Order(sent.counts, sent.counts, sent.counts)  # only its counts are asked for
                kept = Kept((), sent.counts, order, sent.rows, sent.rows, sent.rows, None)
                self._kept[layer, j] = kept
                self.routed[layer, self._places[layer]] += sent.counts
                self._send(layer, j, kept)
            self._experts_forward(layer)

    def _backward_turns(self, going: list[turns.Turn]) -> None:
        """The last stage, forward and backward, then layer by layer back."""
        for layer in reversed(range(-1, self.layers)):
            for j, turn in enumerate(going):
                last = layer == self.layers - 1
                came = self._arrived(layer if last else layer + 1, j)
                kind, way = ("head", "") if last else ("attention", "backward")
                sent = self._go(turn, came, kind, way, layer, j, Sent if layer >= 0 else None)
                if sent is not None:
                    self._send_gradient(layer, j, Gradients(sent.rows, sent.rows, sent.rows))
            if layer >= 0:
                self._experts_backward(layer)

    def _go(self, turn: turns.Turn, given: Tensor | None, kind: str, way: str, layer: int, j: int, want: Any) -> Any:
        """A turn as a span. PlanError where the model does not go from MoE layer to MoE layer as they were made."""
        back, start = way != "forward", time.monotonic()
        told = turn.go(given)
        at = layer if kind != "attention" or not back else layer + 1
        at = self.layers if kind == "head" else at
        self.spans.add(Span(kind, way, at, j, start, time.monotonic(), turn.cpu_s))
        if want is None and told is turns.ENDED:
            return None
        if want is Sent and isinstance(told, Sent) and (told.layer, told.back) == (layer, back):
            return told
        wanted = _at(layer, back) if want else "the end of its backward"
        came = "its end" if told is turns.ENDED else _at(told.layer, told.back)
        raise PlanError(
            f"{turn.name} came to {came} where {wanted} was due: under a plan a forward calls each MoE layer once, "
            "in the order in which they were made, each feeding the next, and none again in the backward (checkpoint "
            "what lies between them, not around them)"
        )


def _at(layer: int, back: bool) -> str:
    return f"MoE layer {layer}, {'backward' if back else 'forward'}"


class Adopted:
    """A rank's trainer. spans: what it did, taken by whoever wants to draw it."""

    def __init__(
        self, model: nn.Module, plan: Plan, loss: Loss, adam: Adam, seed: int | None, timeout_s: float
    ) -> None:  # fmt: skip
        layers, of = read(model, seed), model_of(model)
        plan.require(of.key)
        for name in ("layers", "experts", "top_k"):
            if getattr(plan, name) != getattr(of, name):
                raise PlanError(f"the plan has {name} {getattr(plan, name)}, the model {getattr(of, name)}")
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world != plan.world:
            raise PlanError(f"the plan has {plan.world} ranks, {world} were started: start as many, or plan for these")
        self.layout = Layout(plan, 1, dist.get_rank() if world > 1 else 0)
        self.spans, self.steps = Spans(), 0
        self.model = model
        held = held_by(plan, self.layout.local)
        self.held = Held(model, layers, held, self.layout.attends)
        dtype = next(model.parameters()).dtype
        self.links = connect(self.layout, layers[0].hidden, dtype, self.spans, timeout_s)
        self.draws = Draws(seed, self.layout.rank)
        self.update = Update(self.layout, self.held, self.links, self.spans, adam)  # type: ignore[arg-type]
        self.layers: list[Layer] = [] if self.layout.attends else layers  # experts that went are not held on to
        if self.layout.attends:
            self.rank: Any = AdoptedRank(self.layout, self.held, self.links, self.spans, model, loss)
            for number, layer in enumerate(layers):
                places = self.rank.stages.places[number]
                layer.moe.deepspeed_moe = Handover(number, layer, places, held[number], self.draws)
        else:
            self.rank = ExpertRank(self.layout, self.held, self.links.experts, self.spans)  # type: ignore[arg-type]

    def step(self, *batch: Tensor) -> float | None:
        """One update over a batch, whose tensors have all ranks' rows first; the same on every attention rank.

        Its mean loss, before the update; None on expert ranks, which need no batch. PlanError, Diverged, PeerLost.
        """
        if not self.layout.attends:
            self.rank.step()
            loss = None
        else:
            if not batch:
                raise PlanError("an attention rank's step needs the batch: tensors of rows, all ranks' rows in each")
            self.draws.step = self.steps
            loss = self.rank.run(*batch)
            if not math.isfinite(loss):
                raise Diverged(f"the loss of step {self.steps} is {loss}: lower lr, or look at the data")
        self.update.step()
        self.steps += 1
        return loss

    def state_here(self) -> dict[str, Tensor]:
        """What this rank keeps of the model's state_dict, by its names: frozen parameters and buffers too."""
        if self.layout.attends:
            return dict(self.model.state_dict())  # experts that are elsewhere have left it
        found: dict[str, Tensor] = {}
        for layer, held in zip(self.layers, held_by(self.layout.plan, self.layout.local), strict=True):
            for number in held:
                at = f"{layer.path}.{EXPERTS}.{number}"
                found |= {f"{at}.{name}": t for name, t in layer.experts[number].state_dict().items()}
        return found

    def save(self, folder: Path) -> None:
        """`state_here` to folder/rankN.safetensors, for `collected`."""
        from safetensors.torch import save_file

        kept = {name: t.detach().clone().contiguous() for name, t in self.state_here().items()}  # tied ones too
        save_file(kept, folder / f"rank{self.layout.rank}.safetensors")

    def close(self) -> None:
        """End its streams; the process group stays the caller's."""
        self.links.close()


def adopt(
    model: nn.Module, plan: Plan, loss: Loss, *, adam: Adam | None = None, seed: int | None = None,
    timeout_s: float = 60.0,
) -> Adopted:  # fmt: skip
    """This rank's trainer of a DeepSpeed-MoE model under a plan; see above. The model is changed where it stands.

    It needs as many processes as the plan has ranks, in a gloo process group, each with the whole model. seed: of what
    gates draw; dropout draws by each rank's own generator. timeout_s: of one message. Gradients are not clipped.
    PlanError for what cannot be run, by the name of the module.
    """
    return Adopted(model, plan, loss, adam or Adam(), seed, timeout_s)


def collected(folder: Path) -> dict[str, Tensor]:
    """The whole state of the model, as its `load_state_dict` wants it. OSError where there are no files."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    files = sorted(folder.glob(FILES))
    if not files:
        raise OSError(f"no parameters in {folder}: save() of each rank writes them")
    for file in files:
        found |= load_file(file)
    return found

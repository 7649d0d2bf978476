"""A Llama-like model of Hugging Face whose FFNs run by experts: dense, soft, straight-through or hard.

    dense      FFN(x) = W_down h,                       h = act(W_gate x) * (W_up x)
    soft       FFN(x) = W_down (h * spread(G(x)))       spread: an expert's gate to its 32 neurons
    hard       FFN(x) = W_down (h * spread(G(x) > tau))       not scaled by G (LTE, section 4.3)
    straight   hard forward, with the gradient of soft

With a stand-in (stand_in.py; ours) the last three add its B A x + c.

Weights keep their order: a grouping is a matrix [experts, inner] of zeros and ones. So the hard mode with every expert
on is the dense one to the bit, and undoing it is taking the wrappers away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workbench.lte import lora
from workbench.lte.grouping import NEURONS, Grouping, check_grouping
from workbench.lte.routers import TAU, Router, StraightThrough, hard
from workbench.lte.stand_in import StandIn

Mode = Literal["dense", "soft", "straight", "hard"]
PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


class NotGated(ValueError):
    """The model's FFN is not a gated MLP that LTE can cut into experts; the message says what it has."""


class SparseMLP(nn.Module):
    """One gated MLP, its grouping and its router. `gates` holds the last G(x), [..., experts]."""

    spread: Tensor

    def __init__(self, mlp: Any, grouping: Grouping, router: Router) -> None:
        super().__init__()
        self.mlp, self.router, self.grouping = mlp, router, grouping
        weight = mlp.down_proj.weight
        check_grouping(grouping, weight.shape[1])
        spread = torch.zeros(len(grouping), weight.shape[1])
        spread[torch.arange(len(grouping)).repeat_interleave(NEURONS), torch.from_numpy(grouping).flatten()] = 1
        self.register_buffer("spread", spread.to(weight.dtype).to(weight.device), persistent=False)
        self.stand_in: StandIn | None = None
        self.mode: Mode = "dense"
        self.tau = TAU
        self.gates: Tensor | None = None
        self.chosen: Callable[[Tensor, float], Tensor] | None = None  # in hard mode, of the gates and tau: not G > tau

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "dense":
            return self.mlp(x)
        self.gates = self.router(x)
        h = self.mlp.act_fn(self.mlp.gate_proj(x)) * self.mlp.up_proj(x)
        y = self.mlp.down_proj(h * (self._share(self.gates).to(h.dtype) @ self.spread))
        return y if self.stand_in is None else y + self.stand_in(x)

    def _share(self, gates: Tensor) -> Tensor:
        if self.mode == "soft":
            return gates
        if self.mode == "straight":
            found: Tensor = StraightThrough.apply(gates, self.tau)  # type: ignore[no-untyped-call]
            return found
        return hard(gates, self.tau) if self.chosen is None else self.chosen(gates, self.tau)


class SparseModel:
    """A Hugging Face causal language model with its MLPs wrapped. `layers` are the wrappers, in order.

    stand_in: the rank of each layer's stand-in, 0 for none.
    """

    def __init__(
        self, model: Any, groupings: Sequence[Grouping], bias: float = 1.0, seed: int = 0, stand_in: int = 0
    ) -> None:
        blocks = gated_blocks(model)
        if len(groupings) != len(blocks):
            raise ValueError(f"{len(groupings)} groupings for the {len(blocks)} layers of this model")
        self.model = model
        self.blocks = blocks  # the decoder layers, in order
        self.layers: list[SparseMLP] = []
        for i, block in enumerate(blocks):
            hidden = block.mlp.gate_proj.weight.shape[1]
            router = Router(hidden, len(groupings[i]), bias, seed=seed * 1000 + i).to(block.mlp.gate_proj.weight.device)
            block.mlp = SparseMLP(block.mlp, groupings[i], router)
            if stand_in:
                block.mlp.stand_in = StandIn(hidden, stand_in).to(router.weight.device)
            self.layers.append(block.mlp)

    @property
    def experts(self) -> int:
        return len(self.layers[0].grouping)

    @property
    def groupings(self) -> list[Grouping]:
        return [layer.grouping for layer in self.layers]

    @property
    def beside(self) -> float:
        """What routers and stand-ins read for every token, as a share of the FFNs' weights."""
        extra = sum(p.numel() for p in (self.router_parameters() | self.stand_ins()).values())
        return extra / sum(3 * layer.grouping.size * layer.router.weight.shape[1] for layer in self.layers)

    def set_mode(self, mode: Mode) -> None:
        """How the FFNs run from now on."""
        for layer in self.layers:
            layer.mode = mode

    @contextmanager
    def as_mode(self, mode: Mode) -> Iterator[None]:
        """Another mode for a while, without gradients."""
        before = self.layers[0].mode
        self.set_mode(mode)
        try:
            with torch.no_grad():
                yield
        finally:
            self.set_mode(before)

    def set_tau(self, tau: float) -> None:
        """Another threshold: lower runs more experts. The paper's is 0.5 everywhere."""
        if not 0 <= tau <= 1:
            raise ValueError(f"the threshold lies between 0 and 1, not {tau}")
        for layer in self.layers:
            layer.tau = tau

    def gates(self) -> list[Tensor]:
        """G(x) of every layer at the last forward, [..., experts] each."""
        found = [layer.gates for layer in self.layers if layer.gates is not None]
        if len(found) != len(self.layers):
            raise RuntimeError("no gates yet: run the model in soft or hard mode first")
        return found

    def hidden(self, ids: Tensor) -> Tensor:
        """The last hidden states [n, tokens, hidden] of ids [n, tokens], padded on the right."""
        states: Tensor = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def router_parameters(self) -> dict[str, nn.Parameter]:
        """Every router's weight and bias by name."""
        return {f"router.{i}.{k}": p for i, layer in enumerate(self.layers) for k, p in layer.router.named_parameters()}

    def stand_ins(self) -> dict[str, nn.Parameter]:
        """Every stand-in's a, b and c by name; nothing where the model has none."""
        found = ((i, layer.stand_in) for i, layer in enumerate(self.layers) if layer.stand_in is not None)
        return {f"stand_in.{i}.{k}": p for i, one in found for k, p in one.named_parameters()}

    def model_parameters(self, tune: Literal["lora", "full"]) -> dict[str, nn.Parameter]:
        """What stage 1 and 2 train besides routers and stand-ins: the adapters, or every weight of the model."""
        if tune == "lora":
            return {f"lora.{p}.{k}": getattr(m, k) for p, m in lora.adapters(self.model) for k in ("a", "b")}
        own = {id(p) for p in (self.router_parameters() | self.stand_ins()).values()}
        return {f"model.{n}": p for n, p in self.model.named_parameters() if id(p) not in own}

    def to_dense(self, merge: bool = True) -> Any:
        """Take routers and wrappers away and return the Hugging Face model, its adapters merged into the weights.

        This object is of no use afterwards. The tuned model then runs every neuron: it is not what was trained for.
        """
        for block, layer in zip(_blocks(self.model), self.layers):
            block.mlp = layer.mlp
        if merge:
            lora.merge(self.model)
        return self.model


def gated_blocks(model: Any) -> list[Any]:
    """The model's transformer blocks, each with a gated MLP whose width is a multiple of 32.

    NotGated says what is there instead; ValueError when the model is sparse already.
    """
    blocks = _blocks(model)
    for i, block in enumerate(blocks):
        mlp = getattr(block, "mlp", None)
        if isinstance(mlp, SparseMLP):
            raise ValueError("this model is sparse already: call to_dense() first")
        missing = [part for part in PARTS if not hasattr(mlp, part)]
        if missing:
            raise NotGated(
                f"layer {i} of {type(model).__name__} has no gated MLP: its {type(mlp).__name__} lacks "
                f"{', '.join(missing)}. LTE needs gate_proj, up_proj and down_proj, as Llama, Qwen and Gemma have"
            )
        assert mlp is not None
        inner = mlp.gate_proj.weight.shape[0]
        if inner % NEURONS:
            raise NotGated(f"layer {i} has {inner} FFN neurons: experts of {NEURONS} need a multiple of {NEURONS}")
        if any(getattr(getattr(mlp, part), "bias", None) is not None for part in PARTS[:3]):
            raise NotGated(f"layer {i} has biases in its MLP: dropping an expert would keep its share of them")
    return blocks


def _blocks(model: Any) -> list[Any]:
    blocks = getattr(getattr(model, "model", None), "layers", None)
    if not blocks:
        raise NotGated(f"{type(model).__name__} has no model.layers: LTE takes Llama-like causal language models")
    return list(blocks)

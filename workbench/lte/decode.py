"""Whole tokens from a sparse model: the shared language model's forward with its FFNs run by the sparse kernel.

    torch     dense, every product by torch
    dense     the sparse kernel with every expert on: what sparsity is compared with
    sparse    the router and the chosen experts in one native call a layer, and what stands in for the others

Attention, norms, head and KV cache are the same code in all three. Adapters are merged. The time of the FFNs is taken
inside each step, so that Amdahl's ceiling follows from the very tokens that were timed:

    ceiling = 1 / (1 - f + f a)        f: FFN's share of a dense token, a: share of experts that ran
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.kernels import sparse_mlp as sm
from workbench.lm.model import LM, Layer, LMConfig
from workbench.lte.lora import LoRALinear
from workbench.lte.sparse_model import SparseModel
from workbench.lte.speed import Layers
from workbench.lte.stand_in import StandIn

Way = Literal["torch", "dense", "sparse"]
WAYS: tuple[Way, ...] = get_args(Way)


class SparseLM(LM):
    """An LM whose FFNs run by experts. `way` may change between steps; `active` is of the last step's last token."""

    def __init__(self, model: SparseModel, tokenizer: Any, dtype: str) -> None:
        config = LMConfig.from_llama(model.model.config.to_dict())
        super().__init__("sparse", config, merged_weights(model), getattr(torch, dtype), tokenizer, "sparse")
        self.way: Way = "sparse"
        self.ffn_s = 0.0  # since it was last set to zero
        self.kernel = Layers(model, dtype)
        self.stand_ins = [_as(layer.stand_in, self.dtype) for layer in model.layers]
        self.index = {id(layer): i for i, layer in enumerate(self.layers)}
        experts, hidden = self.kernel.experts, config.hidden
        self.active = torch.ones(config.layers, 1, experts, dtype=torch.bool)
        every = torch.ones(1, experts, dtype=torch.bool)
        self._x = torch.zeros(1, hidden, dtype=self.dtype)
        self._y = torch.zeros(1, hidden)
        self._dense = [sm.bound(self._x, p, every, self._y) for p in self.kernel.packed]
        self.route_by(self.kernel.routers)

    def route_by(self, routers: list[sm.Router]) -> None:
        """Take these, one a layer, in passes over many tokens and over one."""
        self.kernel.routers = routers
        layers = zip(self.kernel.packed, routers, self.active)
        self._sparse = [sm.bound(self._x, p, a, self._y, router=r) for p, r, a in layers]

    def _finish(self, layer: Layer, x: Tensor, seen: Tensor) -> Tensor:
        """As the LM's, but for the FFN: x [n, hidden] float32, seen [n, heads * head_dim]."""
        x = x + fn.linear(seen, layer.out)
        normed = self._normed(x, layer.mlp_norm)
        began = time.perf_counter()
        at = self.index[id(layer)]
        y = self._ffn(at, layer, normed)
        if self.way == "sparse" and (stand_in := self.stand_ins[at]) is not None:
            a, b, c = stand_in
            y = y + torch.addmm(c, fn.linear(normed, a), b)  # a half type here, the kernels' sum stays float32
        self.ffn_s += time.perf_counter() - began
        return x + y

    def _ffn(self, at: int, layer: Layer, x: Tensor) -> Tensor:
        if self.way == "torch":
            gate, up = fn.linear(x, layer.gate_up).chunk(2, dim=-1)
            return fn.linear(fn.silu(gate).mul_(up), layer.down)
        if len(x) == 1:  # decoding: tensors bound once
            self._x.copy_(x)
            (self._sparse if self.way == "sparse" else self._dense)[at]()
            return self._y
        packed = self.kernel.packed[at]
        if self.way == "dense":
            return sm.sparse_mlp(x, packed, torch.ones(len(x), packed.experts, dtype=torch.bool))
        y, active = sm.route_and_run(x, packed, self.kernel.routers[at])
        self.active[at].copy_(active[-1:])
        return y


@dataclass(frozen=True)
class Decoded:
    """Greedy tokens of one way: ids, seconds of each step and of its FFNs, experts [tokens, layers, experts]."""

    way: Way
    ids: list[int]
    step_s: list[float]
    ffn_s: list[float]
    active: Tensor

    @property
    def tok_s(self) -> float:
        """Tokens a second, by the median step."""
        return 1 / median(self.step_s)


def generate(model: SparseLM, ids: Sequence[int], new_tokens: int, way: Way) -> Generator[int, None, Decoded]:
    """Write `new_tokens` greedily after the prompt `ids`, each yielded. ValueError without a prompt or room."""
    if not ids or new_tokens < 1:
        raise ValueError("decoding needs a prompt of at least one token, and at least one token to write")
    cache = model.new_cache(len(ids) + new_tokens)
    model.way = way
    found, steps, ffns, active = list[int](), list[float](), list[float](), list[Tensor]()
    logits = model.forward(torch.tensor(ids), cache, 0)
    for at in range(new_tokens):
        assert logits is not None
        found.append(int(logits.argmax()))
        yield found[-1]
        model.ffn_s, began = 0.0, time.perf_counter()
        logits = model.forward(torch.tensor(found[-1:]), cache, len(ids) + at)
        steps.append(time.perf_counter() - began)
        ffns.append(model.ffn_s)
        active.append(model.active[:, 0].clone())
    return Decoded(way, found, steps, ffns, torch.stack(active))


@dataclass(frozen=True)
class Decoding:
    """All ways, interleaved: medians over every step. `ceiling`, `ffn_share` of dense tokens by our kernels."""

    tok_s: dict[Way, float]
    ffn_share: dict[Way, float]
    active_share: float
    ceiling: float
    sparse: Decoded


def measure(model: SparseLM, ids: Sequence[int], new_tokens: int, rounds: int) -> Generator[float, None, Decoding]:
    """Decode by every way in turn, `rounds` times in changing order; yields the share that is done after each token."""
    taken: dict[Way, list[Decoded]] = {way: [] for way in WAYS}
    done, total = 0, rounds * len(WAYS) * new_tokens
    for turn in range(rounds):
        for way in WAYS[turn % len(WAYS) :] + WAYS[: turn % len(WAYS)]:
            going = generate(model, ids, new_tokens, way)
            while True:
                try:
                    next(going)
                except StopIteration as end:
                    taken[way].append(end.value)
                    break
                done += 1
                yield done / total
    step = {way: median([s for d in runs for s in d.step_s]) for way, runs in taken.items()}
    ffn = {way: median([s for d in runs for s in d.ffn_s]) for way, runs in taken.items()}
    share = {way: ffn[way] / step[way] for way in WAYS}
    active = float(torch.cat([d.active for d in taken["sparse"]]).float().mean())
    ceiling = 1 / (1 - share["dense"] + share["dense"] * active)
    speeds = {way: 1 / seconds for way, seconds in step.items()}
    return Decoding(speeds, share, active, ceiling, taken["sparse"][0])


@torch.no_grad()
def against_definition(model: SparseLM, sparse: SparseModel, ids: Sequence[int]) -> tuple[float, float]:
    """(largest difference, the control's) of the last token's logits, as shares of the largest logit.

    The definition is the Hugging Face model in hard mode. The control keeps the way and takes the experts in another
    order: as many ran, but others.
    """
    with sparse.as_mode("hard"):
        states = sparse.hidden(torch.tensor([list(ids)]))[0, -1]
        wanted = fn.linear(states.float(), sparse.model.lm_head.weight.float())
    found = _last(model, ids)
    routers = model.kernel.routers
    model.route_by([_turned(router) for router in routers])
    try:
        other = _last(model, ids)
    finally:
        model.route_by(routers)
    top = float(wanted.abs().max())
    return float((found - wanted).abs().max()) / top, float((other - wanted).abs().max()) / top


def _last(model: SparseLM, ids: Sequence[int]) -> Tensor:
    model.way = "sparse"
    logits = model.forward(torch.tensor(list(ids)), model.new_cache(len(ids)), 0)
    assert logits is not None
    return logits


def _turned(router: sm.Router) -> sm.Router:
    """The same router with its experts moved on by half."""
    by = router.experts // 2
    half = "bfloat16" if router.half else "float32"
    return sm.pack_router(router.weights.roll(by, 0), router.bias.roll(by), getattr(torch, half))


def _as(stand_in: StandIn | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
    """A, B transposed and c as a decode step takes them."""
    if stand_in is None:
        return None
    return stand_in.a.detach().to(dtype), stand_in.b.detach().to(dtype).T.contiguous(), stand_in.c.detach().to(dtype)


def merged_weights(model: SparseModel) -> dict[str, Tensor]:
    """Every weight under Hugging Face's own name, adapters merged, wrappers gone."""
    found: dict[str, Tensor] = {}
    for name, module in model.model.named_modules():
        whole = isinstance(module, LoRALinear) or (hasattr(module, "weight") and ".base" not in name)
        if whole and ".router" not in name:
            found[name.replace(".mlp.mlp.", ".mlp.") + ".weight"] = module.weight.detach()
    return found

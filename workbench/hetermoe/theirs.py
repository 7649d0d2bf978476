"""A DeepSpeed-MoE model as somebody else wrote it: its MoE layers, and by name what of it no plan can run.

    layers = read(model)                    [Layer(path, moe, experts), ...] in the order in which they were made
    of = model_of(model)                    layers, experts, top_k and a key, for zebra(1, 1, 2, of.layers, ...)

What runs: any torch model of float32 or float64 on a CPU whose MoE layers are deepspeed.moe.layer.MoE with all experts
in it (ep_size 1), as many in each layer, called once each in that order. Gates are DeepSpeed's own code and stay so:
top-1, top-2 and top-k, with dropped tokens and capacities or without, auxiliary losses, masks of used tokens (top-1)
and residual experts. What is drawn at random (jitter, RSample, random token selection, the sampled second expert,
dropout) needs a seed, as a plan draws in another order than DeepSpeed does. What is refused is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.moe.layer import MoE
from deepspeed.moe.sharded_moe import MOELayer, TopKGate
from torch import nn

from workbench.hetermoe.baselines import Model
from workbench.hetermoe.plan import PlanError, fingerprint

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Layer:
    """A MoE layer. path: its name in the model. hidden: width of a token there."""

    path: str
    moe: Any
    experts: tuple[nn.Module, ...]
    top_k: int
    hidden: int


def read(model: nn.Module, seed: int | None = None) -> list[Layer]:
    """All MoE layers. PlanError naming the module and the setting that cannot be run, with the way out."""
    found = [_layer(path, module) for path, module in model.named_modules() if isinstance(module, MoE)]
    if not found:
        raise PlanError("no deepspeed.moe.layer.MoE in this model: there is nothing that a plan could place")
    _alike(found)
    _own_parameters(model, found)
    _dtype(model)
    for layer in found:
        _normed(layer)
    drawn = [*_drawn(found), *_dropout(model)]
    if drawn and seed is None:
        raise PlanError(
            f"drawn at random: {'; '.join(drawn)}. Turn it off, or give a seed: gates then draw by it, and not what "
            "they would under DeepSpeed"
        )
    return found


def model_of(model: nn.Module) -> Model:
    """What a plan and the planner need to know of it."""
    layers = read(model, seed=0)
    sizes = {f"p{at}": "x".join(map(str, p.shape)) for at, p in enumerate(model.parameters())}
    experts, top_k = len(layers[0].experts), layers[0].top_k
    return Model(len(layers), experts, top_k, fingerprint(layers=len(layers), experts=experts, top_k=top_k, **sizes))


def _layer(path: str, moe: Any) -> Layer:
    inner = moe.deepspeed_moe
    if type(inner) is not MOELayer:
        raise PlanError(f"{path}: its inside is {type(inner).__name__}, not DeepSpeed's MOELayer: give the model anew")
    gate = inner.gate
    if type(gate) is not TopKGate:
        raise PlanError(f"{path}: its gate is {type(gate).__name__}, and only DeepSpeed's TopKGate is known here")
    if moe.num_local_experts != moe.num_experts:
        raise PlanError(
            f"{path} has {moe.num_local_experts} of {moe.num_experts} experts in it (ep_size {moe.ep_size}): build the "
            "model with ep_size=1 and load all shards; the plan says where they go"
        )
    if inner.use_tutel:
        raise PlanError(f"{path}: use_tutel has kernels of its own: leave it out")
    if moe.enable_expert_tensor_parallelism:
        raise PlanError(f"{path}: enable_expert_tensor_parallelism cuts single experts, a plan places whole ones")
    return Layer(path, moe, tuple(inner.experts.deepspeed_experts), gate.k, gate.wg.in_features)


def _alike(layers: list[Layer]) -> None:
    first = layers[0]
    for name, of in (("experts", lambda one: len(one.experts)), ("k", lambda one: one.top_k),
                     ("hidden_size", lambda one: one.hidden)):  # fmt: skip
        for layer in layers[1:]:
            if of(layer) != of(first):
                raise PlanError(
                    f"{layer.path} has {name} {of(layer)}, {first.path} {of(first)}: a plan is for layers of one shape"
                )


def _own_parameters(model: nn.Module, layers: list[Layer]) -> None:
    """No parameter may be an expert's and somebody else's too."""
    owner: dict[int, str] = {}
    inside: set[int] = set()
    for layer in layers:
        for number, expert in enumerate(layer.experts):
            for name, p in expert.named_parameters():
                at = f"{layer.path}, expert {number}, {name}"
                if id(p) in owner:
                    raise PlanError(f"{at} is the same tensor as {owner[id(p)]}: untie them, ranks share none")
                owner[id(p)] = at
            inside |= {id(module) for module in expert.modules()}
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in inside:
            continue
        for name, p in module.named_parameters(recurse=False):
            if id(p) in owner:
                raise PlanError(
                    f"{path}.{name} is the same tensor as {owner[id(p)]}: untie them, ranks cannot share it"
                )


def _dtype(model: nn.Module) -> None:
    found = {(p.dtype, p.device.type): name for name, p in model.named_parameters()}
    for (dtype, device), name in found.items():
        if dtype not in DTYPES or device != "cpu":
            raise PlanError(f"{name} is {dtype} on {device}: a plan runs models of float32 or float64 on a CPU")
    if len(found) > 1:
        raise PlanError(f"{' and '.join(found.values())} are of different types: a plan runs models of one")


def _normed(layer: Layer) -> None:
    """A capacity is padded with rows of zeros, which no plan sends: an expert must treat each row by itself."""
    for number, expert in enumerate(layer.experts):
        for module in expert.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise PlanError(
                    f"{layer.path}, expert {number} has a {type(module).__name__}, whose statistics DeepSpeed takes "
                    "over rows of padding too: use a norm of single rows"
                )


def _drawn(layers: list[Layer]) -> Iterator[str]:
    for layer in layers:
        gate = layer.moe.deepspeed_moe.gate
        if gate.noisy_gate_policy == "Jitter" or (gate.noisy_gate_policy == "RSample" and gate.k == 1):
            yield f"{layer.path}: noisy_gate_policy {gate.noisy_gate_policy}"
        if gate.k == 1 and gate.drop_tokens and gate.use_rts:
            yield f"{layer.path}: use_rts, which tokens are dropped"
        if gate.k == 2 and gate.top2_2nd_expert_sampling:
            yield f"{layer.path}: top2_2nd_expert_sampling"


def _dropout(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        share = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(share, float) and share > 0 and module.training:
            yield f"{path}: dropout {share}"

"""`sparsify(model, data, target=0.8)`: the whole method in one call, on any Llama-like model of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.lte import lora
from workbench.lte.data import Batch
from workbench.lte.fisher import felt, fisher
from workbench.lte.grouping import (
    FELT_CLASSES,
    Grouping,
    Method,
    coactivation_groups,
    kmeans_groups,
    random_groups,
    sized_groups,
)
from workbench.lte.schedule import Step, TrainConfig
from workbench.lte.sparse_model import SparseModel, gated_blocks
from workbench.lte.tasks import Task
from workbench.lte.train import train


def sparsify(
    model: Any,
    data: Task,
    target: float = 0.8,
    *,
    grouping: Method = "kmeans",
    config: TrainConfig | None = None,
    rank: int = 8,
    stand_in: int = 0,
    folder: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> SparseModel:
    """Train `model` in place to leave out the share `target` of its FFNs; returns it in hard mode.

    data: a task (sentiment, language modelling, or your own with the same methods). With config.tune = "lora" adapters
    of `rank` are added. stand_in: rank of the maps that stand in for what is left out (stand_in.py); 0 is the published
    method. With a `folder` a killed call goes on where it was. `on_step` may raise to end it.
    NotGated for a model that LTE does not fit; Diverged when the loss is no number.
    """
    config = replace(config or TrainConfig(), target=target)
    groups = group(model, grouping, config.seed, [data.batch(i, config.batch, config.seed).ids for i in range(2)])
    if config.tune == "lora":
        lora.add(model, rank, 2.0 * rank, seed=config.seed)
    sparse = SparseModel(model, groups, seed=config.seed, stand_in=stand_in)
    for step in train(sparse, data, config, folder):
        if on_step:
            on_step(step)
    return sparse


def group(model: Any, method: Method, seed: int, batches: Sequence[Tensor] = ()) -> list[Grouping]:
    """A grouping for each layer of a dense model. All but "kmeans" and "random" run it on `batches` of ids [n, tokens].

    "fisher" is "sized" with what the loss feels of a neuron (fisher.py) for the size of its contribution.
    """
    blocks = gated_blocks(model)
    widths = [b.mlp.gate_proj.weight.shape[0] for b in blocks]
    seeds = [seed * 1000 + i for i in range(len(blocks))]
    if method == "random":
        return [random_groups(width, s) for width, s in zip(widths, seeds)]
    if method == "kmeans":
        return [kmeans_groups(b.mlp.gate_proj.weight.detach().float().numpy(), s) for b, s in zip(blocks, seeds)]
    if not batches:
        raise ValueError(f"{method} grouping runs the model on text: give at least one batch")
    seen = activations(model, batches)
    if method == "coactivation":
        return [coactivation_groups(a.numpy(), s) for a, s in zip(seen, seeds)]
    weights = [b.mlp.down_proj.weight.detach().float() for b in blocks]
    if method == "sized":
        return [sized_groups((a * w.norm(dim=0)).numpy(), s) for a, w, s in zip(seen, weights, seeds)]
    whole = [Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(len(ids))) for ids in batches]
    sizes = [felt(w, f).sqrt() for w, f in zip(weights, fisher(model, blocks, whole))]
    return [sized_groups((a * size).numpy(), s, FELT_CLASSES) for a, size, s in zip(seen, sizes, seeds)]


@torch.no_grad()
def activations(model: Any, batches: Sequence[Tensor]) -> list[Tensor]:
    """Every layer's h = act(gate) * up, [tokens, inner] float32, over `batches` of ids [n, tokens]."""
    seen: list[list[Tensor]] = [[] for _ in gated_blocks(model)]

    def remember(rows: list[Tensor]) -> Callable[..., None]:
        return lambda module, inputs: rows.append(inputs[0].float().flatten(0, -2))  # noqa: ARG005  a hook's arguments

    handles = [
        block.mlp.down_proj.register_forward_pre_hook(remember(rows)) for block, rows in zip(gated_blocks(model), seen)
    ]
    try:
        for ids in batches:
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(rows) for rows in seen]


def agreement(first: Sequence[Grouping], second: Sequence[Grouping]) -> float:
    """Share of pairs that stand together in `first` and also in `second`: 31 in inner - 1 for unrelated ones."""
    same = total = 0
    for one, other in zip(first, second):
        owner = other.argsort(axis=None) // other.shape[1]
        pairs = owner[one][:, :, None] == owner[one][:, None, :]
        same += int(pairs.sum()) - pairs.shape[0] * pairs.shape[1]
        total += pairs.shape[0] * pairs.shape[1] * (pairs.shape[1] - 1)
    return same / total

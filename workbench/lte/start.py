"""Routers that begin with what the dense model shows: which experts matter to which tokens.

    importance of expert e to a token = sum over its neurons of (|h_i| |W_down[:, i]|)^2 / |residual|^2

The sum is that of the oracle in posthoc.py; over what the token carries on it can be compared between layers, so that
one threshold leaves more to the layers that matter more. With `by="fisher"` it is what leaving e out costs the loss
(fisher.py), which can be compared as it is.

LTE starts routers at random and lets L_eff find out; Deja Vu fits predictors to a frozen model and stops there. Here
the second is where the first begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from workbench.lte.data import Batch
from workbench.lte.fisher import felt, fisher
from workbench.lte.grouping import NEURONS
from workbench.lte.routers import warm_start
from workbench.lte.sparse_model import Mode, SparseModel


@torch.no_grad()
def start_routers(
    model: SparseModel,
    batches: Sequence[Batch],
    keep: float,
    by: Literal["activations", "fisher"] = "activations",
    mode: Mode = "dense",
) -> None:
    """Fit every router by ridge regression on `batches`, so that the share `keep` of experts runs. Padding is left out.

    Runs the model once over each batch, in `mode`: what experts are worth to a token as its states are then.
    ValueError without a batch.
    """
    if not batches:
        raise ValueError("routers are started from text: give at least one batch")
    inputs, carried = ([list[Tensor]() for _ in model.layers] for _ in range(2))
    keeps: list[Tensor] = []

    def remember(rows: list[Tensor]) -> Callable[..., None]:
        return lambda module, given: rows.append(given[0][keeps[-1]])  # noqa: ARG005  a hook's arguments

    def carry(rows: list[Tensor]) -> Callable[..., None]:
        def look(module: object, given: object, out: Tensor | tuple[Tensor, ...]) -> None:  # noqa: ARG001
            states = out if isinstance(out, Tensor) else out[0]
            rows.append(states[keeps[-1]].float().square().sum(dim=-1, keepdim=True))

        return look

    hooks = [block.register_forward_hook(carry(rows)) for block, rows in zip(model.blocks, carried)]
    hooks += [layer.register_forward_pre_hook(remember(xs)) for layer, xs in zip(model.layers, inputs)]
    try:
        with model.as_mode(mode):
            for batch in batches:
                keeps.append(batch.keep)
                model.hidden(batch.ids)
    finally:
        for hook in hooks:
            hook.remove()
    if by == "fisher":
        with model.as_mode(mode):
            information = fisher(model.model, model.blocks, batches)
    fits = []
    for at, (layer, xs, rows) in enumerate(zip(model.layers, inputs, carried)):
        weight = layer.mlp.down_proj.weight
        sizes = felt(weight, information[at]) if by == "fisher" else weight.float().square().sum(dim=0)  # [inner]
        order = torch.from_numpy(layer.grouping).flatten()
        hs = torch.cat([layer.mlp.act_fn(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x) for x in xs]).float()
        share = (hs.square() * sizes)[:, order].view(-1, len(order) // NEURONS, NEURONS).sum(dim=-1)
        if by == "activations":
            share /= torch.cat(rows).clamp_min(1e-12)
        fits.append((layer.router, torch.cat(xs).float(), share))
    warm_start(fits, keep)

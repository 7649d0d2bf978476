"""What the loss feels of an error in a layer's output: the Fisher information of the states, layer by layer.

    F_l = mean over tokens of g g^T       g [hidden]: the summed next-token loss's gradient at the state behind l

To second order an error e in one token's state costs half of e^T F_l e nats, so what leaving neuron i out costs is

    h_i^2 w_i^T F_l w_i                   w_i: its column of W_down; errors of several neurons taken as unrelated

in the same unit in every layer. The length of w_i alone, which other starts look at, says nothing of which directions
are read later. Labels are the text's own next tokens (the empirical Fisher). For LTE this is ours; as a measure of what
may be left out it is old (optimal brain damage, LeCun et al. 1989).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from workbench.lte.data import Batch


def fisher(model: Any, blocks: Sequence[nn.Module], batches: Sequence[Batch]) -> list[Tensor]:
    """F of every one of `blocks`, [hidden, hidden] float32, of a causal language model. No gradient is left behind.

    ValueError without a batch, or where no text has two tokens.
    """
    sums: list[Tensor] = []
    tokens = 0
    for batch in batches:
        kept = batch.keep[:, 1:] & batch.keep[:, :-1]
        tokens += int(kept.sum())
        rows = [slope[:, :-1][kept].float() for slope in _slopes(model, blocks, batch.ids, kept)]
        parts = [each.T @ each for each in rows]
        sums = [one + part for one, part in zip(sums, parts, strict=True)] if sums else parts
    if not tokens:
        raise ValueError("what the loss feels is measured on text: give at least one batch of two tokens or more")
    return [one / tokens for one in sums]


def felt(weight: Tensor, information: Tensor) -> Tensor:
    """w_i^T F w_i of each column of W_down [hidden, inner]: [inner]."""
    columns = weight.detach().float()
    return (columns * (information @ columns)).sum(dim=0).clamp_min(0)


def _slopes(model: Any, blocks: Sequence[nn.Module], ids: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """The loss's gradient at the states behind each block, [n, tokens, hidden] each."""
    states: list[Tensor] = []

    def look(module: object, given: object, out: Tensor | tuple[Tensor, ...]) -> None:  # noqa: ARG001
        state = out if isinstance(out, Tensor) else out[0]
        states.append(state if state.requires_grad else state.requires_grad_())

    hooks: list[Callable[[], None]] = [block.register_forward_hook(look).remove for block in blocks]
    try:
        with torch.enable_grad():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            each = fn.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            return torch.autograd.grad((each * kept.flatten()).sum(), states)
    finally:
        for remove in hooks:
            remove()

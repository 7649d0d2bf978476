"""The warmed model as its own teacher: sparse hidden states are held to those it had when all experts ran.

    L_teach = mean over layers and tokens of |h_sparse - h_dense|^2 / |h_dense|^2

    L_distil = KL of the sparse model's answers from the teacher's: of the two words, or of the next token

A label says one bit about a text; this says what every layer should have carried on. Ours, an option; the teacher is
the run's own model at the end of its dense stage, so nothing enters that the dense arm has not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workbench.lte.data import Batch
from workbench.lte.sparse_model import SparseModel


class Teacher:
    """Parameters at one moment, to be looked at later. `parameters` are those that training moves."""

    def __init__(self, model: SparseModel, parameters: Mapping[str, nn.Parameter]) -> None:
        self.model, self.parameters = model, parameters
        self.then = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def states(self, batch: Batch) -> list[Tensor]:
        """Hidden states after each layer, [kept tokens, hidden] each, as the teacher computes them."""
        now = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._set(self.then)
        try:
            with self.model.as_mode("dense"), carried(self.model, batch) as states:
                self.model.hidden(batch.ids)
            return states
        finally:
            self._set(now)

    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.parameters.items():
            p.data.copy_(values[name])


@contextmanager
def carried(model: SparseModel, batch: Batch) -> Iterator[list[Tensor]]:
    """Hidden states after each layer of what is run meanwhile: [kept tokens, hidden] each."""
    found: list[Tensor] = []

    def look(module: object, given: object, out: Tensor | tuple[Tensor, ...]) -> None:  # noqa: ARG001
        found.append((out if isinstance(out, Tensor) else out[0])[batch.keep])

    hooks = [block.register_forward_hook(look) for block in model.blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def teaching(states: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """L_teach: the mean relative squared error of the hidden states."""
    errors = [
        ((s - w).float().square().sum(-1) / w.float().square().sum(-1).clamp_min(1e-6)).mean()
        for s, w in zip(states, wanted)
    ]
    return torch.stack(errors).mean()


def distilling(answers: Tensor, wanted: Tensor) -> Tensor:
    """L_distil: the mean over rows of KL(teacher || sparse), from logits [rows, classes]."""
    return nn.functional.kl_div(
        answers.log_softmax(dim=-1), wanted.log_softmax(dim=-1), reduction="batchmean", log_target=True
    )

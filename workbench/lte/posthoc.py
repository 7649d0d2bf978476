"""Sparsity without training, at the same share of the FFN left out: what LTE has to beat.

    cats      neurons whose |act(gate)| is under the layer's threshold (CATS, 2024), set on calibration text
    teal      entries of the FFN's two inputs, x and h, that are under their thresholds (TEAL, 2024)
    random    blocks of 32 by lot, drawn anew for each token
    blocks    an oracle: for each token the blocks of 32 with the least share in the output
    neurons   an oracle: the same for single neurons

The oracles look at the very activations they save the computing of: bounds on what choosing can reach, no methods.
The size of a neuron in the output is |h_i| times the length of its column of W_down.

The same share of neurons is not the same share of weights: CATS reads all of W_gate to choose, so that half of the
neurons leaves a third of the FFN unread (`unread`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from workbench.lte.grouping import NEURONS, Grouping
from workbench.lte.sparse_model import SparseModel

Method = Literal["cats", "teal", "random", "blocks", "neurons"]
METHODS: tuple[Method, ...] = get_args(Method)
_SAMPLE = 200_000  # values a quantile is taken of


class Thinned(nn.Module):
    """A gated MLP that leaves a share of itself out. `left_out` counts entries of x (teal alone), and of h or gate."""

    def __init__(self, mlp: Any, method: Method, sparsity: float, grouping: Grouping, seed: int) -> None:
        super().__init__()
        self.mlp, self.method, self.sparsity = mlp, method, sparsity
        self.order = torch.from_numpy(grouping).flatten()
        self.sizes = mlp.down_proj.weight.detach().float().norm(dim=0)  # [inner]
        self.draw = torch.Generator().manual_seed(seed)
        self.samples: list[list[Tensor]] = [[], []]  # while calibrating
        self.cuts: list[float] | None = None if method in ("cats", "teal") else [0.0, 0.0]
        self.left_out, self.seen = [0, 0], [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        entered = self._cut(x, 0) if self.method == "teal" else x
        opened = self.mlp.act_fn(self.mlp.gate_proj(entered))
        if self.method == "cats":
            opened = self._cut(opened, 1)
        h = opened * self.mlp.up_proj(entered)
        if self.method == "teal":
            h = self._cut(h, 1)
        elif self.method != "cats":
            keep = self._keep(h)
            self._count(keep, 1)
            h = h * keep.to(h.dtype)
        return self.mlp.down_proj(h)

    def calibrated(self) -> None:
        """Set the thresholds from what was seen since construction."""
        self.cuts = [_quantile(s, self.sparsity) if s else 0.0 for s in self.samples]
        self.samples, self.left_out, self.seen = [[], []], [0, 0], [0, 0]

    def _cut(self, values: Tensor, which: int) -> Tensor:
        """`values` with those under the threshold zero; while calibrating, the threshold of all that was seen so far.

        Cutting in calibration too lets later thresholds see what cutting does: else more is left out than asked for.
        """
        if self.cuts is None:
            self.samples[which].append(values.detach().abs().float().flatten()[::7])
            cut = _quantile(self.samples[which], self.sparsity)
        else:
            cut = self.cuts[which]
        keep = values.abs() > cut
        self._count(keep, which)
        return values * keep.to(values.dtype)

    def _keep(self, h: Tensor) -> Tensor:
        """Which neurons stay, [..., inner] bool: the same number for every token."""
        size = h.detach().abs().float() * self.sizes
        if self.method == "neurons":
            return _greatest(size, self.sparsity)
        if self.method == "random":
            score = torch.rand((*h.shape[:-1], h.shape[-1] // NEURONS), generator=self.draw)
        else:
            score = size[..., self.order].unflatten(-1, (-1, NEURONS)).square().sum(dim=-1)
        stay = _greatest(score, self.sparsity).repeat_interleave(NEURONS, dim=-1)
        return torch.zeros_like(stay).index_copy_(-1, self.order, stay)

    def _count(self, keep: Tensor, which: int) -> None:
        self.left_out[which] += int((~keep).sum())
        self.seen[which] += keep.numel()


@contextmanager
def thinned(
    model: SparseModel, method: Method, sparsity: float, batches: Sequence[Tensor], seed: int = 0
) -> Iterator[list[Thinned]]:
    """`model` in dense mode, its MLPs thinned, for a while. Thresholds are set on `batches` of ids [n, tokens].

    ValueError for a sparsity outside [0, 1), an unknown method, or a threshold method without calibration text.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"a sparsity lies in [0, 1), not {sparsity}")
    if method not in METHODS:
        raise ValueError(f"no method is called {method!r}; there are {', '.join(METHODS)}")
    if method in ("cats", "teal") and not batches:
        raise ValueError(f"{method} sets its thresholds on text: give at least one batch")
    wrapped = [
        Thinned(layer.mlp, method, sparsity, layer.grouping, seed * 1000 + i) for i, layer in enumerate(model.layers)
    ]
    try:
        with model.as_mode("dense"):
            for layer, thin in zip(model.layers, wrapped):
                layer.mlp = thin
            if method in ("cats", "teal"):
                for ids in batches:
                    model.hidden(ids)
                for thin in wrapped:
                    thin.calibrated()
            yield wrapped
    finally:
        for layer, thin in zip(model.layers, wrapped):
            layer.mlp = thin.mlp


def measured_sparsity(layers: Sequence[Thinned]) -> float:
    """The share that was left out since calibration, padding included."""
    return sum(sum(t.left_out) for t in layers) / max(1, sum(sum(t.seen) for t in layers))


def unread(layers: Sequence[Thinned]) -> float:
    """The share of the FFN's weights that need not be read since calibration; an oracle's choice counts as free.

    teal: an entry of x spares a column of W_gate and of W_up, one of h a column of W_down.
    """
    x, h = (sum(t.left_out[at] for t in layers) / max(1, sum(t.seen[at] for t in layers)) for at in (0, 1))
    return {"teal": (2 * x + h) / 3, "cats": 2 * h / 3}.get(layers[0].method, h)


def _greatest(score: Tensor, sparsity: float) -> Tensor:
    """Bool like `score`: the greatest of the last dimension, so many that the share `sparsity` is left out."""
    count = score.shape[-1] - round(sparsity * score.shape[-1])
    found = torch.zeros_like(score, dtype=torch.bool)
    return found.scatter_(-1, score.topk(count, dim=-1).indices, True)


def _quantile(samples: list[Tensor], share: float) -> float:
    flat = torch.cat(samples)
    return float(torch.quantile(flat[:: max(1, len(flat) // _SAMPLE)], share))

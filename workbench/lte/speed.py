"""Kernel times on the trained layers themselves: as their routers choose, and by chance at set sparsities.

Every way goes through all layers for one token; masks and rows are new each round, a buffer larger than the last cache
is read before each, ways alternate, medians are kept: see `kernels/sparse_mlp/bench.py`, whose method this is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.kernels import sparse_mlp as sm
from workbench.kernels.sparse_mlp.bench import Flush
from workbench.lte.result import ALL, TORCH, Row
from workbench.lte.sparse_model import SparseModel

SPARSITIES = (0.5, 0.8, 0.9)
Way = Callable[[], object]


class Layers:
    """A model's FFNs with their adapters merged, packed for the kernel."""

    def __init__(self, model: SparseModel, dtype: str) -> None:
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.packed, self.routers = [], []
        for layer in model.layers:
            mlp = layer.mlp
            gate, up, down = (
                w.detach().to(self.dtype) for w in (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
            )
            self.packed.append(sm.pack(gate, up, down, torch.from_numpy(layer.grouping)))
            router = layer.router
            self.routers.append(sm.pack_router(router.weight, router.bias, self.dtype, layer.tau))
        self.hidden, self.experts = self.packed[0].hidden, self.packed[0].experts

    def draw(self, sparsity: float, seed: int) -> list[Tensor]:
        """Fresh masks [1, experts], one a layer: so many experts by lot."""
        lot = torch.Generator().manual_seed(seed)
        keep = max(1, round((1 - sparsity) * self.experts))
        return [torch.rand(1, self.experts, generator=lot).argsort(dim=1) < keep for _ in self.packed]


@torch.no_grad()
def seen(model: SparseModel, ids: Sequence[Tensor], most: int) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """(inputs, masks) of the last token of each of `most` texts [1, tokens]: a row and a mask [1, ...] a layer."""
    rows: list[list[Tensor]] = []
    masks: list[list[Tensor]] = []
    taken: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: taken.append(given[0][0, -1:])) for layer in model.layers]
    try:
        with model.as_mode("hard"):
            for text in ids[:most]:
                taken.clear()
                model.hidden(text)
                rows.append(list(taken))
                masks.append([g[0, -1:] > layer.tau for g, layer in zip(model.gates(), model.layers)])
    finally:
        for hook in hooks:
            hook.remove()
    return rows, masks


def timed(
    layers: Layers, inputs: list[list[Tensor]], routed: list[list[Tensor]], rounds: int
) -> Generator[float, None, list[Row]]:
    """Time every way `rounds` times; yields the share that is done, returns the rows.

    inputs, routed: for each of several tokens its rows [1, hidden] and masks [1, experts], one a layer.
    """
    flush, out = Flush(), torch.empty(1, layers.hidden)
    xs = [torch.zeros(1, layers.hidden, dtype=layers.dtype) for _ in layers.packed]
    masks = [torch.zeros(1, layers.experts, dtype=torch.bool) for _ in layers.packed]
    calls = [sm.bound(x, p, m, out) for x, p, m in zip(xs, layers.packed, masks)]
    chosen = [torch.zeros(1, layers.experts, dtype=torch.bool) for _ in layers.packed]
    with_router = [sm.bound(x, p, m, out, router=r) for x, p, m, r in zip(xs, layers.packed, chosen, layers.routers)]

    def by_masks(of: Callable[[int], list[Tensor]]) -> Callable[[int], Way]:
        def prepare(at: int) -> Way:
            for kept, fresh in zip(masks, of(at)):
                kept.copy_(fresh)
            return lambda: [call() for call in calls]

        return prepare

    share = float(torch.stack([torch.cat(routed[at % len(routed)]) for at in range(rounds)]).float().mean())
    lots: list[tuple[str, float]] = [(ALL, 0.0), *((f"by lot, {s:.0%}", s) for s in SPARSITIES)]
    ways = {(name, s): by_masks(partial(layers.draw, s)) for name, s in lots}
    ways["as routed", 1 - share] = by_masks(lambda at: routed[at % len(routed)])
    ways["router included", 1 - share] = lambda _: lambda: [call() for call in with_router]
    ways[TORCH, 0.0] = lambda _: lambda: [_torch(x, p) for x, p in zip(xs, layers.packed)]
    taken: dict[tuple[str, float], list[float]] = {key: [] for key in ways}
    for at in range(-1, rounds):  # the first warms code and allocator
        for key, prepare in ways.items():
            for x, row in zip(xs, inputs[at % len(inputs)]):
                x.copy_(row)
            run = prepare(at)
            flush()
            began = time.perf_counter()
            run()
            if at >= 0:
                taken[key].append((time.perf_counter() - began) * 1e3)
        yield (at + 2) / (rounds + 1)
    weights = sum(p.weights.numel() for p in layers.packed)
    floor_ms = weights / max(flush.gb_s) / 1e6
    rows = [Row(what="kernel", name=n, x=s, value=statistics.median(ms), unit="ms") for (n, s), ms in taken.items()]
    return [*rows, Row(what="kernel", name="memory roofline", x=0.0, value=floor_ms, unit="ms", badge="modelled")]


def _torch(x: Tensor, p: sm.Packed) -> Tensor:
    return fn.linear(fn.silu(fn.linear(x, p.gate)) * fn.linear(x, p.up), p.down)

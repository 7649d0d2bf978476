"""Times of one model's MLPs on one thread: experts by fresh masks, against itself dense, torch and the memory.

Every way goes through all layers; between two of them a buffer larger than the last cache is read, so weights come from
memory as they do in a decode step; masks and rows are new each round; ways alternate, medians are kept. Rows of a batch
share a mask unless the way says otherwise. The roofline is that buffer's reading time by one thread in the same run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.kernels import sparse_mlp as sm
from workbench.kernels.sparse_mlp import _sparse_mlp

COLUMNS = ("shape", "dtype", "rows", "sparsity", "way", "number", "value", "badge")
SHAPES = {"SmolLM2-135M": (30, 576, 1536), "7B": (1, 4096, 11008)}  # layers, hidden, inner
SPARSITIES = (0.0, 0.25, 0.5, 0.8, 0.9, 0.96)
BATCHES = (1, 2, 4, 8, 16)
PARTS = [(shape, dtype) for shape in SHAPES for dtype in (torch.bfloat16, torch.float32)]
ROUNDS = int(os.environ.get("WORKBENCH_BENCH_ROUNDS", "9"))
SEED = 1
Way = Callable[[], Any]
Row = dict[str, Any]


class Flush:
    """A buffer larger than the last-level cache; reading it gives the bandwidth of one thread, GB/s."""

    def __init__(self) -> None:
        self.bytes = int(1.25 * _last_cache_bytes())
        self.buffer = torch.from_numpy(_sparse_mlp.room(self.bytes))  # on huge pages, as the weights
        self.gb_s: list[float] = []

    def __call__(self) -> None:
        began = time.perf_counter()
        _sparse_mlp.read_all(self.buffer.data_ptr(), self.bytes)
        self.gb_s.append(self.bytes / (time.perf_counter() - began) / 1e9)


class Layers:
    """Random weights of one shape and dtype, as every way needs them."""

    def __init__(self, shape: str, dtype: torch.dtype) -> None:
        count, self.hidden, inner = SHAPES[shape]
        self.shape, self.dtype, self.experts = shape, dtype, inner // sm.NEURONS
        torch.manual_seed(SEED)
        self.packed, self.routers = [], []
        for _ in range(count):
            gate, up = (torch.randn(2, inner, self.hidden) / self.hidden**0.5).to(dtype)
            down = (torch.randn(self.hidden, inner) / inner**0.5).to(dtype)
            self.packed.append(sm.pack(gate, up, down, torch.randperm(inner).view(-1, sm.NEURONS)))
            self.routers.append((torch.randn(self.experts, self.hidden) / self.hidden**0.5).to(dtype))

    def masks(self, sparsity: float, rows: int, *, shared: bool) -> list[Tensor]:
        """Fresh masks, one a layer: so many experts at random, the same for every row where shared."""
        keep = max(1, round((1 - sparsity) * self.experts))

        def one() -> Tensor:
            order = torch.rand(1 if shared else rows, self.experts).argsort(dim=1)
            return (order < keep).expand(rows, -1).contiguous()

        return [one() for _ in self.packed]

    def ways(self, rows: int) -> dict[tuple[float, str], Callable[[], Way]]:
        """By sparsity and name: what prepares a round and returns what is timed."""
        x = torch.randn(rows, self.hidden).to(self.dtype)
        out = torch.empty(rows, self.hidden)
        found: dict[tuple[float, str], Callable[[], Way]] = {}

        def ours(sparsity: float, *, shared: bool) -> Callable[[], Way]:
            def prepare() -> Way:
                masks = self.masks(sparsity, rows, shared=shared)
                return lambda: [sm.sparse_mlp(x, p, m, out=out) for p, m in zip(self.packed, masks)]

            return prepare

        def bound(sparsity: float) -> Callable[[], Way]:
            masks = self.masks(sparsity, rows, shared=True)
            calls = [sm.bound(x, p, m, out) for p, m in zip(self.packed, masks)]

            def prepare() -> Way:
                for kept, fresh in zip(masks, self.masks(sparsity, rows, shared=True)):
                    kept.copy_(fresh)
                return lambda: [call() for call in calls]

            return prepare

        for sparsity in SPARSITIES:
            found[sparsity, "bound"] = bound(sparsity)
            found[sparsity, "sparse_mlp"] = ours(sparsity, shared=True)
            if rows > 1 and sparsity in {0.5, 0.9}:
                found[sparsity, "sparse_mlp, a mask for each row"] = ours(sparsity, shared=False)
        for sparsity in (0.5, 0.9):
            found[sparsity, "bound, router included"] = self._routed(x, out, sparsity)
        routers = [sm.pack_router(w, torch.zeros(self.experts)) for w in self.routers]
        found[0.0, "router"] = lambda: lambda: [sm.route(x, r) for r in routers]
        found[0.0, "torch"] = lambda: lambda: [_torch(x, p) for p in self.packed]
        reorder = torch.ops.mkldnn._reorder_linear_weight
        onednn = [[reorder(w, rows) for w in (p.gate, p.up, p.down)] for p in self.packed]
        found[0.0, "torch, oneDNN packed"] = lambda: lambda: [_onednn(x, *w) for w in onednn]
        return found

    def _routed(self, x: Tensor, out: Tensor, sparsity: float) -> Callable[[], Way]:
        def prepare() -> Way:
            fresh = torch.randn(1, x.shape[1]).expand_as(x).to(x.dtype).contiguous()  # one mask for all rows
            calls = []
            for weights, p in zip(self.routers, self.packed):
                logits = (fresh[:1].float() @ weights.float().T)[0]
                kept = logits.sort(descending=True).values[max(1, round((1 - sparsity) * self.experts)) - 1]
                router = sm.pack_router(weights, (1e-3 - kept).expand(self.experts))
                active = torch.zeros(x.shape[0], self.experts, dtype=torch.bool)
                calls.append(sm.bound(fresh, p, active, out, router=router))
            return lambda: [call() for call in calls]

        return prepare


def _torch(x: Tensor, p: sm.Packed) -> Tensor:
    return fn.linear(fn.silu(fn.linear(x, p.gate)) * fn.linear(x, p.up), p.down)


def _onednn(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    linear = torch.ops.mkldnn._linear_pointwise
    h = linear(x, gate, None, "swish", [], "") * linear(x, up, None, "none", [], "")
    return linear(h, down, None, "none", [], "")


def main(parts: Sequence[tuple[str, torch.dtype]] = PARTS) -> list[Row]:
    """Medians of interleaved rounds, in milliseconds for all layers (7B: one layer), and what follows from them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        flush, rows = Flush(), list[Row]()
        for shape, dtype in parts:
            layers = Layers(shape, dtype)
            for batch in BATCHES if shape != "7B" else (1, 16):
                rows += _measure(layers, batch, flush)
        return rows
    finally:
        torch.set_num_threads(threads)


def _measure(layers: Layers, batch: int, flush: Flush) -> list[Row]:
    ways = layers.ways(batch)
    taken: dict[tuple[float, str], list[float]] = {key: [] for key in ways}
    for prepare in ways.values():
        prepare()()  # warms code and allocator, not the caches
    for _ in range(ROUNDS):
        for key, prepare in ways.items():
            run = prepare()
            flush()
            began = time.perf_counter()
            run()
            taken[key].append((time.perf_counter() - began) * 1e3)
    return _rows(layers, batch, {key: statistics.median(all_ms) for key, all_ms in taken.items()}, flush)


def _rows(layers: Layers, batch: int, ms: dict[tuple[float, str], float], flush: Flush) -> list[Row]:
    dtype = str(layers.dtype).removeprefix("torch.")
    gb_s = max(flush.gb_s)  # nothing makes it faster than it is
    weights = sum(p.weights.numel() for p in layers.packed)
    floor = weights / gb_s / 1e6
    rows: list[Row] = []

    def row(sparsity: float, way: str, number: str, value: float, badge: str = "measured") -> None:
        print(f"  {layers.shape:<13}{dtype:<9} x{batch:<3} {sparsity:4.0%} {way:<32} {value:9.4g} {number}")
        rows.append({
            "shape": layers.shape, "dtype": dtype, "rows": batch, "sparsity": sparsity, "way": way, "number": number,
            "value": float(f"{value:.4g}"), "badge": badge,
        })  # fmt: skip

    row(0.0, "memory", "read_gb_s", gb_s)
    for (sparsity, way), taken in ms.items():
        row(sparsity, way, "all_layers_ms", taken)
        if way in {"bound", "sparse_mlp"}:
            dense = ms[0.0, way]
            used = max(1, round((1 - sparsity) * layers.experts)) / layers.experts
            row(sparsity, way, "times_faster_than_itself_dense", dense / taken)
            row(sparsity, way, "share_of_linear", dense * used / taken)
            row(sparsity, way, "share_of_memory_roofline", floor * used / taken)
            row(sparsity, way, "times_faster_than_torch", ms[0.0, "torch"] / taken)
            row(sparsity, way, "times_faster_than_onednn_packed", ms[0.0, "torch, oneDNN packed"] / taken)
    return rows


def _last_cache_bytes() -> int:
    """Of the largest cache that this system tells of; 64 MiB where it tells none."""
    try:
        said = subprocess.run(["lscpu", "-B", "-C=ONE-SIZE"], capture_output=True, text=True, check=True, timeout=20)
        return max(int(line) for line in said.stdout.split()[1:])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 64 << 20


if __name__ == "__main__":
    main()

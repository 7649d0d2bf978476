"""`workbench::sparse_mlp` as an operator of torch, so that torch.compile keeps it in one graph."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.kernels.sparse_mlp import _sparse_mlp


@torch.library.custom_op("workbench::sparse_mlp", mutates_args=(), device_types="cpu")
def sparse_mlp(x: Tensor, active: Tensor, weights: Tensor, loop: int, half: bool, union: bool) -> Tensor:
    """The packed MLP of x [n, hidden] by active [n, experts]; [n, hidden] float32.

    `weights` are a Packed's. ValueError when one is of another kind or size than this says.
    """
    if x.dim() != 2 or active.dim() != 2 or active.size(0) != x.size(0) or active.dtype != torch.bool:
        raise ValueError(f"x {list(x.shape)} and active {list(active.shape)} do not fit together")
    if x.dtype not in {torch.float32, torch.bfloat16}:
        raise ValueError(f"x must be float32 or bfloat16, not {x.dtype}")
    hidden, experts = x.size(1), active.size(1)
    padded = -(-hidden // 16) * 16
    if weights.dtype != torch.uint8 or weights.numel() != experts * 96 * padded * (2 if half else 4):
        raise ValueError(f"weights are not those of {experts} experts of width {hidden}")
    if weights.data_ptr() % 64 or not weights.is_contiguous():
        raise ValueError("packed weights must lie on lines of 64 bytes: pack them again")
    if not any(_sparse_mlp.number(name, half) == loop for name in _sparse_mlp.loops(half)):
        raise ValueError(f"this processor has no loop number {loop} for such weights: pack them again")
    y = torch.empty(x.shape, dtype=torch.float32)
    x, active = x.contiguous(), active.contiguous()
    _sparse_mlp.run(
        hidden, experts, half, weights.data_ptr(), x.data_ptr(), x.dtype == torch.bfloat16, x.size(0),
        active.data_ptr(), union, y.data_ptr(), loop,
    )  # fmt: skip
    return y


@sparse_mlp.register_fake
def _(x: Tensor, active: Tensor, weights: Tensor, loop: int, half: bool, union: bool) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape, dtype=torch.float32)

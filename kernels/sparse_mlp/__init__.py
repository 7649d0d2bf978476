"""A gated MLP that reads only the experts (32 neurons each) that its router chose: time follows the sparsity.

    packed = pack(gate, up, down, grouping, "bfloat16")        # once a layer
    y = sparse_mlp(x, packed, active)                          # x [n, hidden], active [n, experts]

Source: LTE (arXiv 2402.06126), section 4.3 for the gather kernel's idea; the layout and loops are ours (README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

NEURONS = 32
Backend = Literal["auto", "reference", "portable", "avx2", "avx512", "avx512_bf16", "triton"]
_BEST = {False: ("avx512", "avx2", "portable"), True: ("avx512_bf16", "avx512", "avx2", "portable")}


def available() -> tuple[str, ...]:
    """CPU loops that this processor runs."""
    from workbench.kernels.sparse_mlp import _sparse_mlp

    return tuple(_sparse_mlp.loops())


@dataclass(frozen=True)
class Packed:
    """One layer's weights: packed for the CPU loops, and as they came for the others."""

    weights: Any  # _sparse_mlp.Weights
    gate: Tensor  # [inner, hidden]
    up: Tensor
    down: Tensor  # [hidden, inner]
    grouping: Tensor  # [experts, 32]

    @property
    def experts(self) -> int:
        return int(self.grouping.shape[0])

    @property
    def hidden(self) -> int:
        return int(self.gate.shape[1])

    @property
    def half(self) -> bool:
        return bool(self.weights.half)

    @property
    def expert_bytes(self) -> int:
        """Bytes that one expert's weights take: what is read when it is active."""
        return int(self.weights.nbytes) // self.experts


def pack(
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    grouping: Tensor | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
) -> Packed:
    """Lay out gate and up [inner, hidden] and down [hidden, inner] by experts; `grouping` [experts, 32] names each
    expert's neurons, in their order where it is None.

    ValueError when the inner width is not a multiple of 32, shapes differ, or `grouping` is no permutation.
    """
    import torch

    from workbench.kernels.sparse_mlp import _sparse_mlp

    inner, hidden = gate.shape
    if inner % NEURONS:
        raise ValueError(f"the MLP has {inner} neurons: experts of {NEURONS} need a multiple of {NEURONS}")
    if up.shape != gate.shape or down.shape != (hidden, inner):
        raise ValueError(
            f"gate {list(gate.shape)}, up {list(up.shape)} and down {list(down.shape)} do not fit together"
        )
    if grouping is None:
        grouping = torch.arange(inner).view(-1, NEURONS)
    order = grouping.reshape(-1).long()
    if tuple(grouping.shape) != (inner // NEURONS, NEURONS) or not torch.equal(
        order.sort().values, torch.arange(inner)
    ):
        raise ValueError(f"grouping must hold each of the {inner} neurons once, as [{inner // NEURONS}, {NEURONS}]")
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype] if dtype else gate.dtype
    if kind not in (torch.float32, torch.bfloat16):
        raise ValueError(f"weights are packed as float32 or bfloat16, not {kind}")
    rows = [t.detach().float()[order].contiguous().numpy() for t in (gate, up, down.T)]
    packed = _sparse_mlp.pack(*rows, kind == torch.bfloat16)
    g, u, d = (t.detach().to(kind) for t in (gate, up, down))
    return Packed(packed, g, u, d, grouping)


def sparse_mlp(x: Tensor, packed: Packed, active: Tensor, *, backend: Backend = "auto", union: bool = False) -> Tensor:
    """The MLP of x [n, hidden] by the experts of active [n, experts], bool; [n, hidden] float32.

    union: every row uses every expert that any row uses. A row without experts gives zeros. ValueError names what does
    not fit, or why this machine cannot run the backend.
    """
    import torch

    if x.ndim != 2 or x.shape[1] != packed.hidden:
        raise ValueError(f"x must be [rows, {packed.hidden}], not {list(x.shape)}")
    if active.shape != (x.shape[0], packed.experts) or active.dtype != torch.bool:
        raise ValueError(
            f"active must be bool [{x.shape[0]}, {packed.experts}], not {active.dtype} {list(active.shape)}"
        )
    if union:
        active = active.any(dim=0, keepdim=True).expand_as(active)
    if backend == "reference":
        from workbench.kernels.sparse_mlp.reference import sparse_mlp as define

        return define(x, packed.gate, packed.up, packed.down, packed.grouping, active)
    if backend == "triton":
        from workbench.kernels.sparse_mlp.triton import sparse_mlp as gather

        return gather(x, packed, active)
    return _native(x, packed, active, backend)


def _native(x: Tensor, packed: Packed, active: Tensor, backend: str) -> Tensor:
    import torch

    from workbench.kernels.sparse_mlp import _sparse_mlp

    loop = backend if backend != "auto" else next(name for name in _BEST[packed.half] if name in _loops())
    given = np.ascontiguousarray(x.detach().float().numpy())
    mask = np.ascontiguousarray(active.numpy())
    return torch.from_numpy(_sparse_mlp.run(packed.weights, given, mask, loop))


@cache
def _loops() -> tuple[str, ...]:
    return available()


def traffic_bytes(packed: Packed, active: Tensor) -> int:
    """Bytes of weights that a call reads: each expert that any row uses, once for every eight rows that use it."""
    per_expert = active.sum(dim=0)
    return int(((per_expert + 7) // 8).sum()) * packed.expert_bytes

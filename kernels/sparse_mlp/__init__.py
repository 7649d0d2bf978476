"""A gated MLP that reads only the experts (32 neurons each) that its router chose: time follows the sparsity.

    packed = pack(gate, up, down, grouping, torch.bfloat16)    # once a layer
    y = sparse_mlp(x, packed, active)                          # x [n, hidden], active [n, experts]
    y, active = route_and_run(x, packed, router)               # the router in the same call

Source: LTE (arXiv 2402.06126), section 4.3 for the gather kernel's idea; the layout and loops are ours (README.md).
No gradients: training goes through the plain MLP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.kernels.sparse_mlp import _sparse_mlp

NEURONS = 32
Backend = Literal["auto", "reference", "cpu", "portable", "avx2", "avx512", "avx512_bf16", "amx", "triton"]
DType = Literal["float32", "bfloat16"] | torch.dtype | None
_GIVEN = (torch.float32, torch.bfloat16)
_AUTO, _OTHERS = ("auto", "cpu"), ("reference", "triton")


def available(dtype: DType = torch.bfloat16) -> tuple[str, ...]:
    """CPU loops that this processor runs on such weights, the fastest last."""
    return tuple(_sparse_mlp.loops(_kind(dtype) == torch.bfloat16))


@dataclass(frozen=True, eq=False)
class Packed:
    """One layer's weights: packed for the CPU loops, and as they came for the others."""

    weights: Tensor  # uint8: expert after expert
    gate: Tensor  # [inner, hidden]
    up: Tensor
    down: Tensor  # [hidden, inner]
    grouping: Tensor  # [experts, 32]
    hidden: int
    experts: int
    half: bool  # bfloat16
    loop: int  # the best loop here
    address: int  # of weights
    gathered: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)  # by device, for Triton

    @property
    def expert_bytes(self) -> int:
        """Bytes that one expert's weights take: what is read when it is active."""
        return self.weights.numel() // self.experts


@dataclass(frozen=True, eq=False)
class Router:
    """A layer's router, packed: an expert is active where x @ weights[expert] + bias[expert] is above 0."""

    packed: Tensor  # uint8
    bias: Tensor  # [experts] float32
    weights: Tensor  # [experts, hidden], rounded as they are used
    hidden: int
    experts: int
    half: bool
    loop: int


def pack(gate: Tensor, up: Tensor, down: Tensor, grouping: Tensor | None = None, dtype: DType = None) -> Packed:
    """Lay out gate and up [inner, hidden] and down [hidden, inner] by experts; `grouping` [experts, 32] names each
    expert's neurons, in their order where it is None. `dtype` is the weights' own where it is None.

    ValueError when the inner width is not a multiple of 32, shapes differ, or `grouping` is no permutation.
    """
    inner, hidden = gate.shape
    if inner == 0 or inner % NEURONS:
        raise ValueError(f"the MLP has {inner} neurons: experts of {NEURONS} need a multiple of {NEURONS}")
    if up.shape != gate.shape or down.shape != (hidden, inner):
        raise ValueError(
            f"gate {list(gate.shape)}, up {list(up.shape)} and down {list(down.shape)} do not fit together"
        )
    grouping = torch.arange(inner).view(-1, NEURONS) if grouping is None else torch.as_tensor(grouping).cpu()
    order = grouping.reshape(-1).long()
    if tuple(grouping.shape) != (inner // NEURONS, NEURONS) or not torch.equal(
        order.sort().values, torch.arange(inner)
    ):
        raise ValueError(f"grouping must hold each of the {inner} neurons once, as [{inner // NEURONS}, {NEURONS}]")
    kind = _kind(dtype or gate.dtype)
    half = kind == torch.bfloat16
    rows = [t.detach().cpu().float()[order].contiguous().numpy() for t in (gate, up, down.T)]
    packed = torch.from_numpy(_sparse_mlp.pack(*rows, half))
    g, u, d = (t.detach().to(kind) for t in (gate, up, down))
    return Packed(packed, g, u, d, grouping, hidden, inner // NEURONS, half, _best(half), packed.data_ptr())


def pack_router(weights: Tensor, bias: Tensor, dtype: DType = None, threshold: float = 0.5) -> Router:
    """A router of weights [experts, hidden] and bias [experts]: active where sigmoid of the logit is above `threshold`.

    Weights are kept in `dtype` (that of the layer), sums in float32. ValueError when shapes differ.
    """
    if weights.ndim != 2 or bias.shape != (weights.shape[0],) or not weights.numel():
        raise ValueError(f"router weights {list(weights.shape)} and bias {list(bias.shape)} do not fit together")
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold on a sigmoid lies between 0 and 1, not at {threshold}")
    kind = _kind(dtype or weights.dtype)
    half = kind == torch.bfloat16
    own = weights.detach().cpu().to(kind)
    packed = torch.from_numpy(_sparse_mlp.pack_router(own.float().contiguous().numpy(), half))
    shifted = bias.detach().cpu().float().contiguous() - math.log(threshold / (1 - threshold))
    return Router(packed, shifted, own, own.shape[1], own.shape[0], half, _best(half))


def sparse_mlp(
    x: Tensor,
    packed: Packed,
    active: Tensor,
    *,
    backend: Backend = "auto",
    union: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """The MLP of x [n, hidden] by the experts of active [n, experts], bool; [n, hidden] float32, in `out` where given.

    union: every row uses every expert that any row uses. A row without experts gives zeros. ValueError names what does
    not fit, or why this machine cannot run the backend.
    """
    shape = x.shape
    if active.dtype is not torch.bool or active.shape != (shape[0], packed.experts):
        raise ValueError(f"active must be bool [{shape[0]}, {packed.experts}], not {active.dtype} {list(active.shape)}")
    x = _rows(x, packed.hidden)
    if torch.compiler.is_compiling():
        from workbench.kernels.sparse_mlp import op

        y = op.sparse_mlp(x, active, packed.weights, packed.loop, packed.half, union)
        return y if out is None else out.copy_(y)
    if not x.is_cpu and backend not in ("auto", *_OTHERS):
        raise ValueError(f"backend {backend!r} runs on the CPU, and x is on {x.device}: move it there")
    if backend in _OTHERS or not x.is_cpu:
        return _elsewhere(x, packed, active, backend, union, out)
    if not active.is_cpu:
        raise ValueError("active must be on the CPU, where x is")
    out = _result(x, out)
    active = active.contiguous()
    loop = packed.loop if backend in _AUTO else _loop(backend, packed.half)
    _sparse_mlp.run(
        packed.hidden, packed.experts, packed.half, packed.address, x.data_ptr(), x.dtype is torch.bfloat16, shape[0],
        active.data_ptr(), union, out.data_ptr(), loop,
    )  # fmt: skip
    return out


def bound(
    x: Tensor, packed: Packed, active: Tensor, out: Tensor, *, router: Router | None = None, union: bool = False
) -> Callable[[], None]:
    """A call on these very tensors, checked now: it reads x and active and fills `out`, each time it is called.

    With a router it fills `active` first. For decode loops: checks by Python cost 2 us a call, from cold caches 9.
    ValueError as `sparse_mlp`, or when a tensor would have to be copied.
    """
    if not (x.is_cpu and active.is_cpu and x.is_contiguous() and active.is_contiguous() and x.dtype in _GIVEN):
        raise ValueError("x (float32 or bfloat16) and active must be contiguous, on the CPU")
    sparse_mlp(x, packed, active, union=union, out=out)  # checks
    dims = (packed.hidden, packed.experts, packed.half)
    given = (x.data_ptr(), x.dtype is torch.bfloat16, x.shape[0], active.data_ptr(), union, out.data_ptr(), packed.loop)
    kept = (x, packed, active, out, router)
    if router is None:
        return _Bound(_sparse_mlp.run, (*dims, packed.address, *given), kept)
    _same(router, packed)
    own = (router.packed.data_ptr(), router.bias.data_ptr(), packed.address)
    return _Bound(_sparse_mlp.route_and_run, (*dims, *own, *given), kept)


class _Bound:
    __slots__ = ("_args", "_kept", "_run")

    def __init__(self, run: Callable[..., None], args: tuple[int, ...], kept: tuple[Any, ...]) -> None:
        self._run, self._args, self._kept = run, args, kept

    def __call__(self) -> None:
        self._run(*self._args)


def route(x: Tensor, router: Router, *, backend: Backend = "auto") -> Tensor:
    """Which experts each row of x [n, hidden] uses, bool [n, experts]. ValueError names what does not fit."""
    if backend == "reference" or not x.is_cpu or torch.compiler.is_compiling():
        logits = _rows(x, router.hidden).to(router.weights.dtype).float() @ router.weights.to(x.device).float().T
        return logits + router.bias.to(x.device) > 0
    x = _rows(x, router.hidden)
    active = torch.empty(x.size(0), router.experts, dtype=torch.bool)
    loop = router.loop if backend in _AUTO else _loop(backend, router.half)
    _sparse_mlp.route(
        router.hidden, router.experts, router.half, router.packed.data_ptr(), router.bias.data_ptr(), x.data_ptr(),
        x.dtype is torch.bfloat16, x.size(0), active.data_ptr(), loop,
    )  # fmt: skip
    return active


def route_and_run(
    x: Tensor,
    packed: Packed,
    router: Router,
    *,
    backend: Backend = "auto",
    union: bool = False,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The router's choice for x [n, hidden], and the MLP by it: y [n, hidden] float32, active [n, experts] bool.

    One native call. ValueError when the router is of another layer's shape or dtype, and as `sparse_mlp`.
    """
    _same(router, packed)
    if backend in _OTHERS or not x.is_cpu or torch.compiler.is_compiling():
        active = route(x, router, backend="auto" if backend == "triton" else backend)
        return sparse_mlp(x, packed, active, backend=backend, union=union, out=out), active
    x = _rows(x, packed.hidden)
    out = _result(x, out)
    active = torch.empty(x.size(0), packed.experts, dtype=torch.bool)
    loop = packed.loop if backend in _AUTO else _loop(backend, packed.half)
    _sparse_mlp.route_and_run(
        packed.hidden, packed.experts, packed.half, router.packed.data_ptr(), router.bias.data_ptr(),
        packed.address, x.data_ptr(), x.dtype is torch.bfloat16, x.size(0), active.data_ptr(), union,
        out.data_ptr(), loop,
    )  # fmt: skip
    return out, active


def traffic_bytes(packed: Packed, active: Tensor) -> int:
    """Bytes of weights that a call reads from memory: each expert that any row uses, once (twice only from cache)."""
    return int(active.any(dim=0).sum()) * packed.expert_bytes


def _elsewhere(x: Tensor, packed: Packed, active: Tensor, backend: Backend, union: bool, out: Tensor | None) -> Tensor:
    if backend == "reference":
        from workbench.kernels.sparse_mlp.reference import sparse_mlp as define

        every = active.any(dim=0, keepdim=True).expand_as(active) if union else active
        y = define(x, packed.gate, packed.up, packed.down, packed.grouping, every)
    else:
        from workbench.kernels.sparse_mlp.triton import sparse_mlp as gather

        y = gather(x, packed, active, union=union)
    return y if out is None else out.copy_(y)


def _rows(x: Tensor, hidden: int) -> Tensor:
    if x.dim() != 2 or x.shape[1] != hidden:
        raise ValueError(f"x must be [rows, {hidden}], not {list(x.shape)}")
    if x.dtype not in _GIVEN:
        x = x.float()
    return x.contiguous()


def _result(x: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        return torch.empty(x.shape, dtype=torch.float32)
    if out.shape != x.shape or out.dtype is not torch.float32 or not out.is_cpu or not out.is_contiguous():
        raise ValueError(f"out must be a contiguous float32 {list(x.shape)} on the CPU")
    return out


def _same(router: Router, packed: Packed) -> None:
    if (router.hidden, router.experts, router.half) != (packed.hidden, packed.experts, packed.half):
        raise ValueError("the router is packed for another shape or dtype than the layer")


def _kind(dtype: DType) -> torch.dtype:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if kind not in _GIVEN:
        raise ValueError(f"weights are packed as float32 or bfloat16, not {dtype}")
    assert kind is not None
    return kind


def _best(half: bool) -> int:
    return int(_sparse_mlp.number(_sparse_mlp.loops(half)[-1], half))


def _loop(backend: str, half: bool) -> int:
    number = int(_sparse_mlp.number(backend, half))
    if number < 0:
        kind = "bfloat16" if half else "float32"
        raise ValueError(f"no loop {backend} for {kind} on this processor: {', '.join(_sparse_mlp.loops(half))}")
    return number

"""Recording one run of Inductor's wrapper: which C functions it calls, in which order, with which bytes.

Inductor compiles a graph to a Python function that allocates buffers, calls compiled kernels and BLAS products. It is
run here once more with its globals exchanged: allocation comes from the arena, and each call is written down and then
made. Nothing of its text is parsed; what it may call beyond kernels and products is refused by name.
"""

from __future__ import annotations

import types
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.foundry.archive import digest
from workbench.foundry.graph import READ, WRITE, Function
from workbench.foundry.plan import Call, Operand

if TYPE_CHECKING:
    from workbench.kernels.replay import Arena

ONE, ZERO = 0x3F800000, 0  # the bits of 1.0 and 0.0 in fp32
SMALL_BMM = 400  # below so many multiply-adds a matrix ATen takes a loop of its own instead of BLAS
SGEMM = Function("", "torch_cpu", "sgemm_")


class Unsupported(RuntimeError):
    """The compiled graph does something that no node stands for; it must be run by torch."""


@dataclass
class Recorder:
    """Buffers and calls of one run. Buffers are numbered; those known before (weights, KV, inputs) come first."""

    arena: Arena
    free: int  # offset in the arena from which buffers are put down, never reused
    starts: list[int] = field(default_factory=list)  # addresses, rising
    sizes: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    words: list[int] = field(default_factory=list)  # every argument as it was passed: differential pointer discovery
    binaries: dict[str, bytes] = field(default_factory=dict)

    def know(self, address: int, nbytes: int) -> int:
        """Number the buffer at `address`."""
        if self.starts and address < self.starts[-1] + self.sizes[-1]:
            raise ValueError("buffers are made known in the order of their addresses")
        self.starts.append(address)
        self.sizes.append(nbytes)
        return len(self.starts) - 1

    def empty_strided(self, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A new buffer, as torch's function of that name."""
        floor = 1 + sum((n - 1) * s for n, s in zip(size, stride)) if all(size) else 0
        nbytes = floor * dtype.itemsize
        if nbytes < 1 or nbytes > self.arena.size - self.free:
            raise Unsupported(f"a buffer of {nbytes} bytes does not fit: shape {tuple(size)}")
        start = self.free
        self.free += nbytes + -nbytes % 64
        self.know(self.arena.base + start, nbytes)
        flat = torch.frombuffer(self.arena.view(start, nbytes), dtype=dtype)
        return flat.as_strided(tuple(size), tuple(stride))

    def operand(self, tensor: Tensor, access: int) -> Operand:
        """Which bytes of which buffer a tensor is."""
        address, n = tensor.data_ptr(), tensor.dtype.itemsize
        extent = n * (1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride())))
        at = bisect_right(self.starts, address) - 1
        if at < 0 or address + extent > self.starts[at] + self.sizes[at]:
            raise Unsupported(f"a tensor {list(tensor.shape)} lies outside the arena: its memory is torch's own")
        return Operand(at, address - self.starts[at], extent, access)

    def note(self, call: Call) -> None:
        """Append a call."""
        self.calls.append(call)
        for each in call.arguments:
            self.words.append(self.starts[each.buffer] + each.offset if isinstance(each, Operand) else each)

    def kernel(self, name: str, function: Callable[..., Any], types_: Sequence[str]) -> Callable[..., None]:
        """A compiled kernel that writes itself down. Argument types are Inductor's: "const float*" is only read."""
        image = Path(function.__self__.__file__).read_bytes()  # type: ignore[attr-defined]
        key = digest(image).hex()
        self.binaries[key] = image

        def run(*args: Any) -> None:
            made: list[Operand | int] = []
            for kind, value in zip(types_, args, strict=True):
                if kind.endswith("*"):
                    made.append(self.operand(value, READ if kind.startswith("const ") else READ | WRITE))
                elif kind.removeprefix("const ") == "int64_t" and type(value) is int and value >= 0:
                    made.append(value)
                else:
                    raise Unsupported(f"{name} takes a {kind}; only pointers and sizes can be replayed")
            self.note(Call("kernel", Function(key, "", "kernel"), tuple(made), name))
            function(*args)

        return run


def rebound(call: Callable[..., Any], recorder: Recorder, types_: Mapping[str, Sequence[str]]) -> Callable[..., Any]:
    """Inductor's wrapper `call`, over the recorder. `types_`: argument types by the file of a kernel's binary."""
    inner = getattr(call, "__func__", call)
    names = dict(inner.__globals__)
    for name, value in inner.__globals__.items():
        path = getattr(getattr(value, "__self__", None), "__file__", None)
        if isinstance(path, str) and path in types_:
            names[name] = recorder.kernel(name, value, types_[path])
    names |= {
        "empty_strided_cpu": recorder.empty_strided,
        "extern_kernels": Products(recorder, names["extern_kernels"]),
    }
    names |= {
        each: Forbidden(each) for each in ("aten", "inductor_ops", "_quantized", "alloc_from_pool", "empty_strided")
    }
    again = types.FunctionType(inner.__code__, names, inner.__name__, inner.__defaults__, inner.__closure__)
    owner = getattr(call, "__self__", None)
    return again if owner is None else types.MethodType(again, owner)


class Forbidden:
    """Stands where the wrapper would call something that no node stands for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"the compiled graph calls {self._name}.{name}, which cannot be replayed")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise Unsupported(f"the compiled graph calls {self._name}, which cannot be replayed")


class Products:
    """The matrix products of `extern_kernels`, each written down as the sgemm call that ATen makes of it."""

    def __init__(self, recorder: Recorder, real: Any) -> None:
        self._recorder, self._real = recorder, real

    def __getattr__(self, name: str) -> Any:
        raise Unsupported(f"the compiled graph calls extern_kernels.{name}, which cannot be replayed")

    def mm(self, a: Tensor, b: Tensor, *, out: Tensor) -> None:
        """Out = a b."""
        self._gemm("mm", a[None], b[None], out[None], ZERO)
        self._real.mm(a, b, out=out)

    def addmm(self, start: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1, beta: float = 1, out: Tensor) -> None:
        """Out = start + a b: ATen copies `start` into `out` and lets BLAS add."""
        same = start.shape == out.shape and start.is_contiguous() and out.is_contiguous()
        if alpha != 1 or beta != 1 or not same:
            raise Unsupported("addmm with factors or with a vector to be spread cannot be replayed")
        into, source = self._recorder.operand(out, WRITE), self._recorder.operand(start, READ)
        self._recorder.note(Call("copy", None, (into, source, into.extent), "addmm: start"))
        self._gemm("addmm", a[None], b[None], out[None], ONE)
        self._real.addmm(start, a, b, alpha=alpha, beta=beta, out=out)

    def bmm(self, a: Tensor, b: Tensor, *, out: Tensor) -> None:
        """out[i] = a[i] b[i]."""
        if a.shape[2] * out.shape[1] * out.shape[2] < SMALL_BMM:
            raise Unsupported(f"bmm of matrices as small as {list(a.shape[1:])} is no BLAS call")
        self._gemm("bmm", a, b, out, ZERO)
        self._real.bmm(a, b, out=out)

    def _gemm(self, name: str, a: Tensor, b: Tensor, out: Tensor, beta: int) -> None:
        """A [count, M, K], b [count, K, N], out [count, M, N]; row-major out is column-major out^T = b^T a^T."""
        if {t.dtype for t in (a, b, out)} != {torch.float32}:
            raise Unsupported(f"{name} in {out.dtype}: only fp32 products are BLAS calls that can be replayed")
        count, m, n = out.shape
        if out.stride(2) != 1 or (m > 1 and out.stride(1) != n):
            raise Unsupported(f"{name} into a matrix that is not contiguous")
        (trans_b, ldb), (trans_a, lda) = _major(b, name), _major(a, name)
        first, second = self._recorder.operand(b, READ), self._recorder.operand(a, READ)
        into = self._recorder.operand(out, WRITE if beta == ZERO else READ | WRITE)
        jumps = [0 if count == 1 else t.stride(0) for t in (b, a, out)]
        made: tuple[Operand | int, ...] = (
            ord(trans_b), ord(trans_a), n, m, a.shape[2], ONE, first, ldb, second, lda, beta, into, n, count, *jumps,
        )  # fmt: skip
        self._recorder.note(Call("gemm", SGEMM, made, f"{name} [{n}, {a.shape[2]}]"))


def _major(t: Tensor, name: str) -> tuple[str, int]:
    """How BLAS sees t [count, rows, columns] transposed: "n" and the row stride, or "t" and the column stride."""
    rows, columns = t.shape[1:]
    if t.stride(2) == 1 and (rows == 1 or t.stride(1) >= columns):
        return "n", max(columns, t.stride(1) if rows > 1 else 0)
    if t.stride(1) == 1 and (columns == 1 or t.stride(2) >= rows):
        return "t", max(rows, t.stride(2) if columns > 1 else 0)
    raise Unsupported(f"{name} of a matrix with strides {t.stride()[1:]}, which BLAS has no name for")

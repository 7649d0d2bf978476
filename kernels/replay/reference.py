"""The definition of a replay: each node called through ctypes, in order."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from workbench.kernels.replay import COPY, FILL, GEMM, GEMM_SLOTS, KERNEL


def replay(nodes: Sequence[tuple[int, int, int, int]], slots: bytes) -> None:
    """Run `nodes`, each (kind, first slot, number of slots, address of its C function), over parameters `slots`.

    A kernel gets its slots as 64-bit arguments. A gemm is C = alpha op(A) op(B) + beta C, column-major, as Fortran's
    sgemm, `count` times with operands that many floats apart. copy and fill are memmove and memset. Nothing is checked
    here: wrong addresses end the process.
    """
    words = struct.unpack(f"<{len(slots) // 8}Q", slots)
    for kind, first, count, function in nodes:
        own = words[first : first + count]
        if kind == KERNEL:
            ctypes.CFUNCTYPE(None, *[ctypes.c_uint64] * count)(function)(*own)
        elif kind == GEMM:
            _gemm(function, dict(zip(GEMM_SLOTS, own, strict=True)))
        elif kind == COPY:
            ctypes.memmove(*own)
        elif kind == FILL:
            ctypes.memset(*own)


def _gemm(function: int, p: dict[str, int]) -> None:
    sgemm = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(function)
    for i in range(p["count"]):
        place = {m: ctypes.c_void_p(p[m] + 4 * i * p[f"stride_{m}"]) for m in "abc"}
        ints = {n: ctypes.c_int(p[n]) for n in ("m", "n", "k", "lda", "ldb", "ldc")}
        floats = {n: ctypes.c_uint32(p[n]) for n in ("alpha", "beta")}  # the bits of a float
        chars = {n: ctypes.c_char(p[n]) for n in ("transa", "transb")}
        held: dict[str, Any] = {**ints, **floats, **chars}
        sgemm(*[place[n] if n in place else ctypes.byref(held[n]) for n in GEMM_SLOTS[:13]])

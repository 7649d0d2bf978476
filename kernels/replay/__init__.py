"""A graph of C calls over a fixed-address arena, replayed in one loop without Python.

    arena = Arena(0x600000000000, size)                  # .relocated says whether that place was taken
    program = Program(arena, nodes, pointers)            # nodes: (kind, first slot, slots, address of the C function)
    index = program.add(slots, extents)                  # checked against the arena, or refused
    program.replay(index)                                # RuntimeError names the node whose kernel threw

Linux only: memory is mapped at fixed addresses and shared objects are loaded from memory. `reference.py` is the
definition of what a node does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

KERNEL, GEMM, COPY, FILL = range(4)
READ, WRITE = 1, 2
GEMM_SLOTS = (
    "transa", "transb", "m", "n", "k", "alpha", "a", "lda", "b", "ldb", "beta", "c", "ldc", "count", "stride_a",
    "stride_b", "stride_c",
)  # fmt: skip

if TYPE_CHECKING:
    from workbench.kernels.replay._replay import Arena, Library, Program

__all__ = ["COPY", "FILL", "GEMM", "GEMM_SLOTS", "KERNEL", "READ", "WRITE", "Arena", "Library", "Program"]


def __getattr__(name: str) -> Any:
    if name not in ("Arena", "Library", "Program"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from workbench.kernels.replay import _replay
    except ImportError as error:
        raise RuntimeError(f"replaying graphs needs Linux and the built workbench (make setup): {error}") from error
    return getattr(_replay, name)

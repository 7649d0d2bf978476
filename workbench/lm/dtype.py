"""Which type of weights this machine computes with fast.

bfloat16 halves what decoding reads, but oneDNN has products for it only from AVX-512 on. Without, torch takes a plain
loop: one product [512, 576] x [576, 1536] took 1,490 ms on a thread of an AMD EPYC with AVX2, and 14 ms in float32.
"""

from __future__ import annotations

from typing import Literal

from workbench import backends

Dtype = Literal["bfloat16", "float32"]
Asked = Literal["auto", "bfloat16", "float32"]


def fast_dtype() -> Dtype:
    """bfloat16 where oneDNN multiplies it at speed, else float32. Loads no torch."""
    return "bfloat16" if "AVX-512" in backends.vector_level() else "float32"


def chosen_dtype(asked: Asked) -> Dtype:
    """`asked`, or for "auto" the fast one."""
    return fast_dtype() if asked == "auto" else asked

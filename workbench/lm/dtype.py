"""Which type of weights this machine computes with fast.

bfloat16 halves what decoding reads, but only a processor with bf16 dot products (avx512_bf16, which AMX implies)
multiplies it at speed. On plain AVX-512 oneDNN emulates them: 512 tokens of SmolLM2-135M took 4.1 s on one thread of an
Intel Xeon at 2.8 GHz, and 1.4 s in float32. On AVX2 torch takes a plain loop: one product [512, 576] x [576, 1536] took
1,490 ms on a thread of an AMD EPYC, and 14 ms in float32.
"""

from __future__ import annotations

from typing import Literal

from workbench import backends

Dtype = Literal["bfloat16", "float32"]
Asked = Literal["auto", "bfloat16", "float32"]


def fast_dtype() -> Dtype:
    """bfloat16 where the processor has products for it, else float32. Loads no torch."""
    return "bfloat16" if "bf16" in backends.vector_level() else "float32"


def chosen_dtype(asked: Asked) -> Dtype:
    """`asked`, or for "auto" the fast one."""
    return fast_dtype() if asked == "auto" else asked

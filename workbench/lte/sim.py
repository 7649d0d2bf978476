"""What a sparse FFN saves of a decoded token, modelled from the bytes that one token reads: weights, router, KV cache.

    t(s) = (attention + head + KV + routers + (1 - s) FFN) / bandwidth        memory-bound, batch 1

Nothing else is in it: no launches, no arithmetic, no caches. So it is a bound on the gain, and the published one is
below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SimModel = Literal["LLaMA2-7B", "SmolLM2-135M"]
SimDevice = Literal["RTX 3090 Ti", "A100", "H200", "one CPU core"]
BYTES = 2  # a weight
NEURONS = 32
CONTEXT = 1024  # tokens in the KV cache
BANDWIDTH_GB_S: dict[str, float] = {  # data sheets; the core: read by one thread, benchmarks/sparse_mlp.csv
    "RTX 3090 Ti": 1008.0, "A100": 2039.0, "H200": 4800.0, "one CPU core": 16.0,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A Llama: layers, hidden, inner width, heads of keys and values times their size, vocabulary."""

    layers: int
    hidden: int
    inner: int
    kv: int
    vocabulary: int

    @property
    def ffn(self) -> int:
        """Weights of all FFNs."""
        return 3 * self.layers * self.hidden * self.inner

    @property
    def rest(self) -> int:
        """Weights of attention and the head, and the keys and values of the context."""
        attention = self.layers * (2 * self.hidden**2 + 2 * self.hidden * self.kv)
        return attention + self.hidden * self.vocabulary + 2 * self.layers * self.kv * CONTEXT

    @property
    def routers(self) -> int:
        """A row of weights for each expert."""
        return self.layers * self.hidden * (self.inner // NEURONS)


SHAPES: dict[str, Shape] = {
    "LLaMA2-7B": Shape(32, 4096, 11008, 4096, 32000),
    "SmolLM2-135M": Shape(30, 576, 1536, 192, 49152),
}


def token_s(model: str, device: str, sparsity: float) -> float:
    """Seconds of one decoded token; dense (no routers) at sparsity 0. ValueError outside 0 to 1."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity lies between 0 and 1, not at {sparsity}")
    shape = SHAPES[model]
    weights = shape.rest + (1 - sparsity) * shape.ffn + (shape.routers if sparsity else 0)
    return BYTES * weights / (BANDWIDTH_GB_S[device] * 1e9)


def latency_cut_pct(model: str, device: str, sparsity: float) -> float:
    """How much less time a token takes, per cent of dense."""
    return 100 * (1 - token_s(model, device, sparsity) / token_s(model, device, 0.0))


def ceiling(model: str, sparsity: float) -> float:
    """Amdahl: how many times as fast a token can get, by bytes."""
    shape = SHAPES[model]
    return (shape.rest + shape.ffn) / (shape.rest + (1 - sparsity) * shape.ffn)

"""A sampler whose randomness is a function of (seed, request, position), so that a decode can be replayed.

No generator is carried along: picks may be made in any order, in any process, and come out the same.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    """Temperature, then top-k, then top-p; temperature 0 takes the largest logit. top_k 0 and top_p 1 leave all in."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")

    def pick(self, logits: Tensor, request: int | str, position: int) -> int:
        """The token that stands at `position` of `request`, drawn from logits [vocab]. ValueError when one is NaN."""
        if logits.ndim != 1 or bool(logits.isnan().any()):
            raise ValueError(f"logits must be [vocab] without NaN, not {list(logits.shape)}")
        if self.temperature == 0:
            return int(logits.argmax())
        probability, token = self.distribution(logits)
        cumulative = probability.cumsum(0)
        point = self.uniform(request, position) * float(cumulative[-1])
        index = int(torch.searchsorted(cumulative, point, right=True))
        return int(token[min(index, len(token) - 1)])

    def distribution(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, fp64, largest first, and their tokens, after temperature, top-k and top-p."""
        value, token = torch.sort(logits.double() / self.temperature, descending=True, stable=True)
        if self.top_k:
            value, token = value[: self.top_k], token[: self.top_k]
        probability = torch.softmax(value, 0)
        before = probability.cumsum(0) - probability
        kept = max(1, int((before < self.top_p).sum()))  # the fewest tokens whose mass reaches top_p
        return probability[:kept] / probability[:kept].sum(), token[:kept]

    def uniform(self, request: int | str, position: int) -> float:
        """The number in [0, 1) that decides this pick: 53 bits of a hash of the key."""
        key = f"{self.seed}|{type(request).__name__}|{request}|{position}".encode()
        return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 11) / 2**53

"""Rotary position embedding in the half-split layout of Llama: dimension i turns with dimension i + head_dim / 2."""

from __future__ import annotations

import torch
from torch import Tensor


class Rope:
    """Cosines and sines for positions 0 to max_position - 1, fp32, [max_position, head_dim / 2]."""

    def __init__(self, head_dim: int, theta: float, max_position: int) -> None:
        self.head_dim, self.max_position = head_dim, max_position
        self._inv_freq = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
        angle = torch.outer(torch.arange(max_position).float(), self._inv_freq)
        self._cos, self._sin = angle.cos(), angle.sin()

    def turn(self, x: Tensor, start: int) -> Tensor:
        """Rotate x, [..., n, head_dim], as standing at positions start to start + n - 1; fp32 result."""
        n = x.shape[-2]
        return rotate(x, self._cos[start : start + n], self._sin[start : start + n])

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for tokens at `positions`, [n]: each [n, 1, head_dim / 2], for `rotate`."""
        return self._cos[positions][:, None], self._sin[positions][:, None]

    def shift(self, keys: Tensor, by: int) -> Tensor:
        """Keys that were rotated for some positions, as they would be `by` positions later (or earlier: by < 0)."""
        if by == 0:
            return keys
        angle = by * self._inv_freq.double()
        return rotate(keys, angle.cos().float(), angle.sin().float()).to(keys.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x, [..., head_dim], turned by angles whose cosines and sines are [..., head_dim / 2]; fp32 result."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

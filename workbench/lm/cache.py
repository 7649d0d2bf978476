"""The KV cache: one tensor of keys and one of values per layer, allocated once, and a record of what is filled.

Keys are stored after RoPE, so KV belongs to the positions it was computed at. Nothing here ever reallocates: a loader
thread may `inject` some positions while another thread's forward writes others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from workbench.lm.rope import Rope


class KVCache:
    """KV of one sequence: k[layer] and v[layer] are [kv_heads, capacity, head_dim].

    `length` is one past the last filled position; there may be holes before it (a prefix still being computed while
    its end has been injected): `holds(start, end)` tells.
    """

    def __init__(self, layers: int, kv_heads: int, capacity: int, rope: Rope, dtype: torch.dtype) -> None:
        if not 1 <= capacity <= rope.max_position:  # beyond them there is no rotation to store a key under
            raise ValueError(f"a cache holds 1 to {rope.max_position} tokens, the model's positions, not {capacity}")
        shape = (kv_heads, capacity, rope.head_dim)
        self.k = [torch.zeros(shape, dtype=dtype) for _ in range(layers)]
        self.v = [torch.zeros(shape, dtype=dtype) for _ in range(layers)]
        self.layers, self.kv_heads, self.capacity, self.head_dim = layers, kv_heads, capacity, rope.head_dim
        self.dtype, self.rope = dtype, rope
        self._filled = np.zeros(capacity, dtype=np.bool_)

    def __repr__(self) -> str:
        return f"KVCache(length={self.length}, capacity={self.capacity}, layers={self.layers}, dtype={self.dtype})"

    @property
    def length(self) -> int:
        """One past the last filled position."""
        filled = np.flatnonzero(self._filled)
        return int(filled[-1]) + 1 if filled.size else 0

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take, filled or not."""
        return sum(t.nbytes for t in (*self.k, *self.v))

    def holds(self, start: int, end: int) -> bool:
        """True when every position in [start, end) is filled."""
        return bool(self._filled[start:end].all())

    def mark(self, start: int, end: int, filled: bool) -> None:
        """Say that positions [start, end) hold KV, or no longer do: for code that writes k and v itself."""
        self._check_span(start, end)
        self._filled[start:end] = filled

    def read(self, start: int, end: int) -> Tensor:
        """A contiguous copy of the KV at [start, end): [layers, 2, kv_heads, end-start, head_dim].

        ValueError when the span is out of bounds or holds positions that were never filled.
        """
        self._check_span(start, end)
        self._check_filled(start, end)
        out = torch.empty((self.layers, 2, self.kv_heads, end - start, self.head_dim), dtype=self.dtype)
        for layer in range(self.layers):
            out[layer, 0].copy_(self.k[layer][:, start:end])
            out[layer, 1].copy_(self.v[layer][:, start:end])
        return out

    def inject(self, start: int, kv: Tensor) -> None:
        """Write `kv`, [layers, 2, kv_heads, tokens, head_dim] as `read` gives it, at positions start onwards.

        Writes into the tensors in place, so it may run while a forward writes other positions. ValueError when shape,
        dtype or bounds do not fit; then nothing has been written.
        """
        tokens = kv.shape[3] if kv.ndim == 5 else 0
        want = (self.layers, 2, self.kv_heads, tokens, self.head_dim)
        if kv.ndim != 5 or tuple(kv.shape) != want or not tokens:
            raise ValueError(
                f"KV of shape {list(kv.shape)} does not fit this cache: it takes [layers={self.layers}, 2, "
                f"kv_heads={self.kv_heads}, tokens >= 1, head_dim={self.head_dim}]"
            )
        if kv.dtype != self.dtype:
            raise ValueError(
                f"KV is {kv.dtype} and the cache {self.dtype}: convert it, or load the model as {kv.dtype}"
            )
        self._check_span(start, start + tokens)
        for layer in range(self.layers):
            self.k[layer][:, start : start + tokens].copy_(kv[layer, 0])
            self.v[layer][:, start : start + tokens].copy_(kv[layer, 1])
        self._filled[start : start + tokens] = True

    def fork(self, capacity: int | None = None, length: int | None = None) -> KVCache:
        """An independent cache with the same content: positions [0, length) are copied, with their holes.

        Costs one copy of that part; nothing is shared, so both may go on separately. Another `capacity` may be given,
        at least `length`, and a `length` that is less than all there is; ValueError when they do not fit, or the model
        has fewer positions.
        """
        length = self.length if length is None else length
        if not 0 <= length <= self.length:
            raise ValueError(f"a fork of {length} tokens cannot be taken of a cache that has {self.length}")
        size = self.capacity if capacity is None else capacity
        if size < length:
            raise ValueError(f"a fork of {length} tokens does not fit a capacity of {size}")
        twin = KVCache(self.layers, self.kv_heads, size, self.rope, self.dtype)
        for mine, copied in zip((*self.k, *self.v), (*twin.k, *twin.v), strict=True):
            copied[:, :length].copy_(mine[:, :length])
        twin._filled[:length] = self._filled[:length]
        return twin

    def crop(self, length: int) -> None:
        """Forget every position from `length` on; the tensors stay as large as they are."""
        if not 0 <= length <= self.capacity:
            raise ValueError(f"cannot crop to {length} tokens: the cache has room for 0 to {self.capacity}")
        self._filled[length:] = False

    def concatenate(self, other: KVCache, start: int = 0) -> KVCache:
        """A new cache: all of this one, then the positions [start, length) of `other`.

        Where the appended tokens land on other positions than they were computed at, their keys are turned by RoPE to
        the new ones (exact up to rounding); where the positions are the same, they are copied bit by bit. The appended
        tokens have attended to what stood before them in `other`, and that is not recomputed. ValueError when the
        caches do not fit together, or both do not fit the model's positions.
        """
        if (other.layers, other.kv_heads, other.head_dim) != (self.layers, self.kv_heads, self.head_dim):
            raise ValueError("caches of two different models cannot be concatenated")
        if other.dtype != self.dtype:
            raise ValueError(f"a {other.dtype} cache cannot follow a {self.dtype} one: load both models with one dtype")
        here, end = self.length, other.length
        if not 0 <= start <= end:
            raise ValueError(f"cannot append from position {start}: the other cache has {end} tokens")
        self._check_filled(0, here)
        other._check_filled(start, end)
        total = here + end - start
        if total > self.rope.max_position:
            raise ValueError(f"{total} tokens do not fit the model's {self.rope.max_position} positions: crop one")
        joined = self.fork(max(self.capacity, total))
        for layer in range(self.layers):
            turned = self.rope.shift(other.k[layer][:, start:end], here - start)  # [kv_heads, end-start, head_dim]
            joined.k[layer][:, here:total].copy_(turned)
            joined.v[layer][:, here:total].copy_(other.v[layer][:, start:end])
        joined._filled[here:total] = True
        return joined

    def _check_span(self, start: int, end: int) -> None:
        if not 0 <= start < end <= self.capacity:
            raise ValueError(f"no such span: [{start}, {end}); the cache has positions 0 to {self.capacity - 1}")

    def _check_filled(self, start: int, end: int) -> None:
        if not self.holds(start, end):
            hole = start + int(np.argmin(self._filled[start:end]))
            raise ValueError(f"position {hole} holds no KV yet: compute or inject positions {start}..{end} first")

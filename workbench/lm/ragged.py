"""One pass over the weights for several sequences at once, each with tokens and positions of its own.

Matrix products run over the tokens of all rows in one piece; attention runs per row, over that row's own cache. So
whatever stands beside a row changes nothing in it: with packed weights not even a bit (packed.py says where).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.lm.attention import LONG_PAST, attend
from workbench.lm.packed import PackedLayer, Products, packed
from workbench.lm.rope import rotate

if TYPE_CHECKING:
    from workbench.lm.cache import KVCache
    from workbench.lm.model import LM

FEW = 4  # queries of a row that are taken one by one: three cost 135 us so, 330 us as a block in bf16 (257 keys)
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class _Row:
    """Where a row's tokens stand: [first, last) of the step's tokens, positions start to end - 1 of its cache."""

    def __init__(self, cache: KVCache, start: int, first: int, tokens: int, alone: bool) -> None:
        self.cache, self.start, self.end = cache, start, start + tokens
        self.first, self.last = first, first + tokens
        self.alone = alone or tokens <= FEW  # its queries are taken one by one


def forward_ragged(
    model: LM,
    ids: Sequence[Tensor],
    caches: Sequence[KVCache],
    starts: Sequence[int],
    pad_to: int | None = None,
    exact: bool = True,
    alone: Sequence[bool] = (),
) -> Tensor:
    """As `LM.forward_ragged` says; the caller has checked the arguments."""
    lengths = [len(own) for own in ids]
    firsts = [0, *accumulate(lengths)]
    total = firsts.pop()
    apart = alone or [False] * len(lengths)
    rows = [_Row(*each) for each in zip(caches, starts, firsts, lengths, apart, strict=True)]
    width = max(total, pad_to or 0)
    positions = torch.zeros(width, dtype=torch.int64)
    for row in rows:
        positions[row.first : row.last] = torch.arange(row.start, row.end)
        row.cache.mark(row.start, row.end, filled=False)
    tokens = torch.cat([*ids, positions.new_zeros(width - total)])
    logits = _pass(model, packed(model).at(width, exact), tokens, positions, rows, total)
    for row in rows:
        row.cache.mark(row.start, row.end, filled=True)
    return logits


def _pass(model: LM, weights: Products, tokens: Tensor, positions: Tensor, rows: list[_Row], total: int) -> Tensor:
    c = model.config
    x = fn.embedding(tokens, model.embed).float()  # [width, hidden]
    turn = model.rope.at(positions)
    seen = torch.zeros(len(tokens), c.heads * c.head_dim, dtype=model.dtype)  # rows of padding attend to nothing
    lasts = torch.tensor([row.last - 1 for row in rows])
    for i, layer in enumerate(weights.layers):
        y = layer.qkv(_normed(model, x, layer.attn_norm)).view(len(tokens), -1, c.head_dim)
        turned = rotate(y[:, : c.heads + c.kv_heads], *turn).to(model.dtype)
        q, k, v = turned[:, : c.heads], turned[:, c.heads :], y[:, c.heads + c.kv_heads :]
        for row in rows:
            _attend(row, i, q, k, v, seen)
        if i == c.layers - 1 and total > len(rows):  # of the last layer only the KV and the last tokens are wanted
            x, seen = x[lasts], seen[lasts]
        x = _finish(model, layer, x, seen)
    return weights.head(_normed(model, x, model.norm))[: len(rows)].float()


def _attend(row: _Row, i: int, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> None:
    """Write the row's keys and values of layer i, and what its queries see.

    A single query costs 45 us in bf16 and 37 in fp32 at 257 keys (SmolLM2, one thread), nearly all of it in the
    kernel, which reads 0.2 or 0.4 MB: copying bf16 keys to fp32 first, or products and a softmax of our own, took as
    long or longer.
    """
    keys, values = row.cache.k[i], row.cache.v[i]
    heads, dim = q.shape[1:]
    own = slice(row.first, row.last)
    if not row.alone:
        keys[:, row.start : row.end].copy_(k[own].transpose(0, 1))
        values[:, row.start : row.end].copy_(v[own].transpose(0, 1))
        out = attend(q[own].transpose(0, 1), keys[:, : row.end], values[:, : row.end], row.start)
        seen[own] = out.transpose(0, 1).reshape(-1, heads * dim)
        return
    for token, at in enumerate(range(row.start, row.end), row.first):
        keys[:, at].copy_(k[token])
        values[:, at].copy_(v[token])
        seen[token] = _one(q[token], keys[:, : at + 1], values[:, : at + 1])


def _one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query, [heads, head_dim], over keys and values [kv_heads, n, head_dim]: [heads * head_dim]."""
    if q.dtype == torch.bfloat16 and keys.shape[1] > LONG_PAST:
        return attend(q.unsqueeze(1), keys, values, keys.shape[1] - 1).reshape(-1)
    folded = q.view(1, keys.shape[0], -1, q.shape[1])  # the heads that share keys are its rows
    return _flash(folded, keys[None], values[None])[0].reshape(-1)


def _finish(model: LM, layer: PackedLayer, x: Tensor, seen: Tensor) -> Tensor:
    """The rest of a layer after attention, in place: x [n, hidden] fp32, seen [n, heads * head_dim]."""
    x += layer.out(seen)
    gate, up = layer.gate_up(_normed(model, x, layer.mlp_norm)).chunk(2, dim=-1)
    x += layer.down(fn.silu(gate).mul_(up))
    return x


def _normed(model: LM, x: Tensor, weight: Tensor) -> Tensor:
    return fn.rms_norm(x, weight.shape, weight, model.config.norm_eps).to(model.dtype)

"""Causal attention of a chunk of n queries over start + n keys, on CPU, without copying KV for grouped queries.

The query heads that share a KV head are folded into its rows, so K and V are read where they lie. Two routes, chosen
by dtype after measuring 512 queries at 1 thread of an AMD EPYC with AVX512-BF16 (9 heads, 3 KV heads, head_dim 64):

                     8,192 keys fp32     8,192 keys bf16
    one SDPA, mask        136 ms              137 ms
    `_two_parts`          121 ms              140 ms        <- fp32
    `_row_blocks`         149 ms               86 ms        <- bf16: the flash kernel does not use the bf16 dot product
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as fn

ROWS = 128  # queries per block: 64 and 32 cost 2 % and 5 % more in bf16 (8,192 keys, same machine)

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # also returns the log-sum-exp, which SDPA hides


def attend(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """Attention of q, [heads, n, head_dim] at positions start.. over k and v, [kv_heads, start + n, head_dim].

    Query i sees keys 0 to start + i. Returns [heads, n, head_dim].
    """
    if q.shape[1] == 1:
        return _whole(q, k, v)[0]
    return _row_blocks(q, k, v, start) if q.dtype == torch.bfloat16 else _two_parts(q, k, v, start)


def _whole(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Every query sees every key: output [heads, n, head_dim] and log-sum-exp [heads, n, 1]."""
    heads, n, dim = q.shape
    folded = q.reshape(1, k.shape[0], -1, dim)  # [1, kv_heads, group * n, head_dim]
    out, lse = _flash(folded, k[None], v[None])
    return out.reshape(heads, n, dim), lse.reshape(heads, n, 1)


def _two_parts(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """The past, seen whole, and the chunk itself, causal, merged by their log-sum-exp."""
    group, n = q.shape[0] // k.shape[0], q.shape[1]
    own_k = k[:, start:].repeat_interleave(group, 0)  # [heads, n, head_dim]: small, n keys only
    own_v = v[:, start:].repeat_interleave(group, 0)
    own, own_lse = _flash(q[None], own_k[None], own_v[None], 0.0, True)
    if start == 0:
        return own[0]
    past, past_lse = _whole(q, k[:, :start], v[:, :start])
    share = torch.sigmoid(past_lse - own_lse.reshape(-1, n, 1))  # of the softmax mass that lies in the past
    return torch.lerp(own[0].float(), past.float(), share).to(q.dtype)


def _row_blocks(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """Blocks of ROWS queries, each over just the keys it can see: two matrix products and a softmax per KV head."""
    heads, n, dim = q.shape
    group = heads // k.shape[0]
    out = torch.empty_like(q)
    hidden = torch.full((ROWS, ROWS), float("-inf"), dtype=q.dtype).triu(1)
    scaled = q * dim**-0.5
    for first in range(0, n, ROWS):
        rows = min(ROWS, n - first)
        seen = start + first + rows
        for head in range(k.shape[0]):
            own = slice(head * group, (head + 1) * group)
            score = scaled[own, first : first + rows].reshape(-1, dim) @ k[head, :seen].T  # [group * rows, seen]
            score.view(group, rows, seen)[:, :, seen - rows :] += hidden[:rows, :rows]
            out[own, first : first + rows] = (fn.softmax(score, -1) @ v[head, :seen]).view(group, rows, dim)
    return out

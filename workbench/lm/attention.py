"""Causal attention of a chunk of n queries over start + n keys, on CPU, without copying KV for grouped queries.

The query heads that share a KV head are folded into its rows, so K and V are read where they lie. Two routes, chosen
by dtype after measuring 512 queries at 1 thread of an AMD EPYC with AVX512-BF16 (9 heads, 3 KV heads, head_dim 64):

                     8,192 keys fp32     8,192 keys bf16
    one SDPA, mask        136 ms              137 ms
    `_two_parts`          121 ms              140 ms        <- fp32
    `_row_blocks`         149 ms               76 ms        <- bf16: the flash kernel does not use the bf16 dot product
"""

from __future__ import annotations

import torch
from torch import Tensor

# Queries per block of `_row_blocks`: 128 against 64 is 17 against 19 ms at 2,048 keys and 82 against 76 ms at 8,192.
SHORT_ROWS, LONG_ROWS, LONG_PAST = 128, 64, 4096

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # also returns the log-sum-exp, which SDPA hides


def attend(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """Attention of q, [heads, n, head_dim] at positions start.. over k and v, [kv_heads, start + n, head_dim].

    Query i sees keys 0 to start + i. Returns [heads, n, head_dim].
    """
    one = q.shape[1] == 1
    if q.dtype == torch.bfloat16 and (not one or start >= LONG_PAST):  # one query, 8,192 keys: 0.6 ms, flash 1.3 ms
        return _row_blocks(q, k, v, start)
    return _whole(q, k, v)[0] if one else _two_parts(q, k, v, start)


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
    """Blocks of queries, each over just the keys it can see: two matrix products and a softmax per KV head."""
    heads, n, dim = q.shape
    group = heads // k.shape[0]
    block = SHORT_ROWS if start < LONG_PAST else LONG_ROWS
    out = torch.empty_like(q)
    hidden = torch.full((block, block), float("-inf"), dtype=q.dtype).triu(1)
    scaled = q * dim**-0.5
    scratch = torch.empty(group * min(block, n) * (start + n), dtype=q.dtype)  # fresh pages cost more than they hold
    for first in range(0, n, block):
        rows = min(block, n - first)
        seen = start + first + rows
        score = scratch[: group * rows * seen].view(group * rows, seen)
        for head in range(k.shape[0]):
            own = slice(head * group, (head + 1) * group)
            torch.mm(scaled[own, first : first + rows].reshape(-1, dim), k[head, :seen].T, out=score)
            score.view(group, rows, seen)[:, :, seen - rows :] += hidden[:rows, :rows]
            torch.softmax(score, -1, out=score)
            out[own, first : first + rows] = (score @ v[head, :seen]).view(group, rows, dim)
    return out

"""A Llama in plain torch, written for chunked prefill on CPU over a cache that anyone may have filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.lm.attention import attend
from workbench.lm.cache import KVCache
from workbench.lm.packed import Packed
from workbench.lm.rope import Rope
from workbench.lm.tokenizer import Tokenizer


class Stopped(Exception):
    """The caller's `stop` said so: the forward ended between two layers, and its positions hold no KV."""


@dataclass(frozen=True)
class LMConfig:
    """Shape of a Llama. `stop_ids` end an answer."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int  # width of the MLP
    vocab: int
    max_position: int
    rope_theta: float
    norm_eps: float
    stop_ids: tuple[int, ...] = ()

    @classmethod
    def from_llama(cls, raw: Mapping[str, Any]) -> LMConfig:
        """From a Llama's config.json. ValueError names what this forward does not do."""
        rope = raw.get("rope_parameters") or {
            "rope_theta": raw.get("rope_theta", 10000.0),
            **(raw.get("rope_scaling") or {}),
        }
        for what, bad in {
            f"model_type {raw.get('model_type')!r}": raw.get("model_type") != "llama",
            "biases": raw.get("attention_bias") or raw.get("mlp_bias"),
            f"activation {raw.get('hidden_act')!r}": raw.get("hidden_act", "silu") != "silu",
            "scaled RoPE": rope.get("rope_type", "default") != "default",
            "an output layer of its own": not raw.get("tie_word_embeddings", False),
        }.items():
            if bad:
                raise ValueError(f"this forward is a plain tied Llama and does not do {what}")
        eos = raw.get("eos_token_id")
        return cls(
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw["num_key_value_heads"],
            head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            hidden=raw["hidden_size"],
            inner=raw["intermediate_size"],
            vocab=raw["vocab_size"],
            max_position=raw["max_position_embeddings"],
            rope_theta=float(rope["rope_theta"]),
            norm_eps=raw["rms_norm_eps"],
            stop_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; q, k and v are one matrix, and so are gate and up."""

    attn_norm: Tensor  # [hidden], fp32
    qkv: Tensor  # [(heads + 2 kv_heads) * head_dim, hidden]
    out: Tensor  # [hidden, heads * head_dim]
    mlp_norm: Tensor  # [hidden], fp32
    gate_up: Tensor  # [2 inner, hidden]
    down: Tensor  # [hidden, inner]


class LM:
    """A loaded model. The residual stream and the norms are fp32, matrix products are in `dtype`.

    One thread at a time per cache; several threads may run forwards over different caches of one LM.
    """

    def __init__(
        self,
        name: str,
        config: LMConfig,
        weights: Mapping[str, Tensor],
        dtype: torch.dtype,
        tokenizer: Tokenizer,
        fingerprint: str,
    ) -> None:
        self.name, self.config, self.dtype = name, config, dtype
        self.tokenizer, self.fingerprint = tokenizer, fingerprint
        self.rope = Rope(config.head_dim, config.rope_theta, config.max_position)
        self.embed = weights["model.embed_tokens.weight"].to(dtype)  # [vocab, hidden], also the output layer
        self.norm = weights["model.norm.weight"].float()
        self.layers = [_layer(weights, i, dtype) for i in range(config.layers)]
        self.packed: Packed | None = None  # made when first wanted: `packed.packed(model)`

    def __repr__(self) -> str:
        return f"LM({self.name!r}, {self.dtype}, layers={self.config.layers}, hidden={self.config.hidden})"

    @property
    def kv_bytes_per_token(self) -> int:
        c = self.config
        return c.layers * 2 * c.kv_heads * c.head_dim * self.dtype.itemsize

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for `capacity` tokens, at most max_position. ValueError says the bound."""
        if capacity > self.config.max_position:
            raise ValueError(f"{self.name} has {self.config.max_position} positions: a cache cannot hold {capacity}")
        return KVCache(self.config.layers, self.config.kv_heads, capacity, self.rope, self.dtype)

    @torch.inference_mode()
    def forward(
        self,
        ids: Tensor,
        cache: KVCache,
        start: int,
        *,
        logits: Literal["last", "all"] | None = "last",
        stop: Callable[[], bool] | None = None,
    ) -> Tensor | None:
        """Run tokens `ids`, [n] int64, at positions start to start + n - 1, writing their KV into `cache`.

        They attend to all of cache[0 : start + n], whoever filled it. Returns fp32 logits: [vocab] of the last token,
        [n, vocab] of all, or None. The same chunking gives the same bits. `stop` is looked at before every layer; when
        it is true, Stopped is raised and the positions of this call hold no KV. ValueError on bad input, before any
        work.
        """
        n = self._check(ids, cache, start)
        end, c = start + n, self.config
        cache.mark(start, end, filled=False)
        x = fn.embedding(ids, self.embed).float()  # [n, hidden]
        for i, layer in enumerate(self.layers):
            if stop is not None and stop():
                raise Stopped(f"stopped before layer {i} of {c.layers}, positions {start}..{end}")
            q, k, v = self._qkv(layer, x)  # [heads, n, head_dim], [kv_heads, n, head_dim] twice
            cache.k[i][:, start:end].copy_(self.rope.turn(k, start))
            cache.v[i][:, start:end].copy_(v)
            if i == c.layers - 1 and logits != "all":  # of the last layer only the KV and the last token are wanted
                if logits is None:
                    break
                q, x = q[:, -1:], x[-1:]
            q = self.rope.turn(q, end - q.shape[1]).to(self.dtype)
            seen = attend(q, cache.k[i][:, :end], cache.v[i][:, :end], end - q.shape[1])
            x = self._finish(layer, x, seen.transpose(0, 1).reshape(q.shape[1], -1))
        cache.mark(start, end, filled=True)
        if logits is None:
            return None
        out = self._logits(x)
        return out[-1] if logits == "last" else out

    @torch.inference_mode()
    def forward_ragged(
        self,
        ids: Sequence[Tensor],
        caches: Sequence[KVCache],
        starts: Sequence[int],
        *,
        pad_to: int | None = None,
        exact: bool = True,
        alone: Sequence[bool] = (),
    ) -> Tensor:
        """One pass over the weights for several rows: tokens ids[r], [n_r] int64, at positions starts[r] onwards.

        A row is 1 token (decoding) or many (a prompt, forced tokens); it attends to its own cache alone, all of
        caches[r][0 : starts[r] + n_r], and its KV is written there. Returns fp32 logits of each row's last token,
        [rows, vocab]: those of `forward` to 1e-4 in fp32, and the same bits whatever stands beside the row, in fp32 as
        long as the step has at most 600 tokens and in bf16 128, where oneDNN packs the weights and, for bf16, the
        processor has products for it (`packed.exact_rows`). `pad_to` runs the products over so many tokens, where that
        is faster. Not `exact`: up to 3 tokens in fp32 take another product, which is faster and rounds otherwise.
        A row that is `alone` attends token by token, as in decoding: its KV has the bits that it would have had there.
        ValueError on bad input, before any work.
        """
        from workbench.lm.ragged import forward_ragged

        if not len(ids) == len(caches) == len(starts):
            raise ValueError(f"{len(ids)} rows of tokens, {len(caches)} caches and {len(starts)} starts: must be equal")
        if not ids:
            raise ValueError("a pass has at least one row")
        if len({id(cache) for cache in caches}) < len(caches):
            raise ValueError("two rows share one cache: fork it")
        for own, cache, start in zip(ids, caches, starts, strict=True):
            self._check(own, cache, start)
        return forward_ragged(self, ids, caches, starts, pad_to, exact, alone)

    def forward_batch(self, ids: Tensor, caches: Sequence[KVCache], positions: Sequence[int]) -> Tensor:
        """One decode step for b sequences: token ids[b] at positions[b] of caches[b]; fp32 logits [b, vocab].

        `forward_ragged` with one token a row.
        """
        if ids.ndim != 1:
            raise ValueError(f"ids must be [b] int64, not {list(ids.shape)}")
        return self.forward_ragged([ids[b : b + 1] for b in range(len(ids))], caches, positions)

    def _qkv(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        y = fn.linear(self._normed(x, layer.attn_norm), layer.qkv).view(x.shape[0], -1, c.head_dim).transpose(0, 1)
        return y[: c.heads], y[c.heads : c.heads + c.kv_heads], y[c.heads + c.kv_heads :]

    def _finish(self, layer: Layer, x: Tensor, seen: Tensor) -> Tensor:
        """The rest of a layer after attention: x [n, hidden] fp32, seen [n, heads * head_dim]."""
        x = x + fn.linear(seen, layer.out)
        gate, up = fn.linear(self._normed(x, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
        return x + fn.linear(fn.silu(gate).mul_(up), layer.down)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return fn.rms_norm(x, weight.shape, weight, self.config.norm_eps).to(self.dtype)

    def _logits(self, x: Tensor) -> Tensor:
        return fn.linear(self._normed(x, self.norm), self.embed).float()

    def _check(self, ids: Tensor, cache: KVCache, start: int) -> int:
        c = self.config
        if ids.ndim != 1 or ids.dtype != torch.int64 or not len(ids):
            raise ValueError(f"ids must be [n] int64 with n >= 1, not {list(ids.shape)} {ids.dtype}")
        if int(ids.min()) < 0 or int(ids.max()) >= c.vocab:
            raise ValueError(
                f"{self.name} knows token ids 0 to {c.vocab - 1}, not {int(ids.min())} to {int(ids.max())}"
            )
        if (cache.layers, cache.kv_heads, cache.head_dim, cache.dtype) != (
            c.layers,
            c.kv_heads,
            c.head_dim,
            self.dtype,
        ):
            raise ValueError(f"{cache!r} was not made for {self!r}: use new_cache()")
        if not 0 <= start <= start + len(ids) <= cache.capacity:
            raise ValueError(f"positions {start}..{start + len(ids)} do not fit a cache of {cache.capacity}")
        if start + len(ids) > c.max_position:  # a cache of another, longer model
            raise ValueError(f"{self.name} has {c.max_position} positions: {start}..{start + len(ids)} do not fit")
        if not cache.holds(0, start):
            raise ValueError(f"not every position before {start} holds KV: compute or inject it first")
        return len(ids)


def _layer(weights: Mapping[str, Tensor], index: int, dtype: torch.dtype) -> Layer:
    def get(*names: str) -> Tensor:
        return torch.cat([weights[f"model.layers.{index}.{name}.weight"] for name in names])

    return Layer(
        attn_norm=get("input_layernorm").float(),
        qkv=get("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").to(dtype),
        out=get("self_attn.o_proj").to(dtype),
        mlp_norm=get("post_attention_layernorm").float(),
        gate_up=get("mlp.gate_proj", "mlp.up_proj").to(dtype),
        down=get("mlp.down_proj").to(dtype),
    )

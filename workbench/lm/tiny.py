"""A tiny Llama with random weights, for tests: scaled so that what it says depends on all of its KV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# As a config.json of transformers would have it.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "max_position_embeddings": 16384,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
}

SHARPNESS = 1.5  # on q and k: scores with a spread of about 2, so that attention picks out keys instead of averaging
EMBED_STD = 0.2  # small beside the layers' output: a tied output layer would else only repeat the last token


def tiny_weights(seed: int) -> dict[str, Tensor]:
    """fp32 weights of CONFIG: see `llama_weights`."""
    return llama_weights(CONFIG, seed)


def llama_weights(config: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """fp32 weights by the names of transformers' Llama; each matrix keeps the variance of its input.

    An output layer of its own is there where the config ties none.
    """
    draw = torch.Generator().manual_seed(seed)
    hidden, inner, vocab, dim = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=draw) * (gain * columns**-0.5)

    weights = {"model.embed_tokens.weight": EMBED_STD * torch.randn(vocab, hidden, generator=draw)}
    for i in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm": torch.ones(hidden),
            "self_attn.q_proj": matrix(q, hidden, SHARPNESS),
            "self_attn.k_proj": matrix(kv, hidden, SHARPNESS),
            "self_attn.v_proj": matrix(kv, hidden, 2.0),
            "self_attn.o_proj": matrix(hidden, q),
            "post_attention_layernorm": torch.ones(hidden),
            "mlp.gate_proj": matrix(inner, hidden),
            "mlp.up_proj": matrix(inner, hidden),
            "mlp.down_proj": matrix(hidden, inner),
        }
        weights |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in layer.items()}
    weights["model.norm.weight"] = torch.ones(hidden)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(vocab, hidden, 2.0)
    return weights

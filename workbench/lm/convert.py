"""A Llama in GGUF to a model directory that transformers and vLLM load: bf16 safetensors, config, tokenizer.

Reads with the `gguf` library tensor by tensor, so that progress can be shown and a caller can stop between two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.lm.files import ModelUnavailable, Progress

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(source: Path, target: Path, progress: Progress) -> None:
    """Fill the folder `target` from the GGUF file `source`. ModelUnavailable when that cannot be read."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    progress(0.25, 1, "reading the packaged weights")
    try:
        reader = GGUFReader(source)
    except (ValueError, OSError) as error:
        raise ModelUnavailable(f"{source} cannot be read as GGUF: {error}") from error
    field = {name: reader.get_field(name) for name in reader.fields}
    meta = {name: found.contents() for name, found in field.items() if found is not None}
    config = _config(meta)
    weights: dict[str, Tensor] = {}
    for i, tensor in enumerate(reader.tensors):
        progress(0.3 + 0.5 * i / len(reader.tensors), 1, f"converting the weights: {i} of {len(reader.tensors)}")
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())  # fp32, [out, in]
        name = _name(tensor.name)
        if "q_proj" in name:
            values = _halves(values, config["num_attention_heads"])
        elif "k_proj" in name:
            values = _halves(values, config["num_key_value_heads"])
        weights[name] = values.to(torch.bfloat16).contiguous()
    progress(0.8, 1, "writing the converted model")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=1))
    generation = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    (target / "generation_config.json").write_text(json.dumps(generation, indent=1))
    _write_tokenizer(meta, target)


def _name(gguf: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    parts = gguf.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.{parts[3]}"
    return f"{NAMES[parts[0]]}.{parts[1]}"


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from GGUF's order, rotated pairs side by side, to halves: all firsts, then all seconds."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _config(meta: dict[str, Any]) -> dict[str, Any]:
    hidden, heads = meta["llama.embedding_length"], meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": meta["llama.rope.freq_base"],
        "rope_parameters": {"rope_type": "default", "rope_theta": meta["llama.rope.freq_base"]},
        "vocab_size": meta["llama.vocab_size"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _write_tokenizer(meta: dict[str, Any], target: Path) -> None:
    """Byte-level BPE that splits numbers into digits before merging, which GGUF calls `smollm`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if (kind := meta["tokenizer.ggml.pre"]) != "smollm":
        raise ModelUnavailable(f"the GGUF file's tokenizer is {kind!r}; only smollm's is known here")
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(line.split(" ")) for line in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(target / "tokenizer.json"))
    named = {role: tokens[meta[f"tokenizer.ggml.{key}_token_id"]] for role, key in _ROLES.items()}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    about |= {"model_max_length": meta["llama.context_length"], "chat_template": meta["tokenizer.chat_template"]}
    (target / "tokenizer_config.json").write_text(json.dumps(about, indent=1))


_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

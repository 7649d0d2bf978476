"""A tiny random Llama as a folder that vLLM loads, for tests: weights scaled so that its answer needs all of its KV.

vLLM's own dummy weights would not do: with them the output does not depend on the KV cache at all. The model of
lm.tiny does not fit either: vLLM's CPU kernel takes heads of 32 and more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def write_tiny(folder: Path, seed: int = 0, tokenizer: bool = False) -> Path:
    """Write config and fp32 weights, the same for the same seed; returns the folder.

    With a tokenizer: a token is a byte and its id the byte's value, as in ByteTokenizer; ids above are special.
    """
    from safetensors.torch import save_file

    from workbench.lm.tiny import llama_weights

    folder.mkdir(parents=True, exist_ok=True)
    save_file(llama_weights(CONFIG, seed), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if tokenizer:
        _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE(vocab={sign: byte for byte, sign in _signs().items()}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    names = {CONFIG["bos_token_id"]: "<bos>", CONFIG["eos_token_id"]: "<eos>"}
    rest = range(256, CONFIG["vocab_size"])
    made.add_special_tokens([AddedToken(names.get(i, f"<{i}>"), special=True, normalized=False) for i in rest])
    made.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def _signs() -> dict[int, str]:
    """The sign that byte-level BPE writes for each byte: itself where it prints, else one from 256 on, in order."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in prints]
    return {byte: chr(byte) for byte in prints} | {byte: chr(256 + at) for at, byte in enumerate(other)}

"""`load`: a model by name, ready to run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from workbench.lm.model import LM, LMConfig

if TYPE_CHECKING:
    from workbench.lm.files import Progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(
    name: str = "smollm2",
    dtype: Literal["float32", "bfloat16"] = "float32",
    seed: int = 0,
    progress: Progress | None = None,
) -> LM:
    """The model `name`: "smollm2" (SmolLM2-135M-Instruct) or "tiny" (random weights drawn from `seed`, for tests).

    The first load of smollm2 on a machine fetches and converts it; `progress(done, total, note)` follows that, is
    called about ten times a second, and may raise to end it (the exception comes out of here; nothing half-made stays).
    ModelUnavailable says what to do when it cannot be had; ValueError for an unknown name or dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {' or '.join(DTYPES)}, not {dtype!r}")
    if name == "tiny":
        return _tiny(DTYPES[dtype], seed)
    if name == "smollm2":
        return _smollm2(DTYPES[dtype], progress)
    raise ValueError(f"no model is called {name!r}; there are smollm2 and tiny")


def _tiny(dtype: torch.dtype, seed: int) -> LM:
    from workbench.lm.tiny import CONFIG, tiny_weights
    from workbench.lm.tokenizer import ByteTokenizer

    weights = tiny_weights(seed)
    content = hashlib.sha256(json.dumps(CONFIG, sort_keys=True).encode())
    for key in sorted(weights):
        content.update(weights[key].numpy().tobytes())
    fingerprint = _with_dtype(content.hexdigest(), dtype)
    return LM("tiny", LMConfig.from_llama(CONFIG), weights, dtype, ByteTokenizer(), fingerprint)


def _smollm2(dtype: torch.dtype, progress: Progress | None) -> LM:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from workbench.lm import files
    from workbench.lm.tokenizer import FileTokenizer

    folder = files.path("smollm2", progress=progress)
    if progress is not None:
        progress(1, 1, "loading the weights")
    try:
        weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    except SafetensorError as error:  # damage that keeps the size passes the quick check
        folder = files.path("smollm2", progress=progress, rebuild=f"model.safetensors cannot be read: {error}")
        weights = load_file(folder / "model.safetensors")
    config = LMConfig.from_llama(json.loads((folder / "config.json").read_text()))
    fingerprint = _with_dtype(files.manifest(folder)["fingerprint"], dtype)
    if progress is not None:
        progress(1, 1, "laying out the weights")
    return LM("smollm2", config, weights, dtype, FileTokenizer(folder), fingerprint)


def _with_dtype(content: str, dtype: torch.dtype) -> str:
    """KV of one dtype is of no use to another, so the fingerprint tells them apart."""
    return hashlib.sha256(f"{content}|{dtype}".encode()).hexdigest()[:16]

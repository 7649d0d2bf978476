"""The small language model that the systems share: load, KV cache, forward, sample.

    from workbench import lm
    model = lm.load("smollm2")                       # or "tiny": random weights, for tests
    ids = lm.prompt(model, tokens=2048, seed=0)
    cache = model.new_cache(capacity=4096)
    logits = model.forward(torch.tensor(ids), cache, start=0)
    token = lm.Sampler(temperature=0.0).pick(logits, request=0, position=len(ids))

Importing this loads no torch: each name below is fetched when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "LM",
    "KVCache",
    "LMConfig",
    "ModelStatus",
    "ModelUnavailable",
    "Sampler",
    "Stopped",
    "chosen_dtype",
    "fast_dtype",
    "load",
    "path",
    "prompt",
    "status",
]

if TYPE_CHECKING:
    from workbench.lm.cache import KVCache
    from workbench.lm.dtype import chosen_dtype, fast_dtype
    from workbench.lm.files import ModelStatus, ModelUnavailable, path, status
    from workbench.lm.model import LM, LMConfig, Stopped
    from workbench.lm.prompts import prompt
    from workbench.lm.sampler import Sampler
    from workbench.lm.weights import load

_HOME = {
    "LM": "model",
    "LMConfig": "model",
    "Stopped": "model",
    "KVCache": "cache",
    "chosen_dtype": "dtype",
    "fast_dtype": "dtype",
    "ModelStatus": "files",
    "ModelUnavailable": "files",
    "path": "files",
    "status": "files",
    "prompt": "prompts",
    "Sampler": "sampler",
    "load": "weights",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workbench.lm' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"workbench.lm.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

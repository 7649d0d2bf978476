"""Foundry: graphs that are born executable (arXiv 2604.06664): captured once, rebuilt where nothing is compiled.

    from workbench.foundry.capture import capture                # torch, a compiler, minutes
    capture(lm.load("smollm2"), sizes=(1, 2, 4, 8), path="smollm2.foundry")

    from workbench.foundry.load import load                      # neither, a second or two
    logits, tokens = load("smollm2.foundry").step(ids=[11, 12], positions=[5, 9])

On CPU this is an analogue of a CUDA graph and is always called so: a list of C calls over a fixed-address arena.
FORMAT.md describes the archive, which is the same for every backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.foundry.catalogue import SYSTEM

__all__ = ["SYSTEM"]


def __getattr__(name: str) -> Any:
    """SYSTEM when it is first asked for: a process that only loads an archive imports no pydantic."""
    if name != "SYSTEM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from workbench.foundry.catalogue import SYSTEM

    return SYSTEM

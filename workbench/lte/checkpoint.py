"""A training run on disk: one file, replaced as a whole, so that a kill at any moment leaves the last good one."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from workbench import aside

FILE = "checkpoint.pt"


class CheckpointError(ValueError):
    """The checkpoint cannot be gone on from; the message says why and what to do."""


def write(folder: Path, config: Any, state: dict[str, Any], steps: Sequence[Any]) -> None:
    """Put `state` and the steps so far into `folder`, under the config they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"config": digest(config), "state": state, "steps": [asdict(step) for step in steps]}
    with aside.whole(folder / FILE) as out:
        torch.save(content, out)


def read(folder: Path, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """State and steps of `folder`, None where there are none. CheckpointError: another config's, or damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
        belongs, state, steps = content["config"], content["state"], content["steps"]
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}): remove it to start anew") from error
    if belongs != digest(config):
        raise CheckpointError(f"{file} belongs to a run with another config: choose another folder, or remove it")
    return state, steps


def digest(config: Any) -> str:
    """What tells one config from another."""
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()

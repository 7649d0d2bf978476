"""The experts of one text: run it once, keep the gates, threshold them as often as a slider moves.

`shown(config)` is the activity last run in this process for the config's task and text, else the shipped one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.lte.config import TEXT, LteConfig
from workbench.lte.data import Encoder
from workbench.lte.result import Activity
from workbench.lte.shelf import ARTIFACTS, FOLDERS
from workbench.lte.sparse_model import SparseModel

FILE = "activity.json"  # beside the artifact: of the text that stands in the form
MOST_TOKENS = 96
_last: dict[tuple[str, str, str], Activity] = {}
_lock = threading.Lock()


def run_text(model: SparseModel, tokens: Encoder, text: str) -> Activity:
    """Gates of every layer for each token of `text`, in hard mode: those of a token depend on the tokens before."""
    ids = tokens.encode(text)[:MOST_TOKENS]
    with model.as_mode("hard"):
        model.hidden(torch.tensor([ids]))
        gates = torch.stack([g[0] for g in model.gates()]).float().numpy()
    return Activity.of(gates, pieces(tokens, ids), model.layers[0].tau)


def pieces(tokens: Encoder, ids: Sequence[int]) -> list[str]:
    """Each token as text; those that are not a whole character as their number."""
    decode: Any = getattr(tokens, "decode", None)
    said = [decode([i]).strip() if decode else "" for i in ids]
    return [word if word and "\ufffd" not in word else f"#{i}" for word, i in zip(said, ids, strict=True)]


def remember(config: LteConfig, found: Activity) -> None:
    """Keep it for the slider; one text for each task."""
    with _lock:
        for key in [key for key in _last if key[:2] == (config.model, config.task)]:
            del _last[key]
        _last[config.model, config.task, ""] = found
        _last[config.model, config.task, config.text] = found


def shown(config: LteConfig) -> tuple[Activity | None, bool]:
    """(what to draw, whether it is the config's own text): the last one run, else the shipped one, else None."""
    with _lock:
        own = _last.get((config.model, config.task, config.text))
        last = _last.get((config.model, config.task, ""))
    if own is not None:
        return own, True
    kept = read(ARTIFACTS / FOLDERS[config.task]) if config.model != "tiny" else None
    return (kept, config.text == TEXT) if kept is not None and last is None else (last, False)


def read(folder: Path) -> Activity | None:
    """The activity that lies beside an artifact; None where there is none."""
    file = folder / FILE
    return Activity.model_validate_json(file.read_text()) if file.is_file() else None


def write(folder: Path, found: Activity) -> None:
    """Put it beside an artifact."""
    (folder / FILE).write_text(json.dumps(found.model_dump(mode="json")) + "\n")


def union(gates: Sequence[np.ndarray[Any, Any]], tau: float, sizes: Sequence[int]) -> list[tuple[int, float, float]]:
    """(batch, measured, independent): share of experts that at least one row of the batch needs, mean over layers.

    gates: one [layers, experts] for each row, the rows in any order; batches are taken in that order, all that fit.
    independent: 1 - (share left out)^batch for each layer, what rows that agree by chance alone would need.
    """
    rows = np.stack(gates) > tau  # [rows, layers, experts]
    found = []
    for size in sizes:
        if size > len(rows):
            break
        cut = rows[: len(rows) // size * size].reshape(-1, size, *rows.shape[1:])
        idle = 1 - rows.mean(axis=(0, 2))
        found.append((size, float(cut.any(axis=1).mean()), float((1 - idle**size).mean())))
    return found

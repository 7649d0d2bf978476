"""A KV checkpoint of the responses in work: whole grains into CAKE's store as an engine of RLBoost decodes.

    keeper = Checkpoint(engine, store)
    while engine.running: engine.step(); keeper.keep()

Run as a program it is an engine that may be killed at any moment: JSON lines of its tokens on a pipe, as RLBoost's
token-level collection wants them, and its KV in the store's folder. The store names a grain by the tokens it holds, so
whoever has the tokens finds the grains, and a grain that was half written when the process died is not there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench import lm
from workbench.cake.engine import save_prompt
from workbench.cake.store import DiskStore, Layout, Store
from workbench.rlboost.rollout import Ask, Rollouts


class Checkpoint:
    """Writes each grain of a running response once it is whole. `seconds`: spent here; `written`: grains."""

    def __init__(self, engine: Rollouts, store: Store) -> None:
        self.engine, self.store = engine, store
        self.seconds, self.written = 0.0, 0
        self._whole: dict[str, int] = {}

    def keep(self) -> None:
        """After a step: write what has become whole. OSError where the store cannot be written."""
        began = time.perf_counter()
        for request in self.engine.running:
            ids, kv = self.engine.filled(request)
            whole = len(ids) // self.store.layout.tokens
            if whole > self._whole.get(request, 0):
                self.written += save_prompt(self.store, ids, kv)
                self._whole[request] = whole
        self.seconds += time.perf_counter() - began


def endless(name: str) -> lm.LM:
    """A model in float32 to which no token ends a response, so that responses are as long as is asked."""
    model = lm.load(name, "float32")
    model.config = replace(model.config, stop_ids=())
    return model


def open_store(model: lm.LM, folder: Path, grain: int) -> DiskStore:
    """CAKE's store for this model's KV: written through to the disk, read past the page cache."""
    c = model.config
    dtype = str(model.dtype).removeprefix("torch.")
    layout = Layout(c.layers, c.kv_heads, grain, c.head_dim, dtype)
    return DiskStore(folder, layout, model.fingerprint, cold=True, sync=True)


def decode(job: dict[str, Any], out: int) -> None:
    """Decode the job's prompts, one line a step: tokens, seconds of the step and of the checkpoint after it."""
    torch.set_num_threads(1)
    model = endless(job["model"])
    engine = Rollouts(model, lm.Sampler(1.0, seed=job["seed"]), slots=len(job["prompts"]))
    for request, prompt in job["prompts"].items():
        engine.give(Ask(request, tuple(prompt), (), job["most"]))
    keeper = Checkpoint(engine, open_store(model, Path(job["folder"]), job["grain"]))
    with os.fdopen(out, "w") as pipe:
        while engine.running or engine.pending:
            before, spent, began = engine.prefilled, keeper.seconds, time.perf_counter()
            said = engine.step()
            step_s = time.perf_counter() - began
            keeper.keep()
            line = {
                "tokens": {piece.request: list(piece.ids) for piece in said},
                "prompts": engine.prefilled - before,
                "step_s": step_s,
                "keep_s": keeper.seconds - spent,
                "written": keeper.written,
            }
            pipe.write(json.dumps(line) + "\n")
            pipe.flush()


if __name__ == "__main__":
    decode(json.loads(sys.stdin.readline()), int(sys.argv[-1]))

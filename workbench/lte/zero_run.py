"""A ZeRO run from any process: start the ranks, pass on their steps, give back the trained parameters.

    parameters = yield from run(config, "LTE")      # yields Step, or None when nothing came for a moment

A rank that ends, fails or falls silent ends the run with a named error; nothing of it is left then, nor when the
generator is closed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench import backends
from workbench.child import Child, ChildDied
from workbench.lte.config import LteConfig
from workbench.lte.schedule import Step
from workbench.lte.train import Diverged

START_S = 300.0  # imports on a slow machine, loading
SILENCE_S = 180.0  # a step of a slow machine, or a collective's own timeout
BEAT_S = 0.05
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # DeepSpeed has parts of an optimizer that nobody chose compiled: seconds of imports
}


class RankFailed(RuntimeError):
    """A process of the run ended, failed or hung; the message names it and says how."""


def run(config: LteConfig, arm: str, folder: Path | None = None) -> Generator[Step | None, None, dict[str, Tensor]]:
    """Train `arm` ("dense" or "LTE") on config.ranks processes with ZeRO stage config.zero; checkpoints in `folder`.

    BackendUnavailable without DeepSpeed, Diverged as the trainer's, RankFailed otherwise.
    """
    found = backends.backend("deepspeed")
    if not found.available:
        raise backends.BackendUnavailable(f"zero={config.zero!r} needs DeepSpeed: {found.detail}; {found.how}")
    with tempfile.TemporaryDirectory(prefix="workbench-zero-") as work:
        children: list[Child] = []
        try:
            for rank in range(config.ranks):
                children += [_start(config, arm, rank, Path(work), folder)]  # one by one: what started is ended
            yield from _watch(children)
            from safetensors.torch import load_file

            return load_file(Path(work) / "trained.safetensors")
        finally:
            for child in children:
                child.end()


def _start(config: LteConfig, arm: str, rank: int, work: Path, folder: Path | None) -> Child:
    own = work / f"rank{rank}"
    own.mkdir()
    child = Child([sys.executable, "-m", "workbench.lte.zero_rank"], own, ENVIRONMENT, f"rank {rank}")
    job = {"config": config.model_dump(mode="json"), "arm": arm, "rank": rank, "ranks": config.ranks}
    job |= {"store": str(work / "store"), "folder": str(folder) if folder else None}
    job |= {"out": str(work / "trained.safetensors")}
    child.send(job, last=True)
    return child


def _watch(children: list[Child]) -> Generator[Step | None]:
    """Steps of rank 0 until every rank is done. Who fails first is named: the others only lose a partner."""
    going, patience = list(children), dict.fromkeys(children, START_S)
    while going:
        for child in list(going):
            for fields in _heard(child):
                patience[child] = SILENCE_S
                kind = fields.pop("is")
                if kind == "done":
                    going.remove(child)
                elif kind == "error":
                    _fail(child, fields["text"])
                elif kind == "step":
                    child.doing = f"step {fields['step']}"
                    yield Step(**fields)
            if child in going:
                _silence(child, patience[child])
        yield None


def _heard(child: Child) -> list[dict[str, Any]]:
    try:
        return child.read(BEAT_S)
    except ChildDied as died:
        raise RankFailed(f"{died} The run was ended; with a folder it goes on from its last checkpoint.") from died


def _silence(child: Child, patience_s: float) -> None:
    try:
        child.check_silence(patience_s)
    except ChildDied as died:
        raise RankFailed(str(died)) from died


def _fail(child: Child, text: str) -> None:
    kind, _, said = text.partition(": ")
    if kind == "Diverged":
        raise Diverged(said)
    raise RankFailed(f"{child.name} failed at '{child.doing}': {text}")

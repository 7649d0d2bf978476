"""Checkpoints of a run: parameters and optimizer state by name, so that any plan of the same model can go on from them.

    save(job, layout, model, update, steps)        every rank, together
    steps = load(job, model, update)               0 where there is none

`folder/step000010/rank3.safetensors` holds what rank 3 owns (the first attention rank writes for all of them),
meta.json says of what; `folder/latest` names the last whole one. Under the plan that it was written by, a resumed run
has the bits of one that was not interrupted, since batches are functions of the step.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.hetermoe.job import Job
from workbench.hetermoe.layout import Layout
from workbench.hetermoe.model import MoE
from workbench.hetermoe.update import Update

FORMAT = "workbench-hetermoe-checkpoint"
VERSION = 1
KEEP = 2  # the last ones


class CheckpointError(ValueError):
    """A folder that cannot be gone on from; the message says why and what to do."""


def save(job: Job, layout: Layout, model: MoE, update: Update, steps: int) -> None:
    """Write step `steps`, whole or not at all. Ranks of the first copy of the plan write, all wait for each other."""
    folder = Path(job.folder)
    partial, whole = folder / f".step{steps:06d}.partial", folder / f"step{steps:06d}"
    moments = update.moments()
    if layout.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    _wait()
    if layout.group == 0:
        _write(partial / f"rank{layout.rank}.safetensors", layout, model, moments)
    _wait()
    if layout.rank == 0:
        told = {"format": FORMAT, "version": VERSION, "steps": steps, "model_key": job.model.key}
        told |= {"model": asdict(job.model), "plan": job.plan.to_json(), "numbers": _numbers(job)}
        (partial / "meta.json").write_text(json.dumps(told))
        if whole.exists():
            shutil.rmtree(whole)
        partial.rename(whole)
        name = folder / ".latest.partial"
        name.write_text(whole.name)
        name.replace(folder / "latest")
        for old in sorted(folder.glob("step??????"))[:-KEEP]:
            shutil.rmtree(old)


def load(job: Job, model: MoE, update: Update) -> int:
    """Take over the latest checkpoint of the job's folder: steps that it has behind it. CheckpointError as `meta`."""
    told = meta(job)
    if told is None:
        return 0
    tensors = _read(Path(job.folder) / (Path(job.folder) / "latest").read_text().strip(), model)
    parameters = model.parameters_by_name()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"parameter {name}"])
    moments = {name: (tensors[f"first {name}"], tensors[f"second {name}"]) for name in parameters}
    update.restore(told["steps"], moments)
    return int(told["steps"])


def meta(job: Job) -> dict[str, Any] | None:
    """What the folder's latest checkpoint says of itself; None where there is none.

    CheckpointError where it is of another model, of other data or optimizer settings, or cannot be read.
    """
    folder = Path(job.folder)
    if not job.folder or not (folder / "latest").is_file():
        return None
    try:
        told: dict[str, Any] = json.loads((folder / (folder / "latest").read_text().strip() / "meta.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no checkpoint that can be read ({error}): choose another one") from None
    if told.get("format") != FORMAT or told.get("version") != VERSION:
        raise CheckpointError(f"{folder} holds no {FORMAT} of version {VERSION}: choose another folder")
    if told["model_key"] != job.model.key:
        raise CheckpointError(f"{folder} is of another model, {told['model']}: choose another folder")
    if told["numbers"] != json.loads(json.dumps(_numbers(job))):
        raise CheckpointError(
            f"{folder} is of a run with {told['numbers']}, not {_numbers(job)}: choose another folder"
        )
    return told


def _numbers(job: Job) -> dict[str, Any]:
    """What decides the batches and updates that come."""
    return {"rows": job.rows, "tokens": job.tokens, "adam": asdict(job.adam), "data_seed": job.data_seed}


def _write(file: Path, layout: Layout, model: MoE, moments: dict[str, tuple[Tensor, Tensor]]) -> None:
    from safetensors.torch import save_file

    first = layout.place == 0 and layout.attends
    own = {n: p for n, p in model.parameters_by_name().items() if first or n.startswith("experts.")}
    tensors = {f"parameter {n}": p.detach() for n, p in own.items()}
    for n in own:
        tensors[f"first {n}"], tensors[f"second {n}"] = moments[n]
    save_file({n: t.contiguous() for n, t in tensors.items()}, file)


def _read(folder: Path, model: MoE) -> dict[str, Tensor]:
    """Tensors of what `model` holds, from whichever files have them."""
    from safetensors import safe_open

    wanted, found = set(model.parameters_by_name()), dict[str, Tensor]()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118, not a dict
                if key.split(" ", 1)[1] in wanted:
                    found[key] = opened.get_tensor(key)
    if missing := wanted - {key.split(" ", 1)[1] for key in found}:
        raise CheckpointError(f"{folder} misses {min(missing)}: choose another folder")
    return found


def _wait() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()

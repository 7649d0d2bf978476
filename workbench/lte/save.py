"""A trained sparse model as two small files: config.json, and its routers, groupings, adapters, stand-ins.

The base model is not in it: it is named by what its weights hash to. Everything is checked before anything is used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from workbench.lte import lora
from workbench.lte.grouping import NEURONS, check_grouping
from workbench.lte.sparse_model import SparseModel, gated_blocks

FORMAT = 1
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
NEEDED = ("format", "layers", "hidden", "inner", "experts", "tau", "arm", "lora", "base", "sha256")


class ArtifactError(ValueError):
    """The artifact is damaged, of another format, or of another model; the message says which and what to do."""


def save(folder: Path, sparse: SparseModel, info: dict[str, Any]) -> Path:
    """Write `sparse` to `folder` in bfloat16. `info` has "arm" (lte, dense) and "base" (the base weights' fingerprint).

    The dense arm is saved without routers and groupings. More keys of `info` are kept as they are.
    """
    tensors = {_plain(name): p.detach().bfloat16().cpu() for name, p in sparse.model_parameters("lora").items()}
    if info["arm"] == "lte":
        own = sparse.router_parameters() | sparse.stand_ins()
        tensors |= {name: p.detach().bfloat16().cpu() for name, p in own.items()}
        tensors |= {f"grouping.{i}": torch.from_numpy(g.astype(np.int32)) for i, g in enumerate(sparse.groupings)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    adapter = next(module for _, module in lora.adapters(sparse.model))
    first = sparse.layers[0]
    config = {
        "format": FORMAT,
        "layers": len(sparse.layers),
        "hidden": first.router.weight.shape[1],
        "inner": sparse.experts * NEURONS,
        "experts": sparse.experts,
        "tau": first.tau,
        "stand_in": first.stand_in.rank if first.stand_in and info["arm"] == "lte" else 0,
        "lora": {"rank": adapter.a.shape[0], "alpha": adapter.scale * adapter.a.shape[0]},
        "sha256": _sha256(folder / WEIGHTS),
        **info,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return folder


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and tensors of an artifact, checked: format, checksum, shapes, permutations, numbers finite."""
    config = _config(folder)
    file = folder / WEIGHTS
    if not file.is_file() or _sha256(file) != config["sha256"]:
        raise ArtifactError(f"{file} is missing or does not have the checksum that {CONFIG} names: copy it anew")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}): copy it anew") from error
    if bad := next((n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()), None):
        raise ArtifactError(f"{bad} in {file} holds values that are no numbers: train it anew")
    if config["arm"] == "lte":
        _check_routers(config, tensors, file)
    return config, tensors


def load(folder: Path, model: Any, base: str | None = None) -> SparseModel:
    """Put an artifact on a Hugging Face model: in hard mode for an LTE artifact, in dense mode for a dense arm.

    `base` is the fingerprint of the model's weights; another one than the artifact's is refused. ArtifactError also
    when the model has other shapes; the model is untouched then.
    """
    config, tensors = read(folder)
    if base is not None and base != config["base"]:
        raise ArtifactError(
            f"{folder} was trained on weights {config['base'][:12]}, these are {base[:12]}: load those, or train anew"
        )
    blocks = gated_blocks(model)
    inner, hidden = blocks[0].mlp.gate_proj.weight.shape
    have, want = (len(blocks), inner, hidden), (config["layers"], config["inner"], config["hidden"])
    if have != want:
        raise ArtifactError(f"{folder} is of a model with layers, inner, hidden = {want}, this one has {have}")
    if config["arm"] == "lte":
        cut = [tensors[f"grouping.{i}"].numpy().astype(np.int64) for i in range(config["layers"])]
    else:
        cut = [np.arange(inner).reshape(-1, NEURONS)] * config["layers"]
    targets = sorted({name.split(".")[-2] for name in tensors if name.startswith("lora.")})
    lora.add(model, config["lora"]["rank"], config["lora"]["alpha"], targets)
    sparse = SparseModel(model, cut, stand_in=config.get("stand_in", 0))
    own = sparse.router_parameters() | sparse.stand_ins() if config["arm"] == "lte" else {}
    named = (sparse.model_parameters("lora") | own).items()
    try:
        fitting = [(parameter, _fitting(tensors, _plain(name), parameter, folder)) for name, parameter in named]
    except ArtifactError:
        lora.remove(sparse.to_dense(merge=False))
        raise
    with torch.no_grad():
        for parameter, value in fitting:
            parameter.copy_(value)
    sparse.set_tau(config["tau"])
    sparse.set_mode("hard" if config["arm"] == "lte" else "dense")
    return sparse


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder} has no readable {CONFIG} ({type(error).__name__}): it is no LTE artifact"
        ) from error
    if not isinstance(config, dict) or (missing := [key for key in NEEDED if key not in config]):
        raise ArtifactError(f"{folder / CONFIG} lacks {', '.join(missing) if isinstance(config, dict) else 'its keys'}")
    if config["format"] != FORMAT:
        raise ArtifactError(f"{folder} has format {config['format']}, this version reads {FORMAT}: train it anew")
    return config


def _check_routers(config: dict[str, Any], tensors: dict[str, Tensor], file: Path) -> None:
    shapes = {"weight": (config["experts"], config["hidden"]), "bias": (config["experts"],)}
    for i in range(config["layers"]):
        for part, shape in shapes.items():
            found = tensors.get(f"router.{i}.{part}")
            if found is None or tuple(found.shape) != shape:
                raise ArtifactError(f"router.{i}.{part} in {file} is not {list(shape)}: train it anew")
        try:
            check_grouping(tensors[f"grouping.{i}"].numpy().astype(np.int64), config["inner"])
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"grouping.{i} in {file}: {error}") from error


def _fitting(tensors: dict[str, Tensor], name: str, parameter: Tensor, folder: Path) -> Tensor:
    found = tensors.get(name)
    if found is None or found.shape != parameter.shape:
        raise ArtifactError(f"{folder} has no {name} of shape {list(parameter.shape)}: it is of another model")
    return found.to(parameter.dtype)


def _plain(name: str) -> str:
    """An adapter's name as if no MLP were wrapped."""
    return name.replace(".mlp.mlp.", ".mlp.")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

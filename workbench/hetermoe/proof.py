"""The plan that is timed, proved: training under it equals training in one process, and a broken gradient shows.

    with without_gate_path(): ...                the control: gates get no gradient from the stage after
    compare(folder, job)                         what the ranks wrote against one process, by parameter

The model is as wide as a test's, since the order of sums and the placement of experts do not depend on width; layers,
experts, owners, micro-batches and kernels are the plan's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from workbench.hetermoe import stages
from workbench.hetermoe.data import Markov
from workbench.hetermoe.job import Job
from workbench.hetermoe.model import MoE, MoEConfig
from workbench.hetermoe.plan import Plan
from workbench.hetermoe.single import Single

STEPS, TOKENS = 3, 6


def job_of(plan: Plan, kernels: tuple[Any, ...], seed: int, out: Path) -> Job:
    """Three steps of a narrow model under the owners of a plan; enough rows for each shard, and one more."""
    config = MoEConfig(
        vocab=24, hidden=16, layers=plan.layers, heads=2, experts=plan.experts, top_k=plan.top_k, ffn=12, seed=seed
    )  # fmt: skip
    own = replace(plan, model_key=config.key)
    rows = 2 * plan.micro_batches * plan.attention + 1
    return Job(config, own, STEPS, rows, TOKENS, kernels=kernels, data_seed=seed, out=str(out))


@contextlib.contextmanager
def without_gate_path() -> Iterator[None]:
    """Gradients of the gates' weights are dropped where a stage hands them on."""
    whole = stages._gradients

    def cut(inputs: tuple[torch.Tensor, ...]) -> stages.Gradients:
        found = whole(inputs)
        return stages.Gradients(found.h, torch.zeros_like(found.w), found.o)

    stages._gradients = cut
    try:
        yield
    finally:
        stages._gradients = whole


def alone(job: Job) -> dict[str, torch.Tensor]:
    """Parameters after the job's steps in this process, with torch's own optimizer; sums in the ranks' order."""
    plan, data = job.plan, Markov(job.model.vocab, job.data_seed)
    single = Single(MoE(job.model), plan.micro_batches, plan.attention, 1, job.adam, job.kernels)
    for step in range(job.steps):
        single.step(data.batch(step, job.rows, job.tokens))
    return {name: p.detach() for name, p in single.parameters.items()}


def written(folder: Path) -> dict[str, torch.Tensor]:
    """Parameters that the ranks wrote, by name."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("rank*.safetensors")):
        found |= load_file(file)
    return found


def apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Largest difference of a parameter, as a share of its largest value. ValueError where the names differ."""
    if set(found) != set(wanted):
        raise ValueError(f"the ranks wrote {len(found)} parameters, one process has {len(wanted)}")
    return max(float((found[n] - w).abs().max() / w.abs().max().clamp_min(1e-30)) for n, w in wanted.items())


def compare(sound: Path, broken: Path, job: Job) -> dict[str, Any]:
    """Fields of result.Proof: the ranks' parameters, and the control's, against one process."""
    wanted = alone(job)
    found = written(sound)
    return {
        "max_rel_param_error": apart(found, wanted),
        "control": apart(written(broken), wanted),
        "bits": all(torch.equal(found[name], value) for name, value in wanted.items()),
        "steps": job.steps,
        "parameters": sum(value.numel() for value in wanted.values()),
        "told": f"{job.plan.attention}:{job.plan.expert} ranks, {job.plan.micro_batches} micro-batches, experts moved "
        f"{list(job.plan.offload)}, kernels {', '.join(job.kernels)}; control: the gate's gradient path is cut",
    }  # fmt: skip

"""What DeepSpeed-MoE can run of a job; imports no DeepSpeed."""

from __future__ import annotations

from workbench.hetermoe.job import Job
from workbench.hetermoe.plan import PlanError


def suits(job: Job) -> None:
    """PlanError where DeepSpeed-MoE (0.19) has no such run: it shards experts evenly over all ranks, top-1 or top-2.

    A batch must be even as well: DeepSpeed takes the plain mean of the ranks' gradients.
    """
    plan, config = job.plan, job.model
    if plan.kind != "ep":
        raise PlanError(f"DeepSpeed-MoE is expert parallelism: give it a plan of kind ep, not {plan.kind}")
    if config.experts % plan.world:
        raise PlanError(f"DeepSpeed-MoE shards evenly: {config.experts} experts do not divide by {plan.world} ranks")
    if config.top_k > 2:
        raise PlanError(f"DeepSpeed-MoE sends a token to 1 or 2 experts, not {config.top_k}")
    if job.rows % (plan.world * plan.micro_batches):
        raise PlanError(f"{job.rows} rows do not divide by {plan.world} ranks times {plan.micro_batches} micro-batches")
    if job.groups > 1 or job.zero or job.recompute or job.folder:
        raise PlanError("the DeepSpeed-MoE baseline has no groups, zero, recompute or checkpoints here: leave them out")
    if job.pace:
        raise PlanError("DeepSpeed-MoE's stages are its own and cannot be paced: a quota slows down any process")
    if config.gate_bias:
        raise PlanError("gates of DeepSpeed-MoE have no bias: leave gate_bias out")
    if config.dtype != "float32":
        raise PlanError(f"the DeepSpeed-MoE baseline trains float32, not {config.dtype}")

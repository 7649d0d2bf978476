"""The baseline that is not ours: DeepSpeed-MoE on gloo, of the same sizes and from the same weights.

    train(model, expert_parallel(world, ...), engine="deepspeed", ...)        the call for users

Attention, norms and head are this package's modules; gates, token exchange and experts are deepspeed.moe.layer.MoE with
ep_size = world, no dropped tokens and no sampling of the second expert; gradients, accumulation and step are those of
deepspeed.initialize (ZeRO 0, torch's AdamW). Trained parameters come back by this package's names, so that a model goes
from one engine to the other and on under any plan.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.moe.layer import MoE as DeepSpeedMoE
from torch import Tensor, nn

from workbench.hetermoe.data import shards
from workbench.hetermoe.job import Job
from workbench.hetermoe.launch import Say
from workbench.hetermoe.layout import Layout
from workbench.hetermoe.model import MoE, held_by, part
from workbench.hetermoe.rank import Diverged, take
from workbench.hetermoe.spans import Spans

# Only inference_all_reduce uses this native op. Its build takes minutes, and one that is ended leaves a lock behind for
# which every later process waits without end.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Whole(nn.Module):
    """The model with DeepSpeed's MoE layers: (ids, targets) -> mean loss of these rows."""

    def __init__(self, ours: MoE, ranks: int, held: list[tuple[int, ...]]) -> None:
        super().__init__()
        config = ours.config
        self.embed, self.blocks, self.norm, self.head = ours.embed, ours.blocks, ours.norm, ours.head
        if config.tied:
            self.head.weight = self.embed.weight
        self.moes = nn.ModuleList()
        for layer, numbers in enumerate(held):
            moe = DeepSpeedMoE(
                config.hidden, ours.expert(layer, numbers[0]), config.experts, ranks, config.top_k,
                drop_tokens=False, use_rts=False, min_capacity=0, top2_2nd_expert_sampling=False,
            )  # fmt: skip
            inner: Any = moe.deepspeed_moe
            gate: Any = ours.blocks[layer].gate
            inner.gate.wg.weight = gate.weight
            for number, expert in zip(numbers, inner.experts.deepspeed_experts):
                expert.load_state_dict(ours.expert(layer, number).state_dict())
            self.moes.append(moe)
        self.held = held

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(ids)
        for block, moe in zip(self.blocks, self.moes):
            h = x + block.attention(block.norm1(x))  # type: ignore[operator]
            mixed, _, _ = moe(block.norm2(h))  # type: ignore[operator]
            x = h + mixed
        logits = self.head(self.norm(x))
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def named(self) -> dict[str, Tensor]:
        """Parameters here by this package's names."""
        found = {n: p.detach() for n, p in self.named_parameters() if not n.startswith("moes.")}
        for layer, (numbers, moe) in enumerate(zip(self.held, self.moes)):
            inner: Any = moe.deepspeed_moe
            for number, expert in zip(numbers, inner.experts.deepspeed_experts):
                found |= {f"experts.{layer}.{number}.{n}": p.detach() for n, p in expert.named_parameters()}
        return found


def run_rank(job: Job, rank: int, meet: str, say: Say) -> None:
    """All steps of one rank; says them as the ranks of a plan do."""
    torch.set_num_threads(job.threads)
    if job.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores[rank])
    world = str(job.world)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world, "LOCAL_SIZE": world}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # read, not used: they meet at `meet`
    deepspeed.init_distributed(
        "gloo", init_method=meet, rank=rank, world_size=job.world, auto_mpi_discovery=False,
        timeout=timedelta(seconds=job.timeout_s), verbose=False, dist_init_required=True,
    )  # fmt: skip
    ours = part(job.model, job.plan, rank, job.kernels[rank])
    if job.weights:
        take(ours, Path(job.weights))
    model = Whole(ours, job.world, held_by(job.plan, rank))
    engine = _engine(job, model)
    say({"is": "connected", "doing": "step 0"})
    _steps(job, rank, engine, say)
    if job.out:
        from safetensors.torch import save_file

        save_file({n: p.contiguous() for n, p in model.named().items()}, Path(job.out) / f"rank{rank}.safetensors")


def _engine(job: Job, model: Whole) -> Any:
    adam = job.adam
    optimizer = torch.optim.AdamW(
        model.parameters(), adam.lr, adam.betas, adam.eps, weight_decay=adam.weight_decay, foreach=False
    )
    settings = {
        "train_micro_batch_size_per_gpu": job.rows // (job.world * job.plan.micro_batches),
        "gradient_accumulation_steps": job.plan.micro_batches,
        "zero_optimization": {"stage": 0},
        "gradient_clipping": 0.0,  # it clips at 1 unless told not to
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine


def _steps(job: Job, rank: int, engine: Any, say: Say) -> None:
    data, spans, plan = job.data(), Spans(), job.plan
    place = Layout(plan, 1, rank).place
    for step in range(job.steps):
        begun = time.monotonic()
        ids = data.batch(step, job.rows, job.tokens)
        told = torch.zeros((), dtype=torch.float64)
        for j, row in enumerate(shards(len(ids), plan.micro_batches, plan.attention)):
            mine = ids[row[place]]
            with spans.at("step", "forward", micro_batch=j):
                loss = engine(mine[:, :-1], mine[:, 1:])
            with spans.at("step", "backward", micro_batch=j):
                engine.backward(loss)
            with spans.at("step", "update", micro_batch=j):
                engine.step()
            told += float(loss.detach())
        dist.all_reduce(told)
        whole = float(told) / (plan.micro_batches * job.world)
        if not torch.isfinite(told):
            raise Diverged(f"the loss of step {step} is {whole}: lower lr, or look at the data")
        say({"is": "step", "doing": f"step {step + 1}", "step": step, "loss": whole, "start_s": begun,
             "end_s": time.monotonic(), "spans": spans.take()})  # fmt: skip

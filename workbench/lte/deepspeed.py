"""DeepSpeed ZeRO under the trainer: optimizer states (stage 1) and gradients (stage 2) in parts, one a process.

    trainer = ZeroTrainer(sparse, task, config, stage=2)     in every process, after deepspeed.init_distributed("gloo")
    for step in drive(trainer, folder): ...

Each process takes its rows of every batch, and means over tokens are weighed by how many it has, so that the steps are
those of one process up to the order of sums. Two differences: the clip is of all gradients together, and a router that
does not learn has learning rate 0 instead of no gradient, since ZeRO fixes at its start what has one.

`zero_rank.py` is the process, `zero_run.py` starts and watches them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workbench.lte.checkpoint import CheckpointError, digest
from workbench.lte.data import Batch
from workbench.lte.schedule import Step, TrainConfig
from workbench.lte.sparse_model import SparseModel
from workbench.lte.tasks import Task
from workbench.lte.train import Trainer


class _Whole(nn.Module):
    """The model as DeepSpeed wants it: a module whose forward is whatever loss is asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, losses: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        return losses()


class ZeroTrainer(Trainer):
    """A Trainer whose optimizer is DeepSpeed's. All processes do the same calls. ValueError names what cannot be."""

    def __init__(self, sparse: SparseModel, task: Task, config: TrainConfig, stage: Literal[1, 2]) -> None:
        super().__init__(sparse, task, config)
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        if odd := {p.dtype for p in self.mine.values()} - {torch.float32}:
            raise ValueError(f"ZeRO here trains float32 weights, not {odd.pop()}: take tune='lora' or dtype='float32'")
        import deepspeed

        settings = {
            "train_batch_size": config.batch,
            "gradient_clipping": config.clip,
            "zero_optimization": {"stage": stage, "reduce_scatter": False, "overlap_comm": False},  # what gloo can do
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
            "wall_clock_breakdown": False,
        }
        self.engine, self.zero, *_ = deepspeed.initialize(
            model=_Whole(sparse.model), optimizer=self.optimizer, config=settings, dist_init_required=False
        )
        self.stale = False  # a parameter was set from outside: ZeRO's own copy must follow

    def own(self, batch: Batch) -> Batch:
        """The rows of this process: every `ranks`-th, so that lengths are alike."""
        at = slice(self.rank, None, self.ranks)
        return Batch(batch.ids[at], batch.keep[at], batch.labels[at])

    def weight(self, count: int) -> float:
        """Its share of them all, times the number of processes: DeepSpeed takes the plain mean of gradients."""
        own = torch.tensor(count).double()
        every = own.clone()
        dist.all_reduce(every)
        return float(own * self.ranks / every)

    def _descend(
        self, losses: Callable[[], tuple[Tensor, Tensor, Tensor]], number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._follow()
        if self.routers_learn(number) and not self.routers_learn(number - 1):
            self._first_step_of_routers()
        task_loss, loss, sparsity = self.engine(losses)
        told = torch.stack([task_loss.detach().float(), loss.detach().float()])
        dist.all_reduce(told)
        if not torch.isfinite(told).all():  # every process sees the same sum
            raise self.diverged(float(told[1]) / self.ranks, number)
        self.engine.backward(loss)
        self.set_rates(self.zero, number)
        if not self.routers_learn(number):
            self.zero.param_groups[1]["lr"] = 0.0
        for group in self.zero.param_groups[2:] if self.config.mode(number) == "dense" else ():
            group["lr"] = 0.0  # stand-ins are not in the model yet
        self.engine.step()
        if self.zero.overflow:
            raise self.diverged(float(told[1]) / self.ranks, number)
        dist.all_reduce(sparsity)
        return told[0] / self.ranks, told[1] / self.ranks, sparsity / self.ranks

    def _with_gates(self, task_loss: Tensor, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """As the trainer's; the sparsity is weighed so that the mean over processes is that over tokens."""
        loss, sparsity = super()._with_gates(task_loss, batch, number)
        return loss, sparsity * (self.weight(int(batch.keep.sum())) if self.config.mode(number) != "dense" else 1.0)

    def _first_step_of_routers(self) -> None:
        """Adam's count of steps begins with the first that routers take, as where they had no gradient before.

        Stand-ins begin with them.
        """
        for parameter in chain(*(group["params"] for group in self.zero.optimizer.param_groups[1:])):
            for value in self.zero.optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor):
                    value.zero_()

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set a parameter; ZeRO's copy follows before the next step."""
        parameter.copy_(value)
        self.stale = True

    def _follow(self) -> None:
        """ZeRO's own copy takes over what was set from outside."""
        if self.stale:
            self.zero.refresh_fp32_params()
            self.stale = False

    def save(self, folder: Path, steps: list[Step]) -> None:
        """A checkpoint under a name of its own; `latest` names it once it is whole, so a kill leaves the one before."""
        self._follow()  # it is ZeRO's copy that is kept
        state = {
            "config": digest(self.config), "ranks": self.ranks, "steps": [asdict(s) for s in steps], "best": self.best,
            "controller": self.controller.state(), "best_score": self.best_score, "worse": self.worse,
            "teacher": self.teacher.then if self.teacher else {}, "mean": self.mean.state(),
        }  # fmt: skip
        self.engine.save_checkpoint(
            str(folder), tag=f"step{len(steps)}", client_state=state, exclude_frozen_parameters=True
        )

    def resume(self, folder: Path) -> list[Step]:
        """Go on from the folder's latest checkpoint. CheckpointError: of another config or number of processes."""
        if not (folder / "latest").is_file():
            return []
        path, state = self.engine.load_checkpoint(str(folder), load_module_strict=False)
        if path is None:
            raise CheckpointError(f"{folder} holds no checkpoint that DeepSpeed can read: remove it to start anew")
        if state["config"] != digest(self.config) or state["ranks"] != self.ranks:
            raise CheckpointError(
                f"{folder} belongs to a run with another config, or {state['ranks']} processes: choose another folder"
            )
        self.controller.restore(state["controller"])
        self.best, self.best_score, self.worse = state["best"], state["best_score"], state["worse"]
        self.taught(state["teacher"])
        self.mean.restore(state["mean"])
        return [Step(**row) for row in state["steps"]]

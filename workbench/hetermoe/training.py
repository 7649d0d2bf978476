"""Training under a plan: from a notebook, which starts the ranks, or as one rank of torchrun.

    run = train(MoEConfig(layers=4), plan, steps=20, rows=8, tokens=64)
    for row in run: print(row.step, row.loss, row.tokens_per_s)
    run.result.parameters                                           name -> tensor

    torchrun --nproc-per-node 4 -m workbench.hetermoe.train plan.json --model model.json --steps 20
    python -m workbench.hetermoe.train plan.json --model model.json --steps 20        the same on this machine

`run.cancel()` ends it from any thread; so does leaving the loop and dropping the run. A rank that dies ends it with
RankFailed; with a folder the same call goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from workbench import backends
from workbench.child import Child, ChildDied
from workbench.hetermoe.baseline import suits
from workbench.hetermoe.checkpoint import CheckpointError
from workbench.hetermoe.checkpoint import meta as checkpoint_meta
from workbench.hetermoe.data import Given
from workbench.hetermoe.job import Job, kernels_of
from workbench.hetermoe.launch import ENVIRONMENT, PortTaken, RankFailed, free_port
from workbench.hetermoe.model import Kernel, MoE, MoEConfig
from workbench.hetermoe.pace import factors
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.quota import Quota, QuotaDenied, denied
from workbench.hetermoe.rank import Diverged, process
from workbench.hetermoe.rank import run as steps_of
from workbench.hetermoe.rows import Row, row_of
from workbench.hetermoe.transport import Asked
from workbench.hetermoe.update import Adam

Engine = Literal["workbench", "deepspeed"]
START_S = 300.0  # imports on a slow machine; DeepSpeed compiles at its first use
SILENCE_S = 30.0  # the launcher beats every second
BEAT_S = 0.05
_ERRORS: dict[str, type[Exception]] = {
    "Diverged": Diverged, "PortTaken": PortTaken, "CheckpointError": CheckpointError, "PlanError": PlanError,
}  # fmt: skip


class Cancelled(RuntimeError):
    """The run was cancelled before its last step."""


@dataclass(frozen=True)
class Trained:
    """What a run ends with. rows: its steps. parameters: by name, from all ranks. roles: of each rank, in words."""

    rows: tuple[Row, ...]
    parameters: Mapping[str, Tensor]
    roles: tuple[str, ...]


class Training:
    """A run of ranks on this machine; iterate over it for its steps. It starts with the first one asked for.

    RankFailed, Diverged, PortTaken, CheckpointError or Cancelled end the iteration; no process is left then.
    """

    def __init__(
        self,
        job: Job,
        port: int = 0,
        engine: Engine = "workbench",
        model: MoE | None = None,
        ids: Tensor | None = None,
        quota: Mapping[int, float] | None = None,
    ) -> None:
        self.job, self.port, self.engine, self.model, self.ids = job, port, engine, model, ids
        self.quota = dict(quota or {})
        self.roles = tuple(job.role(rank) for rank in range(job.world))
        self.pids: list[int] = []  # of the ranks, once they are up
        self.result: Trained | None = None
        self._cancelled = False
        self._ticks = self._run()

    def __iter__(self) -> Iterator[Row]:
        return (row for row in self._ticks if row is not None)

    def ticks(self) -> Generator[Row | None]:
        """As iteration, with None when nothing came for a moment: for who has other things to do."""
        return self._ticks

    def cancel(self) -> None:
        """End it, from any thread; who iterates gets Cancelled."""
        self._cancelled = True

    def close(self) -> None:
        """End it; nothing of it is left. For the thread that iterates."""
        self._ticks.close()

    def _run(self) -> Generator[Row | None]:
        if self.port:
            free_port(self.port)
        with tempfile.TemporaryDirectory(prefix="workbench-hetermoe-") as folder, ExitStack() as limits:
            quotas = {rank: limits.enter_context(Quota(share)) for rank, share in self.quota.items()}
            work = Path(folder)
            child = Child([sys.executable, "-m", "workbench.hetermoe.launch"], work, ENVIRONMENT, "ranks' launcher")
            try:
                child.send({"job": self._written(work).to_json(), "store": str(work / "store"), "port": self.port,
                            "engine": self.engine})  # fmt: skip
                rows = yield from self._watch(child, quotas)
                self.result = Trained(tuple(rows), self._parameters(work / "trained"), self.roles)
            finally:
                child.end()

    def _written(self, work: Path) -> Job:
        """The job, with what is given as tensors in files."""
        (work / "trained").mkdir()
        job = replace(self.job, out=str(work / "trained"))
        if self.model is not None:
            save_file({n: p.detach().contiguous() for n, p in self.model.parameters_by_name().items()}, work / "start")
            job = replace(job, weights=str(work / "start"))
        if self.ids is not None:
            save_file({"ids": self.ids.contiguous()}, work / "ids")
            job = replace(job, ids=str(work / "ids"))
        return job

    def _watch(self, child: Child, quotas: Mapping[int, Quota]) -> Generator[Row | None, None, list[Row]]:
        """Rows as they become whole; all of them when the ranks are done."""
        rows, parts, patience = list[Row](), dict[int, dict[int, dict[str, Any]]](), START_S
        while True:
            if self._cancelled:
                raise Cancelled(f"the run was cancelled after {len(rows)} steps")
            for told in self._heard(child, patience):
                if told["is"] == "done":
                    return rows
                if told["is"] == "failed":
                    raise _ERRORS.get(told["kind"], RankFailed)(told["text"] + self._way_on())
                if told["is"] == "up":
                    self.pids, patience = told["pids"], SILENCE_S
                    for rank, quota in quotas.items():
                        quota.take(self.pids[rank])
                if told["is"] == "step":
                    ranks = parts.setdefault(told["step"], {})
                    ranks[told["rank"]] = told
                    if len(ranks) == self.job.world:
                        last = rows[-1] if rows else None
                        rows += [row_of(parts.pop(told["step"]), self.job.rows * self.job.tokens, last)]
                        yield rows[-1]
            yield None

    def _heard(self, child: Child, patience: float) -> list[dict[str, Any]]:
        try:
            child.check_silence(patience)
            return child.read(BEAT_S)
        except ChildDied as died:
            raise RankFailed(f"{died}{self._way_on()}") from died

    def _way_on(self) -> str:
        if self.job.every:
            return f". The run was ended; the same call goes on from the last checkpoint in {self.job.folder}"
        return ". The run was ended"

    def _parameters(self, folder: Path) -> dict[str, Tensor]:
        """From all ranks, and into the caller's model."""
        found: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            found |= load_file(file)
        if self.model is not None:
            with torch.no_grad():
                for name, p in self.model.parameters_by_name().items():
                    p.copy_(found[name])
        return found


def train(
    model: MoE | MoEConfig,
    plan: Plan,
    *,
    steps: int,
    rows: int,
    tokens: int,
    ids: Tensor | None = None,
    data_seed: int = 0,
    adam: Adam | None = None,
    attention_kernel: Kernel | Sequence[Kernel] = "fused",
    recompute: bool = False,
    zero: bool = False,
    groups: int = 1,
    folder: Path | None = None,
    checkpoint_every: int = 0,
    cores: Sequence[Sequence[int]] = (),
    threads: int = 1,
    timeout_s: float = 60.0,
    port: int = 0,
    engine: Engine = "workbench",
    quota: Mapping[int, float] | None = None,
    pace: Mapping[int, float] | None = None,
    transport: Asked = "auto",
) -> Training:
    """A run of `steps` steps of `rows` rows of `tokens` tokens, over all ranks of the plan, on this machine.

    model: its shapes, or a model whose parameters are where it starts and that has the trained ones in the end. ids:
    int64 [n, at least tokens + 1], or None for synthetic ones of `data_seed`. attention_kernel: of all attention ranks,
    or one for each. groups, zero, recompute: see Job. folder: of checkpoints, one every `checkpoint_every` steps; a run
    that finds one goes on from it. cores: processors of each rank. port: to meet at; 0, a file instead. engine:
    "deepspeed" trains DeepSpeed-MoE of the same sizes on as many ranks; the plan must be of kind ep, and even.
    quota: by rank, its share of a core, which the kernel enforces where it is allowed. pace: by rank, how many times as
    long its stages are to take (pace.py); its role says so. transport: what carries messages (transport.py).

    PlanError, CheckpointError, PortTaken, QuotaDenied or BackendUnavailable at once for what cannot be run.
    """
    config = model.config if isinstance(model, MoE) else model
    if ids is not None:
        Given(ids, config.vocab).batch(0, 1, tokens)
    job = Job(
        config, plan, steps, rows, tokens,
        kernels=kernels_of(attention_kernel, plan.attention * groups),
        adam=adam or Adam(), data_seed=data_seed, recompute=recompute, zero=zero, groups=groups,
        folder=str(folder or ""), every=checkpoint_every, cores=tuple(tuple(c) for c in cores),
        threads=threads, timeout_s=timeout_s, pace=factors(pace or {}, plan.world * groups), transport=transport,
    )  # fmt: skip
    checkpoint_meta(job)
    if port:
        free_port(port)
    if quota and not all(0 <= rank < job.world for rank in quota):
        raise PlanError(f"quotas are by rank, from 0 to {job.world - 1}, not {sorted(quota)}")
    if quota and (reason := denied()):
        raise QuotaDenied(reason)
    if engine == "deepspeed":
        found = backends.backend("deepspeed")
        if not found.available:
            raise backends.BackendUnavailable(f"DeepSpeed-MoE needs DeepSpeed: {found.detail}; {found.how}")
        suits(job)
    return Training(job, port, engine, model if isinstance(model, MoE) else None, ids, quota)


def main(arguments: Sequence[str] | None = None) -> None:
    """One rank of torchrun where RANK is set, else the whole run; rows as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m workbench.hetermoe.train", description="Train under a plan.")
    parser.add_argument("plan", type=Path, help="what Plan.to_json wrote")
    parser.add_argument("--model", type=Path, help="fields of MoEConfig as JSON; without it those of the plan")
    for name, value in (("steps", 10), ("rows", 16), ("tokens", 64), ("groups", 1), ("checkpoint-every", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--folder", type=Path, help="checkpoints")
    parser.add_argument("--timeout-s", type=float, default=60.0)
    parser.add_argument("--attention-kernel", choices=["fused", "naive"], default="fused")
    for name in ("zero", "recompute"):
        parser.add_argument(f"--{name}", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        _main(asked)
    except (PlanError, CheckpointError, OSError) as error:
        parser.error(str(error))


def _main(asked: argparse.Namespace) -> None:
    plan = Plan.from_json(asked.plan.read_text())
    shapes = json.loads(asked.model.read_text()) if asked.model else {}
    sizes = {name: getattr(plan, name) for name in ("layers", "experts", "top_k")}
    run = train(
        MoEConfig(**{**sizes, **shapes}), plan, steps=asked.steps, rows=asked.rows, tokens=asked.tokens,
        adam=Adam(lr=asked.lr), attention_kernel=asked.attention_kernel, recompute=asked.recompute, zero=asked.zero,
        groups=asked.groups, folder=asked.folder, checkpoint_every=asked.checkpoint_every, timeout_s=asked.timeout_s,
    )  # fmt: skip
    if "RANK" not in os.environ:
        for row in run:
            _print(row.step, row.loss, row.tokens_per_s)
        return
    if int(os.environ["WORLD_SIZE"]) != run.job.world:
        raise PlanError(f"the plan has {run.job.world} ranks, torchrun started {os.environ['WORLD_SIZE']}")
    rank = int(os.environ["RANK"])
    with process(run.job, rank, "env://") as layout:
        for told in steps_of(run.job, layout):
            if rank == 0 and told.loss is not None:
                _print(told.step, told.loss, run.job.rows * run.job.tokens / (told.end_s - told.start_s))


def _print(step: int, loss: float, tokens_per_s: float) -> None:
    sys.stdout.write(json.dumps({"step": step, "loss": loss, "tokens_per_s": tokens_per_s}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

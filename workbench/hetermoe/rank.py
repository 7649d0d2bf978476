"""One rank of a run: builds its part of the model, connects, and does the steps.

    with process(job, rank, store) as layout:            process group, threads, processors
        for told in run(job, layout): ...                one Told a step

The processes themselves are started by `launch.py` (from a notebook) or by torchrun (`train.py`).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.fx.experimental.symbolic_shapes  # autograd's first backward would, in every rank

from workbench.hetermoe import checkpoint
from workbench.hetermoe.attention_rank import AttentionRank
from workbench.hetermoe.expert_rank import ExpertRank
from workbench.hetermoe.job import Job
from workbench.hetermoe.layout import Layout, connect
from workbench.hetermoe.model import DTYPES, MoE, part
from workbench.hetermoe.pace import Pace
from workbench.hetermoe.spans import Span, Spans
from workbench.hetermoe.transport import choose
from workbench.hetermoe.update import Update


class Diverged(RuntimeError):
    """A loss that is no number; nothing was updated on attention ranks, and the run has ended."""


@dataclass(frozen=True)
class Told:
    """A step as a rank saw it. loss: of the whole batch, on attention ranks; None on expert ranks.

    routed[layer][expert]: copies of its own tokens that an attention rank sent there.
    """

    step: int
    loss: float | None
    start_s: float
    end_s: float
    spans: list[Span]
    routed: list[list[int]] | None = None


@contextlib.contextmanager
def process(job: Job, rank: int, init_method: str) -> Iterator[Layout]:
    """This process as rank `rank` of the job: pinned, with as many threads as asked, in a group of its transport."""
    torch.set_num_threads(job.threads)
    if job.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cores[rank])
    found = choose(job.world, job.transport)
    if found.backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        found.backend, init_method=init_method, rank=rank, world_size=job.world,
        timeout=timedelta(seconds=job.timeout_s),
    )  # fmt: skip
    try:
        yield Layout(job.plan, job.groups, rank)
    finally:
        dist.destroy_process_group()


def run(job: Job, layout: Layout) -> Generator[Told, None, None]:
    """Steps from the latest checkpoint, or the start, to the last. Trained parameters go to `job.out`.

    Diverged, PeerLost, CheckpointError.
    """
    device = choose(job.world, job.transport).device(layout.rank)
    spans = Spans(Pace(job.pace[layout.rank]) if job.pace and job.pace[layout.rank] != 1 else None)
    model = part(job.model, job.plan, layout.local, job.kernels[layout.place if layout.attends else 0])
    if job.weights:
        take(model, Path(job.weights))
    model.to(device)
    model.tie()
    links = connect(layout, job.model.hidden, DTYPES[job.model.dtype], spans, job.timeout_s, device)
    try:
        update = Update(layout, model, links, spans, job.adam, job.zero)
        start = checkpoint.load(job, model, update) if job.folder else 0
        data = job.data()
        if layout.attends:
            attention = AttentionRank(layout, model, links, spans, job.recompute, sums=not job.zero)
        else:
            expert = ExpertRank(layout, model, links.experts, spans, job.recompute)
        for step in range(start, job.steps):
            begun, loss = time.monotonic(), None
            if layout.attends:
                loss = attention.step(data.batch(step, job.rows, job.tokens).to(device))
                if not math.isfinite(loss):
                    raise Diverged(f"the loss of step {step} is {loss}: lower lr, or look at the data")
            else:
                expert.step()
            update.step()
            routed = attention.routed.tolist() if layout.attends else None
            yield Told(step, loss, begun, time.monotonic(), spans.take(), routed)
            if job.every and (step + 1) % job.every == 0:
                checkpoint.save(job, layout, model, update, step + 1)
        if job.out:
            give(model, layout, Path(job.out))
    finally:
        links.close()


def take(model: MoE, file: Path) -> None:
    """Start values of the parameters that are here, from a file that has at least them."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened, torch.no_grad():
        for name, p in model.parameters_by_name().items():
            p.copy_(opened.get_tensor(name))


def give(model: MoE, layout: Layout, folder: Path) -> None:
    """The parameters that are here to `folder/rankN.safetensors`."""
    from safetensors.torch import save_file

    named = {n: p.detach().cpu().contiguous() for n, p in model.parameters_by_name().items()}
    save_file(named, folder / f"rank{layout.rank}.safetensors")

"""What carries a run's messages and where its tensors are: NCCL with a CUDA device for each rank, else gloo on CPUs.

    found = choose(world=4)                 found.backend, found.device(rank), found.why

NCCL has never run here: no machine with two GPUs was at hand. What is tested is the choice, on a double, and that gloo
gets the same calls; a first run on GPUs should begin with the equality tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from workbench.hetermoe.plan import PlanError

Backend = Literal["nccl", "gloo"]
Asked = Literal["auto", "nccl", "gloo"]


@dataclass(frozen=True)
class Transport:
    """backend: torch.distributed's. why: in words, what decided."""

    backend: Backend
    why: str

    def device(self, rank: int) -> str:
        """Where a rank's tensors are."""
        return f"cuda:{rank}" if self.backend == "nccl" else "cpu"


def choose(world: int, asked: Asked = "auto", cuda: Any = None, distributed: Any = None) -> Transport:
    """NCCL where CUDA has a device for each of `world` ranks of this machine and torch has NCCL; gloo else.

    cuda, distributed: torch's modules, or doubles of them. PlanError where "nccl" is asked for and cannot be.
    """
    if asked == "gloo":
        return Transport("gloo", "gloo was asked for")
    if cuda is None or distributed is None:
        import torch
        import torch.distributed

        cuda, distributed = cuda or torch.cuda, distributed or torch.distributed
    there = cuda.device_count() if cuda.is_available() else 0
    if there >= world and distributed.is_nccl_available():
        return Transport("nccl", f"{there} CUDA devices for {world} ranks")
    missing = f"{there} CUDA devices for {world} ranks" if there < world else "this torch has no NCCL"
    if asked == "nccl":
        raise PlanError(f"no NCCL: {missing}; take fewer ranks or more devices, or gloo, which runs on CPUs")
    return Transport("gloo", missing)

"""Who a process is in a plan, and the process groups that it needs.

    layout = Layout(plan, groups=2, rank=5)      group 1 of two copies of the plan, local rank 5 - world
    links  = connect(layout, ...)                token exchange and gradient sums, with a process group each

`groups` copies of a plan train data-parallel: attention ranks sum gradients over all copies, experts over the ranks
that hold the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from workbench.hetermoe.exchange import Group, Link, Stream, Sum
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.spans import Spans

Owned = Sequence[Sequence[Sequence[int]]]  # experts by layer and member


@dataclass(frozen=True)
class Layout:
    """A rank's place. PlanError for a rank that is not there."""

    plan: Plan
    groups: int
    rank: int

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise PlanError(f"groups is a whole number from 1, not {self.groups}")
        if not 0 <= self.rank < self.world:
            raise PlanError(f"rank {self.rank} is not in this plan: {self.groups} times {self.plan.world} ranks")

    @property
    def world(self) -> int:
        """All processes."""
        return self.groups * self.plan.world

    @property
    def group(self) -> int:
        """Which copy of the plan."""
        return self.rank // self.plan.world

    @property
    def local(self) -> int:
        """The rank that the plan knows."""
        return self.rank % self.plan.world

    @property
    def attends(self) -> bool:
        """Whether it runs attention."""
        return self.local < self.plan.attention

    @property
    def place(self) -> int:
        """Number among all attention ranks."""
        return self.group * self.plan.attention + self.local

    @property
    def role(self) -> str:
        """In words."""
        return "both" if self.plan.kind == "ep" else "attention" if self.attends else "expert"

    def members(self, local: Sequence[int], group: int) -> list[int]:
        """Global ranks of some local ones."""
        return [group * self.plan.world + rank for rank in local]


@dataclass
class Links:
    """What a rank speaks on. experts: to and from expert ranks; peers: between attention ranks, for experts there.

    attention, same: gradient sums over attention ranks, and over ranks with the same experts.
    """

    experts: Link | None
    peers: Link | None
    attention: Sum | None
    same: Sum | None

    def close(self) -> None:
        """End all streams."""
        for link in (self.experts, self.peers, self.attention, self.same):
            if link is not None:
                link.close()


def connect(
    layout: Layout, hidden: int, dtype: torch.dtype, spans: Spans, timeout_s: float, device: str = "cpu"
) -> Links:  # fmt: skip
    """Process groups and streams of a rank; every rank calls it, after init_process_group.

    Dispatch and combine have a group each, between attention and expert ranks and between attention ranks again, so
    that none waits for another.
    """
    plan = layout.plan
    every = [[plan.experts_of(rank, layer) for rank in range(plan.world)] for layer in range(plan.layers)]
    far = [[() if r < plan.attention else row for r, row in enumerate(held)] for held in every]
    near = [held[: plan.attention] for held in every]

    def group(ranks: Sequence[int]) -> Group:
        return dist.new_group(list(ranks), timeout=timedelta(seconds=timeout_s)) if len(ranks) > 1 else None

    def pair(owned: Owned, local: Sequence[int], names: tuple[str, str]) -> tuple[Stream, Stream] | None:
        mine = None
        for g in range(layout.groups if any(row for held in owned for row in held) else 0):
            made = [group(layout.members(local, g)) for _ in names]
            if g == layout.group:
                mine = Stream(made[0], names[0], spans), Stream(made[1], names[1], spans)
        return mine

    far_streams = pair(far, range(plan.world), ("dispatch", "combine"))
    near_streams = pair(near, plan.attention_ranks, ("peers out", "peers back"))
    attention = group([r for g in range(layout.groups) for r in layout.members(plan.attention_ranks, g)])
    same = [group([g * plan.world + local for g in range(layout.groups)]) for local in range(plan.world)]
    return Links(
        Link(far, layout.local, far_streams, hidden, dtype, device) if far_streams else None,
        Link(near, layout.local, near_streams, hidden, dtype, device) if near_streams and layout.attends else None,
        Sum(attention, spans, device=device) if layout.attends else None,
        Sum(same[layout.local], spans, device=device) if layout.groups > 1 else None,
    )

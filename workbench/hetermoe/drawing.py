"""A step as it is drawn: the simulator's slots, or a measured step's, in one lane for ranks that do the same.

drawn(arm, "modelled", arm.line.spans, arm.line.step_s, arm.line.utilisation)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Literal

from workbench.hetermoe.arms import Arm
from workbench.hetermoe.plan import Plan
from workbench.hetermoe.result import Box, Drawn
from workbench.hetermoe.sim import Slot

ALL_RANKS = 4  # up to so many ranks each has a lane of its own
LANES = 8
MESSAGES = ("dispatch", "combine")


def drawn(
    arm: Arm, badge: Literal["measured", "modelled"], slots: Sequence[Slot], step_s: float,
    used: Sequence[float] | Mapping[int, float],
) -> Drawn:  # fmt: skip
    """Compute lanes, then what travels. An offloaded expert's stage is called offload."""
    kinds = arm.load.kind_of(arm.plan)
    shown = _lanes(arm.plan, kinds, slots)
    names = list(shown.values())
    at = {rank: lane for lane, rank in enumerate(shown)}
    boxes = [_box(at[s.rank], _stage(arm.plan, s), s) for s in slots if s.stream == "compute" and s.rank in at]
    here = min((s.rank for s in slots), default=0)
    for stream in MESSAGES:
        found = [s for s in slots if s.stream == stream and s.rank == here]
        if found:
            boxes += [_box(len(names), stream, s) for s in found]
            names.append(f"{stream}, messages")
    sides = None
    if arm.plan.kind != "ep":
        sides = mean(used[r] for r in arm.plan.attention_ranks), mean(used[r] for r in arm.plan.expert_ranks)
    own = [used[r] for r in shown]
    return Drawn(way=arm.name, badge=badge, step_s=step_s, lanes=names, used=own, boxes=boxes, sides=sides)


def _stage(plan: Plan, slot: Slot) -> str:
    return "offload" if slot.stage == "expert" and plan.kind != "ep" and slot.rank < plan.attention else slot.stage


def _box(lane: int, stage: str, slot: Slot) -> Box:
    layer, micro = max(slot.layer, 0), max(slot.micro_batch, 0)
    return lane, stage, layer, micro, slot.backward, round(slot.start_s, 6), round(slot.end_s, 6)


def _lanes(plan: Plan, kinds: Sequence[str], slots: Sequence[Slot]) -> dict[int, str]:
    """Rank -> name of its lane. Of more than ALL_RANKS ranks, one of those that have the same boxes."""
    sides = [*plan.attention_ranks, *plan.expert_ranks]

    def role(rank: int) -> str:
        return "attention and experts" if plan.kind == "ep" else "attention" if rank < plan.attention else "experts"

    if plan.world <= ALL_RANKS:
        return {rank: f"rank {rank} ({kinds[rank]}), {role(rank)}" for rank in sides}
    own: dict[int, list[tuple[float, float]]] = {}
    for slot in slots:
        if slot.stream == "compute":
            own.setdefault(slot.rank, []).append((slot.start_s, slot.end_s))
    alike: dict[tuple[object, ...], list[int]] = {}
    for rank in sides:
        alike.setdefault((kinds[rank], role(rank), tuple(own.get(rank, ()))), []).append(rank)
    groups = list(alike.values())[:LANES]
    return {ranks[0]: f"{len(ranks)} x {kinds[ranks[0]]}, {role(ranks[0])}" for ranks in groups}

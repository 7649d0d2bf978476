"""Algorithm 1, "gather and squeeze" (arXiv 2504.03871, section 4.3): how many experts each layer offloads.

    vector = gather_and_squeeze(Stages(attention=0.62, expert=1.0, expert_on_attention=0.8), plan_sizes)
    plan.with_offload(vector)

A layer without offload leaves attention ranks a bubble of T_Ee - T_A (gather). Moving a chunk of experts fills part
of it: what it takes from the expert ranks plus what it adds to the attention ranks (squeeze). Bubbles add up
over layers until a chunk fits. The algorithm needs M | N or N | M; search.py does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor

from workbench.hetermoe.costs import resolve
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.profile import Load, Profile, offload_bounds


@dataclass(frozen=True)
class Stages:
    """Forward seconds. attention: T_A, stage of an attention rank. expert: T_Ee, an expert rank's stage, n / N experts.

    expert_on_attention: T_Ea, the same n / N experts on an attention rank's device.
    """

    attention: float
    expert: float
    expert_on_attention: float

    def __post_init__(self) -> None:
        if not (self.attention >= 0 and self.expert > 0 and self.expert_on_attention > 0):
            raise PlanError("stage times are above 0: profile the devices")


@dataclass(frozen=True)
class Chunk:
    """Experts that move at once: each attention rank takes `gained` (n1), each expert rank gives `shed` (n2)."""

    gained: int
    shed: int


def chunk(attention: int, expert: int) -> Chunk:
    """n1 and n2 of M and N ranks. PlanError where neither divides the other."""
    if max(attention, expert) % min(attention, expert):
        raise PlanError(
            f"gather and squeeze needs one of {attention} attention and {expert} expert ranks to divide the other: "
            "take such numbers, or the search, which needs none"
        )
    gained = max(1, expert // attention)
    return Chunk(gained, gained * attention // expert)


def squeeze_s(stages: Stages, attention: int, expert: int, experts: int, *, printed: bool = False) -> float:
    """Seconds of bubble that a chunk fills: n2 experts less on an expert rank, n1 more on an attention rank.

    printed: the formula as the paper prints it, n1 and n2 the other way round; the same where M = N.
    """
    moved = chunk(attention, expert)
    shed, gained = (moved.gained, moved.shed) if printed else (moved.shed, moved.gained)
    each = expert / experts  # of a stage: one expert
    return stages.expert * each * shed + stages.expert_on_attention * each * gained


def gather_and_squeeze(
    stages: Stages, attention: int, expert: int, layers: int, experts: int,
    n_min: int = 0, n_max: int | None = None, *, printed: bool = False,
) -> tuple[int, ...]:  # fmt: skip
    """Experts that each layer offloads, over all ranks. PlanError for ranks of which neither number divides the other.

    n_min, n_max: experts over all layers that an expert rank must, and may, give up (None: any). The bounds scale what
    is gathered (alpha, beta), so that over all layers as many chunks move as the bound says. Where there is no bubble,
    but memory asks for offload, chunks are spread evenly.
    """
    moved, squeeze = chunk(attention, expert), squeeze_s(stages, attention, expert, experts, printed=printed)
    least = ceil(n_min / moved.shed)
    most = layers * (experts // (moved.shed * expert)) if n_max is None else floor(n_max / moved.shed)
    if n_min < 0 or least > most:
        raise PlanError(f"an expert rank must give up {n_min} experts and may give up {n_max}: add ranks or memory")
    gather = stages.expert - stages.attention
    if gather <= 0:
        each = least * squeeze / layers
    else:
        alpha = min(most * squeeze / (layers * gather), 1.0)
        beta = max(least * squeeze / (layers * gather), 1.0)
        each = gather * alpha * beta
    vector, bubble = [], 0.0
    for _ in range(layers):
        bubble += each
        chunks = min(floor(bubble / squeeze + 1e-9), experts // (moved.shed * expert))
        vector.append(chunks * moved.shed * expert)
        bubble -= chunks * squeeze
    return tuple(vector)


def stages_of(plan: Plan, profile: Profile, load: Load) -> Stages:
    """What the profiler measures, of a whole batch: an expert stage with its even share, and that share elsewhere."""
    even = replace(load, shares=())
    whole = replace(plan.with_offload((0,) * plan.layers), micro_batches=1)
    parts = resolve(whole, profile, even).parts
    tokens = plan.attention * load.tokens * plan.top_k / plan.experts
    here = profile.device(load.kind_of(plan)[0]).expert(tokens) * plan.experts / plan.expert
    there = profile.device(load.kind_of(plan)[-1]).expert(tokens) * plan.experts / plan.expert
    attention = max(part.attention for part in parts if part.attends)
    return Stages(attention, there, here)


def greedy(plan: Plan, profile: Profile, load: Load, *, printed: bool = False) -> Plan:
    """The plan with the experts that Algorithm 1 offloads, within the memory of the profile. PlanError as above."""
    need, room = offload_bounds(profile, plan, load)
    vector = gather_and_squeeze(
        stages_of(plan, profile, load), plan.attention, plan.expert, plan.layers, plan.experts,
        ceil(need / plan.expert), floor(room / plan.expert), printed=printed,
    )  # fmt: skip
    return plan.with_offload(vector)

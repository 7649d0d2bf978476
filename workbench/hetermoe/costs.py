"""What a step of a plan costs, stage by stage: seconds of every class of alike ranks, and of every message.

    costs = resolve(plan, profile, load)        # collapsed: ranks that do the same are one class

A group of 1,024 ranks of two kinds has a handful of classes, so that simulating it costs what simulating four ranks
does. `collapse=False` keeps every rank its own class; the simulation is the same, which a test shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workbench.hetermoe.plan import Plan
from workbench.hetermoe.profile import Floats, Load, Profile


@dataclass(frozen=True)
class Part:
    """Ranks that do the same. Seconds of one micro-batch, forward; `*_back` of its backward.

    attends: whether they run attention. expert[layer]: all experts of that layer they hold, one after the other;
    0 where they hold none. head: the last attention stage. tail: the update, once a step.
    """

    ranks: tuple[int, ...]
    kind: str
    attends: bool
    attention: float
    attention_back: float
    expert: tuple[float, ...]
    expert_back: tuple[float, ...]
    head: float
    head_back: float
    tail: float


@dataclass(frozen=True)
class Costs:
    """A step of a plan. Seconds of dispatch, and of combine, of a micro-batch, either way, for each layer.

    across: between attention and expert ranks. peers: among attention ranks, to the experts that lie there. joined: one
    message carries both, then `across` is it and `peers` nothing. core_share: as in Profile.
    """

    plan: Plan
    parts: tuple[Part, ...]
    across: tuple[float, ...]
    peers: tuple[float, ...]
    tokens: int  # of a step, all attention ranks
    joined: bool = False
    core_share: float = 0.0

    @property
    def work_s(self) -> tuple[float, ...]:
        """Seconds of compute of each rank in a step, without the tail."""
        found = [0.0] * self.plan.world
        for part in self.parts:
            layers, at = len(part.expert), float(part.attends)
            once = sum(part.expert) + sum(part.expert_back)
            once += at * (layers * (part.attention + part.attention_back) + part.head + part.head_back)
            for rank in part.ranks:
                found[rank] = once * self.plan.micro_batches
        return tuple(found)


def resolve(plan: Plan, profile: Profile, load: Load, *, collapse: bool = True) -> Costs:
    """Seconds of every stage of a plan under a load. PlanError where profile, plan and load do not fit together."""
    profile.require(plan.model_key)
    kinds, shares = load.kind_of(plan), load.share_of(plan)
    copies = plan.attention * load.tokens * plan.top_k / plan.micro_batches  # token copies of a micro-batch, all ranks
    owner = np.array(plan.owner)
    layers = np.arange(plan.layers)[:, None]
    seconds = np.zeros((plan.layers, plan.world))
    for kind in sorted(set(kinds)):
        on = np.array([k == kind for k in kinds])
        per = profile.device(kind).expert.many(copies * shares)
        np.add.at(seconds, (np.broadcast_to(layers, owner.shape), owner), np.where(on[owner], per, 0.0))
    got = np.zeros((plan.layers, plan.world))
    np.add.at(got, (np.broadcast_to(layers, owner.shape), owner), copies * shares)
    on_attention, on_expert = got[:, : plan.attention], got[:, plan.attention :]
    away, here = (on_expert.sum(1), on_expert.max(1, initial=0.0)), (on_attention.sum(1), on_attention.max(1))
    across, peers = _messages(plan, profile, *away, *here)
    tails = _tails(plan, profile, kinds)
    groups: dict[tuple[object, ...], list[int]] = {}
    rows = np.ascontiguousarray(seconds.T).round(15)
    for rank, kind in enumerate(kinds):
        key = (kind, rank < plan.attention, rows[rank].tobytes(), tails[rank], rank * (not collapse))
        groups.setdefault(key, []).append(rank)
    parts = tuple(
        _part(plan, profile, load, kinds, seconds, tuple(ranks), tails[ranks[0]]) for ranks in groups.values()
    )
    return Costs(plan, parts, across, peers, plan.attention * load.tokens, profile.joined, profile.core_share)


def balanced(plan: Plan, profile: Profile, load: Load, vector: Sequence[int]) -> Costs:
    """Costs of `plan.with_offload(vector)` under balanced routing, by its two slowest ranks alone; for searches.

    The first attention rank holds the most of the offloaded experts of every layer and the first expert rank the most
    of the others, so that no other rank is ever later, and a step is as long as with all of them.
    """
    one = plan.attention * load.tokens * plan.top_k / plan.micro_batches / plan.experts  # copies for an expert
    ranks = ((0, plan.attention), (plan.attention, plan.expert))
    held = ([-(-o // plan.attention) for o in vector], [-(-(plan.experts - o) // plan.expert) for o in vector])
    kinds = load.kind_of(plan)
    tails = {at: _tail(plan, profile, kinds, at, sum(own)) for (at, _), own in zip(ranks, held, strict=True)}
    rate = {kinds[first]: profile.device(kinds[first]).expert(one) for first, _ in ranks}
    seconds = np.zeros((plan.layers, plan.world))
    for (first, _), own in zip(ranks, held, strict=True):
        seconds[:, first] = np.array(own) * rate[kinds[first]]
    here, most_here, most_away = (np.array(count) * one for count in (vector, *held))
    across, peers = _messages(plan, profile, one * plan.experts - here, most_away, here, most_here)
    slowest = [_part(plan, profile, load, kinds, seconds, (first,), tails[first]) for first, _ in ranks]
    parts = tuple(
        replace(p, ranks=tuple(range(first, first + n))) for p, (first, n) in zip(slowest, ranks, strict=True)
    )
    return Costs(plan, parts, across, peers, plan.attention * load.tokens, profile.joined, profile.core_share)


def _part(
    plan: Plan, profile: Profile, load: Load, kinds: tuple[str, ...], seconds: Floats, ranks: tuple[int, ...],
    tail: float,
) -> Part:  # fmt: skip
    rank = ranks[0]
    device, attends = profile.device(kinds[rank]), rank < plan.attention
    tokens = load.tokens / plan.micro_batches
    attention = device.attention(tokens, load.length) if attends else 0.0
    head = device.head(tokens) if attends else 0.0
    expert = tuple(float(s) for s in seconds[:, rank])
    return Part(
        ranks, device.name, attends, attention, device.backward(tokens, load.length) if attends else 0.0,
        expert, tuple(s * device.expert_backward for s in expert), head, head * device.head_backward,
        tail,
    )  # fmt: skip


def _messages(
    plan: Plan, profile: Profile, away: Floats, most_away: Floats, here: Floats, most_here: Floats
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of each layer's all-to-all across and among peers: bytes in and out of the busiest rank.

    All are (layers,). away: copies for all experts on expert ranks, most_away those of the rank that gets most. here,
    most_here: the same of attention ranks. Across, an attention rank only sends and an expert rank only receives.
    Among peers, 1 / M of what a rank gets is its own and not sent: (here - most) / M go out, most (M - 1) / M come in.
    """
    sent = away / plan.attention
    among = (here + most_here * (plan.attention - 2)) / plan.attention
    if profile.joined:
        return _sent(profile, np.maximum(sent + among, most_away)), (0.0,) * plan.layers
    return _sent(profile, np.maximum(sent, most_away)), _sent(profile, among)


def _sent(profile: Profile, copies: Floats) -> tuple[float, ...]:
    return tuple(float(s) for s in profile.message.many(np.maximum(copies.round(9), 0.0) * profile.token_bytes))


def _tails(plan: Plan, profile: Profile, kinds: tuple[str, ...]) -> tuple[float, ...]:
    held = np.bincount(np.array(plan.owner).ravel(), minlength=plan.world)
    return tuple(_tail(plan, profile, kinds, rank, int(held[rank])) for rank in range(plan.world))


def _tail(plan: Plan, profile: Profile, kinds: tuple[str, ...], rank: int, held: int) -> float:
    """Seconds of a rank's update after backward. Gradients are summed beside backward, which is not modelled."""
    memory, device = profile.memory, profile.device(kinds[rank])
    return (held * memory.expert_weights + (rank < plan.attention) * memory.shared_weights) * device.update_s_byte

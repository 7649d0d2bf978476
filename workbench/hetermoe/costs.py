"""What a step of a plan costs, stage by stage: seconds of every class of alike ranks, and of every message.

    costs = resolve(plan, profile, load)        # collapsed: ranks that do the same are one class

A group of 1,024 ranks of two kinds has a handful of classes, so that simulating it costs what simulating four ranks
does. `collapse=False` keeps every rank its own class; the simulation is the same, which a test shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from workbench.hetermoe.plan import Plan
from workbench.hetermoe.profile import Floats, Load, Profile


@dataclass(frozen=True)
class Part:
    """Ranks that do the same. Seconds of one micro-batch, forward; `*_back` of its backward.

    attends: whether they run attention. expert[layer]: all experts of that layer they hold, one after the other;
    0 where they hold none. head: the last attention stage. tail: gradients' sum and update, once a step.
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
    """A step of a plan. message[layer]: seconds of dispatch, and of combine, of a micro-batch in either direction."""

    plan: Plan
    parts: tuple[Part, ...]
    message: tuple[float, ...]
    tokens: int  # of a step, all attention ranks

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
    message = _messages(plan, profile, got, copies / plan.attention, np.arange(plan.world) < plan.attention)
    groups: dict[tuple[object, ...], list[int]] = {}
    rows = np.ascontiguousarray(seconds.T).round(15)
    for rank, kind in enumerate(kinds):
        key = (kind, rank < plan.attention, rows[rank].tobytes(), rank * (not collapse))
        groups.setdefault(key, []).append(rank)
    tails = _tails(plan, profile, kinds)
    parts = tuple(_part(plan, profile, load, kinds, seconds, tuple(ranks), tails) for ranks in groups.values())
    return Costs(plan, parts, message, plan.attention * load.tokens)


def balanced(plan: Plan, profile: Profile, load: Load, vector: Sequence[int]) -> Costs:
    """Costs of `plan.with_offload(vector)` under balanced routing, by its two slowest ranks alone; for searches.

    The first attention rank holds the most of the offloaded experts of every layer and the first expert rank the most
    of the others, so that no other rank is ever later, and a step is as long as with all of them.
    """
    one = plan.attention * load.tokens * plan.top_k / plan.micro_batches / plan.experts  # copies for an expert
    ranks = ((0, plan.attention), (plan.attention, plan.expert))
    held = ([-(-o // plan.attention) for o in vector], [-(-(plan.experts - o) // plan.expert) for o in vector])
    kinds, tails = load.kind_of(plan), [0.0] * plan.world
    for (first, _), own in zip(ranks, held, strict=True):
        tails[first] = _tail(plan, profile, kinds, first, sum(own))
    rate = {kinds[first]: profile.device(kinds[first]).expert(one) for first, _ in ranks}
    seconds = np.zeros((plan.layers, plan.world))
    got = np.zeros((plan.layers, 2))
    for side, ((first, _), own) in enumerate(zip(ranks, held, strict=True)):
        seconds[:, first] = np.array(own) * rate[kinds[first]]
        got[:, side] = np.array(own) * one
    message = _messages(plan, profile, got, one * plan.experts / plan.attention, np.array([True, False]))
    parts = tuple(
        replace(
            _part(plan, profile, load, kinds, seconds, (first,), tuple(tails)), ranks=tuple(range(first, first + n))
        )
        for first, n in ranks
    )
    return Costs(plan, parts, message, plan.attention * load.tokens)


def _part(
    plan: Plan, profile: Profile, load: Load, kinds: tuple[str, ...], seconds: Floats, ranks: tuple[int, ...],
    tails: tuple[float, ...],
) -> Part:  # fmt: skip
    rank = ranks[0]
    device, attends = profile.device(kinds[rank]), rank < plan.attention
    tokens = load.tokens / plan.micro_batches
    attention = device.attention(tokens, load.length) if attends else 0.0
    head = device.head(tokens) if attends else 0.0
    expert = tuple(float(s) for s in seconds[:, rank])
    return Part(
        ranks, device.name, attends, attention, attention * device.attention_backward,
        expert, tuple(s * device.expert_backward for s in expert), head, head * device.head_backward,
        max(tails[r] for r in ranks),
    )  # fmt: skip


def _messages(plan: Plan, profile: Profile, got: Floats, sent: float, attends: NDArray[np.bool_]) -> tuple[float, ...]:
    """Seconds of each layer's all-to-all: bytes in and out of its busiest rank; what stays on a rank is not sent.

    got: (layers, ranks) copies that a rank's experts receive, its own among them. sent: copies that each attention
    rank's tokens make; the part of them that goes to its own experts is got / attention.
    """
    own = np.where(attends, got / plan.attention, 0.0)
    busiest = (np.where(attends, sent - own, 0.0) + got - own).max(1)
    return tuple(float(s) for s in profile.message.many(np.maximum(busiest, 0.0).round(9) * profile.token_bytes))


def _tails(plan: Plan, profile: Profile, kinds: tuple[str, ...]) -> tuple[float, ...]:
    held = np.bincount(np.array(plan.owner).ravel(), minlength=plan.world)
    return tuple(_tail(plan, profile, kinds, rank, int(held[rank])) for rank in range(plan.world))


def _tail(plan: Plan, profile: Profile, kinds: tuple[str, ...], rank: int, held: int) -> float:
    """Seconds of a rank after backward: attention ranks sum their gradients (a ring), then everyone updates."""
    memory, device = profile.memory, profile.device(kinds[rank])
    if not device.update_s_byte:
        return 0.0
    weights, shared = held * memory.expert_weights, memory.shared_weights
    if rank >= plan.attention:
        return weights * device.update_s_byte
    ring = 4 * (plan.attention - 1) / plan.attention * shared  # in and out
    return (weights + shared) * device.update_s_byte + profile.message(ring)

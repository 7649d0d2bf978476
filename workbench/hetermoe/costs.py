"""What a step of a plan costs, stage by stage: seconds of every class of alike ranks, and of every message.

    costs = resolve(plan, profile, load)        # collapsed: ranks that do the same are one class

A group of 1,024 ranks of two kinds has a handful of classes, so that simulating it costs what simulating four ranks
does. `collapse=False` keeps every rank its own class; the simulation is the same, which a test shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    message = _messages(plan, profile, got, copies / plan.attention)
    groups: dict[tuple[object, ...], list[int]] = {}
    rows = np.ascontiguousarray(seconds.T).round(15)
    for rank, kind in enumerate(kinds):
        key = (kind, rank < plan.attention, rows[rank].tobytes(), rank * (not collapse))
        groups.setdefault(key, []).append(rank)
    tails = _tails(plan, profile, kinds)
    parts = tuple(_part(plan, profile, load, kinds, seconds, tuple(ranks), tails) for ranks in groups.values())
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


def _messages(plan: Plan, profile: Profile, got: Floats, sent: float) -> tuple[float, ...]:
    """Seconds of each layer's all-to-all: its busiest rank decides, and what stays on a rank is not sent.

    got: (layers, world) copies that a rank's experts receive, its own among them. sent: copies that each attention
    rank's tokens make; the part of them that goes to its own experts is got / attention.
    """
    attends = np.arange(plan.world) < plan.attention
    own = np.where(attends, got / plan.attention, 0.0)
    busiest = np.maximum(np.where(attends, sent - own, 0.0), got - own).max(1)
    return tuple(float(s) for s in profile.message.many(np.maximum(busiest, 0.0).round(9) * profile.token_bytes))


def _tails(plan: Plan, profile: Profile, kinds: tuple[str, ...]) -> tuple[float, ...]:
    """Seconds of each rank after backward: attention ranks sum their gradients (a ring), then everyone updates."""
    memory = profile.memory
    ring = 2 * (plan.attention - 1) / plan.attention * memory.shared_weights
    shared = profile.message(ring) if any(profile.device(k).update_s_byte for k in set(kinds)) else 0.0
    held = np.bincount(np.array(plan.owner).ravel(), minlength=plan.world) * memory.expert_weights
    held[: plan.attention] += memory.shared_weights
    return tuple(
        float(held[rank]) * profile.device(kind).update_s_byte + shared * (rank < plan.attention)
        for rank, kind in enumerate(kinds)
    )

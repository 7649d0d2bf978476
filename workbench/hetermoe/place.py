"""Where experts of unequal load go: longest first onto whichever rank ends soonest, attention ranks with a head start.

    for plan in placed(plan, profile, load): ...        one for each head start that is tried

An attention rank is busy with attention before it can run an expert. How much of that counts is what the simulator
decides, so the head start goes from none (many experts offloaded) to one at which none are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import floor

import numpy as np

from workbench.hetermoe.plan import Plan
from workbench.hetermoe.profile import Floats, Load, Profile, offload_bounds

STARTS = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 1e9)  # of attention's stage


def placed(plan: Plan, profile: Profile, load: Load, starts: Sequence[float] = STARTS) -> Iterator[Plan]:
    """Plans of the same ranks by the load's shares, each different from those before."""
    shares, kinds = load.share_of(plan), load.kind_of(plan)
    copies = plan.attention * load.tokens * plan.top_k
    seconds = {kind: profile.device(kind).expert.many(copies * shares) for kind in set(kinds)}
    seen = set()
    for start in starts:
        if plan.kind == "ep":
            head = [0.0] * plan.world
        else:
            stage = profile.device(kinds[0]).attention(load.tokens, load.length)
            head = [start * stage] * plan.attention + [0.0] * plan.expert
        limits = _limits(plan, profile, load)
        rows = []
        for layer in range(plan.layers):
            cost = np.stack([seconds[kind][layer] for kind in kinds])  # (world, experts)
            rows.append(_layer(cost, shares[layer], head, limits))
        if (owner := tuple(rows)) not in seen:
            seen.add(owner)
            yield replace(plan, owner=owner)


def _layer(cost: Floats, shares: Floats, head: Sequence[float], limits: Sequence[int]) -> tuple[int, ...]:
    """Owner of each expert: in falling order of share, where it ends soonest among ranks that hold less than they may.

    cost: (world, experts) seconds. Ranks of one kind cost the same, so one heap for each kind is enough.
    """
    row, held = [0] * cost.shape[1], [0] * len(head)
    alike: dict[bytes, list[tuple[float, int]]] = {}
    for rank, start in enumerate(head):
        heapq.heappush(alike.setdefault(cost[rank].tobytes() + np.float64(start).tobytes(), []), (start, rank))
    for expert in np.argsort(-shares, kind="stable"):
        ends = [(heap[0][0] + cost[heap[0][1], expert], heap[0][1], heap) for heap in alike.values() if heap]
        end, rank, heap = min(ends, key=lambda e: e[:2])
        heapq.heappop(heap)
        row[expert] = rank
        held[rank] += 1
        if held[rank] < limits[rank]:
            heapq.heappush(heap, (float(end), rank))
    return tuple(row)


def _limits(plan: Plan, profile: Profile, load: Load) -> list[int]:
    """Experts of one layer that each rank may hold: an equal part of what its memory takes over all layers."""
    if plan.kind == "ep":
        return [plan.experts] * plan.world
    _, room = offload_bounds(profile, plan, load)
    memory, device = profile.memory, profile.device(load.kind_of(plan)[-1])
    copies = plan.layers * plan.attention * load.tokens * plan.top_k / plan.expert
    each = memory.expert_weights * memory.states * plan.layers
    free = device.capacity_bytes - copies * memory.expert_activation
    kept = plan.experts if not each or free == float("inf") else max(1, floor(free / each))
    taken = room // (plan.attention * plan.layers)
    total = taken * plan.attention + kept * plan.expert
    kept += -(-max(0, plan.experts - total) // plan.expert)  # a rest that would fit nowhere; the memory check decides
    return [min(taken, plan.experts)] * plan.attention + [min(kept, plan.experts)] * plan.expert

"""Asym-EA by simulation: the offload vector with the shortest simulated step, for any M and N.

    found = search(plan, profile, load)
    found.plan, found.step_s, found.greedy_s        # never longer than Algorithm 1's, which is where it starts

What a count of offloaded experts does to a layer is decided by the fullest rank on either side, so only counts at which
one of the two changes are tried: for each number q that an expert rank may hold, n - N q experts move. First all layers
alike and totals spread evenly over them, then one layer at a time, until nothing helps. Skewed routing is placed by
place.py instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from workbench.hetermoe.costs import balanced, resolve
from workbench.hetermoe.greedy import greedy
from workbench.hetermoe.place import placed
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.profile import Load, Profile, offload_bounds, used_bytes
from workbench.hetermoe.sim import step

Vector = tuple[int, ...]
GAIN = 1e-9  # relative; what is shorter by less is not shorter
MOST = 4000  # simulated steps


@dataclass(frozen=True)
class Found:
    """Best plan and its simulated seconds. greedy_s: Algorithm 1's, None where its numbers do not divide.

    plain_s: without offload, None where memory asks for some. tried: simulated steps.
    """

    plan: Plan
    step_s: float
    plain_s: float | None
    greedy_s: float | None
    tried: int


Worth = tuple[float, float]  # bytes that do not fit, then seconds: less is better


class _Search:
    """Steps simulated so far, and the best of them. Where nothing fits yet, that which fits best leads on."""

    def __init__(self, plan: Plan, profile: Profile, load: Load, tick: Callable[[], None] | None) -> None:
        self.plan, self.profile, self.load, self.tick = plan, profile, load, tick
        offload_bounds(profile, plan, load)  # refuses what cannot fit however it is placed
        self.capacity = [profile.device(kind).capacity_bytes for kind in load.kind_of(plan)]
        self.even = not load.shares and not load.kinds
        self.known: dict[Vector, Worth] = {}
        self.best: tuple[Worth, Vector] = ((math.inf, math.inf), ())

    def try_(self, vector: Vector) -> float | None:
        """Seconds of a vector's step; None where it does not fit, or where too many were tried."""
        if vector not in self.known:
            if len(self.known) >= MOST:
                return None
            if self.tick is not None:
                self.tick()
            self.known[vector] = self._worth(vector)
        (over, seconds), (least, best) = self.known[vector], self.best[0]
        if over < least or (over == least and seconds < best * (1 - GAIN)):
            self.best = (self.known[vector], vector)
        return None if over else seconds

    def _worth(self, vector: Vector) -> Worth:
        plan = self.plan if self.even else self.plan.with_offload(vector)
        if over := self._over_even(vector) if self.even else self.over(plan):
            return over, 0.0
        if self.even:
            return 0.0, step(balanced(plan, self.profile, self.load, vector))
        return 0.0, step(resolve(plan, self.profile, self.load))

    def over(self, plan: Plan) -> float:
        """Bytes that do not fit, over all ranks."""
        used = used_bytes(self.profile, plan, self.load)
        return sum(max(u - c, 0.0) for u, c in zip(used, self.capacity, strict=True))

    def _over_even(self, vector: Vector) -> float:
        """The same of a vector under balanced routing, of the first ranks of either side, which hold the most."""
        plan, memory = self.plan, self.profile.memory
        copies = plan.attention * self.load.tokens * plan.top_k / plan.experts
        each = memory.expert_weights * memory.states + copies * memory.expert_activation
        shared = memory.shared_weights * memory.states + self.load.tokens * memory.activation
        taken = sum(-(-o // plan.attention) for o in vector)
        kept = sum(-(-(plan.experts - o) // plan.expert) for o in vector)
        return max(shared + taken * each - self.capacity[0], 0.0) + max(kept * each - self.capacity[-1], 0.0)


def search(plan: Plan, profile: Profile, load: Load, tick: Callable[[], None] | None = None) -> Found:
    """Best offload for the plan's ranks. `tick()` is called before each simulation and may raise to end it.

    With shares in the load, experts are placed by what they get; the greedy's vector and the even placement are tried
    too. PlanError where no placement fits the memory.
    """
    if plan.kind != "zebra":
        raise PlanError(f"experts are offloaded under zebra, not {plan.kind}")
    state = _Search(plan, profile, load, tick)
    plain = state.try_((0,) * plan.layers)
    by_greedy = _greedy(state)
    for vector in _even(state):
        state.try_(vector)
    _descend(state)
    (over, best_s), vector = state.best
    best = None if over else plan.with_offload(vector)
    if load.shares:
        best, best_s = _skewed(state, best, best_s if best else math.inf)
    if best is None:
        raise PlanError("no placement of the experts fits the memory: more ranks, or fewer tokens in a batch")
    return Found(best, best_s, plain, by_greedy, len(state.known))


def _greedy(state: _Search) -> float | None:
    try:
        found = greedy(state.plan, state.profile, state.load)
    except PlanError:
        return None
    return state.try_(found.offload)


def _skewed(state: _Search, best: Plan | None, best_s: float) -> tuple[Plan | None, float]:
    """The best so far, or a placement by load: one head start for all layers, then each layer with its own."""
    tried = 0

    def better(plan: Plan) -> None:
        nonlocal best, best_s, tried
        tried += 1
        if tried > MOST or state.over(plan):
            return
        if state.tick is not None:
            state.tick()
        seconds = step(resolve(plan, state.profile, state.load))
        if seconds < best_s * (1 - GAIN):
            best, best_s = plan, seconds

    candidates = list(placed(state.plan, state.profile, state.load))
    for plan in candidates:
        better(plan)
    if best is not None:
        for layer in range(state.plan.layers):
            for row in dict.fromkeys(plan.owner[layer] for plan in candidates):
                better(replace(best, owner=(*best.owner[:layer], row, *best.owner[layer + 1 :])))
    return best, best_s


def counts(expert: int, experts: int) -> list[int]:
    """Offload counts at which the fullest of N expert ranks holds one less, ascending from 0."""
    return sorted({max(0, experts - expert * held) for held in range(-(-experts // expert) + 1)})


def _even(state: _Search) -> Iterator[Vector]:
    """Vectors between two neighbouring counts, the higher one spread evenly; of many, some."""
    plan, levels = state.plan, counts(state.plan.expert, state.plan.experts)
    stride = max(1, len(levels) * plan.layers // (MOST // 4))
    for total in range(0, (len(levels) - 1) * plan.layers + 1, stride):
        low, more = divmod(total, plan.layers)
        high = levels[min(low + 1, len(levels) - 1)]
        for phase in {0, plan.layers - 1}:
            yield tuple(
                high if (at + 1) * more // plan.layers > at * more // plan.layers else levels[low]
                for at in (range(plan.layers) if not phase else range(plan.layers - 1, -1, -1))
            )


def _descend(state: _Search) -> None:
    """One layer up or down, or one up and another down, as long as that is shorter."""
    levels = counts(state.plan.expert, state.plan.experts)
    while True:
        vector = state.best[1]
        for neighbour in _neighbours(vector, levels):
            state.try_(neighbour)
        if state.best[1] == vector or len(state.known) >= MOST:
            return


def _neighbours(vector: Vector, levels: Sequence[int]) -> Iterator[Vector]:
    """One layer's count moved to the next level either way, then pairs of layers in opposite ways."""
    moves = []
    for layer, count in enumerate(vector):
        below = [level for level in levels if level < count][-1:]
        above = [level for level in levels if level > count][:1]
        moves += [(layer, level) for level in below + above]
    for layer, level in moves:
        yield (*vector[:layer], level, *vector[layer + 1 :])
    if len(vector) <= 16:
        for layer, level in moves:
            for other, to in moves:
                if other > layer and (level > vector[layer]) != (to > vector[other]):
                    new = list(vector)
                    new[layer], new[other] = level, to
                    yield tuple(new)

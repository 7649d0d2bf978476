"""When routing drifts from what was planned for: whether new placement is worth moving the experts.

    watch = Watch(shares_planned)
    watch.saw(counts)                     after each step: tokens that each expert of each layer got
    if watch.fired(): decision = replan(plan, profile, load, watch.shares, steps_left=1000)

The watch has hysteresis: it fires above one distance, and again only once the distance has been below a smaller one,
or the plan was renewed. What fires is not yet a move: a plan is changed layer by layer as far as the simulated gain
over the steps that are left beats the time to move the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from workbench.hetermoe.costs import resolve
from workbench.hetermoe.place import placed
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.profile import Floats, Load, Profile, check_memory
from workbench.hetermoe.sim import step

Shares = Sequence[Sequence[float]]


@dataclass
class Watch:
    """Measured routing against the planned. above, below: distances at which it fires, and is armed again.

    planned: (layers, experts), rows summing to 1. memory: of the running mean, weight of what was seen before.
    """

    planned: Shares
    above: float = 0.15
    below: float = 0.08
    memory: float = 0.9
    _shares: Floats | None = field(default=None, init=False, repr=False)
    _armed: bool = field(default=True, init=False, repr=False)
    _drifted: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.below < self.above <= 1:
            raise PlanError(f"it fires above {self.above} and is armed again below {self.below}: from 0 to 1, in order")
        if not 0 <= self.memory < 1:
            raise PlanError(f"memory is from 0 to below 1, not {self.memory}")
        self._planned()

    def _planned(self) -> Floats:
        planned = np.array(self.planned, dtype=float)
        if planned.ndim != 2 or not np.allclose(planned.sum(1), 1, atol=1e-6) or (planned < 0).any():
            raise PlanError("planned shares are a row for each layer, 0 or more, summing to 1")
        return planned

    def saw(self, counts: Sequence[Sequence[float]]) -> float:
        """Token counts of a step, (layers, experts); returns the distance. PlanError for other shapes."""
        seen, planned = np.array(counts, dtype=float), self._planned()
        if seen.shape != planned.shape or not np.isfinite(seen).all() or (seen < 0).any():
            raise PlanError(f"counts have the shape {planned.shape} of the plan, 0 or more, not {seen.shape}")
        total = seen.sum(1, keepdims=True)
        if (total > 0).all():
            now = seen / total
            self._shares = now if self._shares is None else self.memory * self._shares + (1 - self.memory) * now
        distance = self.distance
        if self._armed and distance > self.above:
            self._armed, self._drifted = False, True
        elif distance < self.below:
            self._armed, self._drifted = True, False
        return distance

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Running mean of what was seen; the planned before anything was."""
        found = self._planned() if self._shares is None else self._shares
        return tuple(tuple(float(s) for s in row / row.sum()) for row in found)

    @property
    def distance(self) -> float:
        """Largest over layers of the total variation: the part of tokens that go elsewhere than planned, 0 to 1."""
        return float(0.5 * np.abs(np.array(self.shares) - self._planned()).sum(1).max())

    def fired(self) -> bool:
        """Whether it drifted since this was asked last: true once for each time."""
        drifted, self._drifted = self._drifted, False
        return drifted

    def renew(self, shares: Shares) -> None:
        """A plan for these shares is in force: what was planned is replaced, and the watch armed."""
        self.planned = shares
        self._planned()
        self._armed, self._drifted = True, False


@dataclass(frozen=True)
class Move:
    """An expert that changes its rank."""

    layer: int
    expert: int
    source: int
    target: int


@dataclass(frozen=True)
class Decision:
    """What to do. plan: the one to run with, the old one unless `move`. Seconds are modelled.

    step_s, new_s: a step under the drifted routing, of the old plan and of the best one found. move_s: to carry its
    weights and optimiser state. pays_after: steps until that is earned, infinite where it never is.
    """

    move: bool
    plan: Plan
    moves: tuple[Move, ...]
    step_s: float
    new_s: float
    move_s: float
    pays_after: float
    why: str


def replan(plan: Plan, profile: Profile, load: Load, shares: Shares, steps_left: int) -> Decision:
    """The decision for a routing and so many steps to go. PlanError where shares do not fit the plan."""
    if steps_left < 0:
        raise PlanError(f"0 steps are left or more, not {steps_left}")
    here = load.with_shares(shares)
    old_s = step(resolve(plan, profile, here))
    best, best_s, best_net = plan, old_s, 0.0
    for candidate in placed(plan, profile, here):
        alike = relabelled(plan, candidate, here)
        try:
            check_memory(profile, alike, here)
        except PlanError:
            continue
        for partial in _layer_by_layer(plan, alike, profile, here):
            new_s = step(resolve(partial, profile, here))
            net = steps_left * (old_s - new_s) - move_seconds(plan, partial, profile)
            if net > best_net:
                best, best_s, best_net = partial, new_s, net
    if best is plan:
        why = f"stays: no placement gains over {steps_left} steps what moving its experts costs"
        return Decision(False, plan, (), old_s, old_s, 0.0, float("inf"), why)
    cost, gain = move_seconds(plan, best, profile), old_s - best_s
    moved = moves(plan, best)
    why = (
        f"moves {len(moved)} experts: a step takes {best_s:.4g} s instead of {old_s:.4g}, moving takes {cost:.4g}, "
        f"earned after {cost / gain:.0f} of {steps_left} steps"
    )
    return Decision(True, best, moved, old_s, best_s, cost, cost / gain, why)


def moves(old: Plan, new: Plan) -> tuple[Move, ...]:
    """Experts that lie elsewhere in `new`."""
    pairs = enumerate(zip(old.owner, new.owner, strict=True))
    return tuple(
        Move(layer, expert, a, b) for layer, rows in pairs for expert, (a, b) in enumerate(zip(*rows)) if a != b
    )


def move_seconds(old: Plan, new: Plan, profile: Profile) -> float:
    """One exchange of weights and optimiser state; bytes in and out of the busiest rank, gradients stay behind."""
    memory, busy = profile.memory, np.zeros(old.world)
    for move in moves(old, new):
        busy[move.source] += 1
        busy[move.target] += 1
    state = memory.expert_weights * max(memory.states - 1, 1)
    return profile.message(float(busy.max()) * state)


def relabelled(old: Plan, new: Plan, load: Load) -> Plan:
    """`new` with ranks of one kind and side exchanged, layer by layer, so that as many experts as possible stay."""
    kinds = load.kind_of(old)
    sides: dict[tuple[str, bool], list[int]] = {}
    for rank, kind in enumerate(kinds):
        sides.setdefault((kind, rank < old.attention), []).append(rank)
    rows = []
    for before, after in zip(old.owner, new.owner, strict=True):
        kept = np.zeros((old.world, old.world))  # (new rank, old rank): experts in common
        np.add.at(kept, (np.array(after), np.array(before)), 1)
        name = list(range(old.world))
        for ranks in sides.values():
            chosen = linear_sum_assignment(-kept[np.ix_(ranks, ranks)])[1]
            for at, rank in enumerate(ranks):
                name[rank] = ranks[int(chosen[at])]
        rows.append(tuple(name[rank] for rank in after))
    return replace(new, owner=tuple(rows))


def _layer_by_layer(old: Plan, new: Plan, profile: Profile, load: Load) -> Iterable[Plan]:
    """`old` with the layers of `new` that gain most a moved expert, one after the other; the last is `new`."""
    gains = []
    owner = list(old.owner)
    base = step(resolve(old, profile, load))
    for layer, row in enumerate(new.owner):
        moved = sum(a != b for a, b in zip(old.owner[layer], row, strict=True))
        if moved:
            one = replace(old, owner=(*old.owner[:layer], row, *old.owner[layer + 1 :]))
            gains.append(((base - step(resolve(one, profile, load))) / moved, layer))
    for _, layer in sorted(gains, reverse=True):
        owner[layer] = new.owner[layer]
        partial = replace(old, owner=tuple(owner))
        try:
            check_memory(profile, partial, load)
        except PlanError:
            continue
        yield partial

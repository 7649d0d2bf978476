"""Ways to train on a fleet, each with its plan and a simulated step, and the one to choose.

    found = arms(model, profile, fleet, load)          {"zebra": Arm, "plain": Arm, "ep": Arm, "distep": Arm}
    chosen(found).plan                                 which one to run; `choose` also tries numbers of micro-batches

All take the same tokens in a step. All numbers are modelled from the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from workbench.hetermoe.baselines import Model, slower
from workbench.hetermoe.costs import resolve
from workbench.hetermoe.gpus import Gpu
from workbench.hetermoe.plan import Plan, PlanError, distep, expert_parallel, zebra
from workbench.hetermoe.profile import Load, Profile, check_memory
from workbench.hetermoe.search import search
from workbench.hetermoe.sim import Timeline, run


@dataclass(frozen=True)
class Fleet:
    """Devices at hand: so many that attend, so many for experts. usd_h: dollars an hour of each kind, if known."""

    new: str
    news: int
    old: str
    olds: int
    usd_h: Mapping[str, float | None] | None = None

    def __post_init__(self) -> None:
        if self.news < 1 or self.olds < 1:
            raise PlanError(f"a fleet has a device of either kind, not {self.news} and {self.olds}")

    @classmethod
    def priced(cls, new: Gpu, news: int, old: Gpu, olds: int, *, spot: bool = False) -> Fleet:
        """With the prices of two rows of a table, where they have them."""
        usd = {g.name: g.spot_usd_h if spot else g.on_demand_usd_h for g in (new, old)}
        return cls(new.name, news, old.name, olds, usd)

    def cost_usd_h(self, news: int, olds: int) -> float | None:
        """Of so many of each; None where a price that is needed is not known."""
        prices = [(self.usd_h or {}).get(kind) for kind in (self.new, self.old)]
        total = 0.0
        for number, price in zip((news, olds), prices, strict=True):
            if number and price is None:
                return None
            total += number * (price or 0.0)
        return total


@dataclass(frozen=True)
class Arm:
    """One way to run: its plan, the load with the kind of each rank, and a simulated step with spans."""

    name: str
    plan: Plan
    load: Load
    line: Timeline

    @property
    def tokens_per_s(self) -> float:
        """Modelled."""
        return self.line.tokens_per_s


def arms(
    model: Model, profile: Profile, fleet: Fleet, load: Load, micro_batches: int = 2,
    ep_messages: float = 1.0, spans: bool = True, tick: Callable[[], None] | None = None, own: Plan | None = None,
) -> dict[str, Arm]:  # fmt: skip
    """Every arm that fits the fleet's memory, on all of its devices; the batch of all ranks together is the same.

    load.tokens is an attention rank's under zebra; under EP each rank has its part of the same tokens. zebra has the
    searched offload, or is the plan `own`; plain has none. ep has one micro-batch or as many as zebra, whichever is
    faster; its messages take ep_messages times what the profile says.
    """
    sizes = (model.layers, model.experts, model.top_k)
    here = replace(load, attention=fleet.new, expert=fleet.old, kinds=())
    plain = zebra(fleet.news, fleet.olds, micro_batches, *sizes, model.key)
    world = fleet.news + fleet.olds
    kinds = (fleet.new,) * fleet.news + (fleet.old,) * fleet.olds
    shared = replace(here, tokens=max(1, load.tokens * fleet.news // world), kinds=kinds)
    eps = [expert_parallel(world, *sizes, number, model.key) for number in sorted({1, micro_batches})]
    wanted = [("plain", plain, here), ("distep", distep(fleet.news, fleet.olds, *sizes, model.key), here)]
    wanted += [("ep", plan, shared) for plan in eps]
    try:
        wanted.insert(0, ("zebra", own or search(plain, profile, here, tick).plan, here))
    except PlanError:
        pass
    found: dict[str, Arm] = {}
    for name, plan, what in wanted:
        try:
            check_memory(profile, plan, what)
        except PlanError:
            continue
        costs = slower(resolve(plan, profile, what), ep_messages if name == "ep" else 1.0)
        arm = Arm(name, plan, what, run(costs, spans=spans))
        if name not in found or arm.tokens_per_s > found[name].tokens_per_s:
            found[name] = arm
    return found


def chosen(found: Mapping[str, Arm]) -> Arm:
    """The fastest arm; of equals that which is simpler. PlanError where none fits."""
    if not found:
        raise PlanError("nothing fits the memory of these devices: a shorter batch, fewer experts, or more devices")
    simple = ("ep", "distep", "plain", "zebra")
    return max(found.values(), key=lambda arm: (round(arm.tokens_per_s, 9), -simple.index(arm.name)))


def choose(
    model: Model, profile: Profile, fleet: Fleet, load: Load, micro_batches: Sequence[int] = (1, 2, 4),
    ep_messages: float = 1.0, tick: Callable[[], None] | None = None,
) -> Arm:  # fmt: skip
    """The fastest arm with the best of several numbers of micro-batches; a batch must be cut into as many."""
    found: dict[str, Arm] = {}
    for number in micro_batches:
        for name, arm in arms(model, profile, fleet, load, number, ep_messages, tick=tick).items():
            if name not in found or arm.tokens_per_s > found[name].tokens_per_s:
                found[name] = arm
    return chosen(found)

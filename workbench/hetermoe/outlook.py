"""What the planner expects, for a panel: every arm's plan and timeline at one length, ratios, lengths, crossovers.

    view = outlook(model, profile, fleet, load)        everything that can be drawn from a profile
    arm = moved(view.arms["zebra"], profile, 0, 3, 1)       an expert dragged to another rank, simulated at once

All numbers are modelled from the profile, which says itself whether it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from workbench.hetermoe.arms import Arm, Fleet, arms, chosen
from workbench.hetermoe.baselines import Model
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Load, Profile, check_memory, used_bytes
from workbench.hetermoe.ratio import AtLength, Mix, crossovers, lengths, mixes
from workbench.hetermoe.sim import simulate

LENGTHS = (256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Outlook:
    """arms: at the load's length. lengths: all arms over lengths; `crossings`: where zebra passes each of the others.

    mixes: every ratio with its dollars. memory: bytes of each rank under each arm.
    """

    arms: Mapping[str, Arm]
    lengths: Sequence[AtLength]
    crossings: Mapping[str, Sequence[float]]
    mixes: Sequence[Mix]
    memory: Mapping[str, Sequence[float]]

    @property
    def chosen(self) -> Arm:
        """What the planner would run."""
        return chosen(self.arms)


def outlook(
    model: Model, profile: Profile, fleet: Fleet, load: Load, micro_batches: int = 2, over: Sequence[int] = LENGTHS,
    ep_messages: float = 1.0, tick: Callable[[], None] | None = None,
) -> Outlook:  # fmt: skip
    """Everything there is to draw. `tick()` is called before each simulation of a search and may raise to end it."""
    found = arms(model, profile, fleet, load, micro_batches, ep_messages, tick=tick)
    rows = lengths(model, profile, fleet, load, over, micro_batches, ep_messages, tick=tick)
    crossings = {arm: crossovers(rows, "zebra", arm) for arm in ("ep", "distep", "ideal")}
    ratios = mixes(model, profile, fleet, load, (micro_batches,), ep_messages=ep_messages, tick=tick)
    memory = {name: used_bytes(profile, arm.plan, arm.load) for name, arm in found.items()}
    return Outlook(found, rows, crossings, ratios, memory)


def moved(arm: Arm, profile: Profile, layer: int, expert: int, rank: int) -> Arm:
    """The arm with one expert on another rank, as a drag or a key does it. PlanError where it does not fit there."""
    if not 0 <= layer < arm.plan.layers or not 0 <= expert < arm.plan.experts:
        raise PlanError(f"no expert {expert} in layer {layer}: {arm.plan.layers} layers of {arm.plan.experts}")
    row = (*arm.plan.owner[layer][:expert], rank, *arm.plan.owner[layer][expert + 1 :])
    plan = replace(arm.plan, owner=(*arm.plan.owner[:layer], row, *arm.plan.owner[layer + 1 :]))
    check_memory(profile, plan, arm.load)
    return Arm(arm.name, plan, arm.load, simulate(plan, profile, arm.load, spans=True))

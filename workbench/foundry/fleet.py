"""Ways to start against each other in a burst: requests late or lost, and what spare replicas would cost. Modelled.

    found = compare(Setting("Qwen3-14B"), Traffic(), Fleet())        # the same requests for every way to start
    found["capture"].lost, found["foundry"].late, found["foundry"].gpu_h
    spares_for(Setting("Qwen3-14B"), Traffic(), Fleet())             # to miss as few with cold starts: how many spares

Starts are those of sim.py, fleets those of sim_fleet.py; a comparison takes a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.foundry.sim import ARMS, Arm, Setting, ladder, start, update_ms
from workbench.foundry.sim_fleet import Fleet, Outcome, Traffic, simulate

__all__ = ["Fleet", "Outcome", "Spares", "Traffic", "compare", "fleet_of", "spares_for", "sweep_ladder", "sweep_starts"]


def fleet_of(setting: Setting, traffic: Traffic, fleet: Fleet, arm: Arm) -> Outcome:
    """A fleet whose replicas start in this way."""
    total_s, slower = start(setting, arm).total_s, fleet.slower_eager if arm == "eager" else 1.0
    if arm != "foundry":
        return simulate(traffic, fleet, total_s, gpus=setting.ranks, slower=slower)
    sizes, update_s = ladder(setting.sizes), update_ms(setting) / 1e3
    return simulate(traffic, fleet, total_s, gpus=setting.ranks, sizes=sizes, update_s=update_s)


def compare(
    setting: Setting, traffic: Traffic, fleet: Fleet, arms: Sequence[Arm] = ("capture", "eager", "foundry")
) -> dict[Arm, Outcome]:
    """The same requests through a fleet of each way to start; `checkpoint` is for one GPU only."""
    return {arm: fleet_of(setting, traffic, fleet, arm) for arm in arms}


@dataclass(frozen=True)
class Spares:
    """How many spare replicas one way to start needs to miss as few as another, and what they cost all day."""

    arm: Arm
    spares: int | None  # None: even at the fleet's most it misses more
    outcome: Outcome
    gpu_h_day: float  # for the spares alone; inf where none suffice


def spares_for(
    setting: Setting, traffic: Traffic, fleet: Fleet, arm: Arm = "capture", target: float | None = None
) -> Spares:
    """The fewest spares with which `arm` misses at most `target` of the requests (None: what Foundry misses with none).

    Found by doubling and halving, as more spares miss more only by chance; what is returned was simulated.
    """
    if target is None:
        target = fleet_of(setting, traffic, replace(fleet, spare=0), "foundry").missed

    def at(spare: int) -> Outcome:
        return fleet_of(setting, traffic, replace(fleet, spare=spare), arm)

    low, high, best = 0, 0, at(0)
    while best.missed > target:
        if high == fleet.most:
            return Spares(arm, None, best, math.inf)
        low, high = high + 1, min(fleet.most, max(1, 2 * high))
        best = at(high)
    while low < high:
        middle = (low + high) // 2
        found = at(middle)
        if found.missed <= target:
            high, best = middle, found
        else:
            low = middle + 1
    return Spares(arm, high, best, 24.0 * high * setting.ranks)


def sweep_starts(
    traffic: Traffic, fleet: Fleet, starts_s: Sequence[float] = (0, 2, 5, 10, 20, 40, 80, 160), gpus: int = 1
) -> list[dict[str, float]]:
    """A row for each time to start: what a cold start costs in a burst, whatever it is made of."""
    return [simulate(traffic, fleet, at, gpus=gpus).row() for at in starts_s]


def sweep_ladder(
    setting: Setting,
    traffic: Traffic,
    fleet: Fleet,
    counts: Sequence[int] = (1, 51, 512),
    arms: Sequence[Arm] = ("capture", "foundry"),
) -> list[dict[str, Any]]:
    """A row for each ladder and way to start."""
    rows: list[dict[str, Any]] = []
    for count in counts:
        found: Mapping[Arm, Outcome] = compare(replace(setting, sizes=count), traffic, fleet, arms)
        rows += [{"sizes": count, "way": arm, "about": ARMS[arm], **outcome.row()} for arm, outcome in found.items()]
    return rows

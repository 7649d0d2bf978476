"""How many devices of each kind: tokens a second and dollars a token of every M:N, over lengths, with crossovers.

    found = mixes(model, profile, Fleet("A40", 6, "V100", 6, usd_h), load)
    cheapest(found), fastest(found)
    over = lengths(model, profile, fleet, load, (4096, 8192, 16384)); crossovers(over, "zebra", "ep")

M and N need not divide one another. Every arm is simulated on the same devices, and each M:N has its offload searched.
A price that is not known leaves the dollars out; what does not fit into memory stays in the table, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from workbench.hetermoe.arms import Fleet, arms
from workbench.hetermoe.baselines import Model, expert_parallelism, ideal
from workbench.hetermoe.plan import Plan, PlanError, expert_parallel, zebra
from workbench.hetermoe.profile import Load, Profile, check_memory
from workbench.hetermoe.search import search

ARMS = ("zebra", "plain", "ep", "distep", "ideal")


@dataclass(frozen=True)
class Mix:
    """M:N and its plan. usd_per_million: dollars for a million tokens, None where a price is missing.

    why: empty, or what keeps it from running (its plan is None then, its speed 0).
    """

    attention: int
    expert: int
    plan: Plan | None
    tokens_per_s: float
    usd_h: float | None
    usd_per_million: float | None
    why: str = ""


def mixes(
    model: Model, profile: Profile, fleet: Fleet, load: Load, micro_batches: Sequence[int] = (2, 4),
    ratios: Iterable[tuple[int, int]] | None = None, ep_messages: float = 1.0, tick: Callable[[], None] | None = None,
) -> list[Mix]:  # fmt: skip
    """Every M:N of the fleet (or those of `ratios`), each with its best number of micro-batches and offload.

    A ratio with a 0 is EP on the other kind alone: none of the old may be the cheapest. load.tokens is an attention
    rank's batch, so that more of those train more tokens in a step.
    """
    wanted = ratios or [(m, n) for m in range(fleet.news + 1) for n in range(fleet.olds + 1) if m or n]
    return [
        _mix(model, profile, fleet, load, micro_batches, m, n, tick)
        if m and n
        else _alone(model, profile, fleet, load, m, n, ep_messages)
        for m, n in wanted
    ]


def _alone(model: Model, profile: Profile, fleet: Fleet, load: Load, news: int, olds: int, ep_messages: float) -> Mix:
    """EP on one kind."""
    kind, number = (fleet.new, news) if news else (fleet.old, olds)
    here = replace(load, attention=kind, expert="", kinds=())
    usd_h = fleet.cost_usd_h(news, olds)
    plan = expert_parallel(number, model.layers, model.experts, model.top_k, 1, model.key)
    try:
        check_memory(profile, plan, here)
    except PlanError as error:
        return Mix(news, olds, None, 0.0, usd_h, None, str(error))
    rate = expert_parallelism(model, profile, {kind: number}, here, messages=ep_messages)
    return Mix(news, olds, plan, rate, usd_h, None if usd_h is None else usd_h / rate * 1e6 / 3600)


def _mix(
    model: Model, profile: Profile, fleet: Fleet, load: Load, micro_batches: Sequence[int], attention: int, expert: int,
    tick: Callable[[], None] | None,
) -> Mix:  # fmt: skip
    here = replace(load, attention=fleet.new, expert=fleet.old, kinds=())
    usd_h = fleet.cost_usd_h(attention, expert)
    best: tuple[float, Plan | None] = (0.0, None)
    why = ""
    for number in micro_batches:
        plan = zebra(attention, expert, number, model.layers, model.experts, model.top_k, model.key)
        try:
            found = search(plan, profile, here, tick)
        except PlanError as error:
            why = str(error)
            continue
        best = max(best, (attention * load.tokens / found.step_s, found.plan), key=lambda pair: pair[0])
    rate, chosen = best
    usd = usd_h / rate * 1e6 / 3600 if usd_h is not None and rate else None
    return Mix(attention, expert, chosen, rate, usd_h, usd, "" if chosen else why)


def fastest(found: Iterable[Mix]) -> Mix:
    """Most tokens a second. PlanError where nothing runs."""
    return _best(found, lambda mix: -mix.tokens_per_s)


def cheapest(found: Iterable[Mix]) -> Mix:
    """Fewest dollars a token. PlanError where no mix that runs has a price."""
    priced = [mix for mix in found if mix.usd_per_million is not None]
    if not priced:
        raise PlanError("no mix has a price: set the dollars an hour of both kinds, with date and source")
    return _best(priced, lambda mix: mix.usd_per_million or 0.0)


def _best(found: Iterable[Mix], key: Callable[[Mix], float]) -> Mix:
    runs = [mix for mix in found if mix.plan is not None]
    if not runs:
        raise PlanError("no ratio fits the memory of these devices: a shorter batch, fewer experts, or more devices")
    return min(runs, key=key)


@dataclass(frozen=True)
class AtLength:
    """Tokens a second of every arm at one length, on all devices of the fleet. offload: what the search chose."""

    length: int
    tokens_per_s: Mapping[str, float]
    offload: tuple[int, ...]

    @property
    def winner(self) -> str:
        """Fastest arm of those that exist: EP (Ideal) is on paper only."""
        real = {arm: rate for arm, rate in self.tokens_per_s.items() if arm != "ideal"}
        return max(real, key=lambda arm: real[arm])


def lengths(
    model: Model, profile: Profile, fleet: Fleet, load: Load, over: Sequence[int], micro_batches: int = 2,
    ep_messages: float = 1.0, tick: Callable[[], None] | None = None, own: Plan | None = None,
) -> list[AtLength]:  # fmt: skip
    """Every arm at every length: zebra with searched offload (or `own` at all), plain without, those of arms.py.

    An arm that does not fit its devices' memory is 0 there. EP (Ideal) has EP's batch on every device.
    """
    found = []
    for length in over:
        here = replace(load, length=length)
        at = arms(model, profile, fleet, here, micro_batches, ep_messages, spans=False, tick=tick, own=own)
        rates = dict.fromkeys(ARMS, 0.0) | {name: arm.tokens_per_s for name, arm in at.items()}
        if "ep" in at:
            shared = at["ep"].load
            groups = [(shared.kinds[0], fleet.news), (shared.kinds[-1], fleet.olds)]
            alone = [(k, n, replace(shared, kinds=(), attention=k)) for k, n in groups]
            if all(_ep_fits(model, profile, kind, number, one) for kind, number, one in alone):
                rates["ideal"] = ideal(model, profile, dict(groups), alone[0][2], messages=ep_messages)
        found.append(AtLength(length, rates, at["zebra"].plan.offload if "zebra" in at else ()))
    return found


def _ep_fits(model: Model, profile: Profile, kind: str, number: int, load: Load) -> bool:
    plan = expert_parallel(number, model.layers, model.experts, model.top_k, 1, model.key)
    try:
        check_memory(profile, plan, replace(load, attention=kind, kinds=()))
    except PlanError:
        return False
    return True


def crossovers(found: Sequence[AtLength], one: str, other: str) -> list[float]:
    """Lengths at which the faster of two arms changes; between two of the lengths, linear in the ratio's logarithm."""
    lines: list[float] = []
    gaps = [
        (at.length, math.log(at.tokens_per_s[one] / at.tokens_per_s[other]))
        for at in found
        if at.tokens_per_s[one] and at.tokens_per_s[other]
    ]
    for (a, low), (b, high) in pairwise(gaps):
        if low * high < 0 or (low != 0 and high == 0):
            lines.append(a + (b - a) * low / (low - high))
    return lines

"""Discount against number of instances: what a token costs, and from which discount on it costs less than alone.

    for row in sweep(Setting(), instances=range(9), discounts=(0.0, 0.3, 0.746)): ...      modelled

The discount changes no step, only the bill. So each number of instances is simulated once, and kept; prices and
discounts are arithmetic on its machine-seconds, and another discount or price row costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from workbench.prices import Price
from workbench.rlboost.prices import PAPER, rates
from workbench.rlboost.rates import MODELS, PROMPT
from workbench.rlboost.setting import Setting, StepRow, constant, throughput, usd_per_million
from workbench.rlboost.sim import simulate

SETTLE, SEEN = 1, 2  # steps; the window begins near its end, and both sides see the same responses
DISCOUNTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.746, 0.8, 0.9)
MOST = 64


@dataclass(frozen=True)
class SweepRow:
    """So many instances all the time, at a discount over the on-demand price of a GPU. Ratios are over co-located.

    throughput_ratio: trained tokens a second. cost_efficiency_ratio: tokens for a dollar. break_even: the discount from
    which on a token costs less than co-located, below 0 where it does at any price, nan without instances. n_prem: how
    many instances Algorithm 1 would have. priced: the price row, its date and source.
    """

    instances: int
    discount: float
    step_s: float
    t_seed_s: float
    n_prem: float
    throughput_ratio: float
    usd_per_million: float
    cost_efficiency_ratio: float
    break_even: float
    priced: str


def sweep(
    setting: Setting,
    instances: Iterable[int] = range(9),
    discounts: Iterable[float] = DISCOUNTS,
    price: Price = PAPER,
    tick: Callable[[float], None] | None = None,
) -> list[SweepRow]:
    """Rows by number of instances, then discount, both in order and once each.

    Of `setting` the first window and the cap are not used: the number of instances is given. `tick(share)` is called
    before each simulation and may raise to end it. ValueError for another system than rlboost, for numbers that are
    not whole or outside 0 to 64, for discounts outside 0 to 1, and for nothing to sweep.
    """
    if setting.system != "rlboost":
        raise ValueError(f"a sweep over instances is of the system rlboost, {setting.system} has none")
    numbers, shares = sorted(set(instances)), sorted(set(discounts))
    if not numbers or not shares:
        raise ValueError("a sweep needs a number of instances and a discount, at least one of each")
    if odd := [n for n in numbers if n != int(n) or not 0 <= n <= MOST]:
        raise ValueError(f"instances are whole numbers from 0 to {MOST}, not {odd[0]}")
    bills = [rates(price.at_discount(share)) for share in shares]
    dear, free = rates(price.at_discount(0.0)), rates(price.at_discount(1.0))
    alone = list(fixed(setting, 0))
    rows = []
    for done, number in enumerate(numbers):
        if tick is not None:
            tick(done / len(numbers))
        steps = list(fixed(setting, int(number)))
        full, none, base = (usd_per_million(r, paid) for r, paid in ((steps, dear), (steps, free), (alone, free)))
        even = (full - base) / (full - none) if full > none else math.nan
        for share, paid in zip(shares, bills, strict=True):
            cost = usd_per_million(steps, paid)
            rows.append(SweepRow(
                int(number), share, sum(r.seconds for r in steps) / len(steps), steps[-1].t_seed_s, steps[-1].n_prem,
                throughput(steps) / throughput(alone), cost, base / cost, even, paid.told,
            ))  # fmt: skip
    return rows


@lru_cache(maxsize=256)
def fixed(setting: Setting, instances: int) -> tuple[StepRow, ...]:
    """Steps with so many instances all the time, none: co-located. The same setting and number are simulated once."""
    if not instances:
        setting, trace = replace(setting, system="co-located"), constant(0)
    else:
        gain = 1 + MODELS[setting.model].local_engines / instances  # of the two waits' difference, to the window's
        eta = max(setting.seeding.eta, gain)  # a smaller one swings
        seeding = replace(setting.seeding, first_s=_window_s(setting, instances), eta=eta)
        without = setting.without | {"cap"}
        setting, trace = replace(setting, seeding=seeding, without=without, boot_s=0.0), constant(instances)
    return tuple(simulate(setting, trace, SETTLE + SEEN))[SETTLE:]


def _window_s(setting: Setting, instances: int) -> float:
    """Where the window will settle, about: N T + n (T + T_train) engine-seconds are the work at full batches."""
    model, mean = MODELS[setting.model], setting.lengths.drawn_mean()
    curve = model.engine(setting.lengths)
    tokens = setting.responses * mean
    work_s = tokens * curve.step_s(curve.slots, PROMPT + mean / 2) / curve.slots
    spare_s = work_s - instances * tokens * model.train_token_s
    return max(setting.seeding.floor_s, spare_s / (model.local_engines + instances))

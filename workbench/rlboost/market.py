"""Which preemptible instances to take: by price, by zone, and by how long they have lasted.

    useful = survival(horizon) * rate / price           what an offer gives for its money before it is taken away
    choose   the best offers first, each zone's next one counted for less, so that one zone's bad hour is not all
    Market   that, with what a run has seen of its zones: the simulator's `take`, the live run's, and whom it gives back

Spreading over zones is SkyServe's idea, looking at lifetimes Parcae's; neither is in RLBoost, which takes what comes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workbench.rlboost.events import zone_of

Choice = Literal["first", "price", "worth"]


@dataclass(frozen=True)
class Offer:
    """So many instances could be had in a zone now. `rate`: tokens/s of one, in any unit that all offers share."""

    zone: str
    free: int
    usd_h: float
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.free < 0 or self.usd_h < 0 or not self.rate > 0:
            raise ValueError(
                f"{self.zone}: {self.free} instances at {self.usd_h} $/h and rate {self.rate} are no offer"
            )


@dataclass
class Survival:
    """Kaplan and Meier's estimate of how long instances of a zone live, from those that went and those still there."""

    went_s: list[float] = field(default_factory=list)
    there_s: list[float] = field(default_factory=list)
    assumed_s: float = 3600.0  # mean life where nothing was seen; weighs as much as one observation

    def went(self, life_s: float) -> None:
        """One was taken after so long. ValueError for less than 0 s."""
        if life_s < 0:
            raise ValueError(f"a life lasts 0 s or more, not {life_s}")
        self.went_s.append(life_s)

    def share(self, age_s: float, horizon_s: float) -> float:
        """Probability that one of this age is there for another `horizon_s` seconds."""
        if horizon_s <= 0:
            return 1.0
        prior = math.exp(-horizon_s / self.assumed_s)
        lives = sorted((t, True) for t in self.went_s) + [(t, False) for t in self.there_s]
        lives.sort()
        at_risk, alive, seen = sum(t > age_s for t, _ in lives), 1.0, 0
        for life, gone in lives:
            if life <= age_s or life > age_s + horizon_s:
                continue
            if gone:
                alive *= 1 - 1 / at_risk
                seen += 1
            at_risk -= 1
        weight = len([t for t, _ in lives if t > age_s])
        return (weight * alive + prior) / (weight + 1) if weight else prior


def choose(
    offers: Sequence[Offer],
    wanted: int,
    survival: Mapping[str, Survival],
    horizon_s: float,
    spread: float = 0.9,
    held: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """How many to take of each zone, `wanted` in all or what there is. ValueError for a spread outside (0, 1].

    spread: what each further instance of one zone counts for, against the one before; 1 looks at price alone. held:
    instances that each zone has already.
    """
    if not 0 < spread <= 1:
        raise ValueError(f"spread lies in (0, 1], not at {spread}")
    taken = dict.fromkeys((o.zone for o in offers), 0)
    left = {id(o): o.free for o in offers}
    lasts = {zone: survival.get(zone, Survival()).share(0.0, horizon_s) for zone in taken}
    there = held or {}

    def worth(offer: Offer) -> float:
        number = taken[offer.zone] + there.get(offer.zone, 0)
        return lasts[offer.zone] * offer.rate / max(offer.usd_h, 1e-9) * spread**number

    for _ in range(max(0, wanted)):
        open_ = [o for o in offers if left[id(o)]]
        if not open_:
            break
        best = max(open_, key=lambda o: (worth(o), o.zone))
        left[id(best)] -= 1
        taken[best.zone] += 1
    return {zone: n for zone, n in taken.items() if n}


@dataclass
class Market:
    """What a run knows of its zones, and whom it takes by that. Times in seconds, on whatever clock the run has.

    choice: first, as they come (as published); price, from cheap zones first, spread; worth, by how long instances of a
    zone have lasted too. prices: of an instance of a zone over the run's price, 1 where a zone is not named.
    """

    choice: Choice = "first"
    prices: Mapping[str, float] = field(default_factory=dict)
    since_s: dict[str, float] = field(default_factory=dict, init=False)  # of each instance that is there
    seen: dict[str, Survival] = field(default_factory=dict, init=False)  # of each zone that lost one

    def price(self, instance: str) -> float:
        """Of this instance over the run's price."""
        return self.prices.get(zone_of(instance), 1.0)

    def came(self, instance: str, at_s: float) -> None:
        """It is there, offered or held."""
        self.since_s.setdefault(instance, at_s)

    def went(self, instance: str, at_s: float) -> None:
        """It was taken away."""
        if instance in self.since_s:
            life_s = at_s - self.since_s.pop(instance)
            self.seen.setdefault(zone_of(instance), Survival()).went(life_s)

    def left(self, instance: str, at_s: float) -> None:
        """It was given back: it would have lived for longer than this."""
        if instance in self.since_s:
            life_s = at_s - self.since_s.pop(instance)
            self.seen.setdefault(zone_of(instance), Survival()).there_s.append(life_s)

    def survival(self, at_s: float) -> dict[str, Survival]:
        """Of each zone, by the lives that have been seen until now; nothing is known of what is to come."""
        known = {zone: Survival(list(one.went_s), list(one.there_s)) for zone, one in self.seen.items()}
        for instance, since_s in self.since_s.items():
            known.setdefault(zone_of(instance), Survival()).there_s.append(at_s - since_s)
        return known

    def take(
        self, offered: Sequence[str], wanted: int, at_s: float, horizon_s: float, held: Iterable[str] = ()
    ) -> list[str]:
        """Which of those offered, `wanted` at most, in their order; of one zone the first. held: what there is already.

        Whom to keep is the same question, asked of those that are there.
        """
        wanted = min(max(0, wanted), len(offered))
        if self.choice == "first" or wanted in (0, len(offered)):
            return list(offered[:wanted])
        zones = Counter(zone_of(name) for name in offered)
        offers = [Offer(zone, free, self.prices.get(zone, 1.0)) for zone, free in zones.items()]
        known = self.survival(at_s) if self.choice == "worth" else {}
        left = choose(offers, wanted, known, horizon_s, held=Counter(zone_of(name) for name in held))
        chosen = []
        for name in offered:
            if left.get(zone_of(name), 0):
                left[zone_of(name)] -= 1
                chosen.append(name)
        return chosen

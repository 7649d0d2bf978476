"""Which preemptible instances to take: by price, by zone, and by how long they have lasted.

    useful = survival(horizon) * rate / price           what an offer gives for its money before it is taken away
    choose   the best offers first, each zone's next one counted for less, so that one zone's bad hour is not all

Spreading over zones is SkyServe's idea, looking at lifetimes Parcae's; neither is in RLBoost, which takes what comes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


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
    offers: Sequence[Offer], wanted: int, survival: Mapping[str, Survival], horizon_s: float, spread: float = 0.9
) -> dict[str, int]:
    """How many to take of each zone, `wanted` in all or what there is. ValueError for a spread outside (0, 1].

    spread: what each further instance of one zone counts for, against the one before; 1 looks at price alone.
    """
    if not 0 < spread <= 1:
        raise ValueError(f"spread lies in (0, 1], not at {spread}")
    taken = dict.fromkeys((o.zone for o in offers), 0)
    left = {id(o): o.free for o in offers}

    def worth(offer: Offer) -> float:
        lasts = survival.get(offer.zone, Survival()).share(0.0, horizon_s)
        return lasts * offer.rate / max(offer.usd_h, 1e-9) * spread ** taken[offer.zone]

    for _ in range(max(0, wanted)):
        open_ = [o for o in offers if left[id(o)]]
        if not open_:
            break
        best = max(open_, key=lambda o: (worth(o), o.zone))
        left[id(best)] -= 1
        taken[best.zone] += 1
    return {zone: n for zone, n in taken.items() if n}

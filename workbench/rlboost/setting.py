"""What the simulator is asked, and what it gives for each step of training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from workbench.rlboost.events import Event, Trace
from workbench.rlboost.market import Choice
from workbench.rlboost.prices import PAPER, Rates, rates
from workbench.rlboost.rates import INSTANCE_GB_S, MODELS, SENDER_GB_S, Lengths, Model
from workbench.rlboost.seeding import SeedingOptions

System = Literal["rlboost", "co-located", "doubled", "disaggregated"]


@dataclass(frozen=True)
class Setting:
    """What is simulated. Tokens, seconds, GB/s; `responses` of a step are prompts times group."""

    system: System = "rlboost"
    model: str = "Qwen3-14B"
    responses: int = 1024
    micro_batch: int = 16
    lengths: Lengths = field(default_factory=Lengths)
    seeding: SeedingOptions = field(default_factory=SeedingOptions)
    seed: int = 0
    without: frozenset[str] = frozenset()  # of: seeding, memory, migration, pull, balance, cap
    notice_s: float = 0.0  # how long before a removal it is known
    instance_gb_s: float = INSTANCE_GB_S
    sender_gb_s: float = SENDER_GB_S  # of a reserved node
    boot_s: float = 60.0
    choice: Choice = "first"  # which of more instances than pay are held
    prices: tuple[tuple[str, float], ...] = ()  # (zone, what an instance of it costs over the run's price); else 1
    profile: Model | None = None  # machines that were measured, in place of `model`

    def __post_init__(self) -> None:
        known = {"seeding", "memory", "migration", "pull", "balance", "cap"}
        if odd := self.without - known:
            raise ValueError(
                f"without: {', '.join(sorted(odd))} is no part of RLBoost; there are {', '.join(sorted(known))}"
            )
        if self.model not in MODELS:
            raise ValueError(f"no model is called {self.model!r}; there are {', '.join(MODELS)}")
        if self.responses < 1 or self.micro_batch < 1:
            raise ValueError(f"responses and micro_batch are 1 or more, not {self.responses} and {self.micro_batch}")
        if self.choice not in get_args(Choice):
            raise ValueError(f"choice is one of {', '.join(get_args(Choice))}, not {self.choice!r}")
        for zone, price in self.prices:
            if not 0 <= price < math.inf:
                raise ValueError(f"prices: zone {zone} costs 0 or more of the run's price, not {price}")
        for what, value in (("notice_s", self.notice_s), ("boot_s", self.boot_s)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{what} is 0 s or more and not for ever, not {value}")
        for what, value in (("instance_gb_s", self.instance_gb_s), ("sender_gb_s", self.sender_gb_s)):
            if not value > 0:
                raise ValueError(f"{what} is above 0 GB/s, or weights never come; not {value}")


@dataclass(frozen=True)
class StepRow:
    """One step of training."""

    step: int
    start_s: float
    end_s: float
    t_seed_s: float  # inf: nobody to seed for, the reserved engines roll out everything
    n_prem: float
    instances: float  # mean
    tokens: float  # made for responses that were trained
    wasted_tokens: float  # made and thrown away
    migrations: int
    recomputed_tokens: float  # prefilled again because of a move
    wait_train_s: float
    wait_remote_s: float
    reserved_s: float  # node-seconds
    instance_s: float
    price: float = 1.0  # of an instance-second over the run's price, mean: zones may have prices of their own

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    def cost_usd(self, paid: Rates) -> float:
        """Dollars of this step at these rates."""
        return paid.cost_usd(self.reserved_s, self.instance_s * self.price)


def constant(instances: int, hours: float = 24.0) -> Trace:
    """So many instances, from the first second to the last."""
    return Trace(
        tuple(Event(0.0, "add", f"i{n + 1}") for n in range(instances)), hours * 3600, f"{instances} all the time"
    )


def throughput(rows: list[StepRow]) -> float:
    """Trained tokens a second over these steps."""
    return sum(r.tokens for r in rows) / sum(r.seconds for r in rows)


def usd_per_million(rows: list[StepRow], paid: Rates | None = None) -> float:
    """Dollars for a million trained tokens, at the paper's prices where none are given."""
    paid = paid or rates(PAPER)
    return 1e6 * sum(r.cost_usd(paid) for r in rows) / sum(r.tokens for r in rows)

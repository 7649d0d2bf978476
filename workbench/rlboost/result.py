"""What an RLBoost run found: a row per step and way, the machines over time, the ledger, what it was paid by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from workbench.held import Held
from workbench.rlboost.config import RLBoostConfig
from workbench.rlboost.prices import Rates
from workbench.system import Badge, Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ARMS: Mapping[str, str] = {
    "rlboost": "RLBoost",
    "co-located": "co-located (veRL)",
    "doubled": "twice the machines (veRL.2x)",
    "disaggregated": "disaggregated (Disagg.BAL)",
    "no seeding": "RLBoost without seeding",
    "no memory": "RLBoost without its memory",
    "no migration": "RLBoost without migration",
    "no pull": "RLBoost with synchronous weights",
    "no balance": "RLBoost without balancing",
    "no cap": "RLBoost without its cap",
    "no choice": "RLBoost that holds instances as they come",
}
TESTED, ALONE = "rlboost", "co-located"
COLUMNS = {
    "way": "; ".join(f"{name}: {said}" for name, said in ARMS.items()),
    "step": "step of training",
    "start_s": "when it began, s from the start of its way",
    "seconds": "how long it took, s",
    "predicted_s": "the same by the simulator with the profile of a live run, s",
    "t_seed_s": "window in which reserved machines roll out, s; infinite: they roll out everything",
    "n_prem": "instances that pay, as known after the step; infinite while nothing is known",
    "instances": "instances held (simulated) or at work (live), mean over the step",
    "tokens": "tokens of the responses that were trained on",
    "wasted_tokens": "tokens that were made and thrown away",
    "migrations": "responses that went on at another engine from their tokens",
    "recomputed_tokens": "tokens whose KV was computed again because of a move",
    "wait_train_s": "the trainer idle, short of a micro-batch, s",
    "train_s": "training, s; none where it was simulated",
    "reserved_s": "node-seconds of reserved machines",
    "instance_s": "instance-seconds",
    "price": "of an instance-second over the run's price, mean; 1 where zones have no prices of their own",
    "cost_usd": "at the prices of the run, dollars",
    "reward": "mean over responses, 0 to 1; none where nothing was really trained",
    "lost_instances": "that were taken away",
    "lost_tokens": "positions that the token ledger misses; none where it was simulated",
    "duplicated_tokens": "positions that it has twice; none where it was simulated",
    "badge": "measured here or modelled",
}
BADGES: Mapping[str, Badge] = {  # of a live run too: by the simulator, and by prices
    "predicted_step_s": "modelled", "cost_efficiency_ratio": "modelled", "usd_per_million_tokens": "modelled",
}  # fmt: skip


class Row(BaseModel):
    """One step of one way."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    way: str = Field(validation_alias=AliasChoices("way", "arm"))  # of records of before
    step: int
    start_s: float
    seconds: float
    predicted_s: float | None = None
    t_seed_s: float
    n_prem: float
    instances: float
    tokens: float
    wasted_tokens: float = 0.0
    migrations: int = 0
    recomputed_tokens: float = 0.0
    wait_train_s: float = 0.0
    train_s: float | None = None
    reserved_s: float = 0.0
    instance_s: float = 0.0
    price: float = 1.0
    cost_usd: float = 0.0
    reward: float | None = None
    lost_instances: int = 0
    lost_tokens: int | None = None
    duplicated_tokens: int | None = None
    badge: Literal["measured", "modelled"] = "modelled"


class Moved(BaseModel):
    """One response on the ledger: which engine made which of its tokens, with which weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str
    pieces: list[tuple[str, int, int, int]]  # engine, version, first position, tokens


class Paid(BaseModel):
    """What machines cost in this run, and where that is from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reserved_usd_h: float
    instance_usd_h: float
    discount: float
    told: str  # name, date, source

    def rates(self) -> Rates:
        return Rates(self.reserved_usd_h, self.instance_usd_h, self.told)


class RLBoostResult(Result):
    """Steps of training with instances that come and go, live or simulated, beside those without."""

    config: RLBoostConfig
    rows: list[Row]
    held: list[Held]  # of the way under test
    there: list[tuple[float, int]]  # (s, instances from then on) that the trace offers, or that were at work
    queues: list[tuple[float, str, int, int]] = Field(default_factory=list)  # s, engine, waiting, executing
    ledger: list[Moved] = Field(default_factory=list)  # of the step in which most moved
    paid: Paid
    source: str  # of the trace, or of the kills
    published: list[Claim] = Field(default_factory=list)  # every number of the paper, predicted
    same_tokens: bool | None = None  # as the run alone made them
    same_weights: bool | None = None  # after the last step, as the run alone
    control_differs: bool | None = None  # another seed gives others
    notes: list[str] = Field(default_factory=list)

    def ways(self) -> list[str]:
        """Names of the ways, in the order of ARMS."""
        return [way for way in ARMS if self.of(way)]

    def of(self, way: str) -> list[Row]:
        return [row for row in self.rows if row.way == way]

    def throughput(self, way: str) -> float:
        """Trained tokens a second over its steps; nan where the way was not run."""
        rows = self.of(way)
        return sum(r.tokens for r in rows) / sum(r.seconds for r in rows) if rows else math.nan

    def usd_per_million(self, way: str, paid: Paid | None = None) -> float:
        """Dollars for a million trained tokens, at the run's prices where none are given."""
        rows, rates = self.of(way), (paid or self.paid).rates()
        usd = sum(rates.cost_usd(r.reserved_s, r.instance_s * r.price) for r in rows)
        return 1e6 * usd / sum(r.tokens for r in rows) if rows else math.nan

    def summary(self) -> dict[str, float]:
        rows = self.of(TESTED)
        known = [r.predicted_s for r in rows if r.predicted_s is not None]
        rewards = [r.reward for r in rows if r.reward is not None]
        lost = [r.lost_tokens for r in rows if r.lost_tokens is not None]
        twice = [r.duplicated_tokens for r in rows if r.duplicated_tokens is not None]
        same = [v for v in (self.same_tokens, self.same_weights, self.control_differs) if v is not None]
        numbers = {
            "throughput_ratio": self.throughput(TESTED) / self.throughput(ALONE),
            "cost_efficiency_ratio": self.usd_per_million(ALONE) / self.usd_per_million(TESTED),
            "usd_per_million_tokens": self.usd_per_million(TESTED),
            "tokens": sum(r.tokens for r in rows),
            "tokens_lost": float(sum(lost)) if lost else math.nan,
            "tokens_duplicated": float(sum(twice)) if twice else math.nan,
            "migrations": float(sum(r.migrations for r in rows)),
            "recomputed_tokens": sum(r.recomputed_tokens for r in rows),
            "lost_instances": float(sum(r.lost_instances for r in rows)),
            "step_s": median(r.seconds for r in rows),
            "predicted_step_s": median(known) if known else math.nan,
            "reward_first": rewards[0] if rewards else math.nan,
            "reward_last": rewards[-1] if rewards else math.nan,
            "same_as_alone": float(all(same)) if same else math.nan,
        }
        return {k: v for k, v in numbers.items() if not math.isnan(v)}

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.rows], columns=list(COLUMNS))

    def figure(self) -> go.Figure:
        from workbench.rlboost.figures import overview

        return overview(self)

    def spans(self) -> list[Span]:
        return [one.span() for one in self.held]

    def claims(self) -> list[Claim]:
        from workbench.rlboost.beside import beside

        return beside(self)

    def sentence(self) -> str:
        from workbench import theme

        s = self.summary()
        where = f"Measured on {self.provenance.device}" if self.measured else f"Modelled ({self.source})"
        steps, many = len(self.of(TESTED)), self.config.without
        name = "RLBoost" if not many else f"RLBoost without {', '.join(sorted(many))}"
        said = (
            f"{where}: {name} trains {s['throughput_ratio']:.2f} times the tokens a second of the reserved machines "
            f"alone and {s['cost_efficiency_ratio']:.2f} times the tokens for a dollar ({self.paid.told}), over "
            f"{steps} steps"
        )
        if not self.measured:
            return f"{said}."
        off = [f"{int(n)} tokens {kind}" for kind in ("lost", "duplicated") if (n := s.get(f"tokens_{kind}", 0.0))]
        kept = " and ".join(off) or "every token once"
        if s.get("same_as_alone") == 1 and not off:
            kept = "the same tokens and weights as without any kill"
        elif s.get("same_as_alone") == 0:
            kept += ", but NOT what the run without kills gave (or its control did not differ)"
        lost = int(s["lost_instances"])
        return (
            f"{said}; {lost} instances were lost and {int(s['migrations'])} responses moved, with {kept}; "
            f"reward from {theme.number(s['reward_first'])} to {theme.number(s['reward_last'])}."
        )

    def decided(self) -> dict[str, Any]:
        if not self.measured:
            return {"rows": [row.model_dump() for row in self.rows], "source": self.source}
        told: dict[str, Any] = {"ways": self.ways(), "steps": len(self.of(TESTED))}
        if self.config.ordered:
            told |= {"tokens": [r.tokens for r in self.of(ALONE)], "reward": [r.reward for r in self.of(ALONE)]}
        return told

"""What an RLBoost run can be asked: the fields of the form and the flags of the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from workbench.prices import Price
from workbench.rlboost.market import Choice
from workbench.rlboost.prices import SPREAD, TABLE, drawn, over, read
from workbench.rlboost.traces import NOTICE_S
from workbench.system import Config

PARTS = ("seeding", "memory", "migration", "pull", "balance", "cap")
LIVE: dict[str, Any] = {"group": "live run"}
SIMULATION: dict[str, Any] = {"group": "simulation"}
PART: dict[str, Any] = {"group": "parts of RLBoost"}
MARKET: dict[str, Any] = {"group": "which instances"}
MONEY: dict[str, Any] = {"group": "prices"}


class RLBoostConfig(Config):
    """Train by reinforcement on machines that vanish: live on Ray, or on a virtual clock. Times in seconds."""

    backend: Literal["auto", "cpu", "sim"] = Field(
        "auto",
        description="cpu trains a real model live on Ray, with nodes that are really killed; sim replays a trace of "
        "machines on a virtual clock",
    )
    # -- the live run
    model: Literal["tiny", "smollm2"] = Field(
        "tiny",
        description="tiny: a random Llama whose tokens are bytes; smollm2: SmolLM2-135M-Instruct",
        json_schema_extra=LIVE,
    )
    task: Literal["letters", "sums"] = Field(
        "letters",
        description="Whose reward a few lines verify. letters: share of small letters; sums: '3 + 4' for a model that "
        "reads",
        json_schema_extra=LIVE,
    )
    steps: int = Field(6, ge=1, le=500, description="Steps of training, live", json_schema_extra=LIVE)
    prompts: int = Field(4, ge=1, le=256, description="Prompts of a step", json_schema_extra=LIVE)
    group: int = Field(8, ge=2, le=64, description="Responses to a prompt (GRPO's group)", json_schema_extra=LIVE)
    tokens: int = Field(32, ge=1, le=2048, description="Longest response, live", json_schema_extra=LIVE)
    slots: int = Field(8, ge=1, le=256, description="Responses in an engine's batch", json_schema_extra=LIVE)
    lr: float = Field(3e-3, gt=0, le=1, description="Learning rate of AdamW", json_schema_extra=LIVE)
    nodes: int = Field(2, ge=0, le=8, description="Spot nodes that join at the start", json_schema_extra=LIVE)
    kills: int = Field(
        2, ge=0, le=100, description="Nodes that are taken away in the middle of a step and replaced",
        json_schema_extra=LIVE,
    )  # fmt: skip
    kill: Literal["mixed", "actor", "node", "notice"] = Field(
        "mixed",
        description="How. actor: SIGKILL of the engine; node: SIGKILL of its raylet; notice: a warning first, so that "
        "it drains; mixed: in turn",
        json_schema_extra=LIVE,
    )
    engine: Literal["embedded", "vllm"] = Field(
        "embedded",
        description="What rolls out on spot nodes; vllm: a vLLM on each, for smollm2 (the reserved machine has the "
        "embedded engine; in float32 they say the same tokens)",
        json_schema_extra=LIVE,
    )
    ordered: bool = Field(
        True,
        description="Train in the order of requests when all are there: the weights then do not depend on who was "
        "killed, and are compared with a run alone to the bit; no: micro-batches as they come, as RLBoost does",
        json_schema_extra=LIVE,
    )
    address: str = Field(
        "", description="Address of a Ray cluster of yours; empty: one is started here", json_schema_extra=LIVE
    )
    # -- the simulation
    sim_model: Literal["Qwen3-8B", "Qwen3-14B", "Qwen3-32B"] = Field(
        "Qwen3-14B", description="The paper's models on its machines", json_schema_extra=SIMULATION
    )
    trace: str | None = Field(
        None,
        json_schema_extra=SIMULATION | {"widget": "path", "none": "made"},
        description="File of who comes and goes: Bamboo, Parcae, SkyPilot, or CSV of your own (time_s,event,instance); "
        "or a folder of them, a file a zone; without one a trace is made with the statistics of `weather`",
    )
    weather: Literal["g4dn", "p3", "steady"] = Field(
        "g4dn",
        description="Statistics of a made trace: two of AWS as Bamboo recorded them; steady: `instances` all the time",
        json_schema_extra=SIMULATION,
    )
    share: float = Field(
        0.5, gt=0, le=1, description="Share of the trace's instances that are ours", json_schema_extra=SIMULATION
    )
    instances: int = Field(6, ge=0, le=64, description="Of a steady trace", json_schema_extra=SIMULATION)
    hours: float = Field(4.0, gt=0, le=168, description="Length of the trace, h", json_schema_extra=SIMULATION)
    responses: int = Field(1024, ge=1, le=16_384, description="Responses of a step", json_schema_extra=SIMULATION)
    longest: int = Field(
        14_000, ge=64, le=131_072, description="Longest response, simulated, tokens", json_schema_extra=SIMULATION
    )
    compare: Literal["rivals", "parts", "both"] = Field(
        "rivals",
        description="Beside it. rivals: co-located, twice the machines, disaggregated; parts: RLBoost without each",
        json_schema_extra=SIMULATION,
    )
    published: bool = Field(
        False, description="Predict every published number too, a minute", json_schema_extra=SIMULATION
    )
    provider: Literal["aws", "gcp", "azure", "none"] = Field(
        "none", description="Whose notice before a machine is taken (AWS 120 s, others 30 s)",
        json_schema_extra=SIMULATION,
    )  # fmt: skip
    # -- both
    micro_batch: int = Field(8, ge=1, le=1024, description="Least responses that are trained on at once")
    seeding: bool = Field(True, description="Reserved machines roll out first", json_schema_extra=PART)
    memory: bool = Field(True, description="The window of a number met before is taken up", json_schema_extra=PART)
    migration: bool = Field(True, description="Lost responses go on from their tokens", json_schema_extra=PART)
    pull: bool = Field(True, description="Weights are pulled while others work", json_schema_extra=PART)
    balance: bool = Field(True, description="Work moves between instances", json_schema_extra=PART)
    cap: bool = Field(True, description="No more instances are held than pay", json_schema_extra=PART)
    zones: int = Field(
        1,
        ge=1,
        le=8,
        description="Zones, each with a price of its own: of a made trace, which then has weather for each, or of the "
        "live run's nodes",
        json_schema_extra=MARKET,
    )
    choice: Choice = Field(
        "first",
        description="Which are held where more are there than pay. first: as they come, as published; price: of cheap "
        "zones first; worth: by how long those of a zone have lasted too",
        json_schema_extra=MARKET,
    )
    price: str = Field(
        TABLE[0].name,
        json_schema_extra=MONEY,
        description="Row of the price table: " + "; ".join(row.name for row in TABLE),
    )
    price_file: str | None = Field(
        None,
        json_schema_extra=MONEY | {"widget": "path", "none": "the built-in table"},
        description="Prices of your own, CSV: name,gpus,on_demand_usd_h,spot_usd_h,on,source; a row that is called as "
        "a zone prices that zone",
    )
    discount: float | None = Field(
        None, ge=0, le=1, description="Of spot over on-demand", json_schema_extra=MONEY | {"none": "as the row says"}
    )

    @property
    def without(self) -> frozenset[str]:
        """Parts of RLBoost that are off."""
        return frozenset(part for part in PARTS if not getattr(self, part))

    @property
    def notice_s(self) -> float:
        return NOTICE_S[self.provider]

    def priced(self) -> Price:
        """The row that machines are paid by. ValueError for a file or row that is not there."""
        table = self._table()
        row = next((p for p in table if p.name == self.price), None)
        if row is None:
            raise ValueError(f"price: there is no row {self.price!r}; there are {'; '.join(p.name for p in table)}")
        if self.discount is not None:
            return row.at_discount(self.discount)
        if math.isnan(row.spot_usd_h):
            raise ValueError(f"discount: the row {row.name!r} has no price of a spot machine: say which discount")
        return row

    def _table(self) -> list[Price]:
        return read(Path(self.price_file).expanduser()) if self.price_file else list(TABLE)

    def zone_prices(self, zones: Sequence[str]) -> tuple[dict[str, float], str]:
        """What an instance of each zone costs over the price of `priced`, and in words where that is from.

        Rows of the price file that are called as zones, and 1 for a zone without one; where no row is, made zones have
        made prices. ValueError for a row without a price of a spot machine.
        """
        named = [zone for zone in zones if zone]
        rows = [row for row in self._table() if row.name in named] if self.price_file else []
        if rows:
            found = dict.fromkeys(named, 1.0) | over(self.priced(), rows, self.discount)
            return found, f"prices of zones over {self.price!r}, by the price file: {_listed(found)}"
        if self.zones > 1:
            found = drawn(named, self.seed)
            how = f"made by seed {self.seed}, within {100 * SPREAD:.0f} %"
            return found, f"prices of zones over {self.price!r}, {how}: {_listed(found)}"
        said = "every zone has the same price: no row of a price file is called as one" if len(named) > 1 else ""
        return dict.fromkeys(named, 1.0), said

    def unused(self, simulated: bool) -> list[str]:
        """Settings that differ from their defaults and mean nothing to this run."""
        fields = type(self).model_fields
        group = "live run" if simulated else "simulation"

        def foreign(name: str) -> bool:
            extra = fields[name].json_schema_extra
            return isinstance(extra, dict) and extra.get("group") == group

        return self.changed(name for name in fields if foreign(name))

    @model_validator(mode="after")
    def _fits(self) -> RLBoostConfig:
        if self.model == "tiny" and self.task == "sums":
            raise ValueError("task: the tiny model cannot read; take letters, or model='smollm2'")
        if self.model == "tiny" and self.engine == "vllm":
            raise ValueError("engine: the tiny model's heads are smaller than vLLM takes; take model='smollm2'")
        if self.price_file is None:
            self.priced()
        if self.kills and not self.nodes:
            raise ValueError("kills: there is no node to kill; give nodes, or 0 kills")
        if self.address and self.kills and self.kill != "actor":
            raise ValueError("kill: nodes of your own cluster are not killed from here, only engines: take 'actor'")
        if self.zones > 1:
            self._has_zones()
        return self

    def _has_zones(self) -> None:
        if self.trace:
            raise ValueError("zones: a trace of a file has its own; leave zones at 1, or name no trace")
        if self.weather == "steady":
            raise ValueError("zones: a steady trace has one; take weather g4dn or p3, or 1 zone")
        if self.address:
            raise ValueError("zones: nodes of your own cluster have no zone here; leave zones at 1")


def _listed(prices: dict[str, float]) -> str:
    return ", ".join(f"{zone} {price:.2f}x" for zone, price in prices.items())


PRESETS = {
    "tiny": RLBoostConfig(backend="sim", responses=64, longest=2_000, hours=1.0),
    "small": RLBoostConfig(backend="sim"),
    "live": RLBoostConfig(backend="cpu", steps=8, tokens=64, lr=1e-2),
    "smollm2": RLBoostConfig(
        backend="cpu", model="smollm2", task="sums", steps=3, prompts=2, group=4, tokens=12, slots=4, lr=2e-5,
        micro_batch=4, kills=1,
    ),
    "paper": RLBoostConfig(backend="sim", hours=12.0, compare="both", published=True),
}  # fmt: skip

BASELINES: dict[str, dict[str, Any]] = {
    "without seeding": {"seeding": False},
    "without migration": {"migration": False},
    "synchronous weights": {"pull": False},
    "without balancing": {"balance": False},
}

"""Prices that a run can be charged by, and the bill: the paper's, and those of workbench.prices.

The paper's two (means over regions of AWS and GCP, September 2025) decide every cost claim it makes: 8 on-demand H100
for 83.79 $/h, 2 preemptible ones for 5.32 $/h.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from workbench import prices, tables
from workbench.prices import Price

APPENDIX = "RLBoost, arXiv 2510.19225 v3, appendix: mean of AWS and GCP regions"
PAPER = Price("H100, the paper's", 1, 83.79 / 8, 5.32 / 2, "2025-09", APPENDIX)
SPREAD = 0.3  # of made prices of zones: so far above or below the row's
TABLE = (PAPER, prices.H100_LOW, prices.H100_HIGH, prices.A100_80, prices.A100_40, prices.V100, prices.T4)


@dataclass(frozen=True)
class Rates:
    """What a run is charged: dollars an hour of one reserved node and of one preemptible instance."""

    reserved_usd_h: float
    instance_usd_h: float
    told: str

    def cost_usd(self, reserved_s: float, instance_s: float) -> float:
        """Of so many node-seconds and instance-seconds."""
        return (self.reserved_usd_h * reserved_s + self.instance_usd_h * instance_s) / 3600


def rates(price: Price, node_gpus: int = 8, instance_gpus: int = 2) -> Rates:
    """Rates of a node and an instance of these GPUs. ValueError where the row has no preemptible price."""
    if math.isnan(price.spot_usd_h):
        raise ValueError(f"{price.name}: no preemptible price is known; set a discount")
    told = f"{price.name}, {price.on}: {price.source}"
    return Rates(node_gpus * price.on_demand_usd_h / price.gpus, instance_gpus * price.spot_usd_h / price.gpus, told)


def over(price: Price, zones: Iterable[Price], discount: float | None = None) -> dict[str, float]:
    """What a preemptible GPU of each zone's row costs over that of `price`, by the row's name.

    A discount is that of every row. ValueError: a row has no preemptible price, or `price` is free and a row is not.
    """
    found = {}
    for row in zones:
        zone = row if discount is None else row.at_discount(discount)
        if math.isnan(zone.spot_usd_h):
            raise ValueError(f"price_file: zone {row.name} has no price of a spot machine: say which discount")
        dear, base = zone.spot_usd_h / zone.gpus, price.spot_usd_h / price.gpus
        if dear and not base:
            raise ValueError(f"price: {price.name} is free, and zone {row.name} is not: take a row with a spot price")
        found[row.name] = dear / base if base else 1.0
    return found


def drawn(zones: Iterable[str], seed: int) -> dict[str, float]:
    """Made prices of zones over a row's: even within SPREAD, the same for the same seed."""
    lot = random.Random(f"prices of zones, {seed}")
    return {zone: lot.uniform(1 - SPREAD, 1 + SPREAD) for zone in zones}


def read(file: Path) -> list[Price]:
    """A table of one's own: CSV with the columns of Price. ValueError names file and line."""
    return tables.read(file, Price, _made)


def _made(row: Mapping[str, str]) -> Price:
    return Price(
        row["name"], int(row["gpus"]), float(row["on_demand_usd_h"] or "nan"), float(row["spot_usd_h"] or "nan"),
        row["on"], row["source"],
    )  # fmt: skip


def write(file: Path, table: Sequence[Price]) -> None:
    """The table as CSV, to be edited and read again."""
    tables.write(file, Price, table)


def age_days(price: Price, today: date) -> float:
    """How old a price is; nan where its date is no more than words."""
    parts = (price.on + "-01-01").split("-")[:3] if price.on.count("-") < 2 else price.on.split("-")
    try:
        return float((today - date(*(int(p) for p in parts))).days)
    except ValueError:
        return math.nan

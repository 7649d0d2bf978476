"""Prices of machines, each with its date and source: to be edited, because they move.

The paper's two prices (means over regions of AWS and GCP, September 2025) decide every cost claim it makes: 8 on-demand
H100 for 83.79 $/h, 2 preemptible ones for 5.32 $/h. What they were a year later is another row, not a correction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from workbench import tables


@dataclass(frozen=True)
class Price:
    """Dollars an hour of `gpus` GPUs on demand and preemptible; nan where it was not found. `on`: ISO date or year."""

    name: str
    gpus: int
    on_demand_usd_h: float
    spot_usd_h: float
    on: str
    source: str

    def __post_init__(self) -> None:
        for what in ("on_demand_usd_h", "spot_usd_h"):
            value = getattr(self, what)
            if value < 0 or math.isinf(value):
                raise ValueError(f"{self.name}: {what} is {value}: a price is 0 or more dollars an hour")
        if self.gpus < 1:
            raise ValueError(f"{self.name}: a machine has 1 GPU or more, not {self.gpus}")
        if not self.on.strip() or not self.source.strip():
            raise ValueError(f"{self.name}: a price needs its date and its source")

    @property
    def discount(self) -> float:
        """Of a preemptible GPU over the same on demand, 0 to 1; below 0 where it is dearer."""
        return 1 - self.spot_usd_h / self.on_demand_usd_h if self.on_demand_usd_h else math.nan

    def at_discount(self, discount: float) -> Price:
        """The same machine with another discount. ValueError outside [0, 1]."""
        if not 0 <= discount <= 1:
            raise ValueError(f"a discount lies between 0 and 1, not at {discount}")
        spot = self.on_demand_usd_h * (1 - discount)
        return replace(self, spot_usd_h=spot, source=f"{self.source}; discount set to {100 * discount:.0f} %")


APPENDIX = "RLBoost, arXiv 2510.19225 v3, appendix: mean of AWS and GCP regions"
CATALOG = "GCP us-central1, accelerator alone, in SkyPilot's catalog"
PAPER = Price("H100, the paper's", 1, 83.79 / 8, 5.32 / 2, "2025-09", APPENDIX)
TABLE = (
    PAPER,
    Price("H100, low end of lists", 1, 1.99, math.nan, "2026", "public price lists, collected 2026"),
    Price("H100, high end of lists", 1, 5.00, math.nan, "2026", "public price lists, collected 2026"),
    Price("A100 80 GB", 1, 3.93, 1.25, "2023", CATALOG),
    Price("A100 40 GB", 1, 2.93, 0.88, "2023", CATALOG),
    Price("V100 16 GB", 1, 2.48, 0.74, "2023", CATALOG),
    Price("T4", 1, 0.35, 0.11, "2023", CATALOG),
)


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

"""What an hour of a GPU costs: rows with date and source, in this one place, to be edited, because they move.

What the same GPU costs a year later is another row, not a correction. Each system that counts money has a table of its
own made of these, and takes a file instead (`workbench.tables`); a paper's own prices stand with the system.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


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


CATALOG = "GCP us-central1, accelerator alone, in SkyPilot's catalog"
A100_80 = Price("A100 80 GB", 1, 3.93, 1.25, "2023", CATALOG)
A100_40 = Price("A100 40 GB", 1, 2.93, 0.88, "2023", CATALOG)
V100 = Price("V100 16 GB", 1, 2.48, 0.74, "2023", CATALOG)
T4 = Price("T4", 1, 0.35, 0.11, "2023", CATALOG)

LISTS = "public price lists, collected 2026"
MIDDLE = f"{LISTS}; middle of what they say"
H100_LOW = Price("H100, low end of lists", 1, 1.99, math.nan, "2026", LISTS)
H100_HIGH = Price("H100, high end of lists", 1, 5.00, math.nan, "2026", LISTS)
H100 = Price("H100", 1, 3.50, math.nan, "2026", f"{MIDDLE} (1.99 to 5.00)")
H200 = Price("H200", 1, 5.75, math.nan, "2026", f"{MIDDLE} (4.50 to 7.00)")

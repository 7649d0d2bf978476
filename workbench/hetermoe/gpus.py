"""GPUs: what their data sheets say, what an hour of them costs, and a cost model that turns both into a profile.

    profile = modelled(MODELS["D1"], ("A40", "V100"), link_gb_s=12.5)

A price has its date and source: those of workbench.prices, or a CSV file of one's own (`read`, `write`).
Unknown is None. Seconds are modelled, from data sheets and the published ratios in calibrated.py, none measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench import prices, tables
from workbench.hetermoe.calibrated import CALIBRATED, Rates
from workbench.hetermoe.plan import PlanError, fingerprint
from workbench.hetermoe.profile import Curve, Device, Memory, Profile, Surface
from workbench.prices import Price

HALF = 2  # bytes of a number in 16 bits
CHECKPOINTED = 3.0  # backward over forward, with activation checkpointing: forward again, and twice its work
HEAD_BACKWARD = 2.0  # the head is not computed again
GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Gpu:
    """One kind: data sheet (tflops: dense, 16 bits, tensor cores) and dollars an hour, None where not found.

    on: date of the price, ISO or a year, empty without one. flash: whether FlashAttention-2 or later runs on it.
    """

    name: str
    tflops: float
    memory_gb: float
    bandwidth_gb_s: float
    flash: bool
    on_demand_usd_h: float | None = None
    spot_usd_h: float | None = None
    on: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if min(self.tflops, self.memory_gb, self.bandwidth_gb_s) <= 0:
            raise PlanError(f"{self.name}: TFLOPS, memory and bandwidth are above 0")
        known = [price for price in (self.on_demand_usd_h, self.spot_usd_h) if price is not None]
        if any(not 0 <= price < float("inf") for price in known):
            raise PlanError(f"{self.name}: a price is 0 or more dollars an hour, or empty where it is unknown")
        if known and not (self.on.strip() and self.source.strip()):
            raise PlanError(f"{self.name}: a price needs its date and its source")

    def usd_h(self, spot: bool = False) -> float:
        """Dollars an hour. PlanError where that price is not known."""
        price = self.spot_usd_h if spot else self.on_demand_usd_h
        if price is None:
            kind = "preemptible" if spot else "on-demand"
            raise PlanError(f"{self.name}: no {kind} price is known: set one, with its date and source")
        return price

    def priced(self, on_demand_usd_h: float | None, spot_usd_h: float | None, on: str, source: str) -> Gpu:
        """The same GPU at another price."""
        return replace(self, on_demand_usd_h=on_demand_usd_h, spot_usd_h=spot_usd_h, on=on, source=source)

    def listed(self, price: Price) -> Gpu:
        """The same GPU at a dated price of one of it."""
        spot = None if math.isnan(price.spot_usd_h) else price.spot_usd_h
        return self.priced(price.on_demand_usd_h, spot, price.on, price.source)


TABLE = (
    Gpu("V100", 125.0, 16, 900, False).listed(prices.V100),
    Gpu("T4", 65.0, 16, 320, False).listed(prices.T4),
    Gpu("A40", 149.7, 48, 696, True),
    Gpu("L40S", 362.0, 48, 864, True),
    Gpu("A100 40 GB", 312.0, 40, 1555, True).listed(prices.A100_40),
    Gpu("A100 80 GB", 312.0, 80, 2039, True).listed(prices.A100_80),
    Gpu("H100", 989.0, 80, 3350, True).listed(prices.H100),
    Gpu("H200", 989.0, 141, 4800, True).listed(prices.H200),
)


def gpu(name: str, table: Iterable[Gpu] = TABLE) -> Gpu:
    """Row of that name. PlanError with the names there are."""
    rows = {row.name: row for row in table}
    if name not in rows:
        raise PlanError(f"no GPU {name!r} in the table, there are {', '.join(rows)}: add a row")
    return rows[name]


def read(file: Path) -> list[Gpu]:
    """A table of one's own: CSV with the columns of Gpu, empty where unknown. PlanError names file and line."""
    return tables.read(file, Gpu, _made, PlanError)


def _made(row: Mapping[str, str]) -> Gpu:
    usd_h = [float(row[name]) if row[name] else None for name in ("on_demand_usd_h", "spot_usd_h")]
    if row["flash"] not in {"True", "False"}:
        raise PlanError(f"flash is True or False, not {row['flash']!r}")
    return Gpu(
        row["name"], float(row["tflops"]), float(row["memory_gb"]), float(row["bandwidth_gb_s"]),
        row["flash"] == "True", usd_h[0], usd_h[1], row["on"], row["source"],
    )  # fmt: skip


def write(file: Path, table: Sequence[Gpu]) -> None:
    """The table as CSV, to be edited and read again."""
    tables.write(file, Gpu, table)


@dataclass(frozen=True)
class Shape:
    """A mixture of experts. An expert has 10.5 hidden^2 weights: three matrices of hidden by 3.5 hidden, as Mixtral's.

    That follows from the published parameter counts. Attention: 2.5 hidden^2 weights, keys and values shared by four.
    """

    name: str
    layers: int
    hidden: int
    experts: int
    top_k: int = 2

    @property
    def key(self) -> str:
        """Fingerprint of the model."""
        return fingerprint(name=self.name, layers=self.layers, hidden=self.hidden, experts=self.experts, k=self.top_k)

    @property
    def expert_weights(self) -> float:
        """Numbers in one expert."""
        return 10.5 * self.hidden**2

    @property
    def attention_weights(self) -> float:
        """Numbers in the attention of a layer."""
        return 2.5 * self.hidden**2

    @property
    def billions(self) -> float:
        """Parameters without embeddings, in thousands of millions."""
        return self.layers * (self.experts * self.expert_weights + self.attention_weights) / 1e9


MODELS = {
    shape.name: shape
    for shape in (
        Shape("W1", 4, 2048, 12), Shape("W2", 4, 2048, 24),
        Shape("D1", 8, 1024, 24), Shape("D2", 6, 1024, 18), Shape("D3", 8, 1024, 40),
        Shape("Mixtral layer", 1, 4096, 8),
    )
}  # fmt: skip


def attention_s(row: Gpu, shape: Shape, length: float, rates: Rates = CALIBRATED) -> float:
    """Seconds of a layer's attention side for one token: projections, the core over `length`, and what moves memory."""
    projections = 2 * shape.attention_weights / _gemm(row, shape.hidden, rates)
    core = 2 * length * shape.hidden / (rates.flash[row.name] * TERA)  # causal: half of 4 length hidden
    bandwidth = row.bandwidth_gb_s * GB * (rates.t4_bandwidth if row.name == "T4" else 1.0)
    return projections + core + rates.elementwise * shape.hidden / bandwidth


def expert_s(row: Gpu, shape: Shape, rates: Rates = CALIBRATED) -> float:
    """Seconds of one expert for one token."""
    return 2 * shape.expert_weights / _gemm(row, shape.hidden, rates)


def _gemm(row: Gpu, hidden: int, rates: Rates) -> float:
    """Operations a second in matrix products as wide as the model; narrow ones reach less."""
    return rates.gemm_tflops(row.name, row.tflops) * TERA / (1 + rates.narrow / hidden)


def modelled(
    shape: Shape, names: Sequence[str], link_gb_s: float, table: Iterable[Gpu] = TABLE, rates: Rates = CALIBRATED
) -> Profile:
    """Profile of a model on kinds of GPU. link_gb_s: of one GPU's share of the network, either direction."""
    table = list(table)
    missing = [name for name in names if name not in rates.flash]
    if missing:
        raise PlanError(f"no attention rate for {', '.join(missing)}: measure a profile, or add one to calibrated.py")
    if not link_gb_s > 0:
        raise PlanError(f"a link carries more than 0 GB a second, not {link_gb_s}")
    devices = tuple(_device(gpu(name, table), shape, rates) for name in names)
    first, last = (rates.message_s + size / (link_gb_s * GB) for size in (1.0, GB))
    message = Curve(((1.0, first), (GB, last)))
    numbers = shape.layers * shape.attention_weights + rates.vocabulary * shape.hidden
    memory = Memory(
        expert_weights=HALF * shape.expert_weights,
        shared_weights=HALF * numbers,
        states=8.0,
        activation=HALF * shape.hidden * (shape.layers + 16),  # checkpoints, and one layer at work
        expert_activation=HALF * shape.hidden * (1 + 8 / shape.layers),
    )
    note = "data sheets and published ratios, fp16 with activation checkpointing"
    return Profile(shape.key, devices, message, HALF * shape.hidden, memory, "modelled", note)


def _device(row: Gpu, shape: Shape, rates: Rates) -> Device:
    lengths, tokens = (1024, 65536), 1024

    def line(token_s: float) -> Curve:
        return Curve(((tokens, tokens * token_s),))

    surface = Surface(lengths, tuple(line(attention_s(row, shape, length, rates)) for length in lengths))
    head_s = 2 * rates.vocabulary * shape.hidden / _gemm(row, shape.hidden, rates)
    expert = line(expert_s(row, shape, rates))
    return Device(
        row.name, surface, expert, line(head_s), row.memory_gb * 2**30, CHECKPOINTED, CHECKPOINTED, HEAD_BACKWARD
    )

"""Foundry's archive as what it costs to join RLBoost: throughput and dollars by the way an engine starts.

    found = join.measure(wb.run("foundry", model="tiny", compare="most", ...))      measured starts
    found = join.measure(wb.run("foundry", preset="paper"))                         modelled ones

An instance that comes boots, starts its engine, pulls the weights and works (RLBoost, arXiv 2510.19225, section 4.3);
it is paid from the first of these. Foundry (arXiv 2604.06664) makes the second short. The seconds of a start, from the
beginning of the process to the first token, are those of Foundry's own run; what they do to training is RLBoost's
simulator over a trace of spot instances, hence modelled whatever the start was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Literal

from workbench.foundry.result import SIMULATED
from workbench.prices import Price
from workbench.rlboost.prices import PAPER, rates
from workbench.rlboost.setting import Setting, constant, throughput, usd_per_million
from workbench.rlboost.sim import simulate
from workbench.rlboost.traces import G4DN, Trace, Weather, made

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.foundry.result import FoundryResult

Badge = Literal["measured", "modelled", "assumed"]
NONE, TWIN, NEVER, ALONE = "no start at all", "a twin of the quickest", "never ready", "reserved alone"
CURVE_S = (60.0, 180.0, 600.0, 1800.0)  # of starts that nobody measured, for the shape


@dataclass(frozen=True)
class Start:
    """A way to start an engine: seconds from the beginning of its process to its first token."""

    way: str
    seconds: float
    badge: Badge


@dataclass(frozen=True)
class Row:
    """Training over one trace with one way to start. Modelled; `start_badge` says what the start is."""

    way: str
    start_s: float
    start_badge: Badge
    seed: int
    tok_s: float
    usd_per_million: float
    instances: float  # held, mean over time
    steps: int


@dataclass(frozen=True)
class Join:
    """Ways to start, each over the same traces; and starts of round numbers, for the curve."""

    rows: tuple[Row, ...]
    starts: tuple[Start, ...]
    boot_s: float
    joins: float  # instances that came, mean of a trace
    hours: float
    source: str  # what started
    told: str  # whose prices

    def of(self, way: str) -> list[Row]:
        """A row for each trace."""
        return [row for row in self.rows if row.way == way]

    def ratio(self, way: str, field: Literal["tok_s", "usd_per_million"] = "tok_s") -> float:
        """Over an instance without any start, on the same trace; mean over traces."""
        pairs = zip(self.of(way), self.of(NONE), strict=True)
        return fmean(getattr(row, field) / getattr(base, field) for row, base in pairs)

    def per_minute(self, field: Literal["tok_s", "usd_per_million"] = "tok_s") -> float:
        """Share of tokens lost, or of dollars a token added, for each minute that a start takes.

        Least squares through no start, over round numbers up to ten minutes. A single short start says less: the
        simulator's steps fall otherwise with every second, by one or two tenths of a per cent either way.
        """
        sign = -1 if field == "tok_s" else 1
        points = [(s / 60, sign * (self.ratio(named(s), field) - 1)) for s in CURVE_S if s <= 600]
        return sum(x * y for x, y in points) / sum(x * x for x, _ in points)

    @property
    def controls_hold(self) -> bool:
        """An equal start gives equal numbers, under any name; a start without an end gives those of nobody coming."""
        first, (twin,) = self.of(self.starts[0].way)[0], self.of(TWIN)
        (never,), (alone,) = self.of(NEVER), self.of(ALONE)
        return replace(twin, way=first.way) == first and abs(never.tok_s / alone.tok_s - 1) < 1e-9

    def to_frame(self) -> pd.DataFrame:
        """A row for each way and trace."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def sentence(self) -> str:
        """What was found."""
        each, dearer = 100 * self.per_minute(), 100 * self.per_minute("usd_per_million")
        said = [f"{s.way} {s.seconds:.1f} s ({s.badge}), {each * s.seconds / 60:.2f} %" for s in self.starts]
        return (
            f"With {self.joins:.0f} instances that come in {self.hours:g} hours, a minute of a start costs "
            f"{each:.2f} % of the tokens and makes a token {dearer:.2f} % dearer (modelled). That is, of the tokens: "
            f"{'; '.join(said)}."
        )

    def figure(self) -> go.Figure:
        """Tokens and dollars over the seconds of a start."""
        from workbench.combine.figures import joins

        return joins(self)


def named(seconds: float) -> str:
    """What a start of a round number is called."""
    return f"{seconds:g} s"


def starts(result: FoundryResult) -> tuple[Start, ...]:
    """Ways of a Foundry run, quickest first.

    Measured: until the first batch size had run once, imports and weights included. Modelled: until the first request
    can be taken, without its phase `weights`, for RLBoost's instances pull theirs.
    """
    if result.phases:
        found = [(way, sum(s for name, s in phases if name != "weights")) for way, phases in result.phases.items()]
        return tuple(Start(SIMULATED[way], s, "modelled") for way, s in sorted(found, key=lambda each: each[1]))
    ways = {way: _first_s(result, way) for way in result.ways()}
    return tuple(Start(result.named(w), s, "measured") for w, s in sorted(ways.items(), key=lambda each: each[1]))


def _first_s(result: FoundryResult, way: str) -> float:
    """Seconds to the first size of a way, median over rounds."""
    rounds: dict[int, float] = {}
    for row in result.rows:
        if row.way == way:
            rounds[row.round] = min(row.ready_s, rounds.get(row.round, row.ready_s))
    return float(median(rounds.values()))


def measure(
    result: FoundryResult,
    hours: float = 4.0,
    seeds: Sequence[int] = (0, 1, 2),
    weather: Weather = G4DN,
    share: float = 0.5,
    boot_s: float = 60.0,
    setting: Setting | None = None,
    price: Price = PAPER,
) -> Join:
    """Simulate training over made traces with every way of `result` to start, and with starts of round numbers.

    boot_s: from taking an instance to the start of its process, assumed. share: of the trace's instances that are ours.
    """
    setting = setting or Setting()
    ways = starts(result)
    asked = [
        Start(NONE, 0.0, "assumed"), *ways, *(Start(named(s), s, "assumed") for s in CURVE_S),
    ]  # fmt: skip
    traces = {seed: made(weather, hours, seed).sample(share, seed) for seed in seeds}
    rows = [over(start, setting, traces[seed], seed, boot_s, price) for start in asked for seed in seeds]
    first = seeds[0]  # one trace is enough for the controls
    controls = [Start(TWIN, ways[0].seconds, ways[0].badge), Start(NEVER, 3600 * hours * 10, "assumed")]
    rows += [over(start, setting, traces[first], first, boot_s, price) for start in controls]
    alone = replace(setting, system="co-located")
    rows.append(over(Start(ALONE, 0.0, "assumed"), alone, constant(0, hours), first, 0.0, price))
    came = fmean(sum(e.kind == "add" for e in trace.events) for trace in traces.values())
    depth = f"{result.config.depth} layer{'s' if result.config.depth > 1 else ''}"
    source = result.config.sim_model if result.phases else f"model {result.config.model}, {depth}"
    return Join(tuple(rows), ways, boot_s, came, hours, source, rates(price).told)


def over(start: Start, setting: Setting, trace: Trace, seed: int, boot_s: float, price: Price) -> Row:
    """One way over one trace. ValueError: not one step ends within it."""
    steps = list(simulate(replace(setting, boot_s=boot_s + start.seconds, seed=seed), trace))
    if not steps:
        raise ValueError(f"hours: not one step of training ends within {trace.end_s / 3600:.3g} h; give the trace more")
    paid = rates(price)
    return Row(
        start.way, start.seconds, start.badge, seed, throughput(steps), usd_per_million(steps, paid),
        sum(r.instance_s for r in steps) / sum(r.seconds for r in steps), len(steps),
    )  # fmt: skip

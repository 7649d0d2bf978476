"""The paper's numbers (arXiv 2510.19225, section 6 and appendix) against the simulator, each with its error.

`fitted` numbers went into the constants of rates.py; every other one is predicted. What the paper does not say is
chosen here and named: which trace was sampled, and how its recovery scenario went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import mean, quantiles

from workbench.rlboost.prices import PAPER, rates
from workbench.rlboost.rates import MODELS
from workbench.rlboost.setting import Setting, StepRow, constant, throughput, usd_per_million
from workbench.rlboost.sim import simulate
from workbench.rlboost.traces import G4DN, Event, Trace, made

SETTLED = 8  # steps until the window has settled from its start
SEEN = 6
Tick = Callable[[float], None]


@dataclass(frozen=True)
class Published:
    """A number of the paper and ours. `value` is predicted unless `fitted`; `note` says what was assumed."""

    what: str
    paper: float
    value: float
    unit: str
    source: str
    fitted: bool = False
    note: str = ""

    @property
    def error(self) -> float:
        """Relative, of what the number stands for: x of 1.37 x, per cent points over 100 for changes."""
        if self.unit == "x":
            return self.value / self.paper - 1
        return (self.value - self.paper) / 100


def published(tick: Tick | None = None) -> Iterator[Published]:
    """Every claim in turn. `tick(share)` is called between simulations and may raise to end it."""
    tick = tick or (lambda _: None)
    base = _settled(Setting("co-located"), constant(0))
    for done, part in enumerate((_static, _kills, _parts, _discount, _segments)):
        tick(done / 5)
        yield from part(base)
    tick(1.0)


def _settled(setting: Setting, trace: Trace) -> list[StepRow]:
    return list(simulate(setting, trace, SETTLED + SEEN))[SETTLED:]


def _static(base: list[StepRow]) -> Iterator[Published]:
    """Fixed numbers of instances, 14B: figure 11."""
    at = {n: _settled(Setting(without=frozenset({"cap"})), constant(n)) for n in (1, 6)}
    speed = {n: throughput(rows) / throughput(base) for n, rows in at.items()}
    cost = {n: usd_per_million(rows) for n, rows in at.items()}
    yield Published("throughput, 1 instance", 1.37, speed[1], "x", "figure 11")
    yield Published("throughput, 6 instances", 2.25, speed[6], "x", "figure 11", fitted=True)
    saved = 100 * (cost[1] / usd_per_million(base) - 1)
    yield Published("cost per token, 1 instance", -22.0, saved, "%", "figure 11")
    yield Published("cost per token, from 1 to 6", -21.0, 100 * (cost[6] / cost[1] - 1), "%", "figure 11")


def _kills(_: list[StepRow]) -> Iterator[Published]:
    """Three of six die in the middle of a step: what going on with the tokens saves of the time that is lost."""
    calm = list(simulate(Setting(), constant(6), SETTLED + 1))[SETTLED]
    for after_s, paper in ((100.0, -33.0), (200.0, -76.0)):
        events = [*constant(6).events]
        events += [Event(calm.start_s + after_s, "remove", f"i{n}") for n in (1, 2, 3)]
        trace = Trace(tuple(events), constant(6).end_s, "three of six die")
        lost = {}
        for name, without in (("migrate", frozenset[str]()), ("recompute", frozenset({"migration"}))):
            row = list(simulate(Setting(without=without), trace, SETTLED + 1))[SETTLED]
            lost[name] = row.seconds - calm.seconds
        saved = 100 * (lost["migrate"] / lost["recompute"] - 1) if lost["recompute"] > 0 else 0.0
        note = f"{lost['migrate']:.0f} s lost against {lost['recompute']:.0f} s"
        yield Published(f"time lost, 3 of 6 killed at {after_s:.0f} s", paper, saved, "%", "figure 13", note=note)


def recovery(hours: float = 6.0) -> Trace:
    """Our reading of the paper's recovery: six, three die, one comes back every half hour; and again."""
    events = [Event(0.0, "add", f"i{n}") for n in range(1, 7)]
    number = 6
    for round_s in range(3600, int(hours * 3600), 3 * 3600):
        there = sorted(
            {e.instance for e in events if e.kind == "add"} - {e.instance for e in events if e.kind == "remove"}
        )
        events += [Event(float(round_s), "remove", name) for name in there[:3]]
        for back in range(3):
            number += 1
            events.append(Event(round_s + 1800.0 * (back + 1), "add", f"i{number}"))
    return Trace(tuple(sorted(events, key=lambda e: e.time_s)), hours * 3600, "three of six die and come back, twice")


def _parts(_: list[StepRow]) -> Iterator[Published]:
    """What seeding and the window's memory are worth while instances come back."""
    trace, note = recovery(), "the scenario is not described; ours: three of six die, one comes back every half hour"
    speed = {}
    for name, without in (
        ("all", frozenset[str]()),
        ("seeding", frozenset({"seeding"})),
        ("memory", frozenset({"memory"})),
    ):
        rows = list(simulate(Setting(without=without), trace))
        speed[name] = throughput(rows[2:])
    lost, gained = 100 * (speed["seeding"] / speed["all"] - 1), 100 * (speed["all"] / speed["memory"] - 1)
    yield Published("throughput without seeding", -19.0, lost, "%", "section 6.3", note=note)
    yield Published("throughput by the memory", 6.0, gained, "%", "section 6.3", note=note)


def break_even(rows: list[StepRow], base: list[StepRow]) -> float:
    """The discount of instances at which a token costs what it costs co-located; 0 where it never costs less."""
    low, high = 0.0, 1.0
    for _ in range(40):
        at = (low + high) / 2
        paid = rates(PAPER.at_discount(at))
        dearer = usd_per_million(rows, paid) > usd_per_million(base, paid)
        low, high = (at, high) if dearer else (low, at)
    return (low + high) / 2


def _discount(base: list[StepRow]) -> Iterator[Published]:
    found = 100 * break_even(_settled(Setting(), constant(6)), base)
    yield Published("discount at which it breaks even", 30.0, found, "%", "appendix", note="six instances")


def segments(model: str, samples: int = 4, hours: float = 2.0) -> list[float]:
    """Throughput over co-located on samples of half of the instances of made traces: one number a sample."""
    alone = throughput(_settled(Setting("co-located", model), constant(0)))
    found = []
    for seed in range(samples):
        trace = made(G4DN, hours + 1.0, seed).sample(0.5, seed).part(1800.0, 1800.0 + hours * 3600)
        rows = list(simulate(replace(Setting(), model=model, seed=seed), trace))
        found.append(throughput(rows[1:]) / alone)
    return found


def _segments(_: list[StepRow]) -> Iterator[Published]:
    """Means over the paper's three segments; which sample it took is unknown, so ours has a spread."""
    for model, paper in (("Qwen3-8B", 1.66), ("Qwen3-14B", 1.97), ("Qwen3-32B", 1.51)):
        values = segments(model)
        tenths = quantiles(values, n=10)
        low, high = tenths[0], tenths[-1]
        note = (
            f"{low:.2f} to {high:.2f} over samples of made traces; {MODELS[model].local_engines // 4} reserved node(s)"
        )
        yield Published(f"throughput, {model}, mean of segments", paper, mean(values), "x", "figure 8", note=note)

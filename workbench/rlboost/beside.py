"""The paper's numbers beside a run's own: ours only where the run's setting is the one that a number is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.rlboost.prices import PAPER
from workbench.system import Claim

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from workbench.published import Published
    from workbench.rlboost.config import RLBoostConfig
    from workbench.rlboost.result import RLBoostResult

FASTER = {"Qwen3-8B": 1.66, "Qwen3-14B": 1.97, "Qwen3-32B": 1.51}  # figure 8, means of three segments
CHEAPER = {"Qwen3-8B": 34.0, "Qwen3-14B": 49.0, "Qwen3-32B": 28.0}  # section 6.2
DEARER = {"Qwen3-8B": 62.0, "Qwen3-14B": 75.0, "Qwen3-32B": 45.0}  # Disagg.BAL's token, section 6.2
STATIC = {1: 1.37, 6: 2.25}  # figure 11, 14B
# claims are called as in claims.py, so that one table holds each once
TRACE = "a made trace of this run's length; the paper samples one and shows means of three segments of two hours"


def beside(result: RLBoostResult) -> list[Claim]:
    """All that were predicted in this run, else the main ones, with this run's numbers where it is of their setting."""
    if result.published:
        return result.published
    config, model = result.config, result.config.sim_model
    badge = result.badge
    paper = not result.measured and papers(config)
    traced = paper and (config.trace is not None or config.weather == "g4dn")
    money = traced and config.price == PAPER.name and config.discount is None and config.price_file is None
    s = result.summary()
    why = "" if paper else "another setting than the paper's: its lengths, responses and whole RLBoost are simulated"
    if result.measured:
        why = "a live run of another model on this machine; preset paper speaks to it"

    def claim(what: str, number: float, ours: float | None, unit: str, source: str, note: str = "") -> Claim:
        said = note if ours is not None else why or "another trace or price than this is about"
        return Claim(what=what, paper=number, ours=ours, unit=unit, badge=badge, source=source, note=said)

    dearer = _dearer(result) if money else None
    found = [
        claim(f"throughput, {model}, mean of segments", FASTER[model], s["throughput_ratio"] if traced else None, "x",
              "figure 8", TRACE),
        claim(f"tokens for a dollar, {model}, mean of segments", CHEAPER[model],
              100 * (s["cost_efficiency_ratio"] - 1) if money else None, "%", "section 6.2", TRACE),
        claim(f"cost per token of Disagg.BAL, {model}", DEARER[model], dearer, "%", "section 6.2", TRACE),
        claim("discount at which it breaks even", 30.0, _even(result) if money else None, "%", "appendix",
              "over this run's steps; the paper's is over three models"),
        claim("throughput without seeding", -19.0, _part(result, "no seeding") if traced else None, "%", "section 6.3",
              "on this trace; the paper's is over a recovery that it does not describe"),
        claim("throughput by the memory", 6.0, _gain(result, "no memory") if traced else None, "%",
              "section 6.3", "on this trace; the paper's is over a recovery that it does not describe"),
    ]  # fmt: skip
    steady = paper and config.weather == "steady" and config.trace is None and model == "Qwen3-14B"
    for number, ratio in STATIC.items():
        ours = s["throughput_ratio"] if steady and config.instances == number else None
        what = f"throughput, {number} instance{'s' if number > 1 else ''}"
        found.append(claim(what, ratio, ours, "x", "figure 11", "with the first steps, in which the window settles"))
    return found


def papers(config: RLBoostConfig) -> bool:
    """Whether a simulated config is of the paper's responses and lengths, with RLBoost's parts and one zone."""
    same = config.responses == 1024 and config.longest == 14_000 and not config.without
    return same and config.choice == "first" and config.zones == 1


def _dearer(result: RLBoostResult) -> float | None:
    """Per cent that a token of Disagg.BAL costs more."""
    if "disaggregated" not in result.ways():
        return None
    return 100 * (result.usd_per_million("disaggregated") / result.usd_per_million("rlboost") - 1)


def _part(result: RLBoostResult, arm: str) -> float | None:
    """Per cent of throughput that is gained (below 0: lost) by leaving a part out."""
    return 100 * (result.throughput(arm) / result.throughput("rlboost") - 1) if arm in result.ways() else None


def _gain(result: RLBoostResult, arm: str) -> float | None:
    """Per cent of throughput that a part brings."""
    return 100 * (result.throughput("rlboost") / result.throughput(arm) - 1) if arm in result.ways() else None


def _even(result: RLBoostResult) -> float | None:
    """The discount, %, at which a token costs what it costs co-located; None where that is no price."""
    ours, alone = result.of("rlboost"), result.of("co-located")
    tokens, base = sum(r.tokens for r in ours), sum(r.tokens for r in alone)
    reserved = result.paid.reserved_usd_h * (
        sum(r.reserved_s for r in alone) / base - sum(r.reserved_s for r in ours) / tokens
    )
    discount = result.paid.discount
    dear = result.paid.instance_usd_h / (1 - discount) if discount < 1 else 0.0  # of an instance on demand
    spent = dear * sum(r.instance_s * r.price for r in ours) / tokens
    return 100 * (1 - reserved / spent) if spent > 0 and reserved > 0 else None


def table(rows: Iterable[Published]) -> pd.DataFrame:
    """Published numbers as a table: paper and ours in `unit`; error relative, of per cent in points, both in %."""
    import pandas as pd

    return pd.DataFrame([row.cells() for row in rows])

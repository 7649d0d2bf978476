"""The simulated run: every way on a virtual clock, lengths, ratios, published numbers, and what is done by hand."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from workbench.hetermoe.arms import Arm, arms, chosen
from workbench.hetermoe.config import HeterMoEConfig
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.ratio import AtLength, crossovers, lengths, mixes
from workbench.hetermoe.result import Beside, HeterMoEResult, Moved, Ratio, Row
from workbench.hetermoe.setting import Setting, Tick, placed, simulated
from workbench.pump import Clock, Stopped
from workbench.system import Event, Note, Point, Progress

Say = Callable[[Event], None]
RATIOS = 8  # expert ranks, at most, of the ratio's curve; more where the fleet has more
MEASURED = ("zebra", "plain", "ep", "deepspeed", "distep")
CROSSED = ("ep", "distep", "ideal")


def run(
    config: HeterMoEConfig, say: Say, stop: threading.Event, asked: queue.SimpleQueue[str]
) -> HeterMoEResult:  # fmt: skip
    """All of it. PlanError: what cannot be carried out, with the way out."""
    from workbench.hetermoe.hand import by_hand
    from workbench.hetermoe.work import stamped

    def tick() -> None:
        if stop.is_set():
            raise Stopped("the run was cancelled")

    clock, setting = Clock(), simulated(config)
    say(Note(f"prices: {setting.told}"))
    whole = 0.5 if config.published else 1.0
    say(Progress(0.02, 1, "searching where experts go"))
    found = ways(config, setting, tick)
    zebra = found["zebra"]
    picture = drawn(zebra, "modelled", zebra.line.spans, zebra.line.step_s, zebra.line.utilisation)
    for span in picture.spans():
        say(span)
    facts = facts_of(setting, found, say, tick, (0.2 * whole, 0.95 * whole))
    facts |= {"rows": [row_of(name, arm) for name, arm in found.items()], "drawn": [picture]}
    if config.published:
        facts["published"] = _published(say, tick)
    hand: list[tuple[Moved, Arm]] = []
    if config.hand_s:
        say(Progress(0.98, 1, "over to you"))
        hand = by_hand(config, setting, zebra, say, tick, asked, (picture.step_s, picture.lanes))
    if hand:
        arm = hand[-1][1]
        facts["hand"] = [one for one, _ in hand]
        facts["drawn"].append(drawn(arm, "modelled", arm.line.spans, arm.line.step_s, arm.line.utilisation))
        facts["rows"].append(row_of("hand", arm))
    say(Progress(1, 1, "done"))
    return stamped(config, "sim", clock(), facts)


def ways(config: HeterMoEConfig, setting: Setting, tick: Tick | None = None) -> dict[str, Arm]:
    """Every way that fits, zebra as the config places its experts. PlanError where zebra does not fit."""
    zebra = placed(config, setting, tick)
    others = arms(
        setting.model, setting.profile, setting.fleet, setting.load, setting.micro_batches, setting.ep_messages,
        own=zebra.plan,
    )  # fmt: skip
    return {"zebra": zebra} | {name: arm for name, arm in others.items() if name != "zebra"}


def measurable(config: HeterMoEConfig, setting: Setting) -> dict[str, Arm]:
    """Ways to measure; EP in as many micro-batches as there are sequences for. DeepSpeed-MoE, which overlaps nothing,
    has its batch whole, and is predicted as that.
    """
    found = ways(config, setting)
    whole = arms(setting.model, setting.profile, setting.fleet, setting.load, 1, own=setting.plain).get("ep")
    if whole is not None:
        found["deepspeed"] = replace(whole, name="deepspeed")
        if (config.attention + config.expert) * found["ep"].plan.micro_batches > config.sequences:
            found["ep"] = whole
    if "plain" in found and found["plain"].plan == found["zebra"].plan:
        del found["plain"]
    return {way: found[way] for way in MEASURED if way in found}


def row_of(name: str, arm: Arm) -> Row:
    """A simulated step as a row."""
    moved = sum(arm.plan.offload)
    return Row(
        way=name, length=arm.load.length, seconds=arm.line.step_s, tokens_per_s=arm.tokens_per_s,
        predicted_tokens_per_s=arm.tokens_per_s, attention=arm.plan.attention, expert=arm.plan.expert,
        micro_batches=arm.plan.micro_batches, offloaded=moved, badge="modelled",
    )  # fmt: skip


def facts_of(
    setting: Setting, found: Mapping[str, Arm], say: Say, tick: Tick,
    share: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    """Lengths, crossovers, ratios and the plan, for a result of either kind; progress within `share`."""
    rows: list[AtLength] = []
    low, high = share
    over = setting.lengths
    for at, length in enumerate(over):
        say(Progress(low + (high - low) * 0.6 * at / len(over), 1, f"sequences of {length:,} tokens"))
        rows += lengths(
            setting.model, setting.profile, setting.fleet, setting.load, (length,), setting.micro_batches,
            setting.ep_messages, tick=tick,
        )  # fmt: skip
        for arm in ("zebra", "ep"):
            if rate := rows[-1].tokens_per_s[arm]:
                say(Point(f"{arm}: throughput by length (tokens/s)", length, rate))
    zebra = found["zebra"]
    return {
        "lengths": [(row.length, dict(row.tokens_per_s)) for row in rows],
        "crossings": {arm: crossovers(rows, "zebra", arm) for arm in CROSSED},
        "ratios": ratios(setting, say, tick, (low + 0.6 * (high - low), high)),
        "offload": list(zebra.plan.offload),
        "chosen": chosen({n: arm for n, arm in found.items() if n in {"zebra", "plain", "ep", "distep"}}).name,
        "kinds": (setting.fleet.new, setting.fleet.old),
        "prices": setting.told,
        "plan": zebra.plan.to_json(),
        "profile": setting.profile.to_json(),
    }


def ratios(setting: Setting, say: Say, tick: Tick, share: tuple[float, float]) -> list[Ratio]:
    """The fleet's attention ranks with 0, 1, 2, ... expert ranks; 0 is expert parallelism on the new kind alone."""
    fleet, rows = setting.fleet, []
    wanted = range(max(RATIOS if setting.simulated else 4, fleet.olds) + 1)
    for expert in wanted:
        say(Progress(share[0] + (share[1] - share[0]) * expert / len(wanted), 1, f"{fleet.news} to {expert} ranks"))
        (mix,) = mixes(
            setting.model, setting.profile, replace(fleet, olds=max(1, expert)), setting.load,
            (setting.micro_batches,), ratios=[(fleet.news, expert)], ep_messages=setting.ep_messages, tick=tick,
        )  # fmt: skip
        moved = sum(mix.plan.offload) if mix.plan else 0
        rows.append(
            Ratio(
                attention=fleet.news, expert=expert, tokens_per_s=mix.tokens_per_s, offloaded=moved,
                usd_per_million=mix.usd_per_million, why=mix.why,
            )
        )  # fmt: skip
    return rows


def _published(say: Say, tick: Tick) -> list[Beside]:
    """Every published number, fitted and predicted."""
    from workbench.hetermoe import claims

    def tell(share: float) -> None:
        tick()
        say(Progress(0.5 + 0.45 * share, 1, "published numbers"))

    return [
        Beside(
            what=row.what, paper=row.paper, ours=row.value, unit=row.unit, source=row.source, fitted=row.fitted,
            note=row.note,
        )
        for row in claims.everything(tell)
    ]  # fmt: skip

"""From a config to what the planner needs: model, profile, fleet, load, and the plan that is asked for.

    setting = simulated(config)                       GPUs by data sheet
    setting = of_profile(config, profile, model)      devices that were measured
    arm = placed(config, setting)                     zebra with the experts where the config has them

Numbers are modelled from the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from workbench import lanes
from workbench.hetermoe.arms import Arm, Fleet
from workbench.hetermoe.baselines import Model
from workbench.hetermoe.calibrated import CALIBRATED
from workbench.hetermoe.config import HeterMoEConfig
from workbench.hetermoe.costs import resolve
from workbench.hetermoe.gpus import MODELS, TABLE, Gpu, Shape, gpu, modelled, read
from workbench.hetermoe.greedy import greedy
from workbench.hetermoe.pace import longer, paced, paced_profile
from workbench.hetermoe.plan import Plan, PlanError, zebra
from workbench.hetermoe.profile import Load, Profile, check_memory
from workbench.hetermoe.search import search
from workbench.hetermoe.sim import run

Tick = Callable[[], None]
NEW, OLD = "new", "old"  # kinds of a measured run
LENGTHS = {True: (1024, 2048, 4096, 8192, 12_288, 20_480, 32_768), False: (256, 512, 1024, 2048, 4096)}  # simulated?


@dataclass(frozen=True)
class Setting:
    """What is planned for. told: prices in words, with date and source. ep_messages: as in arms.py."""

    model: Model
    profile: Profile
    fleet: Fleet
    load: Load
    micro_batches: int
    told: str
    ep_messages: float = 1.0
    simulated: bool = True

    @property
    def plain(self) -> Plan:
        """Zebra without offload."""
        model, fleet = self.model, self.fleet
        return zebra(
            fleet.news, fleet.olds, self.micro_batches, model.layers, model.experts, model.top_k, model.key
        )  # fmt: skip

    @property
    def lengths(self) -> tuple[int, ...]:
        """At which arms are compared."""
        return tuple(sorted({*LENGTHS[self.simulated], self.load.length}))

    def at(self, length: int) -> Setting:
        """The same for sequences of another length."""
        return replace(self, load=replace(self.load, length=length))


def simulated(config: HeterMoEConfig) -> Setting:
    """Of a simulated config. PlanError, OSError: a file or row that cannot be used."""
    table = read(Path(config.gpu_file).expanduser()) if config.gpu_file else list(TABLE)
    if config.model == "own":
        shape = Shape("own", config.layers, config.hidden, config.experts, config.top_k)
    else:
        shape = MODELS[config.model]
    kinds = tuple(dict.fromkeys((config.new, config.old)))
    if config.profile_file:
        profile = profile_of(Path(config.profile_file).expanduser(), shape.key)
    else:
        profile = replace(modelled(shape, kinds, config.link_gb_s, table), joined=True)  # one all-to-all a micro-batch
    rows = [
        _priced(gpu(name, table), usd) for name, usd in ((config.new, config.new_usd_h), (config.old, config.old_usd_h))
    ]
    fleet = Fleet.priced(rows[0], config.attention, rows[1], config.expert, spot=config.spot)
    load = Load(config.tokens, config.tokens_of_sequence, config.new, config.old)
    model = Model(shape.layers, shape.experts, shape.top_k, shape.key)
    if config.skew:
        load = load.with_shares(skewed(model, config.skew, config.seed))
    told = "; ".join(dict.fromkeys(_told(row, config.spot) for row in rows))
    return Setting(model, profile, fleet, load, config.micro_batches, told, CALIBRATED.ep_messages)


def of_profile(
    config: HeterMoEConfig, profile: Profile, model: Model, shares: Sequence[Sequence[float]] = ()
) -> Setting:  # fmt: skip
    """Of a measured profile, whose devices are called new and old. shares: as in Load, where routing was measured.

    An old kind that is paced is called so, and each of its stages is as much longer.
    """
    old = old_of(config)
    profile = paced_profile(profile, OLD, config.old_pace or 1.0)
    prices = {NEW: config.new_usd_h, old: config.old_usd_h}
    fleet = Fleet(NEW, config.attention, old, config.expert, prices)
    known = [f"{kind} ${usd:.2f}/h, given with this run" for kind, usd in prices.items() if usd is not None]
    load = Load(config.sequences * config.tokens_of_sequence // config.attention, config.tokens_of_sequence, NEW, old)
    load = load.with_shares(shares) if shares else load
    told = "; ".join(known) or "no price was given"
    return Setting(model, profile, fleet, load, config.micro_batches, told, simulated=False)


def profile_of(file: Path, key: str) -> Profile:
    """A profile from its file. PlanError for one that cannot be read, or another model's."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"profile_file: {file} cannot be read: {error}") from None
    return Profile.from_json(text, key)


def limited(profile: Profile, kind: str, share: float) -> Profile:
    """The profile with a kind that gets only so much of a core: its stages take as much longer.

    A profile that a run wrote is limited already and stays as it is. PlanError: to another share.
    """
    about = f"{kind} limited to "
    mark = f"{about}{share:g} of a core"
    if mark in profile.note:
        return profile
    if about in profile.note:
        raise PlanError(f"the profile has {profile.note}, not {share:g}: give old_share that, or measure anew")
    devices = tuple(longer(d, 1 / share) if d.name == kind else d for d in profile.devices)
    return replace(profile, devices=devices, note="; ".join(filter(None, (profile.note, mark))))


def old_of(config: HeterMoEConfig) -> str:
    """What the old kind of a measured run is called."""
    return paced(OLD, config.old_pace or 1.0)


def _priced(row: Gpu, usd_h: float | None) -> Gpu:
    return row if usd_h is None else row.priced(usd_h, usd_h, "this run", "given with it")


def _told(row: Gpu, spot: bool) -> str:
    price = row.spot_usd_h if spot else row.on_demand_usd_h
    if price is None:
        return f"{row.name}: no {'preemptible' if spot else 'on-demand'} price is known"
    return f"{row.name} ${price:.2f}/h ({row.on}, {row.source})"


def skewed(model: Model, skew: float, seed: int) -> tuple[tuple[float, ...], ...]:
    """shares[layer][expert] falling as 1 / place^skew; which expert has which place is drawn anew for each layer."""
    drawn = np.random.default_rng([seed, 7])
    weights = (1.0 + np.arange(model.experts)) ** -skew
    rows = [drawn.permutation(weights / weights.sum()) for _ in range(model.layers)]
    return tuple(tuple(float(share) for share in row) for row in rows)


def spread(share: float, layers: int, experts: int) -> tuple[int, ...]:
    """That share of the experts, 0 to 1, evenly over layers, later ones first."""
    total = round(share * layers * experts)
    return tuple(total * (at + 1) // layers - total * at // layers for at in range(layers))


def written(plan: Plan, text: str) -> Plan:
    """The plan with experts where a text (workbench.lanes) has them. PlanError where it is of another model."""
    rows = lanes.read(text)
    if (len(rows), len(rows[0])) != (plan.layers, plan.experts):
        raise PlanError(
            f"placed: {len(rows)} layers of {len(rows[0])} experts, and the model has {plan.layers} of {plan.experts}; "
            "place these, or leave it to the planner"
        )
    return replace(plan, owner=rows)


def placed(config: HeterMoEConfig, setting: Setting, tick: Tick | None = None, spans: bool = True) -> Arm:
    """Zebra as the config has it: moved by hand, by Algorithm 1, or searched. PlanError where it does not fit."""
    plan = setting.plain
    if config.placed is not None:
        plan = written(plan, config.placed)
        check_memory(setting.profile, plan, setting.load)
    elif config.moved_pct is not None:
        plan = plan.with_offload(spread(config.moved_pct / 100, plan.layers, plan.experts))
        check_memory(setting.profile, plan, setting.load)
    elif config.planner == "search":
        plan = search(plan, setting.profile, setting.load, tick).plan
    else:
        plan = greedy(plan, setting.profile, setting.load, printed=config.planner == "printed")
    return arm_of("zebra", plan, setting, spans)


def arm_of(name: str, plan: Plan, setting: Setting, spans: bool = True) -> Arm:
    """A plan with its simulated step."""
    return Arm(name, plan, setting.load, run(resolve(plan, setting.profile, setting.load), spans=spans))

"""What follows the form: the experts of each rank, to be dragged, and below them a predicted step with its bubbles, who
is busy, and the same over lengths.

Nothing is searched over lengths: the experts stay where this config has them, so that a slider answers at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.hetermoe import figures, gantt
from workbench.hetermoe.arms import Arm
from workbench.hetermoe.baselines import Model
from workbench.hetermoe.cores import assumed
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.gantt import unit
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.ratio import crossovers, lengths
from workbench.hetermoe.setting import Setting, of_profile, placed, simulated
from workbench.lanes import Board, Lane

if TYPE_CHECKING:
    from workbench.hetermoe.config import HeterMoEConfig

KEPT = 16  # configs whose placement is remembered: board, picture and the planner's own are of the same


def setting_of(config: HeterMoEConfig) -> Setting:
    """GPUs by data sheet, or cores by assumed rates."""
    if config.backend == "sim":
        return simulated(config)
    profile = assumed(config.layers, config.hidden, config.ffn, config.experts, config.top_k)
    return of_profile(config, profile, Model(config.layers, config.experts, config.top_k))


def zebra_of(config: HeterMoEConfig) -> tuple[Setting, Arm]:
    """The setting and its step, experts where the config has them. PlanError for what does not fit."""
    files = config.gpu_file or config.profile_file  # may change between two looks
    return _zebra(config) if files else _known(config)


def _zebra(config: HeterMoEConfig) -> tuple[Setting, Arm]:
    setting = setting_of(config)
    return setting, placed(config, setting)


_known = lru_cache(KEPT)(_zebra)


def board(config: HeterMoEConfig) -> Board:
    """Every expert on its rank, ranks with the share of the step that they compute. PlanError as of `preview`."""
    setting, zebra = zebra_of(config)
    plan, kinds = zebra.plan, (setting.fleet.new, setting.fleet.old)
    sides = f"attention ranks, {kinds[0]}", f"expert ranks, {kinds[1]}"
    lanes = [
        Lane(f"rank {rank}", sides[rank >= plan.attention], busy) for rank, busy in enumerate(zebra.line.utilisation)
    ]
    shares = [[float(share) for share in row] for row in zebra.load.share_of(plan)]
    return Board(
        field="placed", lanes=lanes, rows=plan.owner, thing="expert", sheet="layer", given=config.placed is not None,
        away=sides[0], told=_told(config, setting, zebra), weights=shares if setting.load.shares else (),
    )  # fmt: skip


def _told(config: HeterMoEConfig, setting: Setting, zebra: Arm) -> str:
    """What comes of it, in a sentence with its main numbers bold."""
    line, plan, scale = zebra.line, zebra.plan, unit(zebra.line.step_s)
    used = line.utilisation
    attention, expert = (
        100 * sum(side) / len(side) for side in (used[: plan.attention], used[plan.attention :])
    )  # fmt: skip
    said = (
        f"A step takes <b>{scale.per_s * line.step_s:.4g} {scale.name}</b>, <b>{zebra.tokens_per_s:,.0f} tokens per "
        f"second</b> (modelled); attention ranks are busy {attention:.0f} %, expert ranks {expert:.0f} % of it"
    )
    usd_h = setting.fleet.cost_usd_h(plan.attention, plan.expert)
    if usd_h is not None:
        said += f"; ${usd_h / 3600 / zebra.tokens_per_s * 1e6:.3g} per million tokens"
    return f"{said}. {_against(config, line.step_s)}".rstrip()


def _against(config: HeterMoEConfig, step_s: float) -> str:
    """A placement by hand against the planner's."""
    if config.placed is None:
        return ""
    try:
        own = zebra_of(config.model_copy(update={"placed": None, "moved_pct": None}))[1].line.step_s
    except PlanError:
        return ""
    less = 1 - own / step_s
    if abs(less) < 5e-4:
        return "The planner's step takes as long."
    return f"The planner's step is <b>{abs(less):.1%} {'shorter' if less > 0 else 'longer'}</b>."


def preview(config: HeterMoEConfig) -> go.Figure:
    """PlanError for what does not fit; its text says what to change."""
    setting, zebra = zebra_of(config)
    step = drawn(zebra, "modelled", zebra.line.spans, zebra.line.step_s, zebra.line.utilisation)
    rows = lengths(
        setting.model, setting.profile, setting.fleet, setting.load, setting.lengths, setting.micro_batches,
        setting.ep_messages, own=zebra.plan,
    )  # fmt: skip
    crossings = {"ep": crossovers(rows, "zebra", "ep")}
    tall = [gantt.height(step), max(130, 34 * len(step.used)), 220]
    fig = figures.grid([1, 1, 1], tall)
    gantt.gantt(fig, step, 1, step.step_s)
    figures.utilisation(fig, [step], 2)
    here = config.tokens_of_sequence
    figures.over_lengths(fig, [(r.length, r.tokens_per_s) for r in rows], crossings, 3, here)
    figures.keys(fig, [step], 3)
    at = next(row for row in rows if row.length == here).tokens_per_s
    moved = sum(zebra.plan.offload)
    beside = f"{at['zebra'] / at['ep']:.2f}x expert parallelism" if at["ep"] else "expert parallelism does not fit"
    title = f"Predicted: {zebra.tokens_per_s:,.0f} tokens per second, {beside}"
    sides = [100 * share for share in step.used]
    text = (
        f"{title}, with {moved} of {zebra.plan.layers * zebra.plan.experts} experts on attention ranks "
        f"({', '.join(str(n) for n in zebra.plan.offload)} by layer); ranks are busy {min(sides):.0f} to "
        f"{max(sides):.0f} % of the step."
    )
    by = ", ".join(str(n) for n in zebra.plan.offload)
    whose = "GPUs by data sheet" if setting.simulated else "assumed rates of a core; a run measures its own"
    told = figures.quiet(f"{moved} experts on attention ranks ({by} by layer); {whose}")
    return figures.finish(fig, title + told, text, tall)

"""The picture that follows the form: a predicted step with its bubbles, who is busy, and the same over lengths.

Nothing is searched over lengths: the experts stay where this config has them, so that a slider answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.hetermoe import figures, gantt
from workbench.hetermoe.baselines import Model
from workbench.hetermoe.cores import assumed
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.ratio import crossovers, lengths
from workbench.hetermoe.setting import Setting, of_profile, placed, simulated

if TYPE_CHECKING:
    from workbench.hetermoe.config import HeterMoEConfig


def setting_of(config: HeterMoEConfig) -> Setting:
    """GPUs by data sheet, or cores by assumed rates."""
    if config.backend == "sim":
        return simulated(config)
    profile = assumed(config.layers, config.hidden, config.ffn, config.experts, config.top_k)
    return of_profile(config, profile, Model(config.layers, config.experts, config.top_k))


def preview(config: HeterMoEConfig) -> go.Figure:
    """PlanError for what does not fit; its text says what to change."""
    setting = setting_of(config)
    zebra = placed(config, setting)
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
    title = f"Predicted: {zebra.tokens_per_s:,.0f} tokens per second, {at['zebra'] / at['ep']:.2f}x expert parallelism"
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

"""HeterMoE: a mixture of experts trained over unequal devices (arXiv 2504.03871)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.hetermoe.model import MoE, MoEConfig
    from workbench.hetermoe.plan import Plan
    from workbench.hetermoe.training import Training


def train(model: MoE | MoEConfig, plan: Plan, **asked: Any) -> Training:
    """A run over all ranks of a plan on this machine, to iterate over for its steps; `asked` as training.train."""
    from workbench.hetermoe import training

    return training.train(model, plan, **asked)

"""HeterMoE: a mixture of experts trained over unequal devices (arXiv 2504.03871).

plan.py      who computes what                  greedy.py, search.py, place.py   who decides it
profile.py   what devices take                  gpus.py, probe.py                data sheets; timings
sim.py       a step on a virtual clock          order.py, claims.py              its order, its errors
training.py  train() over real processes        attention_rank.py, exchange.py   what a rank does
live.py      the measured run, turn by turn     hand.py                          what is moved by hand
adoption.py  adopt() a DeepSpeed-MoE model       pace.py, quota.py, transport.py  slower ranks; NCCL or gloo
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.hetermoe.config import BASELINES, PRESETS, HeterMoEConfig
from workbench.hetermoe.result import COLUMNS, HeterMoEResult
from workbench.lazy import later
from workbench.system import System

if TYPE_CHECKING:
    from torch import nn

    from workbench.hetermoe.adoption import Adopted, Loss
    from workbench.hetermoe.model import MoE, MoEConfig
    from workbench.hetermoe.plan import Plan
    from workbench.hetermoe.training import Training


def train(model: MoE | MoEConfig, plan: Plan, **asked: Any) -> Training:
    """A run over all ranks of a plan on this machine, to iterate over for its steps; `asked` as training.train."""
    from workbench.hetermoe import training

    return training.train(model, plan, **asked)


def adopt(model: nn.Module, plan: Plan, loss: Loss, **asked: Any) -> Adopted:
    """This rank's trainer of somebody else's DeepSpeed-MoE model under a plan; `asked` as adoption.adopt.

    Its experts go where the plan has them; what cannot be run is refused by the name of its module.
    """
    from workbench.hetermoe import adoption

    return adoption.adopt(model, plan, loss, **asked)


SYSTEM = System(
    name="hetermoe",
    title="HeterMoE: a mixture of experts over old and new devices",
    paper="Wu et al., HeterMoE: Efficient Training of Mixture-of-Experts Models on Heterogeneous GPUs, "
    "arXiv 2504.03871",
    about=(
        "Old devices are nearly as good as new ones at experts, which are matrix products, and far worse at attention, "
        "for which they have no fused kernel. HeterMoE gives attention to the new ones and experts to the old ones, "
        "sends micro-batches back and forth so that both work at once, and moves as many experts to the attention "
        "side as fill what would be its bubbles."
    ),
    config=HeterMoEConfig,
    result=HeterMoEResult,
    work=later("workbench.hetermoe.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.hetermoe.preview:preview"),
    board=later("workbench.hetermoe.preview:board"),
    detail=later("workbench.hetermoe.why:explain"),
)

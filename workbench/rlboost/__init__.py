"""RLBoost: rollouts of reinforcement learning on machines that vanish (NSDI 2026, arXiv 2510.19225).

seeding.py   how long the trainer rolls out itself, how many instances are worth having
balance.py   which instance a request goes to, and when it moves
market.py    which instances to take and to keep, by price, zone and how long they last
ledger.py    every token of every request exactly once
events.py    who comes and goes        traces.py    the same from files of five kinds, or a generator
prices.py    dated prices, of zones too
rates.py, engines.py, sim.py, setting.py   the simulator                     claims.py   the paper's numbers beside it
live.py, manager.py, spot.py, fleet.py     training on Ray                   chaos.py    who takes its nodes away

The policies hold no clock, no threads and no engine: time and what was seen are arguments.
"""

from __future__ import annotations

from workbench.lazy import later
from workbench.rlboost.config import BASELINES, PRESETS, RLBoostConfig
from workbench.rlboost.result import COLUMNS, RLBoostResult
from workbench.system import System

SYSTEM = System(
    name="rlboost",
    title="RLBoost: reinforcement learning on machines that vanish",
    paper="Wu et al., RLBoost: Harvesting Preemptible Cloud Resources for Cost-Efficient Reinforcement Learning on "
    "LLMs, NSDI 2026, arXiv 2510.19225",
    about=(
        "Most of a step of reinforcement learning is writing responses, and that can be done on cheap machines that "
        "are taken away at any time. RLBoost keeps a few reserved machines that train, and has whoever is there roll "
        "out: responses of a lost machine go on elsewhere from their tokens, weights are pulled by those that come, "
        "and the reserved machines help for as long as the trainer would wait."
    ),
    config=RLBoostConfig,
    result=RLBoostResult,
    work=later("workbench.rlboost.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.rlboost.figures:preview"),
    detail=later("workbench.rlboost.why:explain"),
)

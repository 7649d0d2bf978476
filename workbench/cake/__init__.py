"""CAKE: fill a long prompt's KV cache from both ends, computing and loading at once (arXiv 2410.03065).

policy.py    who takes which chunk next          ledger.py   who has which grain
costs.py     what a chunk costs                  sim.py      the policy on a virtual clock
bounds.py    what no schedule beats              claims.py   the paper's numbers beside ours
store.py     KV on disk                          lmcache.py  KV in LMCache
engine.py    the embedded engine                 vllm*.py    scheduler and connector for unmodified vLLM
"""

from __future__ import annotations

from workbench.cake.config import BASELINES, PRESETS, CakeConfig
from workbench.cake.result import COLUMNS, CakeResult
from workbench.lazy import later
from workbench.system import System

SYSTEM = System(
    name="cake",
    title="CAKE: KV cache from both ends",
    paper="Jin et al., Compute or Load KV Cache? Why Not Both?, ICML 2025, arXiv 2410.03065",
    about=(
        "A long prompt whose KV cache lies in a slow store can be computed again or loaded. CAKE does both at once: "
        "it computes from the front, where attention is cheap, loads from the back, and stops where they meet."
    ),
    config=CakeConfig,
    result=CakeResult,
    work=later("workbench.cake.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.cake.figures:preview"),
    detail=later("workbench.cake.figures:explain"),
)

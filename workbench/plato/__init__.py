"""Plato: plan a query into a graph, decode its nodes in parallel (arXiv 2402.12280).

graph.py       plans                              conductor.py   planning and decoding at once, on any engine
planner.py     who plans                          forecast.py    the same on a virtual clock; branch or not
steploop.py    sequences that share KV            cost.py        what a step costs
embedded.py    the built-in engine                vllm*.py       vLLM; endpoint.py: any OpenAI-compatible server
tasks.py       queries with known answers         quality.py     scores without a judge
"""

from __future__ import annotations

from workbench.lazy import later
from workbench.plato.config import BASELINES, PRESETS, PlatoConfig
from workbench.plato.result import COLUMNS, PlatoResult
from workbench.system import System

SYSTEM = System(
    name="plato",
    title="Plato: an answer as a graph of parts",
    paper="Jin et al., Plato: Plan to Efficiently Decode for LLM Inference, COLM 2025, arXiv 2402.12280",
    about=(
        "A long answer has parts, and not each needs all before it. Plato has the model write a plan of questions and "
        "what each builds on, and decodes the parts in parallel as soon as they can start: weights are read once for "
        "all of them, and finished parts are shared. Where a plan does not pay, the scheduler refuses it."
    ),
    config=PlatoConfig,
    result=PlatoResult,
    work=later("workbench.plato.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.plato.figures:preview"),
    detail=later("workbench.plato.why:explain"),
)

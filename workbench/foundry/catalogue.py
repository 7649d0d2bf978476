"""Foundry as a system of the catalogue."""

from __future__ import annotations

from workbench.foundry.config import BASELINES, PRESETS, FoundryConfig
from workbench.foundry.result import COLUMNS, FoundryResult
from workbench.lazy import later
from workbench.system import System

SYSTEM = System(
    name="foundry",
    title="Foundry: graphs that are born executable",
    paper="Liu et al., Foundry: Template-Based CUDA Graph Context Materialization for Fast LLM Serving Cold Start, "
    "arXiv 2604.06664",
    about=(
        "A server captures a graph of its decode step for each batch size before it takes a request, at every start. "
        "Foundry captures them once and stores topology, kernels and parameters, so that a fresh process builds "
        "executable graphs from a file. Here for real on a CPU, as an analogue: compiled kernels and BLAS calls over a "
        "fixed-address arena, replayed by one C loop; on the paper's GPUs by simulation."
    ),
    config=FoundryConfig,
    result=FoundryResult,
    work=later("workbench.foundry.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "cuda", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.foundry.outlook:preview"),
    detail=later("workbench.foundry.why:explain"),
)

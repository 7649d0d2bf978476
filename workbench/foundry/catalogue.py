"""Foundry as a system of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.foundry.config import BASELINES, PRESETS, FoundryConfig
from workbench.foundry.result import COLUMNS, FoundryResult
from workbench.system import Span, System, Work

if TYPE_CHECKING:
    import plotly.graph_objects as go


def _work(config: FoundryConfig) -> Work:
    from workbench.foundry.work import work

    return (yield from work(config))


def _preview(config: Any) -> go.Figure:
    from workbench.foundry.outlook import preview

    return preview(config)


def _detail(span: Span) -> str:
    from workbench.foundry.why import explain

    return explain(span)


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
    work=_work,
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "sim"}),
    columns=COLUMNS,
    preview=_preview,
    detail=_detail,
)

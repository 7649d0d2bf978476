"""LTE: train a model to use few of its FFN neurons, and a kernel that turns that into time (NeurIPS 2024).

grouping.py  32 neurons an expert      routers.py, losses.py, controller.py   what makes routers sparse
sparse_model.py  dense, soft, hard     train.py, sparsify.py, lora.py         two stages, resume; the one call
fisher.py, start.py  first routers     schedule.py, polish.py                 when what happens; renewed routers
save.py  artifacts                     corpora.py, data.py, tasks.py          texts and what is asked of them
posthoc.py  CATS, TEAL, oracles        evaluate.py  scores with intervals

work.py, measure.py  a run             arms.py  both arms, shipped or trained now
speed.py, decode.py  kernel, tokens    activity.py  the experts of a text    sim.py  a token by bytes (modelled)
"""

from __future__ import annotations

from typing import Any

from workbench.lazy import later
from workbench.lte.config import BASELINES, PRESETS, LteConfig
from workbench.lte.result import COLUMNS, LteResult
from workbench.system import Span, System


def sparsify(model: Any, data: Any, target: float = 0.8, **options: Any) -> Any:
    """Train `model` to leave out the share `target` of its FFNs: see `workbench.lte.sparsify.sparsify`."""
    from workbench.lte.sparsify import sparsify as whole

    return whole(model, data, target, **options)


def _detail(span: Span) -> str:
    told = ", ".join(f"{name} {value}" for name, value in span.why.items())
    return f"{span.label}: {span.end_s - span.start_s:.3g} s of {span.lane}" + (f" ({told})" if told else "")


SYSTEM = System(
    name="lte",
    title="LTE: few neurons, trained",
    paper="Zheng et al., Learn To be Efficient: Build Structured Sparsity in Large Language Models, NeurIPS 2024, "
    "arXiv 2402.06126",
    about=(
        "An FFN is most of a small model's weights, and every token reads all of them. LTE trains routers that let "
        "each token use few groups of 32 neurons, and the model to live with that; a kernel then reads only those. "
        "Here both are real: SmolLM2-135M trained beside a dense twin, and its tokens timed."
    ),
    config=LteConfig,
    result=LteResult,
    work=later("workbench.lte.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.lte.preview:preview"),
    detail=_detail,
)

"""The paper's numbers (arXiv 2604.06664, its evaluation) against the simulator, each with its error. All modelled.

    for claim in published(): ...     predicted
    for claim in fitted(): ...        what the constants of sim.calibrated() were made of

Errors are printed as they are, also where they are large. "Predicted" is no blind test: to which models the ends of
published ranges belong was chosen with these rows in sight, and is said in published.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

from workbench.foundry import published as paper
from workbench.foundry.sim import (
    FITTED,
    FITTED_FOUNDRY,
    MODELS,
    MOST,
    Arm,
    Calibrated,
    Setting,
    archive_gb,
    calibrated,
    graph_ms,
    reported,
    start,
)
from workbench.published import Published

Tick = Callable[[float], None]
BIG = "Qwen3-235B-A22B"


def fitted(rates: Calibrated | None = None) -> Iterator[Published]:
    """The numbers that the constants were made of, under those or other rates."""
    rates = rates or calibrated()

    def row(what: str, value: float, ours: float, unit: str, source: str, note: str = "") -> Published:
        return Published(what, value, ours, unit, source, True, note)

    for each in paper.INITIALISATION:
        setting = Setting(each.model, each.ranks)
        if (each.model, each.ranks) in FITTED:
            note = "a factor of its own, beside the rates of its kind" if each.model == BIG else ""
            seconds = start(setting, "capture", rates).paper_s
            yield row(f"vLLM, {_told(each)}", each.vllm_s, seconds, "s", paper.LATENCY, note)
        if (each.model, each.ranks) in FITTED_FOUNDRY:
            seconds = start(setting, "foundry", rates).paper_s
            yield row(f"Foundry, {_told(each)}", each.foundry_s, seconds, "s", paper.LATENCY)
            yield row(f"cut, {_told(each)}", each.cut, _saved(each, rates), "%", paper.LATENCY, "of two fitted times")
    eager_s = start(Setting(BIG, 8), "eager", rates).paper_s
    yield row(f"vLLM eager, {BIG}, 8 ranks", paper.EAGER_S[BIG], eager_s, "s", paper.LATENCY)
    ends = (Setting("Qwen3-14B"), Setting("Qwen3-30B-A3B", 2))
    for value, setting, end in zip(paper.CAPTURE_MS, ends, ("least", "most"), strict=True):
        note = f"taken for {setting.model}, which our sources do not say"
        yield row(f"capture of one graph, {end}", value, graph_ms(setting, rates), "ms", paper.PER_GRAPH, note)
    for model in ("Llama3-8B", "Gemma3-12B", BIG):
        yield row(f"archive, {model}", paper.ARCHIVE_GB[model], archive_gb(Setting(model), rates), "GB", paper.STORED)


def misfit(rates: Calibrated | None = None) -> float:
    """Sum of squared errors over what was fitted."""
    return sum(claim.error**2 for claim in fitted(rates))


def published(tick: Tick | None = None) -> Iterator[Published]:
    """Every predicted claim in turn. `tick(share)` is called on the way and may raise to end it."""
    tell = tick or (lambda _: None)
    parts = (_vllm, _foundry, _cut, _graphs, _stored, _checkpoints, _code)
    for at, part in enumerate(parts):
        tell(at / len(parts))
        yield from part()
    tell(1.0)


def everything(tick: Tick | None = None) -> list[Published]:
    """All rows, fitted first."""
    return list(chain(fitted(), published(tick)))


def _told(row: paper.Initialisation) -> str:
    return f"{row.model}, {row.ranks} rank{'s' if row.ranks > 1 else ''}"


def _vllm() -> Iterator[Published]:
    """Initialisation with graphs, of models whose times were not fitted; the largest as if it were like its kind."""
    for row in paper.INITIALISATION:
        if (row.model, row.ranks) not in FITTED:
            seconds = start(Setting(row.model, row.ranks)).paper_s
            note = "a layer costs what one of Qwen3-14B costs" if not MODELS[row.model].moe else ""
            yield Published(f"vLLM, {_told(row)}", row.vllm_s, seconds, "s", paper.LATENCY, note=note)
    kind = replace(calibrated(), own_capture={})
    seconds = start(Setting(BIG, 8), "capture", kind).paper_s
    note = "a layer costs what one of Qwen3-30B-A3B costs; FP8 kernels that are compiled for a size are not modelled"
    row = reported(BIG, 8)
    yield Published(f"vLLM, {_told(row)}, by its kind", row.vllm_s, seconds, "s", paper.LATENCY, note=note)


def _foundry() -> Iterator[Published]:
    for row in paper.INITIALISATION:
        if (row.model, row.ranks) not in FITTED_FOUNDRY:
            setting, note = Setting(row.model, row.ranks), ""
            if row.model not in paper.TEMPLATES:
                note = f"{setting.built()} templates, as another of its kind has"
            seconds = start(setting, "foundry").paper_s
            yield Published(f"Foundry, {_told(row)}", row.foundry_s, seconds, "s", paper.LATENCY, note=note)


def _cut() -> Iterator[Published]:
    for row in paper.INITIALISATION:
        if (row.model, row.ranks) not in FITTED & FITTED_FOUNDRY:
            yield Published(f"cut, {_told(row)}", row.cut, _saved(row, calibrated()), "%", paper.LATENCY)


def _saved(row: paper.Initialisation, rates: Calibrated) -> float:
    setting = Setting(row.model, row.ranks)
    return 100 * (1 - start(setting, "foundry", rates).paper_s / start(setting, "capture", rates).paper_s)


def _graphs() -> Iterator[Published]:
    big = Setting("Qwen3-30B-A3B")
    phases = {phase.name: phase.seconds for phase in start(big, "one by one").phases}
    note = "which model is not said: taken where one graph costs the most"
    what = f"graph APIs alone, {MOST} graphs"
    yield Published(what, paper.BUILD_EVERY_S, phases["graphs"], "s", paper.PER_GRAPH, note=note)
    note = "arithmetic of two published ranges: checks that an end of both is one model's"
    ends = zip(("least", "most"), paper.CAPTURE_MS, paper.BUILD_MS, paper.BUILD_OVER, strict=True)
    for end, capture_ms, build_ms, times in ends:
        yield Published(f"graph API over capture, {end}", times, capture_ms / build_ms, "x", paper.PER_GRAPH, note=note)
    setting = Setting("Qwen3-14B")
    share, note = 100 * (1 - setting.built() / MOST), "the paper gives more than this"
    yield Published("graphs on demand, Qwen3-14B", paper.ON_DEMAND, share, "%", paper.TEMPLATED, note=note)


def _stored() -> Iterator[Published]:
    setting = Setting("Qwen3-14B")
    note = "on the line through the two other dense models, by layers"
    yield Published(
        "archive, Qwen3-14B", paper.ARCHIVE_GB["Qwen3-14B"], archive_gb(setting), "GB", paper.STORED, note=note
    )
    rates = calibrated()
    dense = paper.BINARIES_GB[BIG] + rates.dense.graphs_gb * MODELS[BIG].layers
    note = "its kernels and, for each layer, the graphs of a dense one"
    yield Published(f"archive, {BIG}, by dense layers", paper.ARCHIVE_GB[BIG], dense, "GB", paper.STORED, note=note)


def _checkpoints() -> Iterator[Published]:
    seconds = start(Setting("Qwen3-30B-A3B"), "foundry").paper_s
    note = "which model is not said: taken for Qwen3-30B-A3B on one"
    yield Published("Foundry, slowest on one GPU", paper.SLOWEST_ONE_GPU_S, seconds, "s", paper.RESTORED, note=note)
    for end, restore_s, model, times in zip(
        ("least", "most"), (paper.CHECKPOINT_S[1], paper.CHECKPOINT_S[0]), ("Qwen3-30B-A3B", "Llama3-8B"),
        paper.CHECKPOINT_OVER, strict=True,
    ):  # fmt: skip
        over = restore_s / start(Setting(model), "foundry").paper_s
        note = f"the published restore over our {model}"
        yield Published(f"process checkpoint over Foundry, {end}", times, over, "x", paper.RESTORED, note=note)


def _code() -> Iterator[Published]:
    """What the public code says of itself, a later vLLM: how far constants of vLLM 0.11.2 carry."""
    setting = Setting("Qwen3-30B-A3B", 2, paper.CODE_GRAPHS)
    note = "a later vLLM and FP8, where the constants are of vLLM 0.11.2; about so many seconds"
    ways: tuple[tuple[str, Arm, float], ...] = (
        ("vLLM", "capture", paper.CODE_VLLM_S),
        ("Foundry", "foundry", paper.CODE_FOUNDRY_S),
    )
    for name, arm, seconds in ways:
        ours = start(setting, arm).paper_s
        yield Published(f"{name}, {setting.sizes} graphs, demonstration", seconds, ours, "s", paper.CODE, note=note)

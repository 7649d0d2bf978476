"""What a start costs: phases of vLLM and of Foundry on the paper's models, as functions of ladder and ranks. Modelled.

    found = start(Setting("Qwen3-14B", ranks=8), "foundry")
    found.total_s, found.paper_s, found.phases              # paper_s: what the paper counts
    sweep(Setting("Qwen3-14B"), (1, 8, 51, 512))            # a row for each size of the ladder

    capture      environment + weights + compile + memory profile and warm-up
                 + graphs * layers * capture_ms * (1 + contention * (ranks - 1))
    foundry      environment + weights + archive_gb * load_s_gb + templates * layers * build_ms + rank_s * (ranks - 1)

Constants are fitted in calibrated(), each to one published number; claims.py predicts the others and prints the errors.
No Foundry and no GPU is behind these numbers.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from workbench.foundry import published as paper
from workbench.system import Span

Arm = Literal["capture", "eager", "foundry", "one by one", "checkpoint"]
How = Literal["set", "fitted", "predicted", "published"]
ARMS: Mapping[Arm, str] = {
    "capture": "vLLM, graphs captured at every start",
    "eager": "vLLM without graphs: decoding is slower from then on",
    "foundry": "graphs rebuilt from an archive, one executable for each topology",
    "one by one": "graphs rebuilt from an archive, an executable for each size: Foundry without templates",
    "checkpoint": "the whole process restored (CUDA-checkpoint and CRIU), one GPU only",
}
MOST = paper.GRAPHS
FITTED_FOUNDRY = frozenset({("Qwen3-14B", 1), ("Qwen3-14B", 8)})  # models with ranks whose times gave constants
FITTED = FITTED_FOUNDRY | {("Qwen3-30B-A3B", 2), ("Qwen3-235B-A22B", 8)}


@dataclass(frozen=True)
class Model:
    """A model of the paper. weights_gb is the checkpoint; experts are divided among ranks, everything else copied."""

    name: str
    layers: int
    weights_gb: float
    moe: bool = False


MODELS = {
    model.name: model
    for model in (
        Model("Llama3-8B", 32, 16.1),
        Model("Gemma3-12B", 48, 24.4),
        Model("Qwen3-14B", 40, 29.5),
        Model("Qwen3-30B-A3B", 48, 61.1, moe=True),
        Model("Qwen3-235B-A22B", 94, 236.0, moe=True),  # FP8
    )
}


@dataclass(frozen=True)
class Rates:
    """Costs of dense models or of mixtures of experts: milliseconds per layer and graph, gigabytes of an archive."""

    capture_ms: float  # with one rank
    build_ms: float
    update_ms: float
    warm_s: float  # memory profile, compile cache and warm-up before any graph
    binaries_gb: float
    graphs_gb: float  # per layer, of 512 graphs
    templates: int  # of 512 sizes


@dataclass(frozen=True)
class Calibrated:
    """All constants. `own` replaces the capture of one model by that factor, for what its kind does not explain."""

    dense: Rates
    moe: Rates
    contention: float  # more time of a capture for each further rank of the host
    load_s_gb: float  # to read an archive, map memory and load kernels
    rank_s: float  # to patch one further rank
    own_capture: Mapping[str, float] = field(default_factory=dict)
    own_warm_s: Mapping[str, float] = field(default_factory=dict)

    def of(self, model: Model) -> Rates:
        """Rates of a model's kind."""
        return self.moe if model.moe else self.dense


def reported(model: str, ranks: int) -> paper.Initialisation:
    """The paper's row. KeyError when there is none."""
    for row in paper.INITIALISATION:
        if (row.model, row.ranks) == (model, ranks):
            return row
    raise KeyError(f"the paper reports no {model} with {ranks} ranks")


@cache
def calibrated() -> Calibrated:
    """Every constant from one published number; the arithmetic is the whole fit.

    Qwen3-14B with 1 and 8 ranks, Qwen3-30B-A3B with 2 and Qwen3-235B-A22B give times, Llama3-8B and Gemma3-12B the line
    of archives. 235B's excess over its kind is kept as its own factor, so that a simulated fleet of it starts as late
    as the paper's; claims.py shows what its kind would have said.
    """
    one, eight = reported("Qwen3-14B", 1), reported("Qwen3-14B", 8)
    capture_s = MOST * paper.CAPTURE_MS[0] / 1e3
    warm_s = one.vllm_s - capture_s
    contention = ((eight.vllm_s - warm_s) / capture_s - 1) / 7
    llama, gemma = MODELS["Llama3-8B"], MODELS["Gemma3-12B"]
    slope = (paper.ARCHIVE_GB["Gemma3-12B"] - paper.ARCHIVE_GB["Llama3-8B"]) / (gemma.layers - llama.layers)
    layers, experts = MODELS["Qwen3-14B"].layers, MODELS["Qwen3-30B-A3B"].layers
    dense = Rates(
        paper.CAPTURE_MS[0] / layers, paper.BUILD_MS[0] / layers, paper.UPDATE_MS[0] / layers, warm_s,
        paper.ARCHIVE_GB["Llama3-8B"] - llama.layers * slope, slope, paper.TEMPLATES["Qwen3-14B"],
    )  # fmt: skip
    big = "Qwen3-235B-A22B"
    moe = Rates(
        paper.CAPTURE_MS[1] / experts / (1 + contention), paper.BUILD_MS[1] / experts, paper.UPDATE_MS[1] / experts,
        reported("Qwen3-30B-A3B", 2).vllm_s - MOST * paper.CAPTURE_MS[1] / 1e3, paper.BINARIES_GB[big],
        (paper.ARCHIVE_GB[big] - paper.BINARIES_GB[big]) / MODELS[big].layers, paper.TEMPLATES[big],
    )  # fmt: skip
    built_s = paper.TEMPLATES["Qwen3-14B"] * paper.BUILD_MS[0] / 1e3
    load_s_gb = (one.foundry_s - built_s) / (dense.binaries_gb + layers * slope)
    rank_s = (eight.foundry_s - one.foundry_s) / 7
    plain = Calibrated(dense, moe, contention, load_s_gb, rank_s, {}, {big: paper.EAGER_S[big]})
    excess = reported(big, 8).vllm_s - paper.EAGER_S[big]
    return replace(plain, own_capture={big: excess / (MOST * graph_ms(Setting(big, 8), plain) / 1e3)})


# -- the ladder ------------------------------------------------------------------------------------------------------


def ladder(sizes: int, most: int = MOST) -> tuple[int, ...]:
    """So many batch sizes up to `most`, evenly spaced; 51 up to 512 are vLLM's own (1, 2, 4, by 8 to 256, by 16)."""
    if not 1 <= sizes <= most:
        raise ValueError(f"a ladder has 1 to {most} sizes, one for each batch at most: not {sizes}")
    if (sizes, most) == (51, 512):
        return (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    return tuple(math.ceil(most * (i + 1) / sizes) for i in range(sizes))


def padding(sizes: Sequence[int]) -> float:
    """Share of the rows computed that are padding, 0 to 1, where every batch up to the largest is as likely."""
    ran = sum(sizes[bisect_left(sizes, batch)] for batch in range(1, sizes[-1] + 1))
    return 1 - sizes[-1] * (sizes[-1] + 1) / 2 / ran


def templates(sizes: Sequence[int], full: int, most: int = MOST) -> int:
    """Topologies among these sizes, where all of 1 to `most` have `full`.

    Assumed: kernels are chosen by regimes of the batch, whose bounds are spaced by ratio, each a size wide at least.
    """
    if not 1 <= full <= most:
        raise ValueError(f"{most} sizes have 1 to {most} topologies, not {full}")
    bounds: list[int] = []
    for i in range(full):
        bounds.append(max(bounds[-1] + 1 if bounds else 1, math.ceil(most ** (i / full))))
    return len({bisect_left(bounds, size + 1) for size in sizes})


# -- a start ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What starts. The paper counts neither environment nor weights; their two numbers are set, not from the paper.

    sizes: of the ladder. topologies: of a full ladder (None: as its kind has). graph_ms: capture of one graph with
    these ranks (None: modelled). prefill_graphs are captured at every start: Foundry covers decoding only.
    compile_s: 0 where torch.compile finds its cache, as in the paper.
    """

    model: str = "Qwen3-14B"
    ranks: int = 1
    sizes: int = MOST
    topologies: int | None = None
    graph_ms: float | None = None
    prefill_graphs: int = 0
    environment_s: float = 5.0
    weights_gb_s: float = 10.0  # of each rank
    compile_s: float = 0.0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"no model is called {self.model!r}: take one of {', '.join(MODELS)}")
        if self.ranks < 1 or self.prefill_graphs < 0:
            raise ValueError("ranks are 1 or more and prefill_graphs 0 or more")
        if not self.weights_gb_s > 0:
            raise ValueError("weights_gb_s is how fast weights come, more than 0 GB/s; set a large one to leave it out")
        if min(self.environment_s, self.compile_s, 0.0 if self.graph_ms is None else self.graph_ms) < 0:
            raise ValueError("environment_s, compile_s and graph_ms are times: 0 or more")
        self.built()

    @property
    def of(self) -> Model:
        """The model."""
        return MODELS[self.model]

    def built(self) -> int:
        """Templates that this ladder needs."""
        full = self.topologies if self.topologies is not None else calibrated_templates(self.of)
        return templates(ladder(self.sizes), full)


def calibrated_templates(model: Model) -> int:
    """The paper's count of topologies for this model, or for the other one of its kind."""
    kind = "Qwen3-235B-A22B" if model.moe else "Qwen3-14B"
    return paper.TEMPLATES.get(model.name, paper.TEMPLATES[kind])


@dataclass(frozen=True)
class Phase:
    """A phase of a start. `counted`: the paper's latency has it. `how` its seconds were had."""

    name: str
    seconds: float
    how: How
    counted: bool = True


@dataclass(frozen=True)
class Start:
    """A start, phase after phase."""

    setting: Setting
    arm: Arm
    phases: tuple[Phase, ...]

    @property
    def total_s(self) -> float:
        """Until the first request can be taken."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def paper_s(self) -> float:
        """Without environment and weights, as the paper counts."""
        return sum(phase.seconds for phase in self.phases if phase.counted)

    def spans(self) -> list[Span]:
        """One lane for a timeline."""
        made, at = [], 0.0
        for phase in self.phases:
            if phase.seconds > 0:
                why = {"how": phase.how, "seconds": round(phase.seconds, 3)}
                made.append(Span(self.arm, at, at + phase.seconds, phase.name, phase.name, why))
            at += phase.seconds
        return made


def graph_ms(setting: Setting, rates: Calibrated | None = None) -> float:
    """Milliseconds to capture one graph while all ranks capture theirs."""
    if setting.graph_ms is not None:
        return setting.graph_ms
    rates = rates or calibrated()
    crowd = 1 + rates.contention * (setting.ranks - 1)
    return rates.of(setting.of).capture_ms * setting.of.layers * crowd * rates.own_capture.get(setting.model, 1.0)


def archive_gb(setting: Setting, rates: Calibrated | None = None) -> float:
    """An archive of this ladder; the same for every number of ranks."""
    rates = rates or calibrated()
    kind = rates.of(setting.of)
    return kind.binaries_gb + kind.graphs_gb * setting.of.layers * setting.sizes / MOST


def update_ms(setting: Setting, rates: Calibrated | None = None) -> float:
    """Milliseconds to give an executable the parameters of another size."""
    return (rates or calibrated()).of(setting.of).update_ms * setting.of.layers


def start(setting: Setting, arm: Arm = "capture", rates: Calibrated | None = None) -> Start:
    """The phases of a start. ValueError for an arm that cannot start this."""
    if arm not in ARMS:
        raise ValueError(f"no way to start is called {arm!r}: take one of {', '.join(ARMS)}")
    rates = rates or calibrated()
    weights_gb = setting.of.weights_gb / (setting.ranks if setting.of.moe else 1)
    phases = [
        Phase("environment", setting.environment_s, "set", counted=False),
        Phase("weights", weights_gb / setting.weights_gb_s, "set", counted=False),
        *_after_weights(setting, arm, rates),
    ]
    return Start(setting, arm, tuple(phases))


def _after_weights(setting: Setting, arm: Arm, rates: Calibrated) -> list[Phase]:
    how = _how(setting, arm)
    if arm == "checkpoint":
        if setting.ranks > 1:
            raise ValueError(f"a process checkpoint holds one GPU, not {setting.ranks}: set ranks to 1")
        return [Phase("restore", sum(paper.CHECKPOINT_S) / 2, "published")]
    each_s = graph_ms(setting, rates) / 1e3
    graphs_how: How = how if setting.graph_ms is None else "set"
    if arm in ("capture", "eager"):
        warm_s = rates.own_warm_s.get(setting.model, rates.of(setting.of).warm_s)
        warm = Phase("memory profile and warm-up", warm_s, how)
        if arm == "eager":
            return [warm]
        graphs = setting.sizes + setting.prefill_graphs
        return [Phase("compile", setting.compile_s, "set"), warm, Phase("capture", graphs * each_s, graphs_how)]
    built = setting.sizes if arm == "one by one" else setting.built()
    build_s = built * rates.of(setting.of).build_ms * setting.of.layers / 1e3
    return [
        Phase("archive", archive_gb(setting, rates) * rates.load_s_gb, how),
        Phase("graphs" if arm == "one by one" else "templates", build_s, how),
        Phase("ranks", rates.rank_s * (setting.ranks - 1), how),
        Phase("capture of prefill", setting.prefill_graphs * each_s, graphs_how),
    ]


def _how(setting: Setting, arm: Arm) -> How:
    """Whether constants were fitted to this very start."""
    fitted = FITTED if arm in ("capture", "eager") else FITTED_FOUNDRY
    same = setting.sizes == MOST and setting.topologies is None
    return "fitted" if same and (setting.model, setting.ranks) in fitted else "predicted"


def pays_after(setting: Setting) -> float:
    """Starts after which the archive has saved what saving it cost: vLLM captures twice for it (its public code)."""
    capture_s, foundry_s = (start(setting, arm).total_s for arm in ("capture", "foundry"))
    return math.inf if foundry_s >= capture_s else 2 * capture_s / (capture_s - foundry_s)


def sweep(setting: Setting, counts: Sequence[int] = (1, 8, 16, 35, 51, 83, 128, 256, 512)) -> list[dict[str, Any]]:
    """A row for each ladder: seconds of every way to start, templates, archive, and rows wasted on padding (%)."""
    rows = []
    for count in counts:
        at = replace(setting, sizes=count)
        seconds = {f"{arm}_s": start(at, arm).total_s for arm in ("capture", "eager", "one by one", "foundry")}
        cut = 100 * (1 - seconds["foundry_s"] / seconds["capture_s"])
        rows.append(
            {"sizes": count, "templates": at.built(), "padding (%)": 100 * padding(ladder(count)), **seconds,
             "saved (%)": cut, "archive_gb": archive_gb(at)}
        )  # fmt: skip
    return rows

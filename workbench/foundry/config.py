"""What a Foundry run can be asked: the fields of the form and the flags of the command line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from workbench.system import Config

LAYERS = {"smollm2": 30, "tiny": 3}
POSITIONS = {"smollm2": 8192, "tiny": 16384}
FIRST = (1, 2, 4, 8, 16, 24, 32, 40)  # batch sizes of a ladder, then every 8th: vLLM's
MOST_BATCH = 512
Damage = Literal["none", "bit", "cut", "parameter", "machine", "every"]
Way = Literal["foundry", "eager", "cold", "warm", "mega", "aoti"]
COMPARED: dict[str, tuple[Way, ...]] = {
    "nothing": ("foundry",),
    "eager": ("foundry", "eager"),
    "cold": ("foundry", "cold", "eager"),
    "most": ("foundry", "cold", "warm", "aoti", "eager"),
    "all": ("foundry", "cold", "warm", "mega", "aoti", "eager"),
}
ADVANCED: dict[str, Any] = {"group": "advanced"}
SIMULATION: dict[str, Any] = {"group": "simulation"}


class FoundryConfig(Config):
    """Capture a ladder of decode steps, rebuild it in a fresh process, and do the same in torch's own ways."""

    backend: Literal["auto", "cpu", "cuda", "sim"] = Field(
        "auto",
        description="cpu captures and rebuilds for real, the analogue of a CUDA graph; sim models start-ups; cuda is "
        "CUDA graphs, which never ran on a GPU so far: taken by name only, auto is cpu",
    )
    model: Literal["smollm2", "tiny"] = Field(
        "smollm2", description="smollm2: SmolLM2-135M-Instruct in float32; tiny: a random Llama for tests"
    )
    layers: int | None = Field(
        1,
        ge=1,
        le=30,
        description="First layers of the model that the step has; None: all. torch compiles each layer again",
        json_schema_extra={"none": "all"},
    )
    ladder: int = Field(8, ge=1, le=24, description="How many batch sizes: the first of 1, 2, 4, 8, 16, 24, 32, 40, 48")
    single: bool = Field(
        True, description="Batch 1 is in the ladder; compilers make code of its own for it, which doubles their time"
    )
    batches: str = Field("", description="Batch sizes of your own, as 1,2,4,8; empty: those of the ladder")
    capacity: int = Field(256, ge=32, le=4096, description="Tokens of KV cache that each sequence has")
    compare: Literal["nothing", "eager", "cold", "most", "all"] = Field(
        "most",
        description="Ways beside ours, each in a process of its own: none; eager; cold torch.compile and eager; those, "
        "a warm cache and AOTInductor; the mega-cache too",
    )
    vllm: Literal["no", "eager", "compiled", "both"] = Field(
        "no",
        description="Starts of vLLM's own engine beside ours, on the same layers, by phase until the first token: "
        "as with --enforce-eager, as by default (vLLM compiles for minutes), or both",
    )
    rounds: int = Field(1, ge=1, le=5, description="Interleaved repetitions of each way; medians are shown")
    damage: Damage = Field(
        "none",
        description="What is done to a copy of the archive, which must then be refused: a flipped bit, a cut, a "
        "changed parameter under right checksums, the fingerprint of another machine, or each of these in turn",
    )
    keep: str | None = Field(
        None,
        description="Folder that keeps the archive and its weights, for 'workbench foundry inspect' and for load(); "
        "None: thrown away with the run",
        json_schema_extra={"none": "thrown away"},
    )
    dynamic: bool = Field(
        True,
        description="One compilation for all batch sizes from 2 on, for every way; else one a size",
        json_schema_extra=ADVANCED,
    )
    verify: Literal["all", "templates", "first use"] = Field(
        "templates",
        description="What a load replays before it gives the graphs out: every size, one a template, or each at its "
        "first use",
        json_schema_extra=ADVANCED,
    )
    threads: int = Field(1, ge=1, le=64, description="Compute threads, of every way", json_schema_extra=ADVANCED)
    steps: int = Field(
        5, ge=1, le=1000, description="Timed steps of each batch size and way", json_schema_extra=ADVANCED
    )
    reuse: bool = Field(
        False,
        description="Take the archive that an earlier run of the same settings left, unless it is refused; a capture "
        "then finds the compile caches of earlier ones",
        json_schema_extra=ADVANCED,
    )
    patience_s: float = Field(
        600.0, ge=5, le=36_000, description="Longest that one process may take, s", json_schema_extra=ADVANCED
    )

    sim_model: Literal["Llama3-8B", "Gemma3-12B", "Qwen3-14B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"] = Field(
        "Qwen3-14B", description="Simulated model, one of the paper's", json_schema_extra=SIMULATION
    )
    sim_ranks: int = Field(
        1,
        ge=1,
        le=64,
        description="Simulated GPUs that start together, data or expert parallel",
        json_schema_extra=SIMULATION,
    )
    sim_graphs: int = Field(
        512,
        ge=1,
        le=512,
        description="Simulated ladder: decode graphs of so many batch sizes up to 512, the paper's; 51 are vLLM's own",
        json_schema_extra=SIMULATION,
    )
    sim_prefill_graphs: int = Field(
        0,
        ge=0,
        le=512,
        description="Simulated prefill graphs, which Foundry does not cover: captured at every start",
        json_schema_extra=SIMULATION,
    )
    sim_rate_s: float = Field(
        6.0, gt=0, le=100, description="Simulated requests a second outside the burst", json_schema_extra=SIMULATION
    )
    sim_burst: float = Field(
        4.0,
        gt=0,
        le=20,
        description="So many times as many in the burst of two minutes, for which replicas start",
        json_schema_extra=SIMULATION,
    )

    def unused(self, simulated: bool) -> list[str]:
        """Settings that differ from their defaults and mean nothing to this run."""
        names = [name for name in type(self).model_fields if name not in ("seed", "backend")]
        return self.changed(name for name in names if name.startswith("sim_") is not simulated)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes, rising."""
        if self.batches.strip():
            return tuple(sorted({int(part) for part in self.batches.split(",")}))
        return ladder(self.ladder) if self.single else ladder(self.ladder + 1)[1:]

    @property
    def ways(self) -> tuple[Way, ...]:
        """Ours and what stands beside it, in the order they run."""
        return COMPARED[self.compare]

    @property
    def depth(self) -> int:
        """Layers of the step."""
        return self.layers or LAYERS[self.model]

    @model_validator(mode="after")
    def _fits(self) -> FoundryConfig:
        if self.batches.strip():
            parts = [part.strip() for part in self.batches.split(",")]
            if not all(part.isdecimal() and 1 <= int(part) <= MOST_BATCH for part in parts) or len(parts) > 64:
                raise ValueError(f"batches: write at most 64 whole numbers from 1 to {MOST_BATCH}, as 1,2,4,8")
        if self.depth > LAYERS[self.model]:
            raise ValueError(f"layers: {self.model} has {LAYERS[self.model]}; None takes all")
        if self.vllm != "no" and self.model == "tiny":
            raise ValueError("vllm: its attention on a CPU takes heads of 32 and more, tiny has 16; take model smollm2")
        if self.damage in ("parameter", "every") and self.verify == "first use":
            raise ValueError(
                "verify: with 'first use' a changed parameter is found at the first step and not at the load; "
                "take 'all' or 'templates'"
            )
        return self


def ladder(count: int) -> tuple[int, ...]:
    """The first `count` batch sizes: 1, 2, 4, 8, 16, 24, 32, 40, 48, ..."""
    return (*FIRST, *range(48, 48 + 8 * count, 8))[:count]


PRESETS = {
    "tiny": FoundryConfig(
        model="tiny", layers=1, batches="2,3,8", capacity=32, compare="nothing", steps=3, reuse=True,
        verify="all",
    ),
    "small": FoundryConfig(ladder=6, single=False),
    "vllm": FoundryConfig(ladder=4, single=False, compare="nothing", vllm="eager", reuse=True),
    "real": FoundryConfig(layers=None, compare="eager"),
    "paper": FoundryConfig(backend="sim"),
}  # fmt: skip

BASELINES: dict[str, dict[str, Any]] = {
    "one compilation a size": {"dynamic": False},
    "nothing replayed at load": {"verify": "first use"},
    "a damaged archive": {"damage": "bit"},
    "eager beside it": {"compare": "eager"},
}

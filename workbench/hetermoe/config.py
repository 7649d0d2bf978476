"""What a HeterMoE run can be asked: the fields of the form and the flags of the command line. Imports no numpy."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from workbench import lanes
from workbench.system import Config

MEASURED: dict[str, Any] = {"group": "measured run"}
SIMULATION: dict[str, Any] = {"group": "simulation"}
MONEY: dict[str, Any] = {"group": "prices"}
ADVANCED: dict[str, Any] = {"group": "advanced"}
MOVES: dict[str, Any] = {"clears": ["placed"]}  # experts that were placed by hand are placed anew when this changes
GpuName = Literal["V100", "T4", "A40", "L40S", "A100 40 GB", "A100 80 GB", "H100", "H200"]
ModelName = Literal["W1", "W2", "D1", "D2", "D3", "own"]
MOST_RANKS = 16  # processes of a measured run
SCORES_BYTES = 6e9  # of naive attention, forward and backward: longer sequences are refused before they fill the memory


class HeterMoEConfig(Config):
    """Train a mixture of experts over devices of two kinds: on processes here, or on a virtual clock."""

    backend: Literal["auto", "cpu", "sim"] = Field(
        "auto",
        description="cpu trains over real processes and measures them; sim plans for GPUs by a cost model, on a "
        "virtual clock",
    )
    attention: int = Field(
        1, ge=1, le=64, description="Ranks that run attention, on the new kind of device (M)", json_schema_extra=MOVES
    )
    expert: int = Field(
        1, ge=1, le=64, description="Ranks that run experts alone, on the old kind (N)", json_schema_extra=MOVES
    )
    length: float = Field(1024.0, ge=64, le=65_536, description="Tokens of a sequence; rounded to whole ones")
    moved_pct: int | None = Field(
        None,
        ge=0,
        le=100,
        json_schema_extra=MOVES | {"none": "as the planner says"},
        description="Share of all experts that lie on attention ranks, spread evenly over layers; drag it and see the "
        "bubbles of the Model tab move",
    )
    placed: str | None = Field(
        None,
        max_length=20_000,
        json_schema_extra={"widget": "text", "none": "not by hand"},
        description="Rank of each expert, as dragged in the Model tab or written: '0-2: 2x3 3x3' puts three experts "
        "of layers 0 to 2 on rank 2, three on rank 3. Goes before moved_pct and planner",
    )
    tokens: int = Field(
        4096, ge=64, le=1 << 20, description="Tokens of an attention rank's batch, in whole sequences, at least one "
        "for each micro-batch",
    )  # fmt: skip
    micro_batches: int = Field(2, ge=1, le=16, description="That a batch is cut into, so that both sides work (R)")
    planner: Literal["search", "greedy", "printed"] = Field(
        "search",
        description="Who decides how many experts go to attention ranks (Asym-EA). search: by simulation, for any M:N; "
        "greedy: the paper's gather and squeeze; printed: with its formula as it is printed, where n1 and n2 are "
        "exchanged",
        json_schema_extra=MOVES,
    )
    # -- the model of a measured run, and of a simulated one of your own
    layers: int = Field(3, ge=1, le=64, description="Layers", json_schema_extra=MEASURED | MOVES)
    hidden: int = Field(256, ge=8, le=8192, description="Width", json_schema_extra=MEASURED)
    heads: int = Field(4, ge=1, le=128, description="Attention heads", json_schema_extra=MEASURED)
    ffn: int = Field(768, ge=8, le=32_768, description="Inner width of an expert", json_schema_extra=MEASURED)
    experts: int = Field(8, ge=1, le=256, description="Experts of a layer", json_schema_extra=MEASURED | MOVES)
    top_k: int = Field(2, ge=1, le=16, description="Experts that a token goes to", json_schema_extra=MEASURED)
    rounds: int = Field(
        3, ge=1, le=50, description="Interleaved turns of each way, a warm and a measured step each; medians are shown",
        json_schema_extra=MEASURED,
    )  # fmt: skip
    deepspeed: bool = Field(
        True, description="Measure the real DeepSpeed-MoE in the same turns", json_schema_extra=MEASURED
    )
    proof: bool = Field(
        True, description="Train a narrow model under the same plan and in one process, and compare every parameter",
        json_schema_extra=MEASURED,
    )  # fmt: skip
    old_share: float | None = Field(
        None,
        ge=0.05,
        le=1,
        json_schema_extra=MEASURED | {"none": "not limited"},
        description="Share of a core that the kernel gives each rank of the old kind (cgroup quota, where allowed)",
    )
    old_pace: float | None = Field(
        None,
        ge=1.1,
        le=100,
        json_schema_extra=MEASURED | {"none": "not paced"},
        description="How many times as long each stage of the old kind is made on purpose, by products of matrices "
        "that are thrown away; it is called paced wherever it is shown",
    )
    # -- the simulation
    model: ModelName = Field(
        "D1",
        description="The paper's models; own: layers, hidden, experts and top_k above",
        json_schema_extra=SIMULATION | MOVES,
    )
    new: GpuName = Field("A40", description="Kind of the attention ranks", json_schema_extra=SIMULATION)
    old: GpuName = Field("V100", description="Kind of the expert ranks", json_schema_extra=SIMULATION)
    link_gb_s: float = Field(
        12.5, ge=0.1, le=1000, description="A GPU's share of the network, GB/s", json_schema_extra=SIMULATION
    )
    skew: float = Field(
        0.0, ge=0, le=2,
        description="How unequally tokens go to experts: 0 balanced; s: as 1 / place^s, places drawn by the seed",
        json_schema_extra=SIMULATION,
    )  # fmt: skip
    hand_s: float = Field(
        0.0, ge=0, le=3600,
        description="How long a simulated run waits for you after each thing done by hand: move an expert, make "
        "sequences longer, let the routing drift, s",
        json_schema_extra=SIMULATION,
    )  # fmt: skip
    published: bool = Field(
        False, description="Predict every published number too, half a minute", json_schema_extra=SIMULATION
    )
    # -- money
    new_usd_h: float | None = Field(
        None, ge=0, le=1000, description="Of a new device, $/h",
        json_schema_extra=MONEY | {"none": "as the dated table says"},
    )  # fmt: skip
    old_usd_h: float | None = Field(
        None, ge=0, le=1000, description="Of an old device, $/h",
        json_schema_extra=MONEY | {"none": "as the dated table says"},
    )  # fmt: skip
    gpu_file: str | None = Field(
        None,
        json_schema_extra=MONEY | {"widget": "path", "none": "the built-in table"},
        description="Data sheets and dated prices of your own, CSV as workbench.hetermoe.gpus.write makes it",
    )
    spot: bool = Field(False, description="Pay the preemptible price", json_schema_extra=MONEY)
    # -- advanced
    profile_file: str | None = Field(
        None,
        json_schema_extra=ADVANCED | {"widget": "path", "none": "made anew"},
        description="A profile that was written before (JSON): its devices must be called new and old in a measured "
        "run, and as named above in a simulated one. Another model's is refused",
    )
    port: int = Field(0, ge=0, le=65_535, description="Where ranks meet; 0: at a file", json_schema_extra=ADVANCED)
    timeout_s: float = Field(
        60.0, ge=1, le=3600, description="Longest wait of a rank for another, s", json_schema_extra=ADVANCED
    )

    @property
    def tokens_of_sequence(self) -> int:
        """`length` in whole tokens."""
        return max(1, round(self.length))

    @property
    def sequences(self) -> int:
        """Of all attention ranks' batches together: one or more for each micro-batch, as many for each rank of EP."""
        world = self.attention + self.expert
        each = max(self.micro_batches, round(self.tokens / self.tokens_of_sequence))
        wanted = max(self.attention * each, world)
        unit = world * self.attention
        return -(-wanted // unit) * unit

    def unused(self, simulated: bool) -> list[str]:
        """Settings that differ from their defaults and mean nothing to this run."""
        names = _of(SIMULATION) if not simulated else [n for n in _of(MEASURED) if n not in _shape(self.model)]
        names += ["port"] if simulated else ["gpu_file", "spot"]
        return self.changed(names)

    @model_validator(mode="after")
    def _fits(self) -> HeterMoEConfig:
        if self.top_k > self.experts:
            raise ValueError(f"top_k: top-{self.top_k} of {self.experts} experts; lower it, or give more experts")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"heads: hidden {self.hidden} is not {self.heads} heads of an even width")
        large, small = max(self.attention, self.expert), min(self.attention, self.expert)
        if self.placed is not None:
            self._placeable(self.placed)
        elif self.planner != "search" and self.moved_pct is None and large % small:
            raise ValueError(
                f"planner: gather and squeeze needs one of {self.attention} attention and {self.expert} expert ranks "
                "to divide the other; take 'search', which needs none"
            )
        return self if self.backend == "sim" else self._measurable()

    def _placeable(self, text: str) -> None:
        """ValueError: no placement, or one of other ranks. Whether it is the model's, the planner's side says."""
        try:
            rows = lanes.read(text)
        except lanes.LanesError as error:
            raise ValueError(f"placed: {error}") from None
        most, last = max(max(row) for row in rows), self.attention + self.expert - 1
        if most > last:
            raise ValueError(
                f"placed: an expert is on rank {most}, and ranks go from 0 to {last}; place it on one of these, or "
                "leave it to the planner"
            )

    def _measurable(self) -> HeterMoEConfig:
        if self.attention + self.expert > MOST_RANKS:
            raise ValueError(f"attention: a measured run has at most {MOST_RANKS} ranks; take fewer, or backend='sim'")
        scores = 24.0 * self.heads * self.tokens_of_sequence**2
        if scores > SCORES_BYTES:
            raise ValueError(
                f"length: the old kind writes attention's scores out, {scores / 1e9:.0f} GB at this length; take a "
                "shorter one, or backend='sim'"
            )
        return self


def _of(group: dict[str, Any]) -> list[str]:
    found = []
    for name, info in HeterMoEConfig.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("group") == group["group"]:
            found.append(name)
    return found


def _shape(model: str) -> tuple[str, ...]:
    return ("layers", "hidden", "experts", "top_k") if model == "own" else ()


PAPER: dict[str, Any] = {"backend": "sim", "attention": 6, "expert": 6, "length": 8192.0, "tokens": 32_768}
PRESETS = {
    "tiny": HeterMoEConfig(
        backend="sim", model="own", layers=3, hidden=1024, experts=6, attention=2, expert=2, length=4096.0,
        tokens=16_384, new="A100 40 GB", old="V100", skew=0.3, hand_s=0.5,
    ),
    "small": HeterMoEConfig(backend="cpu"),
    "long": HeterMoEConfig(backend="cpu", length=4096.0, tokens=8192, layers=2, rounds=2),
    "uneven": HeterMoEConfig(backend="cpu", attention=2, expert=1, length=512.0, tokens=2048, rounds=2),
    "by hand": HeterMoEConfig(**PAPER | {"attention": 3, "new": "A100 40 GB", "hand_s": 600.0}),
    "paper": HeterMoEConfig(**PAPER, published=True),
    "cloud": HeterMoEConfig(**PAPER | {"attention": 2, "model": "W2", "new": "L40S", "old": "T4", "link_gb_s": 2.5}),
}  # fmt: skip

BASELINES: dict[str, dict[str, Any]] = {
    "no experts moved": {"moved_pct": 0, "placed": None},
    "gather and squeeze": {"planner": "greedy", "moved_pct": None, "placed": None},
    "one micro-batch": {"micro_batches": 1},
}

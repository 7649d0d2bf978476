"""What a HeterMoE run found: a row per step and way, a step as predicted and as measured, ratios, lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from workbench.hetermoe.config import HeterMoEConfig
from workbench.system import Badge, Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ARMS: Mapping[str, str] = {
    "zebra": "zebra, with experts moved",
    "plain": "zebra, none moved",
    "ep": "expert parallelism",
    "deepspeed": "DeepSpeed-MoE",
    "distep": "disaggregated, no overlap (DistEP)",
    "ideal": "EP (Ideal): two groups that do not meet",
    "hand": "as moved by hand",
}
SHORT = {
    "zebra": "zebra, experts moved", "plain": "zebra, none moved", "ep": "expert parallelism",
    "deepspeed": "DeepSpeed-MoE", "distep": "DistEP", "ideal": "EP (Ideal)", "hand": "moved by hand",
}  # fmt: skip
TESTED, RIVAL = "zebra", "ep"
COLUMNS = {
    "way": "; ".join(f"{name}: {said}" for name, said in ARMS.items()),
    "length": "tokens of a sequence",
    "round": "turn, of a measured run",
    "seconds": "a step, s",
    "tokens_per_s": "tokens of the step over its time, tokens/s",
    "predicted_tokens_per_s": "the same by the simulator with this run's profile, tokens/s",
    "attention": "ranks that attend",
    "expert": "ranks that run experts alone",
    "micro_batches": "that the batch is cut into",
    "offloaded": "experts on attention ranks, all layers (Asym-EA)",
    "loss": "of the step's batch, of a measured run",
    "badge": "measured or modelled",
}
BADGES: Mapping[str, Badge] = {"predicted_speedup": "modelled", "offloaded_experts": "modelled"}  # of a live run too
_PLAIN = ConfigDict(frozen=True, extra="forbid")


class Row(BaseModel):
    """A step of one way."""

    model_config = _PLAIN

    way: str = Field(validation_alias=AliasChoices("way", "arm"))  # of records of before
    length: int
    round: int = 0
    seconds: float
    tokens_per_s: float
    predicted_tokens_per_s: float | None = None
    attention: int
    expert: int
    micro_batches: int
    offloaded: int = 0
    loss: float | None = None
    badge: Badge


Box = tuple[int, str, int, int, bool, float, float]  # lane, stage, layer, micro-batch, backward, start and end in s


class Drawn(BaseModel):
    """A step as it is drawn. lanes: names, computing ranks first; used: their share of the step spent computing."""

    model_config = _PLAIN

    way: str = Field(validation_alias=AliasChoices("way", "arm"))  # of records of before
    badge: Literal["measured", "modelled"]
    step_s: float
    lanes: list[str]
    used: list[float]
    boxes: list[Box]
    sides: tuple[float, float] | None = None  # means of `used` over all attention ranks, all expert ranks; not of ep

    def spans(self, only: int | None = None, lane: str = "") -> list[Span]:
        """For a timeline: all lanes, or only one of them, under another name."""
        word = "predicted" if self.badge == "modelled" else "measured"
        boxes = self.boxes if only is None else [box for box in self.boxes if box[0] == only]
        return [_span(box, f"{word}: {lane or self.lanes[box[0]]}", word) for box in boxes]


def _span(box: Box, lane: str, how: str) -> Span:
    _, stage, layer, micro, back, start, end = box
    way = "" if stage in {"head", "update"} else " back" if back else " forward"
    where = {"head": "head and loss", "update": "AdamW"}.get(stage, f"layer {layer}")
    label = f"{stage}{way}, {where}" if stage != "update" else where
    if stage != "update":
        label += f", micro-batch {micro}"
    why: dict[str, float | str] = {"stage": stage, "layer": layer, "micro_batch": micro, "took_ms": 1e3 * (end - start)}
    return Span(lane, start, end, label, stage, why | {"way": way.strip() or "both", "how": how})


class Ratio(BaseModel):
    """M:N in the model of ratio.py. usd_per_million: None where a price is missing; why: what keeps it from running."""

    model_config = _PLAIN

    attention: int
    expert: int
    tokens_per_s: float
    offloaded: int
    usd_per_million: float | None
    why: str = ""


class Proof(BaseModel):
    """Training under the plan against one process: largest difference of a parameter, as a share of its largest value.

    control: the same with the gate's gradient path cut. steps, parameters: how many. bits: whether all were equal.
    """

    model_config = _PLAIN

    max_rel_param_error: float
    control: float
    bits: bool
    steps: int
    parameters: int
    told: str


class Beside(BaseModel):
    """A published number and ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    what: str
    paper: float
    ours: float | None
    unit: str
    source: str
    fitted: bool = False
    note: str = ""


class Moved(BaseModel):
    """Something done by hand, and the simulated step after it."""

    model_config = _PLAIN

    what: str
    step_s: float
    attention_used: float
    expert_used: float
    offload: list[int]
    length: int


class HeterMoEResult(Result):
    """Ways to train a mixture of experts over two kinds of device, measured or modelled, and what the planner chose."""

    config: HeterMoEConfig
    rows: list[Row]
    drawn: list[Drawn]  # predicted first
    lengths: list[tuple[int, dict[str, float]]]  # tokens a second of each way, modelled
    crossings: dict[str, list[float]]  # lengths at which zebra passes each way
    ratios: list[Ratio]
    offload: list[int]  # of each layer
    chosen: str  # the way that the planner would run
    kinds: tuple[str, str]  # new, old
    prices: str
    plan: str  # JSON, for Plan.from_json and train()
    profile: str  # JSON, for profile_file
    proof: Proof | None = None
    published: list[Beside] = Field(default_factory=list)
    hand: list[Moved] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    def ways(self) -> list[str]:
        """Ways that have rows, in the order of ARMS."""
        return [way for way in ARMS if self.of(way)]

    def of(self, way: str) -> list[Row]:
        return [row for row in self.rows if row.way == way]

    def speed(self, way: str) -> float:
        """Tokens a second, median over its steps; nan where it was not run."""
        rows = self.of(way)
        return median(row.tokens_per_s for row in rows) if rows else math.nan

    def predicted(self, way: str) -> float:
        """The same as the simulator has it."""
        known = [row.predicted_tokens_per_s for row in self.of(way) if row.predicted_tokens_per_s is not None]
        return known[0] if known else math.nan

    @property
    def winner(self) -> str:
        """The fastest of our own ways."""
        return max((way for way in self.ways() if way not in {"ideal", "deepspeed", "hand"}), key=self.speed)

    def used(self) -> tuple[float, float]:
        """Share of zebra's step that each side computes, means over its ranks: measured where it was."""
        drawn = [one for one in self.drawn if one.way == TESTED][-1]
        if drawn.sides is not None:
            return drawn.sides
        sides: tuple[list[float], list[float]] = ([], [])
        for lane, share in zip(drawn.lanes, drawn.used, strict=False):
            sides["attention" not in lane].append(share)
        return sum(sides[0]) / len(sides[0]), sum(sides[1]) / len(sides[1])

    def summary(self) -> dict[str, float]:
        attention, expert = self.used()
        proof = self.proof.max_rel_param_error if self.proof else math.nan
        numbers = {
            "tokens_per_s": self.speed(TESTED),
            "ep_tokens_per_s": self.speed(RIVAL),
            "deepspeed_tokens_per_s": self.speed("deepspeed"),
            "speedup_vs_ep": self.speed(TESTED) / self.speed(RIVAL),
            "predicted_speedup": self.predicted(TESTED) / self.predicted(RIVAL),
            "utilisation_attention": attention,
            "utilisation_expert": expert,
            "max_rel_param_error": proof,
            "offloaded_experts": float(sum(self.offload)),
        }
        return {name: value for name, value in numbers.items() if not math.isnan(value)}

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.rows], columns=list(COLUMNS))

    def figure(self) -> go.Figure:
        from workbench.hetermoe.figures import overview

        return overview(self)

    def spans(self) -> list[Span]:
        return [span for one in self.drawn for span in one.spans()]

    def claims(self) -> list[Claim]:
        from workbench.hetermoe.beside import beside

        return beside(self)

    def sentence(self) -> str:
        s, c = self.summary(), self.config
        where = f"Measured on {self.provenance.device}" if self.measured else "Modelled"
        moved = "moved" if c.placed is None else "moved by hand"
        model = f"{c.layers} layers of {c.experts} experts" if self.measured or c.model == "own" else c.model
        said = (
            f"{where}: {model} on {c.attention} {self.kinds[0]} and {c.expert} {self.kinds[1]} devices, sequences of "
            f"{c.tokens_of_sequence:,} tokens: zebra with {int(s['offloaded_experts'])} experts {moved} trains "
            f"{s['tokens_per_s']:,.0f} tokens a second"
        )
        if "speedup_vs_ep" in s:
            said += f", {s['speedup_vs_ep']:.2f} times expert parallelism"
            said += f" ({s['predicted_speedup']:.2f} predicted)" if self.measured else ""
        if "deepspeed_tokens_per_s" in s:
            said += f" and {s['tokens_per_s'] / s['deepspeed_tokens_per_s']:.2f} times DeepSpeed-MoE"
        said += f"; the planner would run {ARMS[self.chosen]}"
        if self.proof:
            same = "bit for bit those" if self.proof.bits else f"within {self.proof.max_rel_param_error:.1e} of those"
            said += f"; parameters trained under the plan are {same} of one process"
        if self.hand:
            said += f"; {len(self.hand)} thing{'s were' if len(self.hand) > 1 else ' was'} done by hand"
        return f"{said}."

    def decided(self) -> dict[str, Any]:
        if self.measured:
            told = {row.round: round(row.loss or 0.0, 3) for row in self.rows}  # last bits follow the plan
            return {"ways": self.ways(), "losses": told}
        return {"rows": [row.model_dump() for row in self.rows if row.way != "hand"], "plan": self.plan}

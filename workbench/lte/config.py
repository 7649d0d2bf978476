"""What an LTE run can be asked: the fields of the form and the flags of the command line."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from workbench.lm.dtype import Dtype, chosen_dtype
from workbench.system import Config

LEARN: dict[str, Any] = {"group": "training"}
SPEED: dict[str, Any] = {"group": "speed"}
SIMULATION: dict[str, Any] = {"group": "simulation"}
TEXT = "The plot is thin, but the actors are a joy to watch and the music is wonderful."
MOST_TEXT = 400  # characters of the text that is drawn token by token


class LteConfig(Config):
    """Train a model to use few of its FFN neurons, or take one that was, and measure what that costs and gains."""

    backend: Literal["auto", "cpu", "sim"] = Field(
        "auto", description="cpu runs a real model and measures; sim models the time of a token from what it reads"
    )
    model: Literal["smollm2", "tiny"] = Field(
        "smollm2", description="smollm2: SmolLM2-135M-Instruct; tiny: random weights and a generated task, for tests"
    )
    use: Literal["shipped", "train"] = Field(
        "shipped",
        description="shipped: the routers and adapters that were trained with this model; train: train both arms now, "
        "which takes about an hour of one core for SmolLM2",
    )
    task: Literal["sentiment", "news"] = Field(
        "sentiment",
        description="sentiment: movie-review sentences with human scores (80 % sparse as shipped); news: next words of "
        "news and encyclopedia articles (65 % sparse as shipped)",
    )
    tau: float = Field(
        0.5,
        ge=0.05,
        le=0.95,
        description="Threshold of the routers: an expert runs where its gate is above. Trained for 0.5; higher leaves "
        "more out, without training anew",
    )
    text: str = Field(TEXT, description="A text whose experts are shown, token by token")
    examples: int = Field(
        160, ge=8, le=4000, description="Held-out sentences scored now; the recorded curves are of up to all 2,000"
    )
    windows: int = Field(12, ge=2, le=400, description="Held-out windows of 128 tokens scored now")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Type of weights; auto: bfloat16 where the processor has it (AVX-512 BF16), else float32",
    )
    target: float = Field(
        0.8, ge=0.1, le=0.95, description="Share of the FFN to be left out, as trained", json_schema_extra=LEARN
    )
    grouping: Literal["kmeans", "coactivation", "sized", "fisher", "random"] = Field(
        "kmeans",
        description="What puts 32 neurons into an expert: balanced k-means on gate weights (the paper's), neurons that "
        "are active together, those of a size that are (ours), the same by what the loss feels (ours), or chance",
        json_schema_extra=LEARN,
    )
    tune: Literal["lora", "full"] = Field(
        "lora", description="What learns beside the routers: adapters, or every weight", json_schema_extra=LEARN
    )
    rank: int = Field(8, ge=1, le=64, description="Rank of the adapters", json_schema_extra=LEARN)
    stand_in: int = Field(
        32,
        ge=0,
        le=128,
        description="Rank of a linear map in place of what is left out, for every token (ours; 0: none, as published)",
        json_schema_extra=LEARN,
    )
    teach: bool = Field(
        True,
        description="Hold the sparse model's states and answers to those of its own dense stage (ours)",
        json_schema_extra=LEARN,
    )
    warm_steps: int = Field(70, ge=0, le=5000, description="Steps of dense fine-tuning first", json_schema_extra=LEARN)
    soft_steps: int = Field(160, ge=1, le=5000, description="Steps of stage 1, soft routers", json_schema_extra=LEARN)
    hard_steps: int = Field(
        130,
        ge=0,
        le=5000,
        description="Steps of stage 2, frozen routers and a hard threshold",
        json_schema_extra=LEARN,
    )
    batch: int = Field(16, ge=1, le=256, description="Texts of a batch", json_schema_extra=LEARN)
    separability: float = Field(
        0.02,
        ge=0,
        le=10,
        description="Weight of the loss that keeps gates off the threshold",
        json_schema_extra=LEARN,
    )
    checkpoint_every: int = Field(
        20,
        ge=1,
        le=10_000,
        description="Steps between two checkpoints; a run that was stopped goes on from its last",
        json_schema_extra=LEARN,
    )
    clip: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Longest gradient: of the model's weights and of the routers', or with zero of all together",
        json_schema_extra=LEARN,
    )
    zero: Literal["off", "1", "2"] = Field(
        "off", description="Train with DeepSpeed ZeRO of this stage, on `ranks` processes", json_schema_extra=LEARN
    )
    ranks: int = Field(2, ge=1, le=8, description="Processes of a DeepSpeed run", json_schema_extra=LEARN)
    new_tokens: int = Field(24, ge=4, le=512, description="Tokens that each decode run writes", json_schema_extra=SPEED)
    rounds: int = Field(
        5, ge=1, le=50, description="Interleaved repetitions of each timing; medians are shown", json_schema_extra=SPEED
    )
    sim_model: Literal["LLaMA2-7B", "SmolLM2-135M"] = Field(
        "LLaMA2-7B", description="Shapes of the simulated model, 16 bits a weight", json_schema_extra=SIMULATION
    )
    sim_device: Literal["RTX 3090 Ti", "A100", "H200", "one CPU core"] = Field(
        "RTX 3090 Ti", description="Whose memory is simulated", json_schema_extra=SIMULATION
    )

    @property
    def weights(self) -> Dtype:
        """The type that this machine computes in: `dtype`, or what auto stands for. The tiny model is float32."""
        whole = self.use == "train" and self.tune == "full"  # bfloat16 is too coarse to add small steps to
        return "float32" if self.model == "tiny" or (whole and self.dtype == "auto") else chosen_dtype(self.dtype)

    def unused(self) -> list[str]:
        """Settings that differ from their defaults and mean nothing to this run."""
        training = [n for n, f in type(self).model_fields.items() if f.json_schema_extra == LEARN]
        simulated = ["sim_model", "sim_device"]
        measured = ["model", "use", "task", "tau", "text", "examples", "windows", "dtype", "new_tokens", "rounds"]
        names = [*measured, *training] if self.backend == "sim" else simulated
        if self.backend != "sim" and self.use == "shipped" and self.model != "tiny":
            names = [*names, *training]
        return self.changed(names)

    @model_validator(mode="after")
    def _fits(self) -> LteConfig:
        if not self.text.strip():
            raise ValueError("text: is empty; give a sentence")
        if len(self.text) > MOST_TEXT:
            raise ValueError(f"text: has {len(self.text)} characters; at most {MOST_TEXT} are drawn token by token")
        if self.model == "tiny" and self.use == "shipped":
            raise ValueError("use: nothing is shipped for the tiny model; take use='train', which takes seconds")
        if self.use == "train" and self.tune == "full" and self.dtype == "bfloat16":
            raise ValueError("dtype: steps of training are lost in bfloat16 weights; take float32, or tune='lora'")
        if self.zero != "off" and self.batch % self.ranks:
            raise ValueError(f"batch: {self.batch} texts are not shared evenly by {self.ranks} processes")
        if self.zero != "off" and self.tune == "full" and self.model == "smollm2" and self.ranks > 2:
            raise ValueError("ranks: every rank holds the whole model; two of them fit most machines with tune='full'")
        return self


PRESETS = {
    "tiny": LteConfig(
        model="tiny", use="train", warm_steps=15, soft_steps=40, hard_steps=15, examples=64, windows=8, new_tokens=8,
        rounds=2, target=0.5, stand_in=8, teach=False,
    ),
    "small": LteConfig(examples=96),
    "train": LteConfig(use="train"),
    "paper": LteConfig(backend="sim"),
}  # fmt: skip
BASELINES: dict[str, dict[str, Any]] = {
    "every expert": {"tau": 0.05},
    "experts by chance": {"use": "train", "grouping": "random"},
    "nothing stands in": {"use": "train", "stand_in": 0},
    "no separability": {"use": "train", "separability": 0.0},
}

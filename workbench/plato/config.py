"""What a Plato run can be asked: the fields of the form and the flags of the command line."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from workbench.dag import DagError, read
from workbench.lm.dtype import Dtype, chosen_dtype
from workbench.plato.engine import proper_text
from workbench.plato.grammar import LEAST_ASK
from workbench.plato.graph import MOST_BUDGET, MOST_NODES, PART_TOKENS, Node, Plan, PlanError
from workbench.system import Config

ADVANCED: dict[str, Any] = {"group": "advanced"}
ENDPOINT: dict[str, Any] = {"group": "endpoint"}
SIMULATION: dict[str, Any] = {"group": "simulation"}
Example = Literal["wide", "join", "diamond", "levels", "chain", "eight", "single"]


class PlatoConfig(Config):
    """Answer a query by a graph of parts that are decoded in parallel. Lengths in tokens, times in seconds."""

    BEFORE: ClassVar = {"sim_machine": "sim_device"}

    backend: Literal["auto", "cpu", "sim"] = Field(
        "auto", description="cpu decodes with a real model and measures; sim runs the same scheduler on a cost model"
    )
    engine: Literal["embedded", "vllm", "endpoint"] = Field(
        "embedded",
        description="Which engine decodes: the built-in one, real vLLM in a process of its own, or any "
        "OpenAI-compatible server of yours",
    )
    model: Literal["smollm2", "tiny"] = Field(
        "smollm2", description="smollm2: SmolLM2-135M-Instruct; tiny: a random Llama for tests"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Type of weights and KV cache; auto: bfloat16 where the processor has it (AVX-512 BF16), "
        "else float32",
    )
    example: Example = Field("join", description="A bundled query and plan; a query or plan of your own replaces it")
    query: str | None = Field(
        None,
        max_length=20_000,
        json_schema_extra={"widget": "text", "none": "the example's"},
        description="What is asked",
    )
    plan: str | None = Field(
        None,
        max_length=20_000,
        json_schema_extra={"widget": "dag", "none": "the example's"},
        description="The plan as lines, '3 <- 1, 2 [48]: question': id, what it needs, tokens if not node_tokens",
    )
    planner: Literal["script", "given", "model", "free", "rules"] = Field(
        "script",
        description="Who plans. script: the plan above is written token by token, each at the price of the model's "
        "own; given: it is there at no cost; model: the model plans under a grammar; free: without one; rules: the "
        "query is cut at its lists and conjunctions",
    )
    node_tokens: int | None = Field(
        None,
        ge=1,
        le=MOST_BUDGET,
        json_schema_extra={"none": "as the plan says"},
        description="Tokens of each part, instead of what the plan says; 64 where neither says it",
    )
    whole: bool = Field(
        True, description="Every part decodes exactly its tokens, so that all ways write equally much; no: it may end"
    )
    way: Literal["plato", "sot", "independent", "nodes", "plain"] = Field(
        "plato",
        description="Way under test; the others are measured beside it. plain: no plan; nodes: one part after the "
        "other; sot: Skeleton-of-Thought; independent: all parts at once, nothing shared",
    )
    refuse: bool = Field(
        True, description="The scheduler may refuse a plan that is not faster, and let the plain answer go on"
    )
    pipeline: bool = Field(True, description="A part starts while the plan is still being written")
    context: Literal["growing", "needs"] = Field(
        "growing", description="What a part sees: all finished parts in one fixed order, or only those it needs"
    )
    rounds: int = Field(2, ge=1, le=20, description="Interleaved repetitions of each way; medians are shown")
    quality_tasks: int = Field(
        0, ge=0, le=64, description="Generated tasks with known answers on which the ways are scored, each"
    )
    warm: bool = Field(
        True,
        description="What no query changes (system prompt, planner's instructions) is in the KV cache of every way "
        "before the clock starts, as on a server that has seen a query before; no: the first query ever",
        json_schema_extra=ADVANCED,
    )
    temperature: float = Field(0.0, ge=0, le=4, description="0: the likeliest token", json_schema_extra=ADVANCED)
    most_running: int = Field(
        16, ge=1, le=64, description="Most sequences decoded together", json_schema_extra=ADVANCED
    )
    pad: bool = Field(
        True, description="Pad a step to a wider one where that is faster on this machine", json_schema_extra=ADVANCED
    )
    threads: int = Field(1, ge=1, le=64, description="Compute threads", json_schema_extra=ADVANCED)
    endpoint_url: str = Field(
        "http://127.0.0.1:8000/v1", description="Base URL of the server", json_schema_extra=ENDPOINT
    )
    endpoint_model: str = Field("", description="Model's name there; empty: its first", json_schema_extra=ENDPOINT)
    endpoint_key_variable: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key; it is never recorded",
        json_schema_extra=ENDPOINT,
    )
    endpoint_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="Longest silence of the server, s", json_schema_extra=ENDPOINT
    )
    judge: bool = Field(
        False,
        description="Ask the server's model which answer is better, that of the way under test or the plain one, once "
        "in each order; it judges its own answers",
        json_schema_extra=ENDPOINT,
    )
    sim_device: Literal["one CPU core, bfloat16", "one CPU core, float32", "flat", "llama.cpp Q4_1"] = Field(
        "one CPU core, bfloat16",
        description="Whose steps are simulated. flat: a step costs the same at any width, the bound of memory-bound "
        "decoding; llama.cpp Q4_1: published widths of a quantized model on two cores",
        json_schema_extra=SIMULATION,
    )

    @property
    def weights(self) -> Dtype:
        """The type that this machine computes in: `dtype`, or what auto stands for."""
        return chosen_dtype(self.dtype)

    def unused(self) -> list[str]:
        """Settings that differ from their defaults and mean nothing to this run."""
        simulated = self.backend == "sim"
        names = ["engine", "model", "dtype", "threads", "rounds", "temperature"] if simulated else ["sim_device"]
        if simulated or self.engine != "endpoint":
            names += ["endpoint_url", "endpoint_model", "endpoint_key_variable", "endpoint_timeout_s"]
        else:  # the server has its own
            names += ["model", "dtype", "threads", "warm", "pad", "seed"]
        names += ["pad"] if self.engine == "vllm" and not simulated else []
        return self.changed(names)

    @field_validator("query", "plan", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        return proper_text(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> PlatoConfig:
        if self.query is not None and not self.query.strip():
            raise ValueError("query: is empty; ask something, or None for the example's")
        if self.plan is not None:
            plan_from(self.plan, self.node_tokens)
        if self.query is not None and self.plan is None and self.planner in ("script", "given"):
            raise ValueError(
                f"planner: {self.planner!r} needs a plan for a query of your own: give one, or let 'model' or 'rules' "
                f"plan"
            )
        if self.backend == "sim" and self.planner in ("model", "free"):
            raise ValueError("planner: a simulated run has no model that plans; take 'script', 'given' or 'rules'")
        if self.way == "nodes" and self.planner in ("model", "free"):
            raise ValueError("way: 'nodes' takes a plan that is there before; let 'script', 'given' or 'rules' plan")
        if self.engine == "endpoint" and not self.endpoint_url.startswith(("http://", "https://")):
            raise ValueError("endpoint_url: must begin with http:// or https://")
        if self.engine == "vllm" and self.threads != 1:
            raise ValueError("threads: the vLLM run computes on one thread; use engine='embedded' for more")
        if self.judge and (self.engine != "endpoint" or self.backend == "sim"):
            raise ValueError("judge: is a model behind engine='endpoint'; the bundled one is too small for it")
        if self.judge and self.way == "plain":
            raise ValueError("judge: the way under test is compared with the plain answer, and is 'plain' itself")
        if self.quality_tasks and (self.engine != "embedded" or self.backend == "sim"):
            raise ValueError("quality_tasks: the ways are scored with the embedded engine only")
        return self


def plan_from(text: str, node_tokens: int | None = None) -> Plan:
    """The plan that a setting holds; `node_tokens` replaces its budgets. ValueError names the line."""
    try:
        found = read(text)
        if not found:
            raise PlanError("no line in it")
        if len(found) > MOST_NODES:
            raise PlanError(f"{len(found)} nodes, where at most {MOST_NODES} are decoded")
        if short := next((v for v in found if len(v.label) < LEAST_ASK), None):
            raise PlanError(f"question {short.id} has {len(short.label)} characters: at least {LEAST_ASK} are needed")
        if odd := next((v for v in found if v.weight is not None and not 1 <= v.weight <= MOST_BUDGET), None):
            raise PlanError(f"part {odd.id} asks for {odd.weight} tokens: a part has 1 to {MOST_BUDGET}")
        return Plan(tuple(Node(v.id, v.label, v.needs, node_tokens or v.weight or PART_TOKENS) for v in found))
    except (DagError, PlanError) as error:
        raise ValueError(f"plan: {error}") from None


PRESETS = {
    "tiny": PlatoConfig(model="tiny", dtype="float32", example="diamond", node_tokens=12, rounds=1),
    "small": PlatoConfig(),
    "chain": PlatoConfig(example="chain", rounds=1),
    "quality": PlatoConfig(example="join", rounds=1, quality_tasks=3, node_tokens=16),
    "vllm": PlatoConfig(engine="vllm"),
    "paper": PlatoConfig(backend="sim", example="eight", sim_device="flat"),
}

BASELINES: dict[str, dict[str, Any]] = {
    "no pipeline": {"pipeline": False},
    "only what is needed": {"context": "needs"},
    "plan given": {"planner": "given"},
    "never refuses": {"refuse": False},
    "cold instructions": {"warm": False},
}

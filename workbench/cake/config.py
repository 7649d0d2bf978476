"""What a CAKE run can be asked: the fields of the form and the flags of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from workbench.lm.dtype import Dtype, chosen_dtype
from workbench.system import Config

LONGEST = {"smollm2": 8192, "tiny": 4096}
STEP = 512  # tokens a pass computes where the config does not say
SHARES = {"A100": ("12.5", "50", "100"), "H100": ("50", "100"), "2xA100": ("12.5", "100")}  # rows of table 3
ADVANCED: dict[str, Any] = {"group": "advanced"}
SIMULATION: dict[str, Any] = {"group": "simulation"}


class CakeConfig(Config):
    """Restore a long prompt's KV cache from both ends. Sizes in tokens, bandwidth in MB/s (10**6 bytes)."""

    BEFORE: ClassVar = {"sim_hardware": "sim_device"}

    backend: Literal["auto", "cpu", "sim"] = Field(  # cuda: no GPU was ever at hand for this system
        "auto", description="cpu restores a real prompt and measures it; sim runs the same policy on a cost model"
    )
    engine: Literal["embedded", "vllm"] = Field(
        "embedded", description="Which engine computes: the built-in one, or real vLLM in a process of its own"
    )
    model: Literal["smollm2", "tiny"] = Field(
        "smollm2", description="smollm2: SmolLM2-135M-Instruct; tiny: a random Llama for tests"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Type of weights and KV cache; auto: bfloat16 where the processor has it (AVX-512 BF16), "
        "else float32",
    )
    prompt_tokens: int = Field(8001, ge=64, le=131072, description="Length of the prompt to restore, tokens")
    link_mb_s: float | None = Field(
        None,
        ge=0,
        le=1e6,
        json_schema_extra={"none": "balance point"},
        description="Bandwidth of the KV store, MB/s, by a token bucket over real reads. 0: the raw disk. "
        "None: the balance point, where loading all takes as long as computing all",
    )
    link_latency_ms: float = Field(
        0.0, ge=0, le=10_000, description="Delay added before each read, ms, as a network store has; 0: none"
    )
    policy: Literal["cake", "compute", "load"] = Field(
        "cake", description="Mode under test; compute-only and load-only are measured beside it in any case"
    )
    rounds: int = Field(2, ge=1, le=20, description="Interleaved repetitions of each mode; medians are shown")
    sweep_points: int = Field(0, ge=0, le=4, description="Further bandwidths at which CAKE is measured once each")
    requests: int = Field(
        1, ge=1, le=8, description="Prompts restored together, the longest first; the others are shorter by equal steps"
    )
    batch: Literal["fifo", "mean", "makespan"] = Field(
        "mean", description="How requests share compute and load: as they came, for the mean TTFT, for the last one"
    )
    store: Literal["disk", "lmcache-ram", "lmcache-disk", "lmcache-server"] = Field(
        "disk", description="Where KV lies: checksummed files, or LMCache in memory, on disk, on its server"
    )
    prompt_file: str | None = Field(
        None, description="A text file of yours as the prompt, cut to prompt_tokens; None: generated text"
    )
    store_limit_mb: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Most that the disk store keeps, MB; what does not fit is evicted. None: no limit",
        json_schema_extra={"none": "no limit", **ADVANCED},
    )
    eviction: Literal["head-last", "head-first"] = Field(
        "head-last",
        description="What a full store drops of a prompt first: its end (others may share the front), or its front",
        json_schema_extra=ADVANCED,
    )
    damage_pct: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Share of the stored grains that is damaged before the restores (bits flipped, files cut, files "
        "deleted), percent: the answer must stay exact",
        json_schema_extra=ADVANCED,
    )
    grain: int = Field(
        128, ge=16, le=1024, multiple_of=16, description="Unit of storage, tokens", json_schema_extra=ADVANCED
    )
    step: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="Most tokens per compute pass; None: 512. At least a grain; a prompt takes two passes or more",
        json_schema_extra=ADVANCED,
    )
    run: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Most grains per read; None: chosen from the costs of the tier",
        json_schema_extra=ADVANCED,
    )
    hedge: bool = Field(True, description="Compute a grain whose load is late", json_schema_extra=ADVANCED)
    lmcache_mp: bool = Field(
        True,
        description="With engine='vllm': measure LMCache's own connector, which only loads, in an engine of its own",
        json_schema_extra=ADVANCED,
    )
    threads: int = Field(1, ge=1, le=64, description="Compute threads", json_schema_extra=ADVANCED)
    sim_device: Literal["A100", "H100", "2xA100", "one CPU core"] = Field(
        "A100", description="Simulated hardware, calibrated on the paper's table 3", json_schema_extra=SIMULATION
    )
    sim_model: Literal["LongAlpaca-7B", "LongAlpaca-13B", "Llama-3.1-8B", "Llama-3.1-70B"] = Field(
        "LongAlpaca-13B",
        description="Simulated model on the paper's hardware: KV bytes are the paper's, computing is scaled by size "
        "from LongAlpaca-13B; one CPU core simulates SmolLM2",
        json_schema_extra=SIMULATION,
    )
    sim_share: Literal["12.5", "50", "100"] = Field(
        "100", description="Share of the simulated GPU that prefill gets, percent", json_schema_extra=SIMULATION
    )

    @property
    def weights(self) -> Dtype:
        """The type that this machine computes in: `dtype`, or what auto stands for."""
        if self.dtype == "auto" and self.backend == "sim":
            return "bfloat16"  # a simulated run is the same wherever it is made
        return chosen_dtype(self.dtype)

    @property
    def pass_tokens(self) -> int:
        """Most tokens that a compute pass takes: `step` in whole grains, and a prompt takes two passes at least."""
        half = (self.prompt_tokens - 1) // self.grain // 2 * self.grain
        return min((self.step or max(STEP, self.grain)) // self.grain * self.grain, half)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt: the longest first, shorter by equal steps, each more than two grains."""
        shares = [self.prompt_tokens * (self.requests - i) // self.requests for i in range(self.requests)]
        return [max(n, 2 * self.grain + 1) for n in shares]

    def unused(self) -> list[str]:
        """Settings that differ from their defaults and mean nothing to this run."""
        measured = ("engine", "model", "store", "prompt_file", "threads", "rounds", "sweep_points", "lmcache_mp")
        simulated = ("sim_device", "sim_share", "sim_model")
        names = measured if self.backend == "sim" else simulated
        return self.changed(names)

    @model_validator(mode="after")
    def _fits(self) -> CakeConfig:
        if self.backend != "sim" and self.prompt_tokens > LONGEST[self.model] - 64:
            most = LONGEST[self.model] - 64
            raise ValueError(
                f"prompt_tokens: {self.model} has {LONGEST[self.model]} positions, so at most {most} "
                f"prompt tokens are left beside the answer; backend='sim' takes longer ones"
            )
        if self.prompt_tokens <= 2 * self.grain:
            least = 2 * self.grain + 1
            raise ValueError(f"prompt_tokens: must hold more than two grains of {self.grain} tokens: at least {least}")
        if self.step is not None and self.step < self.grain:
            raise ValueError(f"step: must be at least one grain of {self.grain} tokens")
        whole_disk = self.store_limit_mb is None and self.damage_pct == 0
        if not whole_disk and (self.engine == "vllm" or self.store != "disk" or self.backend == "sim"):
            which = "damage_pct" if self.damage_pct else "store_limit_mb"
            raise ValueError(f"{which}: limits and damage are for store='disk' with the embedded engine")
        if self.backend == "sim" and self.link_mb_s == 0:
            raise ValueError("link_mb_s: the raw disk cannot be simulated; name a bandwidth, or None for the balance")
        if self.sim_device in SHARES and self.sim_share not in SHARES[self.sim_device]:
            have = ", ".join(SHARES[self.sim_device])
            raise ValueError(f"sim_share: the paper's table 3 has {self.sim_device} at {have} % only")
        if self.engine == "vllm" and self.threads != 1:
            raise ValueError("threads: the vLLM run computes on one thread; use engine='embedded' for more")
        if self.engine == "vllm" and self.requests > 1:
            raise ValueError("requests: the vLLM run measures one prompt at a time; use engine='embedded' for several")
        return self


def own_text(path: str) -> str:
    """The text of a prompt_file. ValueError when it cannot be read as text."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"prompt_file: {path} cannot be read as text: {why}") from error


PRESETS = {
    "tiny": CakeConfig(model="tiny", dtype="float32", prompt_tokens=1601, link_mb_s=40.0, rounds=1, grain=64, step=256),
    "small": CakeConfig(prompt_tokens=3201, sweep_points=1),  # a minute, on a processor without bf16 products too
    "vllm": CakeConfig(engine="vllm", prompt_tokens=3201, sweep_points=1),
    "paper": CakeConfig(backend="sim", prompt_tokens=16000, link_mb_s=3125.0, grain=128, step=512, run=1),
}

BASELINES: dict[str, dict[str, Any]] = {
    "compute only": {"policy": "compute"},
    "load only": {"policy": "load"},
    "raw disk": {"link_mb_s": 0.0},
    "no hedging": {"hedge": False},
}

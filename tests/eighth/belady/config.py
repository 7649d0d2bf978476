"""What a run can be asked: bounds and descriptions make the form and the flags."""

from typing import Literal

from pydantic import Field, model_validator

from workbench.system import Config

Policy = Literal["lru", "opt", "fifo"]


class BeladyConfig(Config):
    """Replay a trace of page requests under a policy, beside the others."""

    backend: Literal["auto", "cpu"] = Field("auto", description="Where it runs: on this processor")
    policy: Policy = Field("lru", description="Who is under test. opt: knows the future; lru: least recently used")
    trace: Literal["zipf", "loop", "anomaly"] = Field(
        "zipf",
        description="zipf: some pages are asked for far more often; loop: all pages in turn, again and again; anomaly: "
        "the twelve requests of Belady, Nelson and Shedler, which FIFO serves worse with more memory",
    )
    frames: int = Field(64, ge=1, le=4096, description="Pages that memory holds")
    pages: int = Field(512, ge=1, le=65_536, description="Different pages")
    requests: int = Field(20_000, ge=1, le=1_000_000, description="Length of the trace")
    skew: float = Field(0.9, ge=0, le=3, description="Of zipf: the k-th page is asked for in proportion to 1 / k^skew")

    @model_validator(mode="after")
    def _memory_is_smaller(self) -> "BeladyConfig":
        if self.trace != "anomaly" and self.frames >= self.pages:
            raise ValueError("frames: a memory that holds every page has nothing to choose; give fewer frames")
        return self


PRESETS = {
    "tiny": BeladyConfig(frames=16, pages=64, requests=2_000),
    "small": BeladyConfig(),
    "paper": BeladyConfig(trace="anomaly", policy="fifo", frames=4),
}

"""What the scheduler side and the worker side of CAKE on vLLM tell each other, and what is kept of a request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from workbench.cake.ledger import Ledger
from workbench.cake.policy import Job, Policy, Why
from workbench.cake.vllm_settings import Asked
from workbench.cake.vllm_shared import Segment

LEAVE_S = 1.0  # how long an ending request waits for a copy into its blocks, which takes about a millisecond
PREEMPT_S = 10.0  # the same for a preempted one, whose blocks cannot be kept
HEDGE = "hedge: the load is late"


@dataclass(frozen=True)
class Order:
    """Scheduler to worker: load this prompt's grains from the back of its ledger."""

    job: str
    path: str
    grains: int
    tokens: int
    ids: list[int]
    blocks: list[int]
    policy: Policy
    link_mb_s: float
    latency_ms: float
    cold: bool
    hold: int  # grain that must not be written before this step's pass is over, -1: none


@dataclass(frozen=True)
class Save:
    """Scheduler to worker: these grains are complete after this step's pass."""

    request: str
    ids: list[int]
    grains: list[int]
    blocks: list[list[int]]


@dataclass
class Orders:
    """All that one engine step tells the worker. wait_s: how long a step without a pass may wait for news."""

    start: list[Order] = field(default_factory=list)
    close: list[str] = field(default_factory=list)
    save: list[Save] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)  # requests that will save nothing more
    wait_s: float = 0.0
    epoch: str = ""


@dataclass(frozen=True)
class Loaded:
    """Worker to scheduler: one read. failed: grain -> cause; times of time.monotonic()."""

    job: str
    grains: list[int]
    began_s: float
    ended_s: float
    written: int  # grains that reached the KV cache
    nbytes: int
    failed: dict[int, str]
    why: Why


@dataclass
class Restore:
    """A prompt being filled from both ends."""

    name: str
    job: Job
    policy: Policy
    segment: Segment
    cap: int = 0  # tokens that the next pass may compute
    why: Why = field(default_factory=dict)
    wait_s: float = 0.0
    probe: bool = False  # admitted with one token only, because loading everything is sooner
    sent: bool = False
    seen: tuple[int, bytes] = (-1, b"")
    moved_s: float = 0.0

    @property
    def ledger(self) -> Ledger:
        return self.job.ledger


@dataclass
class Live:
    """One request between admission and its end."""

    request: Any  # vllm.v1.request.Request
    asked: Asked
    ids: list[int]
    stored: list[bool]
    local: int  # tokens from vLLM's own prefix cache
    keeps: bool  # whether its grains are saved
    restore: Restore | None = None
    saved_to: int = 0
    met_at: int = -1  # first token that was loaded, -1: none
    loaded_grains: int = 0
    loaded_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    hedged: int = 0
    spans: list[dict[str, Any]] = field(default_factory=list)

    def summary(self, grain: int) -> dict[str, Any]:
        """What the request's output carries as kv_transfer_params["cake"]."""
        told = {
            "mode": self.asked.cake,
            "prompt_tokens": len(self.ids),
            "prefix_cache_tokens": self.local,
            "meeting_token": self.met_at if self.met_at >= 0 else (len(self.ids) - 1) // grain * grain,
            "loaded_tokens": self.loaded_grains * grain,
            "loaded_bytes": self.loaded_bytes,
            "grains_failed": sum(self.failed.values()),
            "failures": dict(self.failed),
            "grains_hedged": self.hedged,
        }
        return told | ({"spans": self.spans} if self.asked.trace else {})

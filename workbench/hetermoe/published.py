"""The paper's clusters and models on the simulator: one `Cell` for each, with everything it is compared with.

    cell = Cell("D1", 6, 6, 8192)
    cell.speed("zebra"), cell.speed("ideal"), cell.zebra().utilisation

Which model ran on which cluster the paper shows only in part. Taken are those whose experts divide evenly by the
attention ranks, the expert ranks and all ranks together, as its runtime needs. Assumed: two micro-batches, which give
table 3's utilisation without Asym-EA; memory that holds any placement, since batches were sized to fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from workbench.hetermoe.baselines import Model, disaggregated, expert_parallelism, ideal, pipeline
from workbench.hetermoe.calibrated import CALIBRATED, Rates
from workbench.hetermoe.costs import resolve
from workbench.hetermoe.gpus import MODELS, modelled
from workbench.hetermoe.greedy import greedy
from workbench.hetermoe.plan import Plan, zebra
from workbench.hetermoe.profile import Load, Profile
from workbench.hetermoe.search import search
from workbench.hetermoe.sim import Timeline, run, step

CLUSTERS = {"O1": (6, 6), "O2": (4, 8), "O3": (6, 3)}  # A40 and V100, 100 Gbit/s
CLOUD = {"C1": (2, 6), "C2": (2, 8)}  # L40S and T4
CELLS = (("O1", "W1"), ("O1", "W2"), ("O1", "D1"), ("O2", "W2"), ("O2", "D1"), ("O3", "D2"))
CLOUD_CELLS = (("C1", "W2"), ("C1", "D1"), ("C2", "D3"))
LENGTHS = tuple(range(4096, 32769, 4096))
LINK, CLOUD_LINKS = 12.5, (2.5, 25.0)  # GB/s
MICRO_BATCHES = 2
TOKENS = 32768  # of a rank's batch; without latency in the model it cancels out
Arm = Literal["zebra", "plain", "search", "distep", "ep", "ideal", "pipeline"]


@dataclass(frozen=True)
class Cell:
    """One model on M and N devices of two kinds at one length."""

    model: str
    attention: int
    expert: int
    length: int
    link_gb_s: float = LINK
    kinds: tuple[str, str] = ("A40", "V100")
    experts: int = 0  # other than the model's own
    micro_batches: int = MICRO_BATCHES
    rates: Rates = CALIBRATED

    def plan(self) -> Plan:
        """Zebra without offload."""
        shape = MODELS[self.model]
        experts = self.experts or shape.experts
        return zebra(self.attention, self.expert, self.micro_batches, shape.layers, experts, shape.top_k, shape.key)

    def profile(self, *others: str) -> Profile:
        """Modelled, with memory for anything; of other kinds too."""
        profile = modelled(MODELS[self.model], (*self.kinds, *others), self.link_gb_s, rates=self.rates)
        devices = tuple(replace(d, capacity_bytes=math.inf) for d in profile.devices)
        return replace(profile, devices=devices, joined=True)  # one all-to-all a micro-batch

    def load(self) -> Load:
        """Balanced, as the paper's profiler assumes."""
        return Load(TOKENS, self.length, *self.kinds)

    def asymmetric(self) -> Plan:
        """With what Algorithm 1 offloads; nothing where its numbers do not divide."""
        large, small = max(self.attention, self.expert), min(self.attention, self.expert)
        return self.plan() if large % small else greedy(self.plan(), self.profile(), self.load())

    def zebra(self, *, asymmetric: bool = True) -> Timeline:
        """A simulated step."""
        plan = self.asymmetric() if asymmetric else self.plan()
        return run(resolve(plan, self.profile(), self.load()))

    def speed(self, arm: Arm = "zebra") -> float:
        """Tokens a second of HeterMoE, of it without Asym-EA (plain) or with the searched offload, or of a baseline."""
        model, ranks = Model.of(self.plan()), dict(zip(self.kinds, (self.attention, self.expert), strict=True))
        at, slow = (model, self.profile(), ranks, self.load()), self.rates.ep_messages
        if arm in {"zebra", "plain"}:
            return self.zebra(asymmetric=arm == "zebra").tokens_per_s
        if arm == "search":
            return self.attention * TOKENS / search(self.plan(), self.profile(), self.load()).step_s
        if arm == "distep":
            return disaggregated(model, self.profile(), self.attention, self.expert, self.load())
        if arm == "pipeline":
            return pipeline(*at, messages=slow).tokens_per_s
        return (ideal if arm == "ideal" else expert_parallelism)(*at, messages=slow)

    def alone(self, kind: str, number: int) -> float:
        """Tokens a second of EP on devices of one kind."""
        model, load = Model.of(self.plan()), replace(self.load(), attention=kind, expert="")
        profile = self.profile(kind) if kind not in self.kinds else self.profile()
        return expert_parallelism(model, profile, {kind: number}, load, messages=self.rates.ep_messages)


@lru_cache(maxsize=512)
def _grid(cell: tuple[str, int, int, int, float, tuple[str, str]]) -> dict[str, float]:
    model, attention, expert, length, link, kinds = cell
    here = Cell(model, attention, expert, length, link, kinds)
    arms: tuple[Arm, ...] = ("zebra", "plain", "distep", "ep", "ideal", "pipeline")
    return {arm: here.speed(arm) for arm in arms}


def speeds(cluster: str, model: str, length: int, link_gb_s: float = LINK) -> dict[str, float]:
    """Tokens a second of every arm on one of the paper's clusters, kept."""
    cloud = cluster in CLOUD
    attention, expert = (CLOUD if cloud else CLUSTERS)[cluster]
    return _grid((model, attention, expert, length, link_gb_s, ("L40S", "T4") if cloud else ("A40", "V100")))


def last_offload(model: str, stride: int = 4096, most: int = 65536, rates: Rates = CALIBRATED) -> int:
    """Longest sequences, in steps of `stride`, at which Algorithm 1 still offloads on O1; 0 for none."""
    found = 0
    for length in range(stride, most + 1, stride):
        if sum(Cell(model, 6, 6, length, rates=rates).asymmetric().offload):
            found = length
    return found


def step_s(plan: Plan, profile: Profile, load: Load) -> float:
    """Seconds of a plan's step."""
    return step(resolve(plan, profile, load))

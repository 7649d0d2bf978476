"""Algorithm 1 of RLBoost: how long the reserved machines roll out before they train, and how many instances pay.

At the start of a step the trainer's own engines generate for T_seed seconds, then hand on what is unfinished (seeds) to
the preemptible instances and train on what arrives. After each step

    T_seed += (wait_train - wait_remote) / eta
    N_prem  = (t_remote * n + T_seed * N_resv) / t_train
    M[n_hat] = T_seed            when the number of instances did not change during the step
    T_seed   = M[n_hat]          when this number was met before

n: mean number of instances during the step, n_hat: those active just before the next one. Source: arXiv 2510.19225,
Algorithm 1. `rule="release"` is what the public code does instead: half-blind updates of fixed size are smoothed, and
the memory follows a running mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class SeedingOptions:
    """eta: how slowly T_seed follows. The public code has eta 3, a floor of 5 s and a first window of 150 s."""

    eta: float = 3.0
    first_s: float = 150.0
    floor_s: float = 0.0
    memory: bool = True
    rule: Literal["paper", "release"] = "paper"
    forget: float = 0.2  # release: weight of the new value where the memory has one

    def __post_init__(self) -> None:
        if not self.eta > 0:
            raise ValueError(f"eta must be above 0, not {self.eta}")
        if self.first_s < 0 or self.floor_s < 0:
            raise ValueError("windows are 0 s or more")
        if not 0 < self.forget <= 1:
            raise ValueError(f"forget lies in (0, 1], not {self.forget}")


@dataclass(frozen=True)
class StepSeen:
    """What a step showed. Times in seconds.

    wait_train_s: the trainer idle, short of a micro-batch. wait_remote_s: from the last remote response to the end of
    the step. t_remote_s: how long the instances had work, t_train_s: how long training took. mean_instances: over the
    step; next_instances: active just before the next one; changed: whether any came or went meanwhile. reserved: the
    trainer's own engines, in units of an instance.
    """

    wait_train_s: float
    wait_remote_s: float
    t_remote_s: float
    t_train_s: float
    mean_instances: float
    next_instances: int
    changed: bool
    reserved: float

    def __post_init__(self) -> None:
        times = (self.wait_train_s, self.wait_remote_s, self.t_remote_s, self.t_train_s)
        if any(not math.isfinite(t) or t < 0 for t in times):
            raise ValueError(f"times of a step are 0 s or more, not {times}")
        if self.mean_instances < 0 or self.next_instances < 0 or self.reserved < 0:
            raise ValueError("numbers of instances are 0 or more")


@dataclass
class Seeding:
    """The state that lives from step to step."""

    options: SeedingOptions = SeedingOptions()
    t_seed_s: float = field(init=False)
    n_prem: float = field(init=False, default=math.inf)  # nothing is known before the first step: take what there is
    memory_s: dict[int, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.t_seed_s = self.options.first_s

    def window_s(self, instances: int) -> float:
        """How long to seed in a step that begins with so many instances. Without one there is nobody to seed for.

        math.inf: the trainer rolls out everything itself, as a co-located system does.
        """
        return self.t_seed_s if instances > 0 else math.inf

    def allowed(self) -> int:
        """Most instances worth having: beyond, they wait for the trainer."""
        return 10**9 if math.isinf(self.n_prem) else max(1, math.ceil(self.n_prem - 1e-9))

    def after(self, seen: StepSeen) -> None:
        """Take in a step. One without instances teaches nothing about seeding, and only says where to go on."""
        if seen.mean_instances > 0:
            moved = self.t_seed_s + (seen.wait_train_s - seen.wait_remote_s) / self.options.eta
            self.t_seed_s = max(self.options.floor_s, moved)
            if seen.t_train_s > 0:
                work_s = seen.t_remote_s * seen.mean_instances + self.t_seed_s * seen.reserved
                self.n_prem = work_s / seen.t_train_s
            if not seen.changed:
                self._remember(seen.next_instances)
        if self.options.memory and seen.next_instances in self.memory_s:
            self.t_seed_s = self.memory_s[seen.next_instances]

    def _remember(self, instances: int) -> None:
        before = self.memory_s.get(instances)
        if self.options.rule == "paper" or before is None:
            self.memory_s[instances] = self.t_seed_s
        else:
            self.memory_s[instances] = before + self.options.forget * (self.t_seed_s - before)

    def state(self) -> dict[str, object]:
        """What `restore` needs: plain numbers, fit for JSON."""
        kept = {str(n): s for n, s in self.memory_s.items()}
        return {"t_seed_s": self.t_seed_s, "n_prem": None if math.isinf(self.n_prem) else self.n_prem, "memory_s": kept}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from `state`. ValueError when it holds something else."""
        try:
            n_prem, memory = state["n_prem"], state["memory_s"]
            self.t_seed_s = float(state["t_seed_s"])  # type: ignore[arg-type]
            self.n_prem = math.inf if n_prem is None else float(n_prem)  # type: ignore[arg-type]
            self.memory_s = {int(n): float(s) for n, s in memory.items()}  # type: ignore[attr-defined]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no state of seeding: {type(error).__name__} at {error}") from None

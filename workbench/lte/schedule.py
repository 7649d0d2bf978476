"""When what happens in training: stages, modes and learning rates, step by step, and what is told of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from workbench.lte.controller import ControllerOptions
from workbench.lte.losses import SeparabilityOptions
from workbench.lte.sparse_model import Mode

Stage = Literal["warm", "stage 1", "stage 2", "polish"]


@dataclass(frozen=True)
class TrainConfig:
    """Steps are batches. Learning rates: the model's, and the routers', which start from nothing and need far more."""

    arm: Literal["lte", "dense"] = "lte"
    target: float = 0.8
    warm_steps: int = 150
    soft_steps: int = 250
    hard_steps: int = 200
    batch: int = 16
    model_lr: float = 4e-4
    router_lr: float = 2e-2
    warmup: float = 0.06  # share of the steps before the polish in which the learning rate rises
    decay_from: float = 0.0  # and the one from which it falls to a tenth: 0, at once after the rise
    clip: float = 1.0
    tune: Literal["lora", "full"] = "lora"
    router_start: Literal["bias", "activations", "fisher"] = "bias"  # published: at random; "bias": all experts run
    start_batches: int = 8  # that the other two look at
    stand_in_batches: int = 24  # that stand-ins are solved for on, where the model has some
    teach: float = 0.0  # weight of the loss that holds hidden states to the warmed model's; published: none
    distil: float = 0.0  # and of the one that holds its answers to the warmed model's; published: none
    polish_steps: int = 0  # after stage 2; published: none
    polish_rate: float = 0.5  # their learning rate, over the highest
    round_targets: tuple[float, ...] = ()  # of its rounds, the last for all that follow; (): `target`
    round_steps: int = 200  # of the polish: each round renews the routers and ends with the mean of its weights
    settle_steps: int = 30  # of a round, before its mean begins: the model gets used to its routers
    renew_batches: int = 32  # that routers are renewed on
    straight_from: float = 0.6  # share of stage 1 after which the forward is hard; 1: never, as published
    separability: SeparabilityOptions = field(default_factory=SeparabilityOptions)
    controller: ControllerOptions = field(default_factory=ControllerOptions)
    calibrate: bool = True  # at the end of stage 1 shift the routers' biases onto the target
    validate_every: int = 50
    validate_on: int = 256  # examples of the valid part
    patience: int = 0  # end stage 2 after so many validations without a better one; 0: never
    checkpoint_every: int = 50
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.published + self.polish_steps

    @property
    def published(self) -> int:
        """Steps before the polish."""
        return self.warm_steps + self.soft_steps + self.hard_steps

    def stage(self, step: int) -> Stage:
        if step < self.warm_steps:
            return "warm"
        if step < self.warm_steps + self.soft_steps:
            return "stage 1"
        return "stage 2" if step < self.published else "polish"

    def wanted(self, step: int) -> float:
        """The share of experts to leave out once routers are set, in `step`."""
        if self.stage(step) != "polish" or not self.round_targets:
            return self.target
        return self.round_targets[min(len(self.round_targets) - 1, (step - self.published) // self.round_steps)]

    def place(self, step: int) -> int:
        """Where in its round a step of the polish is, from 0."""
        return (step - self.published) % self.round_steps

    def done(self, step: int) -> float:
        """Share of stage 1 that is over before `step`."""
        return min(1.0, max(0.0, (step - self.warm_steps) / max(1, self.soft_steps)))

    def mode(self, step: int) -> Mode:
        """How the FFNs run in `step`."""
        if self.arm == "dense" or self.stage(step) == "warm":
            return "dense"
        if self.stage(step) in ("stage 2", "polish"):
            return "hard"
        return "soft" if self.done(step) < self.straight_from else "straight"

    def rate(self, step: int) -> float:
        """The learning rate's factor: a linear rise, 1 until `decay_from`, then a cosine down to 0.1; the polish's."""
        if self.polish_steps and step >= self.published:
            return self.polish_rate
        rise = max(1, round(self.warmup * self.published))
        if step < rise:
            return (step + 1) / rise
        falls = max(rise, round(self.decay_from * self.published))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * max(0, step - falls) / max(1, self.published - falls)))


@dataclass(frozen=True)
class Step:
    """One step of training. `score` is the hard-mode score on validation examples, where it was measured."""

    step: int
    stage: Stage
    loss: float
    task_loss: float
    sparsity: float  # hard, of this batch
    eta: float
    score: float | None
    seconds: float

"""Train a sparse model in two stages (LTE, section 4.2), as a generator of steps that can be cancelled and resumed.

    warm      dense FFNs: the ordinary fine-tuning that the paper starts from
    stage 1   soft gates; L_task + eta L_eff + lambda L_sep; routers and model learn. Its last part may be `straight`
    stage 2   routers frozen but for the shift that holds the sparsity, hard threshold; L_task alone
    polish    ours, an option: routers fitted anew and weights averaged, round by round (polish.py)
The dense arm runs the same steps on the same batches with dense FFNs throughout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.lte import checkpoint
from workbench.lte.controller import Controller, shift
from workbench.lte.data import Batch, in_batches, joined
from workbench.lte.losses import efficiency, hard_sparsity, separability
from workbench.lte.polish import Mean
from workbench.lte.schedule import Step, TrainConfig
from workbench.lte.sparse_model import SparseModel
from workbench.lte.stand_in import fit_stand_ins
from workbench.lte.start import start_routers
from workbench.lte.tasks import Task
from workbench.lte.teacher import Teacher, carried, distilling, teaching

CALIBRATED = 96  # texts
CLOSE = 0.003  # to the target, in share of the FFN: no further shift of the routers


class Diverged(RuntimeError):
    """The loss or a gradient is no number; the message names the step and what is kept."""


def train(
    sparse: SparseModel,
    task: Task,
    config: TrainConfig,
    folder: Path | None = None,
    seen: list[Step] | None = None,
) -> Generator[Step, None, list[Step]]:
    """Train `sparse` in place, one Step a batch; returns all of them.

    With a `folder` a checkpoint is kept there, and a run that was killed goes on from it, to the same weights as one
    that was not; `seen` is given the steps of the checkpoint at once. Diverged names the step at which the loss was no
    number: the weights are those before it.
    """
    return (yield from drive(Trainer(sparse, task, config), folder, seen))


def drive(
    trainer: Trainer, folder: Path | None = None, seen: list[Step] | None = None
) -> Generator[Step, None, list[Step]]:
    """What `train` does with a trainer: resume, step, keep checkpoints, finish."""
    config = trainer.config
    steps = trainer.resume(folder) if folder else []
    if seen is not None:
        seen.extend(steps)
    while len(steps) < config.steps and not trainer.patience_spent:
        step = trainer.step(len(steps))
        steps.append(step)
        if folder and (len(steps) % config.checkpoint_every == 0 or len(steps) == config.steps):
            trainer.save(folder, steps)
        yield step
    trainer.finish()
    return steps


class Trainer:
    """What a run holds between steps."""

    def __init__(self, sparse: SparseModel, task: Task, config: TrainConfig) -> None:
        self.sparse, self.task, self.config = sparse, task, config
        sparse.model.requires_grad_(False)
        self.mine, self.routers = sparse.model_parameters(config.tune), sparse.router_parameters()
        self.stand_ins = sparse.stand_ins()  # learn from stage 1 on, as fast as the model
        if not self.mine:
            raise ValueError("nothing to train: add adapters first (lora.add), or tune='full'")
        groups = [list(part.values()) for part in (self.mine, self.routers, self.stand_ins) if part]
        for parameter in chain(*groups):
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=0.0, weight_decay=0.0)
        self.controller = Controller(config.target, len(sparse.layers), config.controller)
        self.teacher: Teacher | None = None  # from the end of the warm stage on
        self.best: dict[str, Tensor] = {}  # of stage 2
        self.best_score, self.worse = -math.inf, 0
        self.mean = Mean()  # of this round of the polish
        if wrong := [t for t in config.round_targets if not 0 < t < 1]:
            raise ValueError(f"the target sparsity of a round lies between 0 and 1, not {wrong[0]}")
        if config.polish_steps and config.patience:
            raise ValueError("patience ends a run early, a polish comes at its end: take one of them")

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that training moves, by name."""
        return self.mine | self.routers | self.stand_ins

    @property
    def patience_spent(self) -> bool:
        return 0 < self.config.patience <= self.worse

    def step(self, number: int) -> Step:
        """Do one step and validate where it is due."""
        begun, config = time.perf_counter(), self.config
        self.controller.target = config.wanted(number)
        if config.arm == "lte":
            self._between(number)
        mode = config.mode(number)
        self.sparse.set_mode(mode)
        batch = self.own(self.task.batch(number, config.batch, config.seed))

        def losses() -> tuple[Tensor, Tensor, Tensor]:
            teach = config.teach if config.stage(number) != "polish" else 0.0
            wanted = self.teacher.states(batch) if self.teacher and (teach or config.distil) else []
            with carried(self.sparse, batch) as states:
                task_loss = self.task.loss(self.sparse, batch)
            loss, sparsity = self._with_gates(task_loss, batch, number)
            if wanted and teach:
                loss = loss + self.weight(int(batch.keep.sum())) * teach * teaching(states, wanted)
            if wanted and config.distil:
                told, heard = (self.task.answers(self.sparse, rows[-1], batch) for rows in (wanted, states))
                loss = loss + self.weight(len(heard)) * config.distil * distilling(heard, told.detach())
            return task_loss, loss, sparsity

        task_loss, loss, sparsity = self._descend(losses, number)
        if config.arm == "lte" and config.stage(number) == "stage 1":
            self._steer(sparsity, config.done(number))
        elif mode == "hard":
            self._move(self.controller.hold(sparsity))
        if config.stage(number) == "polish":
            self._average(number)
        score = self._validate(number + 1)
        eta, zeros = float(self.controller.eta.mean()), float(sparsity.mean())
        seconds = time.perf_counter() - begun
        return Step(number + 1, config.stage(number), loss.item(), task_loss.item(), zeros, eta, score, seconds)

    def _between(self, number: int) -> None:
        """What is done between two stages, before step `number`."""
        if number == self.config.warm_steps:
            self._start_routers(number)
        if number == self.config.warm_steps and self.stand_ins:
            self._start_stand_ins(number)
        if number == self.config.warm_steps and (self.config.teach or self.config.distil):
            self.teacher = Teacher(self.sparse, self.mine)
        if number == self.config.warm_steps + self.config.soft_steps and self.config.calibrate:
            self._calibrate()
        if self.config.stage(number) == "polish" and not self.config.place(number):
            self._renew_routers(number)

    def own(self, batch: Batch) -> Batch:
        """This process's part of a batch: all of it."""
        return batch

    def weight(self, count: int) -> float:  # noqa: ARG002  another trainer looks at it
        """What a mean over `count` tokens or texts of this part counts in that over all parts, times their number."""
        return 1.0

    def _steer(self, sparsity: Tensor, done: float) -> None:
        """After a step of stage 1: by eta, as published by hand, or by the biases."""
        if self.config.controller.steer == "eta":
            self.controller.update(sparsity, done)
        else:
            self._move(self.controller.hold(sparsity, done))

    def _with_gates(self, task_loss: Tensor, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """The whole loss, and the hard sparsity of each layer."""
        if self.config.mode(number) == "dense":
            return task_loss, torch.zeros(len(self.sparse.layers))
        gates, options = self.sparse.gates(), self.config.separability
        loss = task_loss
        if self.config.stage(number) == "stage 1":
            eta = self.controller.eta.to(loss.device)
            loss = loss + self.weight(int(batch.keep.sum())) * (eta * efficiency(gates, batch.keep)).mean()
            if apart := options.at(self.config.done(number)):
                loss = loss + self.weight(int(batch.keep.sum())) * apart * separability(gates, batch.keep, options.eps)
        return loss, hard_sparsity(gates, batch.keep)

    def _descend(
        self, losses: Callable[[], tuple[Tensor, Tensor, Tensor]], number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step down; returns (task loss, whole loss, sparsity [layers]) of it. Diverged before any harm."""
        for parameter in self.routers.values():
            parameter.requires_grad_(self.routers_learn(number))
        task_loss, loss, sparsity = losses()
        self.optimizer.zero_grad(set_to_none=True)
        if torch.isfinite(loss):
            loss.backward()  # type: ignore[no-untyped-call]
        groups = ([*self.mine.values(), *self.stand_ins.values()], list(self.routers.values()))
        norms = [nn.utils.clip_grad_norm_(group, self.config.clip) for group in groups]
        if not (torch.isfinite(loss) and all(torch.isfinite(norm) for norm in norms)):
            raise self.diverged(loss.item(), number)
        self.set_rates(self.optimizer, number)
        self.optimizer.step()
        return task_loss, loss, sparsity

    def routers_learn(self, number: int) -> bool:
        """In stage 1 alone."""
        return self.config.arm == "lte" and self.config.stage(number) == "stage 1"

    def diverged(self, loss: float, number: int) -> Diverged:
        """What is said when a step cannot be done."""
        return Diverged(
            f"the loss of step {number + 1} ({self.config.stage(number)}) is {loss}, or its gradient no number: "
            f"stopped before that step. The weights are those of step {number}; lower model_lr or router_lr, or "
            "give L_sep an eps above 0"
        )

    def set_rates(self, optimizer: Any, number: int) -> None:
        """Learning rates of the model, of the routers, and of the stand-ins."""
        config = self.config
        optimizer.param_groups[0]["lr"] = config.model_lr * config.rate(number)
        optimizer.param_groups[1]["lr"] = config.router_lr * (1 - 0.9 * config.done(number))
        for group in optimizer.param_groups[2:]:
            group["lr"] = optimizer.param_groups[0]["lr"]

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Close what the controller left open: shifts of the routers' biases, from texts of the validation part.

        What was learnt by heart looks otherwise to the routers. A shift in one layer changes what the layers behind it
        see, so it is looked at again, three times at most.
        """
        self.sparse.set_mode("hard")
        for _ in range(3):
            seen: list[list[Tensor]] = [[] for _ in self.sparse.layers]
            for batch in in_batches(self.task.examples("valid")[:CALIBRATED], 16):
                self.task.loss(self.sparse, batch)
                for rows, gates in zip(seen, self.sparse.gates()):
                    rows.append(torch.logit(gates[batch.keep], eps=1e-7))
            logits = [torch.cat(rows) for rows in seen]
            if abs(float(torch.stack(logits).le(0).float().mean()) - self.controller.target) < CLOSE:
                return
            self._move(shift(logits, self.controller.target, self.config.controller.scope))

    @torch.no_grad()
    def _start_routers(self, number: int) -> None:
        """Set the routers from what experts are worth to the warmed model, onto the first goal; "bias" leaves them."""
        by = self.config.router_start
        if by == "bias":
            return
        batches = self._next(number, self.config.start_batches)
        start_routers(self.sparse, batches, 1 - self.controller.goal(0.0), by)
        self._written(self.routers)

    def _renew_routers(self, number: int) -> None:
        """Fit the routers to what experts are worth to the model as it is now, on its own sparse states."""
        by = "fisher" if self.config.router_start == "bias" else self.config.router_start
        batches = self._next(number, self.config.renew_batches)
        start_routers(self.sparse, batches, 1 - self.controller.target, by, "hard")
        self._written(self.routers)
        self._calibrate()

    def _average(self, number: int) -> None:
        """Take step `number` into the round's mean; at the round's end go on from that."""
        place, config = self.config.place(number), self.config
        if place >= config.settle_steps:
            self.mean.add(self.parameters)
        if place == config.round_steps - 1 or number == config.steps - 1:
            self.mean.take(self.parameters, self.write)
            if config.arm == "lte":
                self._calibrate()

    def _start_stand_ins(self, number: int) -> None:
        """Solve for the stand-ins; the routers move along."""
        fit_stand_ins(self.sparse, joined(self._next(number, self.config.stand_in_batches), whole=0.75))
        self._written(self.routers | self.stand_ins)

    def _next(self, number: int, count: int) -> list[Batch]:
        """The batches of the next `count` steps: a start looks at them before they are learnt from."""
        return [self.task.batch(number + i, self.config.batch, self.config.seed) for i in range(count)]

    def _written(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """These were set in place."""
        for parameter in parameters.values():
            self.write(parameter, parameter)

    @torch.no_grad()
    def _move(self, moves: Tensor) -> None:
        """Add to every router's biases."""
        for layer, move in zip(self.sparse.layers, moves):
            self.write(layer.router.bias, layer.router.bias + move.to(layer.router.bias.device))

    @torch.no_grad()
    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set a parameter from outside the optimizer."""
        parameter.copy_(value)

    def _validate(self, number: int) -> float | None:
        """The hard-mode score when it is due; stage 2 remembers its best weights."""
        config = self.config
        if number % config.validate_every and number != config.steps:
            return None
        with self.sparse.as_mode("dense" if config.mode(number - 1) == "dense" else "hard"):
            score = self.task.score(self.sparse, self.task.examples("valid")[: config.validate_on])
        if config.stage(number - 1) == "stage 2":
            if score > self.best_score:
                self.best_score, self.worse = score, 0
                kept = self.parameters.items() if config.patience else ()
                self.best = {name: p.detach().clone() for name, p in kept}
            else:
                self.worse += 1
        return score

    @torch.no_grad()
    def finish(self) -> None:
        """With patience: back to the best weights of stage 2, routers' too. The model is left in its arm's mode."""
        for name, kept in self.best.items():
            self.write(self.parameters[name], kept)
        self.controller.target = self.config.wanted(self.config.steps - 1)
        self.sparse.set_mode("dense" if self.config.arm == "dense" else "hard")
        if self.config.arm == "lte" and self.config.controller.hold and self.config.hard_steps and not self.best:
            self._calibrate()

    def save(self, folder: Path, steps: list[Step]) -> None:
        """Write the checkpoint, whole or not at all."""
        state: dict[str, Any] = {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "controller": self.controller.state(),
            "best": self.best,
            "best_score": self.best_score,
            "worse": self.worse,
            "mean": self.mean.state(),
            "teacher": self.teacher.then if self.teacher else {},
        }
        checkpoint.write(folder, self.config, state, steps)

    def taught(self, then: dict[str, Tensor]) -> None:
        """Take the teacher of a checkpoint, where it has one."""
        if then:
            self.teacher = Teacher(self.sparse, self.mine)
            self.teacher.then = then

    @torch.no_grad()
    def resume(self, folder: Path) -> list[Step]:
        """Take in the checkpoint of `folder`, if there is one; returns its steps."""
        found = checkpoint.read(folder, self.config)
        if found is None:
            return []
        state, steps = found
        for name, parameter in self.parameters.items():
            parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller.restore(state["controller"])
        self.best, self.best_score, self.worse = state["best"], state["best_score"], state["worse"]
        self.taught(state["teacher"])
        self.mean.restore(state["mean"])
        return [Step(**row) for row in steps]

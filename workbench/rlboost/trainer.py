"""The trainer of the live run: GRPO on a transformers Llama, micro-batches as they arrive, one optimizer step a step.

    trainer = Trainer(module, lr=1e-3)
    for rows, share in micro_batches: trainer.add(rows, share)          gradients add up to those of the whole step
    trainer.finish(); store.publish(version, trainer.weights())

The log-probabilities before and after are those of one pass (the step is on-policy: one update per batch, ratio 1 when
it is taken), computed here and not by the engines, so the weights depend on tokens alone and not on who made them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench import aside
from workbench.rlboost.grpo import Clip, step_loss

MAX_NORM = 1.0


class TrainError(RuntimeError):
    """A loss or gradient that is no number: nothing was updated; the message says where."""


@dataclass(frozen=True)
class Sample:
    """A finished response with its advantage within its group."""

    request: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    advantage: float


class Trainer:
    """A module of transformers' kind (`module(input_ids, attention_mask).logits`), AdamW, and the step's gradient.

    temperature: that responses are drawn with; log-probabilities are of that distribution.
    """

    def __init__(self, module: Any, lr: float = 1e-3, clip: Clip | None = None, temperature: float = 1.0) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be above 0, not {lr}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}: the policy is what was drawn from")
        self.temperature = temperature
        self.module, self.clip = module.train(), clip or Clip()
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.version = 0
        self.loss, self.rows = 0.0, 0

    def add(self, samples: Sequence[Sample], share: Tensor) -> float:
        """Forward and backward of a micro-batch; `share` [rows] of grpo.shares. Its part of the step's loss.

        ValueError for a sample without a response. TrainError where the loss is no number.
        """
        if empty := [s.request for s in samples if not s.response]:
            raise ValueError(f"{empty[0]} has no tokens to train on")
        ids, mask = _padded(samples)
        new = self.logprobs(ids, mask)
        advantage = torch.tensor([s.advantage for s in samples])
        loss = step_loss(new, new.detach(), advantage, mask[:, 1:], share, self.clip)
        if not bool(torch.isfinite(loss)):
            raise TrainError(f"weights {self.version}: the loss of {', '.join(s.request for s in samples)} is {loss}")
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        self.loss += value
        self.rows += len(samples)
        return value

    def logprobs(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Of every token after the first, [rows, tokens - 1] fp32; `mask` marks responses, padding follows them."""
        seen = (torch.arange(ids.shape[1]) <= _last(mask)[:, None]).long()
        logits = self.module(input_ids=ids, attention_mask=seen).logits[:, :-1].float() / self.temperature
        return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]

    def finish(self) -> float:
        """The optimizer's step with all that was added; the norm of the gradient, before it was cut at MAX_NORM.

        ValueError where nothing was added. TrainError for a gradient that is no number: weights stay as they are.
        """
        if not self.rows:
            raise ValueError("a step trains on one micro-batch or more")
        norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), MAX_NORM))
        if not math.isfinite(norm):
            self.drop()
            raise TrainError(f"weights {self.version}: the norm of the gradient is {norm}; nothing was updated")
        self.optimizer.step()
        self.drop()
        self.version += 1
        return norm

    def drop(self) -> None:
        """Forget what was added to this step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss, self.rows = 0.0, 0

    def weights(self) -> dict[str, Tensor]:
        """By the names of transformers' Llama, as the engines load them; a tied output layer is left out."""
        return {n: p.detach() for n, p in self.module.state_dict().items() if n != "lm_head.weight"}

    def save(self, file: Path) -> None:
        """Weights, optimizer and version, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "version": self.version}
        with aside.whole(file) as out:
            torch.save(state, out)

    def load(self, file: Path) -> None:
        """Go on where `save` was. TrainError for a file that cannot be read or is of another model."""
        try:
            state = torch.load(file, weights_only=True)
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.version = int(state["version"])
        except Exception as error:
            raise TrainError(f"{file} is no checkpoint of this model: {error}") from error
        self.drop()


def _padded(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(ids, mask of the responses), [rows, tokens]; padding of zeros on the right."""
    width = max(len(s.prompt) + len(s.response) for s in samples)
    ids, mask = torch.zeros(len(samples), width, dtype=torch.int64), torch.zeros(len(samples), width)
    for row, s in enumerate(samples):
        end = len(s.prompt) + len(s.response)
        ids[row, :end] = torch.tensor([*s.prompt, *s.response])
        mask[row, len(s.prompt) : end] = 1
    return ids, mask


def _last(mask: Tensor) -> Tensor:
    """Position of each row's last marked token, [rows]."""
    return mask.shape[1] - 1 - mask.flip(1).argmax(1)


def llama(model: str) -> Any:
    """The model ("tiny" or a name of lm) as transformers has it, with the weights that the engines begin with."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from workbench import lm

    if model == "tiny":
        from workbench.lm.tiny import CONFIG, tiny_weights

        module = LlamaForCausalLM(LlamaConfig(**CONFIG))
        module.load_state_dict(tiny_weights(0), strict=False)
        return module
    return AutoModelForCausalLM.from_pretrained(lm.path(model), dtype=torch.float32)

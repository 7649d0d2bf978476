"""GRPO: advantages within a group of responses, and a loss whose micro-batches add up to the loss of the step.

    a = advantages(rewards, group=8)                            [prompts * group]
    share = shares("grpo", lengths)                             what a token of each response counts in the whole step
    step_loss(new, old, a[rows], mask, share[rows]).backward()  a micro-batch: any rows, in any order

RLBoost trains responses in the order in which they arrive, in micro-batches of at least m_b. So a micro-batch must not
be normalised by its own size: each response carries its share of the whole step, and the gradients of any cut of the
step into micro-batches add up to the same sum.

Sources: DeepSeekMath, arXiv 2402.03300, eq. 3 and 4 (GRPO, the KL estimator); DAPO, arXiv 2503.14476 (token-level mean,
upper clip of its own); Dr. GRPO, arXiv 2503.20783 (no division by the deviation, a constant length).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["grpo", "dapo", "dr_grpo"]
EPS = 1e-4  # on the deviation: a group of equal rewards has none


@dataclass(frozen=True)
class Clip:
    """How far the ratio of new to old probability may pull, below and above 1, and the weight of the KL term."""

    low: float = 0.2
    high: float = 0.2
    kl: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.low < 1 and self.high >= 0 and self.kl >= 0):
            raise ValueError(f"clip: low in 0 to 1, high and kl 0 or more, not {self.low}, {self.high}, {self.kl}")


def advantages(rewards: Tensor, group: int, *, scale: bool = True) -> Tensor:
    """Rewards less their group's mean and, with `scale`, over its deviation (n - 1): [prompts * group] -> the same.

    Responses to one prompt stand side by side. ValueError for a group of 1 (nothing to compare with), rewards that do
    not fill the groups, and rewards that are no numbers.
    """
    if group < 2:
        raise ValueError(f"a group has 2 responses or more, not {group}: GRPO compares responses to one prompt")
    if rewards.ndim != 1 or len(rewards) % group or not len(rewards):
        raise ValueError(f"rewards {list(rewards.shape)} do not fill groups of {group}")
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("a reward is not a finite number")
    table = rewards.float().view(-1, group)
    centred = table - table.mean(1, keepdim=True)
    if scale:
        centred = centred / (table.std(1, keepdim=True) + EPS)
    return centred.view(-1)


def shares(kind: Kind, lengths: Sequence[int], longest: int | None = None) -> Tensor:
    """What one token of each response counts in the loss of the whole step, [responses].

    grpo     every response the same, its tokens the mean of it: 1 / (responses * own length)
    dapo     every token the same: 1 / all tokens of the step; known when the last response has ended
    dr_grpo  every token the same, by a constant: 1 / (responses * longest), known beforehand

    ValueError for a length under 0, none at all, or dr_grpo without `longest`. A response without tokens counts 0.
    """
    if not lengths or min(lengths) < 0:
        raise ValueError(f"lengths are 0 or more, of one response or more, not {list(lengths)[:8]}")
    n = torch.tensor(lengths, dtype=torch.float64)
    if kind == "grpo":
        return (1 / (len(n) * n.clamp(min=1))).float()
    if kind == "dapo":
        return torch.full_like(n, 1 / max(1.0, float(n.sum()))).float()
    if longest is None or longest < max(lengths):
        raise ValueError(f"dr_grpo needs longest, at least the longest response ({max(lengths)}), not {longest}")
    return torch.full_like(n, 1 / (len(n) * max(1, longest))).float()


def token_loss(new: Tensor, old: Tensor, advantage: Tensor, clip: Clip, reference: Tensor | None = None) -> Tensor:
    """Loss of each token, [rows, tokens] fp32, before mask and shares.

    new, old: log-probabilities [rows, tokens] under the weights that train (with gradient) and that rolled out; old
    equal to new.detach() is the on-policy first pass, whose gradient is that of -advantage * new. advantage: [rows].
    The minimum of the ratio's pull and the clipped one (eq. 3); with clip.kl, exp(d) - d - 1 of d = reference - new is
    added (eq. 4). ValueError where shapes differ or a KL is asked for without a reference.
    """
    if new.shape != old.shape or advantage.shape != new.shape[:1]:
        raise ValueError(
            f"log-probabilities {list(new.shape)} and {list(old.shape)} with advantages {list(advantage.shape)}"
        )
    if clip.kl and reference is None:
        raise ValueError("a KL term needs the reference's log-probabilities")
    ratio = torch.exp(new - old)
    pull = advantage[:, None]
    loss = -torch.minimum(ratio * pull, ratio.clamp(1 - clip.low, 1 + clip.high) * pull)
    if clip.kl and reference is not None:
        away = reference - new
        loss = loss + clip.kl * (torch.exp(away) - away - 1)
    return loss


def step_loss(
    new: Tensor,
    old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    share: Tensor,
    clip: Clip | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """A micro-batch's part of the step's loss, a scalar: sum of token losses, masked, each by its response's share.

    mask: [rows, tokens], 1 for tokens of the response; share: [rows] of `shares`.
    """
    return (token_loss(new, old, advantage, clip or Clip(), reference) * mask * share[:, None]).sum()

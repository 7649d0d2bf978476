"""What a trained model is worth: accuracy, perplexity and sparsity on held-out text, with intervals, in hard mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workbench.lte.data import Example, in_batches
from workbench.lte.losses import hard_sparsity
from workbench.lte.sparse_model import SparseModel
from workbench.lte.tasks import LanguageModelling, Sentiment

Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def proportion(right: Sequence[bool]) -> Estimate:
    """A share with Wilson's interval."""
    n, k = len(right), sum(right)
    if not n:
        raise ValueError("no examples to measure on")
    share, slack = k / n, Z95**2 / n
    middle = (share + slack / 2) / (1 + slack)
    reach = Z95 * math.sqrt(share * (1 - share) / n + slack / (4 * n)) / (1 + slack)
    return Estimate(share, middle - reach, middle + reach, n)


def difference(first: Sequence[bool], second: Sequence[bool]) -> Estimate:
    """Accuracy of `first` minus that of `second` on the same examples: paired, normal interval."""
    if len(first) != len(second) or not first:
        raise ValueError("a paired difference needs the same examples twice, and at least one")
    gaps = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    reach = Z95 * float(gaps.std(ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    return Estimate(float(gaps.mean()), float(gaps.mean()) - reach, float(gaps.mean()) + reach, len(gaps))


def perplexity(nll: Sequence[float], seed: int = 0, draws: int = 1000) -> Estimate:
    """The exponential of the mean nats a token, with a bootstrap interval over windows of equal length."""
    values = np.asarray(nll)
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(np.exp(values.mean())), float(np.exp(low)), float(np.exp(high)), len(values))


@dataclass(frozen=True)
class Measured:
    """Answers, or nats a token, of each held-out example, and the share of experts each layer left out."""

    right: list[bool]
    nll: list[float]
    sparsity: list[float]  # of each layer; zeros for a dense model
    unread: float = 0.0  # share of the FFNs' weights that a token does not read; routers and stand-ins count as read

    @property
    def mean_sparsity(self) -> float:
        return sum(self.sparsity) / len(self.sparsity)


def measure(model: SparseModel, task: Sentiment | LanguageModelling, examples: Sequence[Example]) -> Measured:
    """Run every example once, in hard mode (dense for a model in dense mode); padding counts for nothing."""
    mode = "dense" if model.layers[0].mode == "dense" else "hard"
    zeros, tokens = torch.zeros(len(model.layers)), 0
    right: list[bool] = []
    nll: list[float] = []
    with model.as_mode(mode):  # type: ignore[arg-type]
        for batch in in_batches(examples, 32 if isinstance(task, Sentiment) else 8):
            if isinstance(task, Sentiment):
                right += (task.decided(model, batch) == batch.labels).tolist()
            else:
                nll += task.losses(model, batch).tolist()
            count = int(batch.keep.sum())
            if mode == "hard":
                zeros += hard_sparsity(model.gates(), batch.keep, model.layers[0].tau) * count
            tokens += count
    shares: list[float] = (zeros / tokens).tolist()
    return Measured(right, nll, shares, float(np.mean(shares)) - model.beside if mode == "hard" else 0.0)

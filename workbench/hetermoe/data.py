"""Batches of tokens by their number: synthetic ones that can be learned, or the caller's.

    Markov(vocab=64, seed=0).batch(step, rows=8, tokens=32)      int64 [rows, tokens + 1]: inputs and targets
    Given(ids).batch(...)                                        rows of ids [n, at least tokens + 1], in turn
    shards(rows, micro_batches, ranks)                           which rows a rank takes in which micro-batch

A batch is a function of its step alone: a run that resumes sees what one that was not interrupted sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from workbench.hetermoe.plan import PlanError

BRANCHES = 4  # likely successors of a token
NOISE = 0.05  # share of tokens that follow no rule


class Data(Protocol):
    """Where batches come from."""

    def batch(self, step: int, rows: int, tokens: int) -> Tensor:
        """Int64 [rows, tokens + 1] of step `step`."""
        ...


@dataclass(frozen=True)
class Markov:
    """A random walk in which each token has BRANCHES successors, unequally likely: entropy well below log(vocab)."""

    vocab: int
    seed: int = 0
    table: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        drawn = torch.randint(self.vocab, (self.vocab, BRANCHES), generator=_generator(self.seed, -1))
        object.__setattr__(self, "table", drawn)

    def batch(self, step: int, rows: int, tokens: int) -> Tensor:
        """See Data.batch."""
        g = _generator(self.seed, step)
        walk = torch.randint(self.vocab, (rows, tokens + 1), generator=g)
        rule = torch.rand(rows, tokens + 1, generator=g) > NOISE
        branch = torch.rand(rows, tokens + 1, generator=g).square().mul(BRANCHES).long().clamp_max(BRANCHES - 1)
        # plain lists: an operator on a few rows takes longer than these rows one by one (22 ms and 2 of 1,024 tokens)
        table, rows_ = self.table.tolist(), []
        for ids, ruled, took in zip(walk.tolist(), rule.tolist(), branch.tolist()):
            for t in range(1, tokens + 1):
                if ruled[t]:
                    ids[t] = table[ids[t - 1]][took[t]]
            rows_.append(ids)
        return torch.tensor(rows_)


@dataclass(frozen=True)
class Given:
    """Rows of the caller's token ids, int64 [n, length], in turn and over again. PlanError for other shapes."""

    ids: Tensor
    vocab: int

    def __post_init__(self) -> None:
        if self.ids.dim() != 2 or not len(self.ids) or self.ids.dtype != torch.int64:
            raise PlanError(f"token ids are int64 [rows, length], not {self.ids.dtype} {list(self.ids.shape)}")
        if int(self.ids.min()) < 0 or int(self.ids.max()) >= self.vocab:
            raise PlanError(f"token ids go from 0 to {self.vocab - 1}, here {self.ids.min()} to {self.ids.max()}")

    def batch(self, step: int, rows: int, tokens: int) -> Tensor:
        """See Data.batch. PlanError where the rows are too short."""
        if self.ids.shape[1] < tokens + 1:
            raise PlanError(f"rows of {self.ids.shape[1]} ids are too short for {tokens} tokens and their targets")
        at = torch.arange(step * rows, (step + 1) * rows) % len(self.ids)
        return self.ids[at, : tokens + 1]


def shards(rows: int, micro_batches: int, ranks: int) -> list[list[slice]]:
    """slices[j][m]: rows of micro-batch j on attention rank m, contiguous, even but for one row. PlanError: too few."""
    parts = micro_batches * ranks
    if rows < parts:
        raise PlanError(f"a batch of {rows} rows cannot feed {micro_batches} micro-batches on {ranks} attention ranks")
    edges = [rows * i // parts for i in range(parts + 1)]
    cut = [slice(a, b) for a, b in pairwise(edges)]
    return [cut[j * ranks : (j + 1) * ranks] for j in range(micro_batches)]


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)

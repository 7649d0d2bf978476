"""Texts to batches: split by what they say, tokenised, put together by length.

A text's part (train, valid, test) follows from the hash of the text alone, so that no run, seed or order can leak one
into another, and equal texts fall into one part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

Part = Literal["train", "valid", "test"]
TEST_SHARE, VALID_SHARE = 0.2, 0.05
CLEAR = 0.5  # a movie-review sentence counts when its mean score is above this or below its negative


class Encoder(Protocol):
    """Text to token ids."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Example:
    """One text: its token ids, and its label where it has one."""

    ids: tuple[int, ...]
    label: int = 0


@dataclass(frozen=True)
class Batch:
    """ids [n, tokens] padded on the right, keep [n, tokens] False on padding, labels [n], last [n] kept position."""

    ids: Tensor
    keep: Tensor
    labels: Tensor

    @property
    def last(self) -> Tensor:
        return self.keep.sum(dim=1) - 1


def part_of(text: str) -> Part:
    """Where a text belongs: 20 % test, 5 % valid, the rest train."""
    place = int.from_bytes(hashlib.sha256(text.strip().lower().encode()).digest()[:8], "big") / 2**64
    if place < TEST_SHARE:
        return "test"
    return "valid" if place < TEST_SHARE + VALID_SHARE else "train"


def labelled(rows: Iterable[tuple[str, float]], tokens: Encoder, prompt: str) -> dict[Part, list[Example]]:
    """Sentences with a score to examples of two classes (1: positive), each text once. `prompt` has one {text}.

    Scores within 0.5 of neutral are left out.
    """
    parts: dict[Part, list[tuple[bytes, Example]]] = {"train": [], "valid": [], "test": []}
    seen: set[str] = set()
    for text, score in rows:
        if abs(score) <= CLEAR or text in seen:
            continue
        seen.add(text)
        part = part_of(text)
        ids = tuple(tokens.encode(prompt.format(text=text)))
        parts[part].append((_lot(part, text), Example(ids, int(score > 0))))
    return _in_order(parts)


def windows(documents: Iterable[str], tokens: Encoder, length: int) -> dict[Part, list[Example]]:
    """Documents to windows of `length` tokens; a document lies in one part as a whole, its tail is left out."""
    parts: dict[Part, list[tuple[bytes, Example]]] = {"train": [], "valid": [], "test": []}
    for text in documents:
        part = part_of(text)
        ids = tokens.encode(text)
        for i in range(0, len(ids) - length + 1, length):
            parts[part].append((_lot(part, f"{i} {text}"), Example(tuple(ids[i : i + length]))))
    return _in_order(parts)


def _lot(part: Part, text: str) -> bytes:
    """What held-out examples are sorted by: files go class by class, so that their first part is no sample.

    Of train nothing: it stays as it comes, batches are drawn from it by lot.
    """
    return b"" if part == "train" else hashlib.sha256(text.encode()).digest()


def _in_order(parts: dict[Part, list[tuple[bytes, Example]]]) -> dict[Part, list[Example]]:
    return {part: [example for _, example in sorted(rows, key=itemgetter(0))] for part, rows in parts.items()}


def collate(examples: Sequence[Example], pad: int = 0) -> Batch:
    """Examples of mixed lengths to one batch."""
    if not examples or any(not e.ids for e in examples):
        raise ValueError("a batch needs at least one example, and each at least one token")
    lengths = torch.tensor([len(e.ids) for e in examples])
    ids = torch.full((len(examples), int(lengths.max())), pad)
    for row, example in zip(ids, examples):
        row[: len(example.ids)] = torch.tensor(example.ids)
    keep = torch.arange(ids.shape[1]) < lengths[:, None]
    return Batch(ids, keep, torch.tensor([e.label for e in examples]))


def joined(batches: Sequence[Batch], whole: float = 1.0) -> Batch:
    """Batches of several lengths as one. The share `whole` of texts is whole, longer ones are cut: less is padding."""
    lengths = torch.cat([b.keep.sum(dim=1) for b in batches])
    length = int(lengths.sort().values[max(0, round(whole * len(lengths)) - 1)])

    def as_long(rows: Tensor) -> Tensor:
        rows = rows[:, :length]
        return torch.nn.functional.pad(rows, (0, length - rows.shape[1]))

    ids, keep = (torch.cat([as_long(getattr(b, part)) for b in batches]) for part in ("ids", "keep"))
    return Batch(ids, keep, torch.cat([b.labels for b in batches]))


def training_batch(examples: Sequence[Example], size: int, step: int, seed: int, pool: int = 16) -> Batch:
    """Batch number `step`: a function of its arguments alone, so that a resumed run sees what the first would have.

    Each epoch is shuffled; within pools of `pool` batches examples are sorted by length, so that little is padding.
    """
    per_epoch = len(examples) // size
    if not per_epoch:
        raise ValueError(f"{len(examples)} examples do not fill a batch of {size}")
    epoch, place = divmod(step, per_epoch)
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(examples))[: per_epoch * size]
    pools = [order[i : i + pool * size] for i in range(0, len(order), pool * size)]
    ordered = np.concatenate([p[np.argsort([len(examples[i].ids) for i in p], kind="stable")] for p in pools])
    rows = ordered.reshape(-1, size)[draw.permutation(per_epoch)[place]]
    return collate([examples[int(i)] for i in rows])


def in_batches(examples: Sequence[Example], size: int) -> list[Batch]:
    """All examples, sorted by length, for measuring."""
    ordered = sorted(examples, key=lambda e: len(e.ids))
    return [collate(ordered[i : i + size]) for i in range(0, len(ordered), size)]

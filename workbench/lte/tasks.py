"""What a model is trained for: sentiment as the next word, or language modelling. A loss, and a score in hard mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.lte import corpora
from workbench.lte.data import Batch, Encoder, Example, Part, in_batches, labelled, training_batch, windows
from workbench.lte.sparse_model import SparseModel

PROMPT = "Review: {text}\nSentiment:"
WORDS = (" negative", " positive")


class Task(Protocol):
    """What the trainer needs. `score` is better when greater."""

    @property
    def unit(self) -> str: ...
    def batch(self, step: int, size: int, seed: int) -> Batch: ...
    def loss(self, model: SparseModel, batch: Batch) -> Tensor: ...
    def score(self, model: SparseModel, examples: Sequence[Example]) -> float: ...
    def answers(self, model: SparseModel, states: Tensor, batch: Batch) -> Tensor: ...  # only where distil > 0
    def examples(self, part: Part) -> list[Example]: ...


@dataclass(frozen=True)
class Sentiment:
    """Two classes: which of two words is likelier after the prompt. The loss is of that one word alone."""

    parts: dict[Part, list[Example]]
    words: tuple[int, int]  # token ids of negative, positive
    unit: str = "accuracy"
    prompt: str = "{text}"  # what a text of one's own is put into, as those it was trained on
    offset: float = 0.0  # added to the logit of positive where a text is decided: see `calibrated`

    def examples(self, part: Part) -> list[Example]:
        return self.parts[part]

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return training_batch(self.parts["train"], size, step, seed)

    def logits(self, model: SparseModel, batch: Batch) -> Tensor:
        """[n, 2] float32, of negative and positive, after each text's last token."""
        states = model.hidden(batch.ids)[torch.arange(len(batch.ids)), batch.last]
        head = model.model.lm_head.weight[list(self.words)]
        return fn.linear(states.float(), head.float())

    def answers(self, model: SparseModel, states: Tensor, batch: Batch) -> Tensor:
        """The same logits [n, 2] from states behind the last layer, [kept tokens, hidden], as `carried` gives them."""
        ends = batch.keep.sum(dim=1).cumsum(dim=0) - 1
        head = model.model.lm_head.weight[list(self.words)]
        return fn.linear(model.model.model.norm(states[ends]).float(), head.float())

    def loss(self, model: SparseModel, batch: Batch) -> Tensor:
        return fn.cross_entropy(self.logits(model, batch), batch.labels)

    def correct(self, model: SparseModel, examples: Sequence[Example], size: int = 32) -> list[bool]:
        """Whether each example is answered right, in the order of `in_batches`."""
        right: list[bool] = []
        with torch.no_grad():
            for batch in in_batches(examples, size):
                right += (self.decided(model, batch) == batch.labels).tolist()
        return right

    def decided(self, model: SparseModel, batch: Batch) -> Tensor:
        """The class of each text, [n]: the greater logit, that of positive moved by `offset`."""
        logits = self.logits(model, batch)
        return (logits[:, 1] + self.offset > logits[:, 0]).long()

    def calibrated(self, model: SparseModel, examples: Sequence[Example]) -> Sentiment:
        """The same task with the offset that decides most of `examples` rightly; never of the part that is scored.

        Which of two words a model says more easily swings from step to step of training, and is no knowledge.
        """
        margins: list[float] = []
        labels: list[int] = []
        with torch.no_grad():
            for batch in in_batches(examples, 32):
                logits = self.logits(model, batch)
                margins += (logits[:, 1] - logits[:, 0]).tolist()
                labels += batch.labels.tolist()
        return replace(self, offset=best_offset(margins, labels))

    def score(self, model: SparseModel, examples: Sequence[Example]) -> float:
        """Accuracy, in whatever mode the model is in."""
        right = self.correct(model, examples)
        return sum(right) / len(right)


def best_offset(margins: Sequence[float], labels: Sequence[int]) -> float:
    """What to add to every margin so that its sign says the label most often: the middle of the best such range."""
    order = sorted(zip(margins, labels))
    right = sum(labels)  # with a cut below all: everything is positive
    scores = [right]
    for _, label in order:
        right += 1 - 2 * label
        scores.append(right)
    values = [m for m, _ in order]
    best = [at for at, score in enumerate(scores) if score == max(scores)]
    at = best[len(best) // 2]
    low = values[at - 1] if at else values[0] - 1
    high = values[at] if at < len(values) else values[-1] + 1
    return -(low + high) / 2


@dataclass(frozen=True)
class LanguageModelling:
    """Next-token prediction on windows of text."""

    parts: dict[Part, list[Example]]
    unit: str = "-nll"

    def examples(self, part: Part) -> list[Example]:
        return self.parts[part]

    def batch(self, step: int, size: int, seed: int) -> Batch:
        return training_batch(self.parts["train"], size, step, seed)

    def losses(self, model: SparseModel, batch: Batch) -> Tensor:
        """Mean negative log likelihood of each row, [n], over its kept tokens but the first."""
        states = model.hidden(batch.ids)[:, :-1].flatten(0, 1)  # as rows of a matrix: bfloat16 in 3-D is far slower
        logits = fn.linear(states, model.model.lm_head.weight).float()
        each = fn.cross_entropy(logits, batch.ids[:, 1:].flatten(), reduction="none")
        kept = batch.keep[:, 1:].float()
        return (each.view_as(kept) * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)

    def answers(self, model: SparseModel, states: Tensor, batch: Batch) -> Tensor:  # noqa: ARG002  every kept token
        """Logits [kept tokens, vocab] from states behind the last layer, [kept tokens, hidden]."""
        return fn.linear(model.model.model.norm(states), model.model.lm_head.weight).float()

    def loss(self, model: SparseModel, batch: Batch) -> Tensor:
        return self.losses(model, batch).mean()

    def nll(self, model: SparseModel, examples: Sequence[Example], size: int = 8) -> list[float]:
        """Mean negative log likelihood of each window, nats a token."""
        with torch.no_grad():
            return [x for batch in in_batches(examples, size) for x in self.losses(model, batch).tolist()]

    def score(self, model: SparseModel, examples: Sequence[Example]) -> float:
        """Minus the mean negative log likelihood."""
        values = self.nll(model, examples)
        return -sum(values) / len(values)


def sentiment(tokens: Encoder) -> Sentiment:
    """Movie-review sentences. ValueError when a label word is not one token; TextUnavailable without the texts."""
    words = [tokens.encode(word) for word in WORDS]
    if any(len(word) != 1 for word in words):
        raise ValueError(f"{WORDS} are not one token each for this tokenizer: it cannot answer in one step")
    return Sentiment(labelled(corpora.sentences(), tokens, PROMPT), (words[0][0], words[1][0]), prompt=PROMPT)


def language_modelling(tokens: Encoder, length: int = 64) -> LanguageModelling:
    """News and encyclopedia articles in windows of `length` tokens."""
    return LanguageModelling(windows((*corpora.news(), *corpora.encyclopedia()), tokens, length))

"""Marks for an answer, without a judge: known answers met, how it reads in one piece, how much it repeats.

    said = {node: text}                 what each part of a plan said
    matches(task, said)                 right or wrong, by part; by_depth for each level of the graph
    linked(task, said)                  whether a part took up what it needs, even where that was wrong
    edges(found, true)                  a planner's graph against the true one
    Reader(model, front).read(...)      nats of the same model, had it written the parts one after the other
    repeats(texts), distinct(texts)     redundancy between parts that did not see each other

Perplexity is the exponential of the mean nats a token. What was written in parallel is read in order: where a part does
not follow from those before it, its first tokens are surprising. Each score has a control that must move it: edges cut,
answers shuffled, a sibling said twice.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.lm import LM
from workbench.plato.graph import Plan, edge_scores
from workbench.plato.tasks import Task, normalised

BOUNDARY = 8  # first tokens of a part that count as its boundary: a clause
GRAM = 3  # words that must be equal in a row to be a repetition
CHUNK = 128  # tokens of a forward that keeps all logits: 49,152 of them each
Said = Mapping[int, str]
T = TypeVar("T")


# -- right or wrong ------------------------------------------------------------------------------------------------


def matches(task: Task, said: Said) -> dict[int, bool]:
    """Right or wrong for each part of the task; what was not said is wrong."""
    return {node.id: task.right(node.id, said.get(node.id, "")) for node in task.plan.nodes}


def linked(task: Task, said: Said) -> dict[int, bool]:
    """For each part that needs others, whether it goes on where they ended, whatever that was."""
    return {node.id: task.linked(node.id, said) for node in task.plan.nodes if node.needs}


def by_depth(plan: Plan, right: Mapping[int, bool]) -> list[tuple[int, int]]:
    """(parts right, parts) of each level of the graph; level 0 needs nothing."""
    return [(sum(right[i] for i in level), len(level)) for level in plan.levels()]


def interval(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % by default; (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    p, n = right / of, of
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


# -- graphs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edges:
    """A planner's graph against the true one. Where it has other parts, edges are compared by id all the same."""

    precision: float
    recall: float
    f1: float
    parts: int
    true_parts: int
    width: int
    depth: int
    critical_tokens: int

    @property
    def exact(self) -> bool:
        """The very graph: as many parts, and the same edges between them."""
        return self.parts == self.true_parts and self.f1 == 1.0


def edges(found: Plan, true: Plan) -> Edges:
    """Scores of the edges of `found`, and its shape."""
    precision, recall, f1 = edge_scores(found, true)
    return Edges(precision, recall, f1, len(found), len(true), found.width, found.depth, found.critical_tokens())


# -- how it reads --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Nats of the answer's tokens and their number, at the first BOUNDARY tokens of each part and inside."""

    boundary_nats: float = 0.0
    boundary_tokens: int = 0
    inside_nats: float = 0.0
    inside_tokens: int = 0

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            self.boundary_nats + other.boundary_nats,
            self.boundary_tokens + other.boundary_tokens,
            self.inside_nats + other.inside_nats,
            self.inside_tokens + other.inside_tokens,
        )

    @property
    def boundary(self) -> float:
        """Perplexity at the boundaries; nan without tokens."""
        return perplexity(self.boundary_nats, self.boundary_tokens)

    @property
    def inside(self) -> float:
        """Perplexity inside the parts; nan without tokens."""
        return perplexity(self.inside_nats, self.inside_tokens)


def perplexity(nats: float, tokens: int) -> float:
    """The exponential of the mean nats a token; nan of no token."""
    return math.exp(nats / tokens) if tokens else math.nan


def split(nats: Sequence[Sequence[float]], boundary: int = BOUNDARY) -> Reading:
    """Nats of each part's tokens, told apart: its first `boundary` ones, and the rest."""
    first = [value for part in nats for value in part[:boundary]]
    rest = [value for part in nats for value in part[boundary:]]
    return Reading(sum(first), len(first), sum(rest), len(rest))


class Reader:
    """Reads assembled answers to one query with the model's own eyes: teacher forcing over front and parts."""

    def __init__(self, model: LM, front: Sequence[int]) -> None:
        if not front:
            raise ValueError("an answer is read behind a query: the front has no token")
        self.model, self.front = model, tuple(front)
        self._cache = model.new_cache(len(self.front))
        if len(self.front) > 1:  # the last token is run again with each answer: its logits are of the first token
            self._run(self.front[:-1], self._cache, 0, False)

    def read(self, parts: Sequence[tuple[Sequence[int], Sequence[int]]], between: Sequence[int]) -> Reading:
        """`parts` in the order of the answer, each (header, answer) as token ids; only answers count.

        ValueError when they do not fit the model's positions.
        """
        ids, spans = [self.front[-1]], []
        for header, answer in parts:
            ids += header
            spans.append((len(ids), len(ids) + len(answer)))
            ids += [*answer, *between]
        start = len(self.front) - 1
        cache = self._cache.fork(start + len(ids))
        nats = self._run(ids, cache, start, True)  # nats[i]: of token i + 1
        return split([nats[a - 1 : b - 1] for a, b in spans])

    def _run(self, ids: Sequence[int], cache: object, start: int, scored: bool) -> list[float]:
        """Forward in chunks; nats of each token but the first, given those before it."""
        given = torch.tensor(list(ids))
        found: list[Tensor] = []
        for at in range(0, len(ids), CHUNK):
            piece = given[at : at + CHUNK]
            logits = self.model.forward(piece, cache, start + at, logits="all" if scored else None)  # type: ignore[arg-type]
            wanted = given[at + 1 : at + 1 + len(piece)]
            if logits is not None and len(wanted):
                found.append(fn.cross_entropy(logits[: len(wanted)], wanted, reduction="none"))
        return torch.cat(found).tolist() if found else []


# -- repetition ----------------------------------------------------------------------------------------------------


def grams(text: str, n: int = GRAM) -> Counter[tuple[str, ...]]:
    """Runs of n words of the normalised text, counted."""
    words = normalised(text).split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def distinct(texts: Sequence[str], n: int = GRAM) -> float:
    """Different n-grams over all n-grams of the texts together; nan where there is none."""
    total: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        total += grams(text, n)
    return len(total) / total.total() if total else math.nan


def overlap(one: str, two: str, n: int = GRAM) -> float:
    """n-grams that both texts have, over those of the shorter one; nan where one has none."""
    a, b = grams(one, n), grams(two, n)
    least = min(a.total(), b.total())
    return (a & b).total() / least if least else math.nan


def siblings(plan: Plan) -> list[tuple[int, int]]:
    """Pairs of parts that may run at once: neither builds on the other, by whatever way."""
    below = {node.id: set(plan.descendants(node.id)) for node in plan.nodes}
    return [(a, b) for a, b in combinations(sorted(below), 2) if b not in below[a] and a not in below[b]]


def repeats(plan: Plan, said: Said, n: int = GRAM) -> float:
    """Mean overlap between siblings; nan where there are none that say anything."""
    found = [overlap(said.get(a, ""), said.get(b, ""), n) for a, b in siblings(plan)]
    known = [value for value in found if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


# -- controls ------------------------------------------------------------------------------------------------------


def shuffled(said: Mapping[int, T], seed: int = 0) -> dict[int, T]:
    """The same answers, each under another part's question. ValueError for fewer than two."""
    order = sorted(said)
    if len(order) < 2:
        raise ValueError("a single answer cannot be shuffled")
    random.Random(seed).shuffle(order)
    return {node: said[other] for node, other in zip(order, order[1:] + order[:1], strict=True)}


def doubled(plan: Plan, said: Said) -> dict[int, str]:
    """The first pair of siblings says the same. ValueError where the plan has no siblings."""
    pairs = siblings(plan)
    if not pairs:
        raise ValueError("nothing in this plan runs beside anything else")
    first, second = pairs[0]
    return dict(said) | {second: said[first]}

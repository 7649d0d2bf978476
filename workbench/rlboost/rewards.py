"""Tasks whose reward a few lines of Python can verify: nobody judges, and everybody can check.

    sums      "3 + 4 =" for a model that can read; 1 for the sum as the first number said, a little for any
    letters   for the tiny model, whose tokens are bytes: the share of its tokens that are small letters

A task gives the same prompts for the same seed and step, wherever it runs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SMALL_LETTERS = frozenset(range(ord("a"), ord("z") + 1))
ANY_NUMBER = 0.1  # for an answer in the right form: without it a weak model never sees a reward


@dataclass(frozen=True)
class Problem:
    """A prompt, and what its answer must be ("" where the task looks at the tokens alone)."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """`problems(seed, step, count)`, and `reward(problem, ids, text)`, 0 to 1."""

    name: str
    problems: Callable[[int, int, int], list[Problem]]
    reward: Callable[[Problem, Sequence[int], str], float]


def _sums(seed: int, step: int, count: int) -> list[Problem]:
    draw = random.Random(f"sums|{seed}|{step}")
    found = []
    for _ in range(count):
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        found.append(Problem(f"What is {a} + {b}? Answer with the number alone.", str(a + b)))
    return found


def _sum_reward(problem: Problem, ids: Sequence[int], text: str) -> float:  # noqa: ARG001  one form for all tasks
    number = re.search(r"\d+", text)
    if number is None:
        return 0.0
    return 1.0 if number.group() == problem.answer else ANY_NUMBER


def _starts(seed: int, step: int, count: int) -> list[Problem]:
    draw = random.Random(f"letters|{seed}|{step}")
    return [Problem("".join(chr(draw.randint(97, 122)) for _ in range(6)), "") for _ in range(count)]


def _letter_share(problem: Problem, ids: Sequence[int], text: str) -> float:  # noqa: ARG001  one form for all tasks
    return sum(i in SMALL_LETTERS for i in ids) / len(ids) if ids else 0.0


TASKS = {"sums": Task("sums", _sums, _sum_reward), "letters": Task("letters", _starts, _letter_share)}

"""Which of two answers is better, by a model that judges: asked twice with the answers swapped, as it likes what it
reads first. Only what it says both times counts; such a judge also likes length, so lengths stand beside its words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.plato.engine import Ask, Constraint, Engine, EngineError
from workbench.pump import Stopped

Choice = Literal["one", "two", "tie", "unclear"]

SYSTEM = "You compare two answers to a request. You do not care about length or order, only about how good they are."
ONLY = Constraint('start: "A" | "B" | "tie"\n')
TOKENS, LIMIT_S = 16, 300.0
_WORD = re.compile(r"\b(A|B|tie)\b")


@dataclass(frozen=True)
class Judged:
    """Of answers one and two: what was said with one first and with two first, and how long they are (characters)."""

    said: tuple[Choice, Choice]
    lengths: tuple[int, int]

    @property
    def swayed(self) -> bool:
        """The order decided, not the answers."""
        return set(self.said) == {"one", "two"}

    @property
    def better(self) -> Choice:
        """One of the two when both times it was chosen; "unclear" when a reply could not be read."""
        first, second = self.said
        return "unclear" if "unclear" in self.said else first if first == second else "tie"


@dataclass(frozen=True)
class Tally:
    """Of many pairs. net: share that one wins minus share that two wins, unclear ones left out; swayed: share of
    pairs in which the order decided; longer: mean length of one over that of two.
    """

    pairs: int
    net: float
    swayed: float
    unclear: int
    longer: float


def judge_pair(
    engine: Engine, query: str, one: str, two: str, limit_s: float = LIMIT_S, stop: Callable[[], bool] = lambda: False
) -> Judged:
    """Ask the engine's model twice. EngineError when it fails or takes longer than `limit_s`; Stopped by `stop`."""
    names = {"judge: one first": (one, two), "judge: two first": (two, one)}
    for name, (a, b) in names.items():
        ids = tuple(engine.chat(SYSTEM, _question(query, a, b)))
        engine.start(Ask(name, ids, TOKENS, ONLY))
    replies = dict.fromkeys(names, "")
    deadline = time.monotonic() + limit_s
    try:
        while any(name in engine.running() for name in names):
            if stop():
                raise Stopped("the run was cancelled")
            if time.monotonic() > deadline:
                raise EngineError(f"the judge gave no answer within {limit_s:g} s: take a faster model")
            for out in engine.step():
                if out.ended == "failed":
                    raise EngineError(f"the judge failed: {out.said}")
                if out.name in replies:
                    replies[out.name] += engine.decode(out.ids)
    finally:
        for name in names:
            engine.stop(name)
    first, second = replies.values()
    return Judged((_choice(first, "one", "two"), _choice(second, "two", "one")), (len(one), len(two)))


def tally(pairs: Sequence[Judged]) -> Tally:
    """The sum of many. ValueError without any."""
    if not pairs:
        raise ValueError("pairs: none were judged")
    clear = [p for p in pairs if p.better != "unclear"]
    won = sum(p.better == "one" for p in clear) - sum(p.better == "two" for p in clear)
    return Tally(
        pairs=len(pairs),
        net=won / len(clear) if clear else 0.0,
        swayed=sum(p.swayed for p in clear) / len(clear) if clear else 0.0,
        unclear=len(pairs) - len(clear),
        longer=sum(p.lengths[0] for p in pairs) / max(1, sum(p.lengths[1] for p in pairs)),
    )


def _question(query: str, a: str, b: str) -> str:
    return (
        f"Request:\n{query.strip()}\n\nAnswer A:\n{a.strip()}\n\nAnswer B:\n{b.strip()}\n\n"
        "Which answer serves the request better? Reply with one word only: A, B or tie."
    )


def _choice(reply: str, a: Choice, b: Choice) -> Choice:
    """What a reply says; it must name one thing only."""
    named = set(_WORD.findall(reply))
    if len(named) != 1:
        return "unclear"
    choices: dict[str, Choice] = {"A": a, "B": b, "tie": "tie"}
    return choices[named.pop()]

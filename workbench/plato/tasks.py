"""Queries whose graph and answers are known: made from a seed, and checked by comparing strings.

    Request: move the train on from 14, then move that train on.
    1: Move the train on from 14.       The train goes from 14 to 15.
    2 <- 1: Move that train on.         The train goes from 15 to 16.

Something moves along a lane: numbers (arithmetic by one, or by more), months (looked up in memory), or a line of towns
(looked up in the query). A part that goes on says neither where it stands nor since when: only the answer that it needs
does. Several lanes make a wide graph, and a part may join two. The query shows an example of the same kind, with other
things on other places, because a model of 135M parameters would not know the form of an answer otherwise.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from workbench.plato.graph import Node, Plan

Track = Literal["numbers", "months", "line"]

INTRO = "Answer each part in one short sentence."
TOKENS = 24  # of a part: a sentence has 10 to 14


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_SHOWN_THINGS = _words("anchor basket bottle brush candle chair clock copper desert engine")
_THINGS = _words(
    "feather flower guitar hammer island jacket kettle ladder lemon mirror needle pencil piano planet rabbit ribbon "
    "rocket silver spider spoon stone tiger tower train tunnel turtle violin wagon"
)
_MONTHS = _words("January February March April May June July August September October November December")
_LETTERS = _words("A B C D E F G H I J K L")  # an example that shows a month would be copied
_SHOWN_TOWNS = _words("Boston Chicago Dallas Denver Sydney Lima Cairo Moscow Delhi Tokyo")
_TOWNS = _words("Paris Rome London Berlin Madrid Vienna Dublin Oslo Athens Seoul")
_TIMES = _words("second third fourth")
_LINE = 6  # towns of a line
_SHOWN_FROM, _FROM = (31, 42), (2, 24)  # numbers that lanes begin at


@dataclass(frozen=True)
class Family:
    """A kind of task. lanes: moves of each lane; shown: lanes of each example in the query; by: how far a move goes."""

    about: str
    lanes: tuple[int, ...]
    shown: tuple[tuple[int, ...], ...]
    track: Track = "numbers"
    by: tuple[int, ...] = (1,)
    joins: bool = False  # a last part that needs the ends of the first two lanes


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "count": Family("a chain: counting on", (4,), ((2,), (2,))),
        "months": Family("a chain: the next month, looked up in memory", (3,), ((2,), (2,)), "months"),
        "line": Family("a chain: the next town, looked up in the query", (4,), ((2,), (2,)), "line"),
        "lanes": Family("wide: four chains side by side", (2, 2, 2, 2), ((2,), (2, 2))),
        "mixed": Family("wide and deep: chains of three lengths, two joined", (3, 2, 1), ((2,), (2, 1)), joins=True),
        "sums": Family("a chain: additions of 2 to 9", (3,), ((2,), (2,)), by=(2, 3, 5, 7, 9)),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A query, the plan that fits it, and what each of its parts must say, in order."""

    family: str
    seed: int
    query: str  # with its examples
    request: str  # without them: all that a planner has to read
    plan: Plan
    expected: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.expected) != len(self.plan):
            raise ValueError(f"{self.family}: {len(self.expected)} answers for {len(self.plan)} parts")

    def right(self, node: int, said: str) -> bool:
        """Whether part `node` (from 1) was answered: the expected string, once both are normalised."""
        return normalised(said) == normalised(self.expected[node - 1])

    def linked(self, node: int, said: Mapping[int, str]) -> bool:
        """Whether part `node` begins where each part that it needs ended, right or wrong. True where it needs none."""
        own = _moves(said.get(node, ""))
        ends = [_moves(said.get(need, "")) for need in self.plan.nodes[node - 1].needs]
        return all(moves and all(own.get(thing, ("",))[0] == to for thing, (_, to) in moves.items()) for moves in ends)


def normalised(text: str) -> str:
    """What is compared: compatible characters, lower case, single spaces, no quotes or stops around it."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip(" .,;:!\"'`*")


_MOVE = re.compile(r"the (\w+) [a-z ]*from (\w+) to (\w+)")


def _moves(said: str) -> dict[str, tuple[str, str]]:
    """What a part says: where each thing goes from and to, as normalised words."""
    return {thing: (start, end) for thing, start, end in _MOVE.findall(normalised(said))}


def make(family: str, seed: int) -> Task:
    """The task that a seed gives. ValueError for an unknown family."""
    if family not in FAMILIES:
        raise ValueError(f"no family of tasks is called {family!r}; there are {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    teacher, rng = random.Random(f"{family}, shown"), random.Random(f"{family}, {seed}")
    pieces = [INTRO]
    for lanes in kind.shown:
        shown = _walk(kind, lanes, teacher, True)
        parts = zip(shown.plan.nodes, shown.expected, strict=True)
        pieces += [shown.asked, *(f"Part {node.id}: {node.ask}\n{said}" for node, said in parts)]
    walk = _walk(kind, kind.lanes, rng, False)
    return Task(family, seed, "\n\n".join([*pieces, walk.asked]), walk.asked, walk.plan, walk.expected)


def generate(count: int, seed: int = 0, families: Sequence[str] = tuple(FAMILIES)) -> list[Task]:
    """`count` tasks, the families in turn. Tasks of other seeds differ, of the same one do not."""
    if not families:
        raise ValueError("name at least one family of tasks")
    rounds = [divmod(at, len(families)) for at in range(count)]
    return [make(families[which], 1000 * seed + number) for number, which in rounds]


@dataclass(frozen=True)
class _Walk:
    """One set of lanes: how it is asked for, its parts and their answers."""

    asked: str
    plan: Plan
    expected: tuple[str, ...]


def _walk(kind: Family, lanes: Sequence[int], rng: random.Random, shown: bool) -> _Walk:
    """Lanes advance in turn, so that the parts of one level have ids side by side."""
    things = rng.sample(_SHOWN_THINGS if shown else _THINGS, len(lanes))
    name, starts, head = _track(kind.track, max(lanes), rng, shown)
    at = {thing: rng.choice(starts) for thing in things}
    last: dict[str, int] = {}
    rows: list[tuple[str, tuple[int, ...], str]] = []  # question, needs, answer
    for level in range(max(lanes)):
        for thing, moves in zip(things, lanes, strict=True):
            if level >= moves:
                continue
            by = rng.choice(kind.by)
            far = f" by {by}" if kind.by != (1,) else ""
            time = f" a {_TIMES[level - 1]} time" if level else ""  # no two parts ask the same
            where = f"that {thing} on{far}{time}" if level else f"the {thing} on{far} from {name(at[thing])}"
            needs = (last[thing],) if thing in last else ()
            rows.append((f"Move {where}.", needs, _said(thing, name, at[thing], by)))
            at[thing] += by
            last[thing] = len(rows)
    if kind.joins and len(lanes) > 1:
        one, two = things[:2]
        both = "\n".join(_said(thing, name, at[thing], 1) for thing in (one, two))
        rows.append((f"Move the {one} and the {two} on.", tuple(sorted((last[one], last[two]))), both))
    plan = Plan(
        tuple(Node(i, ask, needs, TOKENS * (1 + said.count("\n"))) for i, (ask, needs, said) in enumerate(rows, 1))
    )
    levels = [", ".join("m" + plan.nodes[i - 1].ask[1:-1] for i in level) for level in plan.levels()]
    return _Walk(f"{head}Request: {', then '.join(levels)}.", plan, tuple(said for _, _, said in rows))


def _said(thing: str, name: Callable[[int], str], at: int, by: int) -> str:
    return f"The {thing} goes from {name(at)} to {name(at + by)}."


def _track(
    track: Track, moves: int, rng: random.Random, shown: bool
) -> tuple[Callable[[int], str], Sequence[int], str]:
    """What places are called, where a lane may begin so that `moves` (and a join) fit, and what the query says first.

    Places of examples are never those of tasks: what is copied from an example is wrong.
    """
    if track == "numbers":
        low, high = _SHOWN_FROM if shown else _FROM
        return str, range(low, high + 1), ""
    if track == "months":
        places, head = list(_LETTERS if shown else _MONTHS), ""
    else:
        places = rng.sample(_SHOWN_TOWNS if shown else _TOWNS, _LINE)
        head = f"Line: {', '.join(places)}.\n"
    return places.__getitem__, range(len(places) - moves), head

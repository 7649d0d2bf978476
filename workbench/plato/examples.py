"""Queries with plans written by hand: what a good planner would have written, and one reason each to look at it.

A tiny model plans badly, so the notebook, the presets and the tests decode these; with a bigger model behind an
endpoint the planner is real. A plan's lines are those of workbench/dag.py, with the tokens of each part in brackets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from workbench.dag import read
from workbench.plato.graph import PART_TOKENS, Node, Plan


@dataclass(frozen=True)
class Example:
    """A query, its plan as text, and what it is an example of."""

    query: str
    plan_text: str
    why: str

    def plan(self, node_tokens: int | None = None) -> Plan:
        """The plan with its own budgets, or the same `node_tokens` for every part."""
        parts = read(self.plan_text)
        return Plan(tuple(Node(v.id, v.label, v.needs, node_tokens or v.weight or PART_TOKENS) for v in parts))


_WIDE = Example(
    "I have one free day in a harbour town I do not know. Suggest a place to eat, a walk, something for a rainy hour, "
    "and a small thing to bring home.",
    """1 [64]: Which kind of place near the harbour is good for a meal?
2 [64]: Which walk shows the town and the water in about two hours?
3 [64]: What can be done indoors for an hour when it rains?
4 [48]: Which small thing made in such a town is worth bringing home?""",
    "four parts that need nothing of each other: where parallel decoding gains most",
)
_JOIN = Example(
    "Compare bicycles, buses, trams and cars for getting to work in a city, then say which one you would recommend to "
    "a family and why.",
    """1 [64]: What speaks for and against a bicycle on the way to work?
2 [64]: What speaks for and against the bus?
3 [64]: What speaks for and against a tram?
4 [64]: What speaks for and against a car?
5 <- 1, 2, 3, 4 [72]: Which of the four suits a family best, given all that?""",
    "four parts and one that needs all of them",
)
_DIAMOND = Example(
    "A bakery wants to sell bread online. Describe what it sells, work out from that how to pack it and how to price "
    "the delivery, and write a short announcement.",
    """1 [56]: Which breads does the bakery sell, and how long do they keep?
2 <- 1 [64]: How should these breads be packed for the post?
3 <- 1 [64]: What should the delivery of these breads cost?
4 <- 2, 3 [72]: How would a short announcement of the new service read?""",
    "one part that two build on, and one that brings the two together",
)
_LEVELS = Example(
    "Plan a vegetable garden for a school: soil, plants and helpers first, then a calendar and a budget, and at last a "
    "letter to the parents.",
    """1 [56]: How should the soil of the garden be prepared?
2 [56]: Which vegetables grow well within one school year?
3 [48]: Who looks after the garden, also in the holidays?
4 <- 1, 2 [72]: What happens in which month?
5 <- 1, 2, 3 [64]: What will it cost, and who pays for what?
6 <- 4, 5 [80]: How does the letter that asks the parents for help read?""",
    "two levels and an end: three parts, then two that need some of them, then one",
)
_CHAIN = Example(
    "Think of a name for a lighthouse, make up the keeper who fits that name, tell what the keeper did one stormy "
    "night, and end with what the town says of it today.",
    """1 [40]: What is the lighthouse called, and where does the name come from?
2 <- 1 [56]: Who keeps a lighthouse of that name?
3 <- 2 [72]: What did this keeper do on a stormy night?
4 <- 3 [56]: What does the town say of that night today?""",
    "each part needs the one before: nothing is parallel, and the scheduler should refuse",
)
_EIGHT = Example(
    "Give a short portrait of each planet of the solar system, from the innermost to the outermost.",
    """1 [48]: What is special about Mercury?
2 [48]: What is special about Venus?
3 [48]: What is special about Earth, seen from outside?
4 [48]: What is special about Mars?
5 [48]: What is special about Jupiter?
6 [48]: What is special about Saturn?
7 [48]: What is special about Uranus?
8 [48]: What is special about Neptune?""",
    "eight parts side by side: how far a wider batch still pays",
)
_SINGLE = Example(
    "Why is the sky blue?",
    "1 [96]: Why does the sky look blue by day?",
    "one question, one part: a plan can only cost something here",
)

EXAMPLES: Mapping[str, Example] = MappingProxyType(
    {
        "wide": _WIDE,
        "join": _JOIN,
        "diamond": _DIAMOND,
        "levels": _LEVELS,
        "chain": _CHAIN,
        "eight": _EIGHT,
        "single": _SINGLE,
    }
)

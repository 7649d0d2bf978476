"""The words of a conducted query: how it is answered, what happens on the way, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from workbench.plato.engine import Ask, Counts
from workbench.plato.graph import Node, Plan
from workbench.plato.layout import Layout

Way = Literal["plain", "nodes", "sot", "independent", "plato"]
Context = Literal["growing", "needs"]


class Script(Protocol):
    """Where the plan comes from: known beforehand (`ask` gives None), or written by a sequence and read as it grows."""

    def ask(self, layout: Layout, outline: bool) -> Ask | None:
        """The sequence that writes the plan, or only its questions (outline); None when the plan is known."""
        ...

    def feed(self, text: str) -> list[Node]:
        """Nodes whose lines are complete now, after `text` more."""
        ...

    def opened(self) -> tuple[int, tuple[int, ...]] | None:
        """(id, needs) of the line that is being written, where its needs are known before its question."""
        ...

    def finish(self) -> Plan:
        """The whole plan, when no more text comes. PlanError when there is none that can be used."""
        ...

    @property
    def repairs(self) -> list[str]:
        """What was mended, a sentence each."""
        ...


@dataclass(frozen=True)
class Settings:
    """How a query is answered. `known` are answers (token ids by node) that are not decoded again."""

    way: Way = "plato"
    pipeline: bool = True  # nodes start while the plan is still being written
    context: Context = "growing"  # needs: a node sees only what it needs, at other positions than where it was computed
    whole: bool = False  # every node decodes exactly its budget
    plain_tokens: int = 256  # most tokens of a plain answer, where no plan says it
    hedge: bool = False  # with a judge: decode the plain answer beside the planner until the verdict
    most_running: int = 16
    known: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.most_running < 1:
            raise ValueError(f"most_running must be 1 or more, not {self.most_running}: nothing could run")


@dataclass(frozen=True)
class Verdict:
    """The scheduler's choice between what is left of the graph and of the plain answer. Seconds."""

    branch: bool
    graph_s: float
    plain_s: float
    why: str


@dataclass(frozen=True)
class Standing:
    """What the scheduler is asked about: the plan, tokens done by node, tokens of the plain answer so far."""

    plan: Plan
    done: Mapping[int, int]
    ended: frozenset[int]
    plain_done: int
    plain_total: int
    settings: Settings


Judge = Callable[[Standing], Verdict]


@dataclass
class Part:
    """A sequence's life: when it was started and ended on the engine's clock, and what it said."""

    name: str
    kind: Literal["plan", "plain", "node", "trunk"]
    node: int = 0
    start_s: float = 0.0
    first_s: float = 0.0  # its first token
    end_s: float = 0.0
    ids: tuple[int, ...] = ()
    text: str = ""
    reused: int = 0
    prefilled: int = 0
    ended: str = ""
    saw: tuple[int, ...] = ()  # nodes in its context
    prompt: tuple[int, ...] = ()


@dataclass(frozen=True)
class Happening:
    """Something to show: a part started, grew or ended, a node became known, the plan ended, a verdict fell."""

    kind: Literal["known", "planned", "started", "grew", "ended", "verdict"]
    at_s: float
    part: Part | None = None
    node: Node | None = None
    added: str = ""
    verdict: Verdict | None = None


@dataclass
class Outcome:
    """What came of a query. `answer` is the nodes' texts in plan order, or the plain text when it won."""

    settings: Settings
    plan: Plan | None
    repairs: list[str]
    plan_error: str
    verdict: Verdict | None
    parts: list[Part]
    total_s: float
    first_s: float  # until the first token of the answer that was kept
    counts: Counts
    answer: str
    answer_tokens: int
    order: tuple[int, ...]  # nodes, as they were appended to the trunk

    def part(self, node: int) -> Part:
        return next(p for p in self.parts if p.kind == "node" and p.node == node)


Conducting = Generator[Happening, None, Outcome]

"""What happens to a query, as events of the contract: a graph that fills, texts that grow, spans, a curve."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from workbench.plato.graph import Node, Plan
from workbench.plato.happen import Happening, Part
from workbench.plato.result import WAYS, Piece
from workbench.system import Event, Note, Point, Span, Text, Vertex

Say = Callable[[Event], None]
State = Literal["waiting", "running", "done", "cut"]
BEAT_S = 0.25  # texts are said together: an event a token would take its time from what is measured


class Stage:
    """Shows one answer. The graph and the texts are those of the way under test (`shown`); spans of all ways."""

    def __init__(self, say: Say, way: str, number: int, offset_s: float, shown: bool, plan: Plan | None) -> None:
        self.say, self.offset_s, self.shown = say, offset_s, shown
        self.prefix = f"{WAYS[way]}, round {number + 1}: "
        self.critical = set(plan.critical_path()) if plan else set[int]()
        self.running = 0
        self.nodes: dict[int, Node] = {}
        self.last: dict[int, tuple[State, float, str]] = {}  # as each node was shown
        self.over: set[int] = set()  # nodes whose end was shown
        self.unsaid: dict[str, str] = {}
        self.full: dict[str, Part] = {}
        self.told_s = 0.0

    def take(self, now: Happening) -> None:
        """Say what `now` means for the user; growing texts at most every BEAT_S."""
        match now.kind:
            case "known" if now.node is not None:
                self.nodes[now.node.id] = now.node
                self._vertex(now.node, "waiting", 0.0)
            case "started" if now.part is not None:
                self._width(+1, now.at_s)
                if now.node is not None:
                    self._vertex(now.node, "running", 0.0, self._reuse(now.part))
            case "grew" if now.part is not None:
                self._grew(now.part, now.node, now.added)
            case "ended" if now.part is not None:
                self._width(-1, now.at_s)
                self._ended(now.part, now.node)
            case "planned":
                self._mark()
            case "verdict" if now.verdict is not None:
                word = "branches" if now.verdict.branch else "refuses the plan"
                self.say(Note(f"{self.prefix}the scheduler {word}: {now.verdict.why}"))

    def close(self, parts: list[Part]) -> None:
        """What a verdict stopped, or never let begin, is shown as cut."""
        self._flush()
        for part in parts:
            if part.ended == "cancelled":
                self._spans(part)
        for at, node in self.nodes.items():
            if at not in self.over:
                self._vertex(node, "cut", 0.0)

    def _mark(self) -> None:
        """The critical path of a plan that nobody knew before; what ended by then is told once more."""
        nodes = sorted(self.nodes.values(), key=lambda node: node.id)
        if self.critical or not nodes or [node.id for node in nodes] != list(range(1, len(nodes) + 1)):
            return
        self.critical = set(Plan(tuple(nodes)).critical_path())
        for node in nodes:
            if node.id in self.critical:
                self._vertex(node, *self.last.get(node.id, ("waiting", 0.0, "")))

    def _vertex(self, node: Node, state: State, share: float, note: str = "") -> None:
        if not self.shown:
            return
        needs = tuple(str(n) for n in node.needs)
        self.last[node.id] = (state, share, note)
        if state in ("done", "cut"):
            self.over.add(node.id)
        self.say(Vertex(str(node.id), node.ask, needs, state, share, node.id in self.critical, note, node.budget))

    def _grew(self, part: Part, node: Node | None, added: str) -> None:
        if not self.shown:
            return
        name = str(node.id) if node else part.name
        self.unsaid[name] = self.unsaid.get(name, "") + added
        self.full[name] = part
        if part.end_s or time.monotonic() - self.told_s >= BEAT_S:
            self._flush()

    def _flush(self) -> None:
        """Say the texts that have grown, and how full their nodes are."""
        self.told_s = time.monotonic()
        for name, text in self.unsaid.items():
            self.say(Text(name, text))
            part = self.full[name]
            if (node := self.nodes.get(part.node)) is not None and not part.ended:
                self._vertex(node, "running", min(1.0, len(part.ids) / node.budget), self._reuse(part))
        self.unsaid.clear()

    def _ended(self, part: Part, node: Node | None) -> None:
        self._flush()
        self._spans(part)
        if node is not None:
            self._vertex(node, "done", 1.0, self._reuse(part))

    def _spans(self, part: Part) -> None:
        for span in Piece.of(part).spans(self.offset_s, self.prefix):
            if part.kind != "trunk":
                self.say(_within(span))

    def _width(self, by: int, at_s: float) -> None:
        at = round(self.offset_s + at_s, 4)
        self.say(Point("running: sequences at once", at, float(self.running)))
        self.running += by
        self.say(Point("running: sequences at once", at, float(self.running)))

    @staticmethod
    def _reuse(part: Part) -> str:
        return f"{part.reused} prompt tokens reused, {part.prefilled} computed" if part.reused + part.prefilled else ""


def _within(span: Span) -> Span:
    return span if span.end_s >= span.start_s else replace(span, end_s=span.start_s)

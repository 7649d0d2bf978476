r"""How a prompt is laid out: what is shared stands first and never moves, so that its KV is computed once.

    chat(system, query)                      shared by the planner, every node and the plain answer
    Part 1: question\nanswer\n\n             finished parts, in the order in which they finished, each appended once
    Part 4: question\n                       of the node that is decoded now

Every token of a finished node stands where it was decoded when nothing was appended since the node began; then its KV
is the trunk's KV, and nothing is computed again.
"""

from __future__ import annotations

from typing import Literal

from workbench.plato.engine import Engine
from workbench.plato.graph import Node

SYSTEM = "You are a careful assistant. Answer in numbered parts."
STOPS = ("\n\n", "\nPart ")
BETWEEN = "\n\n"


class Layout:
    """The pieces of one query's prompts, as token ids of `engine`. warm: what no query changes is computed before."""

    def __init__(self, engine: Engine, query: str, system: str = SYSTEM, *, warm: bool = False) -> None:
        if not query.strip():
            raise ValueError("query: is empty; ask something")
        self._engine = engine
        self.query, self.system, self.warm = query, system, warm
        form: Literal["lines", "json"] = getattr(engine, "form", "lines")
        self.form = form  # in which this engine's model plans best
        self.front = tuple(engine.chat(system, query))
        self._between = tuple(engine.encode(BETWEEN))

    def asking(self, query: str) -> Layout:
        """The same for another query."""
        return Layout(self._engine, query, self.system, warm=self.warm)

    def chat(self, system: str, user: str) -> tuple[int, ...]:
        """Token ids of a conversation of another kind, up to where its answer begins."""
        return tuple(self._engine.chat(system, user))

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of what a planner puts behind the front."""
        return tuple(self._engine.encode(text))

    def header(self, node: Node) -> tuple[int, ...]:
        """Where a node's answer begins."""
        return tuple(self._engine.encode(f"Part {node.id}: {node.ask.strip()}\n"))

    def block(self, node: Node, answer: tuple[int, ...]) -> tuple[int, ...]:
        """A finished node, as it is appended."""
        return self.header(node) + answer + self._between

"""A directed acyclic graph as lines of text, for settings that hold one: typed, edited in a form, kept in a record.

    1: What does the first source say?
    2: What does the second source say?
    3 <- 1, 2 [48]: What do both agree on?

A line is an id (1, 2, ... in order), the ids it needs after `<-`, a weight in brackets where it has one, a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LINE = re.compile(
    r"\s*([0-9]{1,6})\s*(?:<-\s*([0-9]{1,6}(?:\s*,\s*[0-9]{1,6})*)\s*)?(?:\[\s*([0-9]{1,6})\s*\]\s*)?:\s*(.*?)\s*"
)


class DagError(ValueError):
    """Text that is no such graph; the message names the line."""


@dataclass(frozen=True)
class Vertex:
    """One line: `needs` are ids of earlier lines, in order; `weight` is None where none is given."""

    id: int
    label: str
    needs: tuple[int, ...] = ()
    weight: int | None = None

    def line(self) -> str:
        needs = f" <- {', '.join(map(str, self.needs))}" if self.needs else ""
        weight = f" [{self.weight}]" if self.weight is not None else ""
        return f"{self.id}{needs}{weight}: {self.label}"


def read_line(text: str) -> Vertex:
    """One line, whatever its id and needs. DagError when it does not have the form."""
    found = _LINE.fullmatch(text)
    if found is None or not found[4]:
        raise DagError(f"{text.strip()[:60]!r} is not a line like '3 <- 1, 2: question'")
    needs = tuple(sorted({int(n) for n in (found[2] or "").split(",") if n.strip()}))
    return Vertex(int(found[1]), found[4], needs, int(found[3]) if found[3] else None)


def read(text: str) -> list[Vertex]:
    """All lines, blank ones left out. DagError names a line that is malformed, out of order or needs a later one."""
    vertices: list[Vertex] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            vertex = read_line(line)
        except DagError as error:
            raise DagError(f"line {number}: {error}") from None
        if vertex.id != len(vertices) + 1:
            raise DagError(f"line {number}: id {vertex.id}, where {len(vertices) + 1} is next")
        if bad := [n for n in vertex.needs if not 1 <= n < vertex.id]:
            raise DagError(f"line {number}: {vertex.id} needs {bad[0]}, and only earlier ids can be needed")
        vertices.append(vertex)
    return vertices


def write(vertices: Iterable[Vertex]) -> str:
    """The text of a graph, a line each."""
    return "\n".join(vertex.line() for vertex in vertices)

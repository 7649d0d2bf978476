"""From recorded calls to a graph: edges by who reads what whom wrote, buffers packed by when they are used.

A call's operand names a buffer, not an address; addresses come last. So buffers of one graph share memory wherever
their lives do not overlap, whatever the allocator of the framework did while it was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.foundry.graph import WRITE, Function, Kind, Node, Template


@dataclass(frozen=True)
class Operand:
    """Bytes [offset, offset + extent) of a buffer, as one argument sees them."""

    buffer: int
    offset: int
    extent: int
    access: int  # READ | WRITE


@dataclass(frozen=True)
class Call:
    """One recorded call; `arguments` are operands and plain 8-byte words."""

    kind: Kind
    function: Function | None
    arguments: tuple[Operand | int, ...]
    label: str

    @property
    def operands(self) -> list[Operand]:
        """Those arguments that are addresses."""
        return [a for a in self.arguments if isinstance(a, Operand)]


def template_of(calls: Sequence[Call]) -> Template:
    """The topology of these calls, with no size and no address in it."""
    functions: dict[Function, int] = {}
    nodes, pointers, first = [], [], 0
    for call in calls:
        at = -1 if call.function is None else functions.setdefault(call.function, len(functions))
        nodes.append(Node(call.kind, at, len(call.arguments), call.label))
        pointers += [(first + i, a.access) for i, a in enumerate(call.arguments) if isinstance(a, Operand)]
        first += len(call.arguments)
    return Template(tuple(functions), tuple(nodes), edges(calls), tuple(pointers))


def edges(calls: Sequence[Call]) -> tuple[tuple[int, int], ...]:
    """(before, after) wherever two calls touch the same bytes and one of them writes; implied ones left out.

    Of the nodes that a node depends on directly, those are kept that no other of them depends on in turn.
    """
    touched: dict[int, list[tuple[int, Operand]]] = {}
    above: list[set[int]] = []  # of each node, all that come before it
    made = []
    for i, call in enumerate(calls):
        direct = set()
        for mine in call.operands:
            for j, other in touched.get(mine.buffer, ()):
                apart = mine.offset + mine.extent <= other.offset or other.offset + other.extent <= mine.offset
                if not apart and (mine.access | other.access) & WRITE:
                    direct.add(j)
        kept = {j for j in direct if not any(j in above[k] for k in direct)}
        made += [(j, i) for j in sorted(kept)]
        above.append(direct.union(*(above[j] for j in direct)))
        for mine in call.operands:
            touched.setdefault(mine.buffer, []).append((i, mine))
    return tuple(made)


def pack(calls: Sequence[Call], sizes: Mapping[int, int], last: Sequence[int], align: int = 64) -> dict[int, int]:
    """Offsets for the buffers in `sizes` (bytes): two overlap in memory only if their lives do not.

    A buffer lives from the first to the last call that touches it; those in `last` are kept to the end. Greedy by size,
    each at the lowest place that is free, as is common for tensor arenas.
    """
    life: dict[int, tuple[int, int]] = {}
    for i, call in enumerate(calls):
        for each in call.operands:
            if each.buffer in sizes:
                life[each.buffer] = (life.get(each.buffer, (i, i))[0], i)
    for buffer in last:
        life[buffer] = (life.get(buffer, (0, 0))[0], len(calls))
    placed: dict[int, int] = {}
    for buffer in sorted(life, key=lambda b: (-sizes[b], b)):
        start, end = life[buffer]
        at = 0
        for other in sorted(
            (b for b in placed if not (life[b][1] < start or end < life[b][0])), key=placed.__getitem__
        ):
            if at + sizes[buffer] <= placed[other]:
                break
            at = max(at, placed[other] + sizes[other])
            at += -at % align
        placed[buffer] = at
    return placed


def uninitialised(calls: Sequence[Call], buffers: Mapping[int, int]) -> list[str]:
    """Labels of calls that read a buffer which nobody wrote before or with them: then a call was missed."""
    written: set[int] = set()
    bad = []
    for call in calls:
        written |= {a.buffer for a in call.operands if a.access & WRITE}  # a fused kernel may read what it wrote
        bad += [call.label for a in call.operands if a.buffer in buffers and a.buffer not in written]
    return bad

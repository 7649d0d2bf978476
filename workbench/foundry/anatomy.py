"""What a capture consists of, as a result holds it: templates, what differs between sizes, a layer's parameters."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter

from workbench.foundry.explore import depth
from workbench.foundry.graph import Capture, Graph
from workbench.foundry.parts import Cell, Topology

NODES, POSITIONS, VALUES = 16, 24, 6  # that are drawn: a layer and what is before it


def words(graph: Graph) -> tuple[int, ...]:
    """A graph's parameters."""
    return struct.unpack(f"<{len(graph.slots) // 8}Q", graph.slots)


def sizes_of(found: Capture, key: str) -> list[int]:
    """Batch sizes of a template, rising."""
    return sorted(size for size, graph in found.graphs.items() if graph.template == key)


def differing(first: Graph, other: Graph) -> int:
    """How many parameters differ between two sizes of a template."""
    return sum(a != b for a, b in zip(words(first), words(other), strict=True))


def topologies(found: Capture) -> list[Topology]:
    """Every template, the one with most sizes first."""
    made = []
    for key, t in found.templates.items():
        sizes = sizes_of(found, key)
        columns = zip(*(words(found.graphs[size]) for size in sizes), strict=True)
        calls = Counter(t.functions[n.function].library or "compiled" if n.function >= 0 else n.kind for n in t.nodes)
        made.append(
            Topology(
                key=key,
                sizes=sizes,
                nodes=len(t.nodes),
                edges=len(t.edges),
                depth=depth(t),
                slots=t.slots,
                addresses=len(t.pointers),
                differing=sum(len(set(column)) > 1 for column in columns),
                calls=dict(calls),
            )
        )
    return sorted(made, key=lambda t: (-len(t.sizes), t.key))


def cells(found: Capture, key: str) -> tuple[list[str], list[int], list[Cell]]:
    """(labels of the first nodes of a template, sizes that are shown, their parameters)."""
    template, sizes = found.templates[key], sizes_of(found, key)
    shown = sizes if len(sizes) <= VALUES else [*sizes[: VALUES - 1], sizes[-1]]
    values = {size: words(found.graphs[size]) for size in sizes}
    addresses = {slot for slot, _ in template.pointers}
    made, slot = list[Cell](), 0
    for i, node in enumerate(template.nodes[:NODES]):
        for position in range(min(node.slots, POSITIONS)):
            column = [values[size][slot + position] for size in sizes]
            address = slot + position in addresses
            kind, of = _owner(found, column[0] - found.base) if address else ("number", "")
            made.append(
                Cell(
                    node=i,
                    position=position,
                    kind=kind,
                    of=of,
                    differs=len(set(column)) > 1,
                    values=[values[size][slot + position] - (found.base if address else 0) for size in shown],
                )
            )
        slot += node.slots
    return [n.label for n in template.nodes[:NODES]], shown, made


def _owner(found: Capture, offset: int) -> tuple[str, str]:
    """(role, name) of the tensor that lies there; graphs put their own buffers behind the last one."""
    at = bisect_right([t.offset for t in found.tensors], offset) - 1
    t = found.tensors[at]
    return (t.role, t.name) if at >= 0 and offset < t.offset + t.nbytes else ("scratch", "scratch")

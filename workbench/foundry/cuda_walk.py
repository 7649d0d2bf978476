"""A captured graph, taken apart through the driver; and which of its bytes are addresses, found by capturing twice.

    first, second = walk(driver, graph_at_one_base), walk(driver, graph_at_another)
    pointers = differential(driver, first, second, arena, other_arena)

Nothing is known of any kernel. Between two captures that differ in the arena's base alone, an 8-byte word of the
parameters that moved by exactly the distance is an address. What moved otherwise is refused by its node and offset, and
so is what did not move but is an address all the same: of memory outside of the arena, which would not be there again.
The distance changes both halves of an address, so that a kernel that was given only one of them is noticed too.

Values of a rank are found the same way: between captures as two ranks, what differs must be a declared value.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from workbench.foundry.cuda_graph import ADDRESSES, HEAD, Node, Patch, Rank, Template, words_of
from workbench.foundry.driver import PORTS, Child, Driver, Empty, Handle, Kernel, Memcpy, Unsupported

DISTANCE = (1 << 40) + (37 << 21)  # between the two bases: whole pages of 2 MB, both halves of an address change
LEAST_ADDRESS = 1 << 16
_HEAD = ("function", "grid x", "grid y", "grid z", "block x", "block y", "block z", "dynamic shared memory")
_COPY = ("dst", "src", "width", "height", "depth", "dst pitch", "dst height", "src pitch", "src height")
_FILL = ("dst", "pitch", "value", "element size", "width", "height")


@dataclass(frozen=True)
class Spot:
    """A node of a walked graph and where its words lie."""

    path: tuple[int, ...]
    kind: str
    label: str
    start: int
    stop: int
    layout: tuple[tuple[int, int], ...] = ()

    def where(self, slot: int) -> str:
        """A word in the terms of its node."""
        at = slot - self.start
        if self.kind != "kernel":
            return f"{self.label}, {(_COPY if self.kind == 'memcpy' else _FILL)[at]}"
        if at < HEAD:
            return f"{self.label}, {_HEAD[at]}"
        byte = 8 * (at - HEAD)
        inside = [i for i, (offset, size) in enumerate(self.layout) if offset < byte + 8 and byte < offset + size]
        return f"{self.label}, parameter {' and '.join(map(str, inside)) or 'padding'}, offset {byte}"


@dataclass(frozen=True)
class Walked:
    """A graph as data. In `row` the first word of a kernel is its handle."""

    template: Template
    templates: Mapping[str, Template]  # of child graphs, and its own
    row: tuple[int, ...]
    spots: tuple[Spot, ...]
    functions: Mapping[Handle, tuple[tuple[int, int], ...]] = field(default_factory=dict)  # with their layouts
    handles: tuple[Handle, ...] = ()  # of the nodes, one for each spot


def walk(driver: Driver, graph: Handle) -> Walked:
    """Take a graph apart. Unsupported names a node, port or attribute that no archive carries."""
    row: list[int] = []
    spots: list[Spot] = []
    layouts: dict[Handle, tuple[tuple[int, int], ...]] = {}
    templates: dict[str, Template] = {}
    handles: list[Handle] = []

    def one(graph: Handle, path: tuple[int, ...]) -> Template:
        nodes, order, edges = [], *_ordered(driver, graph)
        for i, handle in enumerate(order):
            here = (*path, i)
            nodes.append(take(handle, here))
        made = Template(tuple(nodes), edges)
        templates[made.key] = made
        return made

    def take(handle: Handle, path: tuple[int, ...]) -> Node:
        name = "node " + ".".join(map(str, path))
        try:
            node = driver.node(handle)
            if isinstance(node, Child):
                return Node("child", (), one(node.graph, path).key)
            handles.append(handle)
            if isinstance(node, Empty):
                spots.append(Spot(path, "empty", name, len(row), len(row)))
                return Node("empty")
            if not isinstance(node, Kernel):
                kind = "memcpy" if isinstance(node, Memcpy) else "memset"
                spots.append(Spot(path, kind, f"{name} ({kind})", len(row), len(row) + len(words_of(node))))
                row.extend(words_of(node))
                return Node(kind)
            layout = layouts.setdefault(node.function, driver.layout(node.function))
            words = words_of(node, layout)
            label = f"{name} (kernel {driver.name(node.function)})"
            spots.append(Spot(path, "kernel", label, len(row), len(row) + len(words), layout))
            row.extend(words)
            return Node("kernel", driver.attributes(handle))
        except Unsupported as error:
            raise Unsupported(f"{name}: {error}") from error

    template = one(graph, ())
    return Walked(template, templates, tuple(row), tuple(spots), layouts, tuple(handles))


def _ordered(driver: Driver, graph: Handle) -> tuple[list[Handle], tuple[tuple[int, int, int, int, int], ...]]:
    """Nodes in an order that the edges allow, else as the driver lists them; edges by index."""
    nodes, edges = driver.nodes(graph), driver.edges(graph)
    index = {handle: i for i, handle in enumerate(nodes)}
    after: dict[int, list[int]] = {}
    waits = [0] * len(nodes)
    for e in edges:
        if e.from_port not in PORTS or e.to_port:
            raise Unsupported(f"an edge from port {e.from_port} to port {e.to_port}, which is not known")
        after.setdefault(index[e.before], []).append(index[e.after])
        waits[index[e.after]] += 1
    ready, order = [i for i, n in enumerate(waits) if not n], []
    heapq.heapify(ready)
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in after.get(i, ()):
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) != len(nodes):
        raise Unsupported("a graph that runs in a circle")
    place = {old: new for new, old in enumerate(order)}
    made = sorted((place[index[e.before]], place[index[e.after]], e.from_port, e.to_port, e.type) for e in edges)
    return [nodes[i] for i in order], tuple(made)


def same_topology(first: Walked, second: Walked) -> None:
    """Unsupported says in what two captures of one step differ, other than in parameters."""
    if first.template == second.template and first.templates == second.templates:
        for a, b in zip(first.spots, second.spots):
            if a.kind == "kernel" and first.row[a.start] != second.row[b.start]:
                raise Unsupported(f"{a.label} is {b.label} in the second capture: the choice of kernel is not stable")
        return
    one, two = first.template, second.template
    if len(one.nodes) != len(two.nodes):
        raise Unsupported(f"two captures of one step have {len(one.nodes)} and {len(two.nodes)} nodes")
    for i, (x, y) in enumerate(zip(one.nodes, two.nodes)):
        if x != y:
            raise Unsupported(f"node {i} is {_said(x)} in one capture and {_said(y)} in the other")
    other = sorted(set(one.edges) ^ set(two.edges))
    raise Unsupported(f"two captures of one step have different edges: {other[0][:2]} is only in one")


def _said(node: Node) -> str:
    return " ".join([node.kind, *(f"{name}={','.join(map(str, fields))}" for name, fields in node.attributes)])


def _words(first: Walked, second: Walked) -> Iterator[tuple[Spot, int, int, int]]:
    """(spot, slot, word of the first, word of the second), the function of kernels left out."""
    same_topology(first, second)
    for spot in first.spots:
        for slot in range(spot.start + (spot.kind == "kernel"), spot.stop):
            yield spot, slot, first.row[slot], second.row[slot]


@dataclass(frozen=True)
class Unexplained:
    """Bytes of a word, a bit each in `mask`, that are no part of an address and not constant either."""

    slot: int
    mask: int
    why: str


def differential(
    driver: Driver,
    first: Walked,
    second: Walked,
    arena: tuple[int, int],
    other: tuple[int, int],
    exempt: Container[int] = (),
) -> tuple[int, ...]:
    """Slots of `first` that are addresses; arenas are (base, bytes). Unsupported names what is neither.

    exempt: slots that hold a value of the rank, which may be an address of its process.
    """
    pointers, unexplained = explain(driver, first, second, arena, other, exempt)
    if unexplained:
        raise Unsupported(unexplained[0].why)
    return pointers


def explain(
    driver: Driver,
    first: Walked,
    second: Walked,
    arena: tuple[int, int],
    other: tuple[int, int],
    exempt: Container[int] = (),
) -> tuple[tuple[int, ...], list[Unexplained]]:
    """Slots that are addresses, and bytes of kernels' parameters that are neither part of one nor constant.

    Unsupported where a launch or an operand of a copy or fill is not explained: those always matter.
    """
    distance = other[0] - arena[0]
    pointers: list[int] = []
    unexplained: list[Unexplained] = []
    for spot, slot, a, b in _words(first, second):
        kernel = spot.kind == "kernel"
        may = slot >= spot.start + HEAD if kernel else slot - spot.start in ADDRESSES[spot.kind]
        why = ""
        if a != b:
            if may and b - a == distance and 0 <= a - arena[0] <= arena[1]:
                pointers.append(slot)
                continue
            why = (
                f"{a:#x} became {b:#x} when the arena moved by {distance:#x}; that is no address of the arena, and it "
                "cannot be told what it will be elsewhere"
            )
        elif may and a >= LEAST_ADDRESS and slot not in exempt:
            why = _address(driver, a, (arena, other))
        if why and not (may and kernel):
            raise Unsupported(f"{spot.where(slot)}: {why}")
        if why:
            mask = sum(1 << i for i in range(8) if a == b or (a ^ b) >> 8 * i & 255)
            unexplained.append(Unexplained(slot, mask, f"{spot.where(slot)}: {why}"))
    return tuple(pointers), unexplained


def _address(driver: Driver, word: int, arenas: Sequence[tuple[int, int]]) -> str:
    """What speaks against a word that was the same in both captures; "" for a constant."""
    if any(0 <= word - base < size for base, size in arenas):
        return f"{word:#x} lies in an arena and did not move with it"
    owner = driver.owner(word)
    if owner is None:
        return ""
    return (
        f"{word:#x} is memory outside of the arena ({owner[1]} bytes at {owner[0]:#x}), which another process will not "
        "have; allocate it while the arena's pool is in use"
    )


@dataclass(frozen=True)
class Declared:
    """A value of the rank: as it was in both captures, its width in bytes, and whether it is a handle."""

    first: int
    second: int
    width: int = 4
    handle: bool = False


def ranks(first: Walked, second: Walked, declared: Mapping[str, Declared]) -> tuple[dict[str, Rank], tuple[Patch, ...]]:
    """Where values of the rank stand, from captures as two ranks over arenas at one base.

    Unsupported names a word that differs and is no declared value, and a declared value that stands nowhere. ValueError
    when two names cannot be told apart or a value does not differ.
    """
    by_value: dict[tuple[int, int, int], str] = {}
    for name, d in declared.items():
        if d.width not in (4, 8) or not all(0 <= v < 1 << 8 * d.width for v in (d.first, d.second)):
            raise ValueError(f"the rank's {name!r} does not fit {d.width} bytes (4 or 8)")
        if d.first == d.second:
            raise ValueError(f"the rank's {name!r} is {d.first} in both captures: its places cannot be found")
        twin = by_value.setdefault((d.width, d.first, d.second), name)
        if twin != name:
            raise ValueError(f"the rank's {name!r} and {twin!r} have the same values: give one of them others")
    patches: list[Patch] = []
    for spot, slot, a, b in _words(first, second):
        if a == b:
            continue
        if spot.kind == "kernel" and slot < spot.start + HEAD:
            raise Unsupported(f"{spot.where(slot)}: {a} became {b} with the rank; only parameters may")
        patches += _claimed(by_value, spot, slot, a, b)
    if lost := sorted(set(declared) - {p.name for p in patches}):
        raise Unsupported(f"no parameter holds the rank's {lost[0]!r}")
    return {name: Rank(d.width, d.first, d.handle) for name, d in declared.items()}, tuple(patches)


def _claimed(by_value: Mapping[tuple[int, int, int], str], spot: Spot, slot: int, a: int, b: int) -> list[Patch]:
    if name := by_value.get((8, a, b)):
        return [Patch(name, slot, 0, 8)]
    made = []
    for byte in (0, 4):
        x, y = (word >> 8 * byte & 0xFFFFFFFF for word in (a, b))
        if x == y:
            continue
        name = by_value.get((4, x, y))
        if name is None or spot.kind != "kernel":
            raise Unsupported(f"{spot.where(slot)}: {a:#x} became {b:#x} with the rank and is no declared value")
        made.append(Patch(name, slot, byte, 4))
    return made

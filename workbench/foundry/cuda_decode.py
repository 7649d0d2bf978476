"""From the sections of an archive of backend "cuda" to a CudaCapture, after every check that needs no device."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.foundry.archive import Archive, digest, refuse
from workbench.foundry.check import Check
from workbench.foundry.cuda_graph import (
    ADDRESSES,
    HEAD,
    KINDS,
    Code,
    CudaCapture,
    Graph,
    Node,
    Patch,
    Piece,
    Probe,
    Rank,
    Template,
    masked,
    pieces,
)
from workbench.foundry.driver import ATTRIBUTES, SETTINGS
from workbench.foundry.graph import Tensor, _tensor

MOST_BYTES = 1 << 15  # of a kernel's parameters: 32764 since compute capability 7.0
MOST_THREADS = 1024  # of a block
FREE_SHARED = 48 << 10  # bytes of dynamic shared memory that need no permission
_MANIFEST: dict[str, type] = {
    "format": str, "backend": str, "fingerprint": dict, "model": dict, "arena": dict, "tensors": list, "binaries": dict,
    "functions": list, "templates": list, "graphs": list, "weights": dict, "ranks": dict,
}  # fmt: skip


def decode(archive: Archive) -> CudaCapture:
    """The typed view of an archive. Refused says what does not fit, or that it is of another backend."""
    check, said = Check(archive.where), archive.json("manifest")
    if isinstance(said, dict) and said.get("backend") not in (None, "cuda"):
        refuse("foreign", f"{archive.where} was captured on backend {said['backend']}, this is cuda")
    raw = check.record(said, "manifest", _MANIFEST)
    if raw["format"] != "foundry" or not raw["graphs"]:
        refuse("malformed", f"{archive.where} says it is {raw['format']!r} with {len(raw['graphs'])} graphs")
    base, size = check.arena(raw["arena"])
    binaries = {str(k): archive[f"binary/{k}"] for k in raw["binaries"]}
    for name, image in binaries.items():
        if digest(image).hex() != name or raw["binaries"][name] != len(image):
            refuse("corrupt", f"{archive.where}: binary {name} is not what its name and size say")
    functions = tuple(_code(check, f, binaries) for f in raw["functions"])
    templates = {key: _template(check, archive, key) for key in check.strings(raw["templates"], "templates")}
    for template in templates.values():
        if missing := {n.child for n in template.nodes if n.kind == "child"} - set(templates):
            refuse("malformed", f"{archive.where}: child graph {missing.pop()!r} is not there")
    tensors = tuple(_tensor(check, t, size) for t in raw["tensors"])
    ranks = {str(name): _rank(check, each) for name, each in raw["ranks"].items()}
    reader = _Reader(check, archive, (base, size), functions, templates, tensors, ranks)
    graphs = [reader.graph(each) for each in raw["graphs"]]
    made = CudaCapture(
        raw["fingerprint"], raw["model"], base, size, tensors, binaries, functions, templates,
        {g.size: g for g in graphs}, raw["weights"], ranks,
    )  # fmt: skip
    if set(made.sections()) != set(archive.sections) or len(graphs) != len(made.graphs):
        refuse("malformed", f"{archive.where}: its sections are not those that its manifest names")
    return made


def _code(check: Check, raw: Any, binaries: Mapping[str, bytes]) -> Code:
    f = check.record(raw, "function", {"binary": str, "symbol": str, "layout": list, "settings": list})
    if f["binary"] not in binaries or not 0 < len(f["symbol"]) < 4096 or not f["symbol"].isprintable():
        refuse("malformed", f"{check.where}: no function {f['symbol'][:80]!r} of binary {f['binary']!r} is there")
    layout = tuple(check.pair(p, "parameter", MOST_BYTES, MOST_BYTES) for p in f["layout"])
    ends = itertools.accumulate((offset + size for offset, size in layout), max, initial=0)
    if any(offset < end or not size for (offset, size), end in zip(layout, ends)) or sum(map(sum, layout[-1:])) > 2**15:
        refuse("malformed", f"{check.where}: parameters of {f['symbol'][:80]!r} overlap or are too long")
    settings = []
    for each in f["settings"]:
        if not isinstance(each, list) or len(each) != 2 or type(each[1]) is not int or not -1 <= each[1] < 2**24:
            refuse("malformed", f"{check.where}: a setting of {f['symbol'][:80]!r} is no name with a number")
        settings.append((each[0], each[1]))
    if [name for name, _ in settings] != list(SETTINGS):
        refuse("malformed", f"{check.where}: settings of {f['symbol'][:80]!r} are not {', '.join(SETTINGS)}")
    return Code(f["binary"], f["symbol"], layout, tuple(settings))


def _template(check: Check, archive: Archive, key: str) -> Template:
    raw = check.record(archive.json(f"template/{key}"), f"template {key}", {"nodes": list, "edges": list})
    nodes = tuple(_node(check, n) for n in raw["nodes"])
    edges = []
    for each in raw["edges"]:
        if not isinstance(each, list) or len(each) != 5:
            refuse("malformed", f"{archive.where}: an edge of template {key} has not five numbers")
        before, after = check.pair(each[:2], "edge", len(nodes), len(nodes))
        if before >= after:
            refuse("malformed", f"{archive.where}: an edge of template {key} runs backwards")
        ports = tuple(check.bounds(v, "port of an edge", 256) for v in each[2:])
        edges.append((before, after, ports[0], ports[1], ports[2]))
    made = Template(nodes, tuple(edges))
    if not nodes or made.key != key or len(set(edges)) != len(edges):
        refuse("corrupt", f"{archive.where}: template {key} is not what its key says")
    return made


def _node(check: Check, raw: Any) -> Node:
    n = check.record(raw, "node", {"kind": str, "attributes": list, "child": str})
    if n["kind"] not in KINDS or bool(n["child"]) != (n["kind"] == "child"):
        refuse("malformed", f"{check.where}: a node of kind {n['kind']!r} with child {n['child']!r}")
    attributes = []
    for each in n["attributes"]:
        fits = isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], list)
        if not fits or len(each[1]) != ATTRIBUTES.get(each[0]) or n["kind"] != "kernel":
            refuse("malformed", f"{check.where}: a {n['kind']} node has no attribute {str(each)[:60]}")
        if any(type(v) is not int or not -(2**31) <= v < 2**32 for v in each[1]):
            refuse("malformed", f"{check.where}: attribute {each[0]} holds something else than 32-bit numbers")
        attributes.append((each[0], tuple(each[1])))
    if [name for name, _ in attributes] != sorted({name for name, _ in attributes}):
        refuse("malformed", f"{check.where}: attributes of a node are out of order")
    return Node(n["kind"], tuple(attributes), n["child"])


def _rank(check: Check, raw: Any) -> Rank:
    r = check.record(raw, "rank value", {"width": int, "captured": int, "handle": bool})
    if r["width"] not in (4, 8):
        refuse("malformed", f"{check.where}: a rank's value has 4 or 8 bytes, not {r['width']}")
    return Rank(r["width"], check.bounds(r["captured"], "captured value", 2 ** (8 * r["width"])), r["handle"])


class _Layout:
    """Where the words of a row lie, and which of them may be addresses or values of a rank."""

    def __init__(self, found: Sequence[Piece], functions: Sequence[Code], row: Sequence[int]) -> None:
        kernels = [p.start for p in found if p.kind == "kernel"]
        self.length, self.kernels = len(row), kernels
        self.called = [row[at] for at in kernels]
        self.shared = [max(FREE_SHARED, dict(functions[i].settings)["dynamic_shared"]) for i in self.called]
        self.free = {i for p in found if p.kind == "kernel" for i in range(p.start + HEAD, p.stop)}
        self.free |= {p.start + i for p in found for i in ADDRESSES.get(p.kind, ())}
        self.pointers: set[tuple[int, ...]] = set()  # that were found to be in order

    def fits(self, row: Sequence[int]) -> bool:
        """Whether a row of this template is laid out so: as long, and the same kernels in the same places."""
        return len(row) == self.length and self.called == [row[at] for at in self.kernels]

    def launchable(self, row: Sequence[int]) -> bool:
        """Whether every kernel's grid, block and shared memory can be."""
        for at, shared in zip(self.kernels, self.shared):
            _, gx, gy, gz, bx, by, bz, wanted = row[at : at + HEAD]
            if not (0 < gx < 2**31 and 0 < gy < 2**31 and 0 < gz < 2**31 and 0 < bx * by * bz <= MOST_THREADS):
                return False
            if wanted > shared:
                return False
        return True


class _Reader:
    """Graphs of one archive, checked against its arena, functions and templates."""

    def __init__(
        self, check: Check, archive: Archive, arena: tuple[int, int], functions: tuple[Code, ...],
        templates: Mapping[str, Template], tensors: tuple[Tensor, ...], ranks: Mapping[str, Rank],
    ) -> None:  # fmt: skip
        self.check, self.archive, self.arena, self.functions = check, archive, arena, functions
        self.templates, self.ranks = templates, ranks
        self.tensors = {t.name: t for t in tensors}
        self.layouts: dict[str, list[_Layout]] = {}

    def graph(self, raw: Any) -> Graph:
        """One graph with its sections."""
        fields = {"size": int, "template": str, "patches": list, "outputs": list, "ignored": list, "probe": dict}
        g = self.check.record(raw, "graph", fields)
        size = self.check.bounds(g["size"], "batch size", 10**6)
        if g["template"] not in self.templates or not size:
            self.refuse(f"graph {size} has template {g['template']!r}, which is not there")
        words, coded = self.archive[f"slots/{size:06d}"], self.archive[f"pointers/{size:06d}"]
        if len(words) % 8 or len(coded) % 4:
            self.refuse(f"parameters of graph {size} are no whole words")
        pointers = struct.unpack(f"<{len(coded) // 4}I", coded)
        patches = tuple(self._patch(each) for each in g["patches"])
        outputs = tuple(_tensor(self.check, t, self.arena[1]) for t in g["outputs"])
        ignored = tuple(self.check.pair(i, "ignored bytes", len(words) // 8, 256) for i in g["ignored"])
        probe = self._probe(g["probe"], size)
        made = Graph(size, g["template"], words, pointers, patches, outputs, probe, ignored)
        self._parameters(made)
        return made

    def refuse(self, message: str) -> None:
        """Refused as malformed."""
        refuse("malformed", f"{self.archive.where}: {message}")

    def _parameters(self, g: Graph) -> None:
        row = g.row
        layout = self._layout(g, row)
        if not layout.launchable(row):
            self.refuse(f"graph {g.size} has a grid, block or shared memory that no device has")
        base, size = self.arena
        if g.pointers not in layout.pointers:
            rising = all(a < b for a, b in itertools.pairwise(g.pointers))
            if not rising or not layout.free.issuperset(g.pointers):
                self.refuse(f"addresses of graph {g.size} are out of order, or where none can be")
            layout.pointers.add(g.pointers)
        addresses = [row[slot] for slot in g.pointers]
        if addresses and not base <= min(addresses) <= max(addresses) <= base + size:
            slot = next(s for s in g.pointers if not base <= row[s] <= base + size)
            self.refuse(f"slot {slot} of graph {g.size} points outside the arena")
        if g.ignored:
            slots = [slot for slot, _ in g.ignored]
            free = layout.free - {*g.pointers, *(p.slot for p in g.patches)}
            rising = all(a < b for a, b in itertools.pairwise(slots)) and free.issuperset(slots)
            if not rising or any(not mask or masked(0, mask, row[slot]) for slot, mask in g.ignored):
                self.refuse(f"graph {g.size} ignores bytes that hold something, or are no parameter's")
        if g.patches:
            self._ranks(g, row, layout.free - set(g.pointers))

    def _layout(self, g: Graph, row: tuple[int, ...]) -> _Layout:
        """Where its nodes' words lie: found once for all sizes that run the same kernels in the same template."""
        known = self.layouts.setdefault(g.template, [])
        for each in known:
            if each.fits(row):
                return each
        try:
            found = list(pieces(self.templates[g.template], self.templates, self.functions, row))
        except (ValueError, RecursionError) as error:
            refuse("malformed", f"{self.archive.where}: graph {g.size}: {error}")
        if (found[-1].stop if found else 0) != len(row):
            self.refuse(f"graph {g.size} has parameters that belong to no node")
        known.insert(0, _Layout(found, self.functions, row))
        return known[0]

    def _ranks(self, g: Graph, row: tuple[int, ...], free: set[int]) -> None:
        taken: set[tuple[int, int]] = set()
        for p in g.patches:
            rank = self.ranks.get(p.name)
            halves = {(p.slot, b) for b in range(p.byte, p.byte + p.width, 4)}
            if rank is None or rank.width != p.width or p.slot not in free or halves & taken:
                self.refuse(f"graph {g.size} has no place for the rank's {p.name!r} at slot {p.slot}")
                continue
            if row[p.slot] >> 8 * p.byte & ((1 << 8 * p.width) - 1) != rank.captured:
                self.refuse(f"slot {p.slot} of graph {g.size} does not hold the rank's {p.name!r}")
            taken |= halves

    def _patch(self, raw: Any) -> Patch:
        p = self.check.record(raw, "patch", {"name": str, "slot": int, "byte": int, "width": int})
        if (p["byte"], p["width"]) not in ((0, 4), (4, 4), (0, 8)):
            self.refuse(f"a patch of {p['width']} bytes from byte {p['byte']}")
        return Patch(p["name"], self.check.bounds(p["slot"], "slot of a patch", 2**32), p["byte"], p["width"])

    def _probe(self, raw: Any, size: int) -> Probe:
        p = self.check.record(raw, "probe", {"fills": list, "inputs": list, "kept": list, "digest": str})
        parts = {}
        for name in ("fills", "inputs", "kept"):
            made = []
            for each in p[name]:
                named = isinstance(each, list) and len(each) == 2 and isinstance(each[0], str)
                tensor = self.tensors.get(each[0]) if named else None
                if tensor is None:
                    refuse("malformed", f"{self.archive.where}: a probe of graph {size} names no tensor")
                made.append((tensor.name, self.check.bounds(each[1], "bytes of a probe", tensor.nbytes + 1)))
            parts[name] = tuple(made)
        content = self.archive[f"probe/{size:06d}"]
        if len(content) != sum(n for _, n in parts["inputs"]):
            self.refuse(f"the probe of graph {size} has not the bytes that its inputs take")
        return Probe(parts["fills"], parts["inputs"], content, p["digest"], parts["kept"])

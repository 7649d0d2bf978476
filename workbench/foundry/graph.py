"""What an archive holds, typed: binaries, templates, parameter sets, tensors of the arena. No torch, no pydantic.

    Capture(fingerprint, model, base, size, tensors, binaries, templates, graphs, weights) <-> sections of an archive

A template is a topology: functions, nodes, edges, and which slots of the parameters are addresses. A graph is a
template with the parameters of one batch size as raw bytes. Addresses in them are those of the arena at `base`; at
another base the same amount is added to each, as the template says where they are.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from workbench.foundry.archive import Archive, canonical, digest, refuse
from workbench.foundry.check import Check

Kind = Literal["kernel", "gemm", "copy", "fill"]
KINDS: tuple[Kind, ...] = ("kernel", "gemm", "copy", "fill")  # in the order of kernels/replay
Role = Literal["weight", "state", "input", "output", "scratch"]
ROLES: tuple[Role, ...] = ("weight", "state", "input", "output", "scratch")
READ, WRITE = 1, 2
ITEM = {"float32": 4, "int64": 8, "int32": 4, "bfloat16": 2, "float16": 2, "bool": 1, "uint8": 1}
# Functions of installed libraries that an archive may name: by library, by symbol. Nothing else is looked up.
LIBRARY = {"torch_cpu": ("sgemm_", "omp_set_num_threads")}


@dataclass(frozen=True)
class Tensor:
    """A tensor at a fixed place of the arena, contiguous. `offset` in bytes from the arena's base."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        n = ITEM[self.dtype]
        for each in self.shape:
            n *= each
        return n


@dataclass(frozen=True)
class Function:
    """A C function: of a binary in the archive (by its digest, hex) or of an installed library (by its name)."""

    binary: str  # "" for a library's
    library: str  # "" for a binary's
    symbol: str


@dataclass(frozen=True)
class Node:
    """One call. `function` indexes Template.functions, -1 for copy and fill; `slots` are its 8-byte parameters."""

    kind: Kind
    function: int
    slots: int
    label: str


@dataclass(frozen=True)
class Template:
    """A topology. Nodes stand in an order that the edges allow; `pointers` are (slot, READ | WRITE)."""

    functions: tuple[Function, ...]
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]  # (before, after), both indices of nodes
    pointers: tuple[tuple[int, int], ...]

    @property
    def key(self) -> str:
        """Digest of everything that two graphs must share to be one template. Labels are for readers and are not in."""
        nodes = [(n.kind, n.function, n.slots) for n in self.nodes]
        functions = [(f.binary, f.library, f.symbol) for f in self.functions]
        return digest(canonical([functions, nodes, self.edges, self.pointers])).hex()

    @property
    def slots(self) -> int:
        """8-byte slots of one parameter set."""
        return sum(node.slots for node in self.nodes)


@dataclass(frozen=True)
class Graph:
    """One batch size: parameters (8-byte slots) and, for each address among them, the bytes behind it that are used."""

    size: int
    template: str
    slots: bytes
    extents: bytes
    outputs: tuple[Tensor, ...]
    probe: str  # digest of outputs and state after one step on the probe inputs, hex

    def pointers(self, template: Template) -> list[tuple[int, int, int]]:
        """(slot, address at the captured base, extent in bytes) of every address."""
        words = struct.unpack(f"<{len(self.slots) // 8}Q", self.slots)
        sizes = struct.unpack(f"<{len(self.extents) // 8}Q", self.extents)
        return [(slot, words[slot], size) for (slot, _), size in zip(template.pointers, sizes)]


def relocate(slots: bytes, template: Template, by: int) -> bytes:
    """Parameters with `by` added to every address, modulo 2**64."""
    if by == 0:
        return slots
    words = list(struct.unpack(f"<{len(slots) // 8}Q", slots))
    for slot, _ in template.pointers:
        words[slot] = (words[slot] + by) % 2**64
    return struct.pack(f"<{len(words)}Q", *words)


@dataclass(frozen=True)
class Capture:
    """All of an archive. `weights` names the file beside it: bytes and digest (xxh3, 128 bits, hex) of the content."""

    backend: str
    fingerprint: Mapping[str, Any]
    model: Mapping[str, Any]
    base: int
    size: int
    tensors: tuple[Tensor, ...]
    binaries: Mapping[str, bytes]
    templates: Mapping[str, Template]
    graphs: Mapping[int, Graph]
    weights: Mapping[str, Any] = field(default_factory=dict)

    def sections(self) -> dict[str, bytes]:
        """What `archive.write` takes."""
        manifest = {
            "format": "foundry",
            "backend": self.backend,
            "fingerprint": dict(self.fingerprint),
            "model": dict(self.model),
            "arena": {"base": self.base, "size": self.size},
            "tensors": [asdict(t) for t in self.tensors],
            "binaries": {name: len(raw) for name, raw in self.binaries.items()},
            "templates": sorted(self.templates),
            "graphs": [_plain(g) for _, g in sorted(self.graphs.items())],
            "weights": dict(self.weights),
        }
        made = {"manifest": canonical(manifest)}
        made |= {f"binary/{name}": raw for name, raw in self.binaries.items()}
        made |= {f"template/{key}": canonical(asdict(t)) for key, t in self.templates.items()}
        made |= {f"slots/{g.size:06d}": g.slots for g in self.graphs.values()}
        return made | {f"extents/{g.size:06d}": g.extents for g in self.graphs.values()}


def _plain(graph: Graph) -> dict[str, Any]:
    keep = ("size", "template", "probe")
    return {k: getattr(graph, k) for k in keep} | {"outputs": [asdict(t) for t in graph.outputs]}


def decode(archive: Archive) -> Capture:
    """The typed view of an archive, after every check that needs no machine. Refused says what does not fit."""
    check = Check(archive.where)
    said = archive.json("manifest")
    if isinstance(said, dict) and said.get("backend") == "cuda":
        refuse("foreign", f"{archive.where} holds graphs of a GPU (backend cuda): this is the CPU's")
    raw = check.record(said, "manifest", _MANIFEST)
    if not raw["graphs"]:
        refuse("malformed", f"{archive.where} holds no graph")
    if raw["format"] != "foundry":
        refuse("malformed", f"{archive.where} says it is {raw['format']!r}, not foundry")
    base, size = check.arena(raw["arena"])
    binaries = {str(k): archive[f"binary/{k}"] for k in raw["binaries"]}
    for name, image in binaries.items():
        if digest(image).hex() != name:
            refuse("corrupt", f"{archive.where}: binary {name} is not what its name says")
    templates = {key: _template(check, archive, key, binaries) for key in check.strings(raw["templates"], "templates")}
    tensors = tuple(_tensor(check, t, size) for t in raw["tensors"])
    graphs = [_graph(check, archive, each, templates, (base, size)) for each in raw["graphs"]]
    made = Capture(
        raw["backend"], raw["fingerprint"], raw["model"], base, size, tensors, binaries, templates,
        {g.size: g for g in graphs}, raw["weights"],
    )  # fmt: skip
    if set(made.sections()) != set(archive.sections) or len(graphs) != len(made.graphs):
        refuse("malformed", f"{archive.where}: its sections are not those that its manifest names")
    return made


_MANIFEST: dict[str, type] = {
    "format": str, "backend": str, "fingerprint": dict, "model": dict, "arena": dict, "tensors": list, "binaries": dict,
    "templates": list, "graphs": list, "weights": dict,
}  # fmt: skip


def _template(check: Check, archive: Archive, key: str, binaries: Mapping[str, bytes]) -> Template:
    fields = {"functions": list, "nodes": list, "edges": list, "pointers": list}
    raw = check.record(archive.json(f"template/{key}"), f"template {key}", fields)
    functions = tuple(_function(check, f, binaries) for f in raw["functions"])
    nodes = tuple(_node(check, n, functions) for n in raw["nodes"])
    slots = sum(n.slots for n in nodes)
    edges = tuple(check.pair(e, "edge", len(nodes), len(nodes)) for e in raw["edges"])
    pointers = tuple(check.pair(p, "pointer", slots, 4) for p in raw["pointers"])
    if any(before >= after for before, after in edges):
        refuse("malformed", f"{archive.where}: an edge of template {key} runs backwards")
    if any(a[0] >= b[0] for a, b in itertools.pairwise(pointers)) or any(not access for _, access in pointers):
        refuse("malformed", f"{archive.where}: addresses of template {key} are out of order")
    made = Template(functions, nodes, edges, pointers)
    if not nodes or made.key != key:
        refuse("corrupt", f"{archive.where}: template {key} is not what its key says")
    return made


def _function(check: Check, raw: Any, binaries: Mapping[str, bytes]) -> Function:
    f = check.record(raw, "function", {"binary": str, "library": str, "symbol": str})
    known = f["symbol"] in LIBRARY.get(f["library"], ()) if f["library"] else f["binary"] in binaries
    if not known or bool(f["library"]) == bool(f["binary"]):
        refuse("malformed", f"{check.where}: no function {f['symbol']!r} of {f['library'] or f['binary']!r} is allowed")
    return Function(f["binary"], f["library"], f["symbol"])


def _node(check: Check, raw: Any, functions: tuple[Function, ...]) -> Node:
    n = check.record(raw, "node", {"kind": str, "function": int, "slots": int, "label": str})
    if n["kind"] not in KINDS or not -1 <= n["function"] < len(functions):
        refuse("malformed", f"{check.where}: a node of kind {n['kind']!r} with function {n['function']}")
    called = functions[n["function"]].symbol if n["function"] >= 0 else ""
    fits = {"kernel": called not in ("", "sgemm_"), "gemm": called == "sgemm_"}.get(n["kind"], called == "")
    if not fits:
        refuse("malformed", f"{check.where}: a {n['kind']} node cannot call {called!r}")
    return Node(cast("Kind", n["kind"]), n["function"], check.bounds(n["slots"], "node.slots", 65), n["label"])


def _tensor(check: Check, raw: Any, size: int) -> Tensor:
    t = check.record(raw, "tensor", {"name": str, "role": str, "dtype": str, "shape": list, "offset": int})
    if t["role"] not in ROLES or t["dtype"] not in ITEM or len(t["shape"]) > 8:
        refuse("malformed", f"{check.where}: tensor {t['name']!r} has a role, dtype or shape that does not exist")
    shape = tuple(check.bounds(n, f"shape of {t['name']}", 2**40) for n in t["shape"])
    made = Tensor(t["name"], cast("Role", t["role"]), t["dtype"], shape, check.bounds(t["offset"], "offset", size))
    if made.nbytes > size - made.offset or made.offset % 64:
        refuse("malformed", f"{check.where}: tensor {made.name!r} leaves the arena or is not on a multiple of 64")
    return made


def _graph(
    check: Check, archive: Archive, raw: Any, templates: Mapping[str, Template], arena: tuple[int, int]
) -> Graph:
    g = check.record(raw, "graph", {"size": int, "template": str, "probe": str, "outputs": list})
    size = check.bounds(g["size"], "batch size", 10**6)
    template = templates.get(g["template"])
    if template is None or not size:
        refuse("malformed", f"{archive.where}: graph {size} has template {g['template']!r}, which is not there")
    slots, extents = archive[f"slots/{size:06d}"], archive[f"extents/{size:06d}"]
    if len(slots) != 8 * template.slots or len(extents) != 8 * len(template.pointers):
        refuse("malformed", f"{archive.where}: parameters of graph {size} do not fit its template")
    outputs = tuple(_tensor(check, t, arena[1]) for t in g["outputs"])
    made = Graph(size, g["template"], slots, extents, outputs, g["probe"])
    for slot, address, extent in made.pointers(template):
        if not 0 <= address - arena[0] <= arena[1] or extent > arena[1] - (address - arena[0]):
            refuse("malformed", f"{archive.where}: slot {slot} of graph {size} points outside the arena")
    return made

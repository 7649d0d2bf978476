"""What an archive of backend "cuda" holds, typed: functions, topologies, parameter sets. Needs no GPU, driver or torch.

    CudaCapture(fingerprint, model, base, size, tensors, binaries, functions, templates, graphs, weights, ranks)

A template is a topology and nothing else: kinds of nodes, edges with their ports, launch attributes, child graphs.
Which kernel a node runs belongs to the parameters, as its grid does: libraries choose another kernel for another batch
size, and the driver lets an executable take it over. So a graph is a template and a row of 8-byte words, node by node:

    kernel   function, grid x y z, block x y z, dynamic shared bytes, then its parameters as they lie on the device
    memcpy   dst, src, width, height, depth, dst pitch, dst height, src pitch, src height
    memset   dst, pitch, value, element, width, height
    child    the words of its graph;  empty: none

`pointers` are the words that are addresses of the arena. `patches` are values of a rank: places by name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench.foundry.archive import Archive, canonical, digest
from workbench.foundry.driver import Handle, Kernel, Memcpy, Memset, pack, unpack
from workbench.foundry.graph import Tensor

KINDS = ("kernel", "memcpy", "memset", "empty", "child")
HEAD, MEMCPY, MEMSET = 8, 9, 6  # words of a kernel before its parameters, of a copy, of a fill
ADDRESSES = {"memcpy": (0, 1), "memset": (0,)}  # which of their words may be addresses
DEEPEST = 8  # child graphs inside each other


@dataclass(frozen=True)
class Code:
    """A kernel: of a binary (by digest, hex) and a symbol. `layout`: (offset, bytes) of its parameters.

    `settings`: what its library had set before it was captured, by driver.SETTINGS, rising by name.
    """

    binary: str
    symbol: str
    layout: tuple[tuple[int, int], ...]
    settings: tuple[tuple[str, int], ...]

    @property
    def words(self) -> int:
        """8-byte words that its parameters take."""
        return -(-max((offset + size for offset, size in self.layout), default=0) // 8)


@dataclass(frozen=True)
class Node:
    """A node of a topology. `child` is the key of a template, for kind "child"."""

    kind: str
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    child: str = ""


@dataclass(frozen=True)
class Template:
    """Nodes in an order that the edges allow. Edges: before, after, from port, to port, type (CUgraphEdgeData)."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int, int, int, int], ...]

    @property
    def key(self) -> str:
        """Digest of all of it: what two graphs must share so that one executable can be updated to either."""
        nodes = [(n.kind, n.attributes, n.child) for n in self.nodes]
        return digest(canonical(["cuda", nodes, self.edges])).hex()


@dataclass(frozen=True)
class Patch:
    """A value of the rank in the parameters: `width` bytes, 4 or 8, from byte `byte` of word `slot`."""

    name: str
    slot: int
    byte: int
    width: int


@dataclass(frozen=True)
class Rank:
    """A named value of the rank: its width in bytes, what it was at capture, and whether it is a handle.

    A handle (a communicator's address) means something only in the process that made it.
    """

    width: int
    captured: int
    handle: bool = False


@dataclass(frozen=True)
class Probe:
    """Known inputs of a verifying replay, and the digest of what it left.

    `fills`: (tensor, bytes) of state that gets the seeded pattern and is digested too. `inputs`: (tensor, bytes)
    written from `raw`, one after the other. `kept`: (tensor, bytes) of state that the step may write to besides, put
    back where something may live in it.
    """

    fills: tuple[tuple[str, int], ...]
    inputs: tuple[tuple[str, int], ...]
    raw: bytes
    digest: str
    kept: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Graph:
    """One batch size: a template's parameters at the captured base and rank."""

    size: int
    template: str
    words: bytes
    pointers: tuple[int, ...]  # slots, rising
    patches: tuple[Patch, ...]
    outputs: tuple[Tensor, ...]
    probe: Probe
    ignored: tuple[tuple[int, int], ...] = ()  # (slot, mask of its bytes) that nothing depends on: zero

    @property
    def row(self) -> tuple[int, ...]:
        """The words as numbers."""
        return struct.unpack(f"<{len(self.words) // 8}Q", self.words)


@dataclass(frozen=True)
class CudaCapture:
    """All of an archive. `weights` names the file beside it, or is empty where whoever loads fills weights in."""

    fingerprint: Mapping[str, Any]
    model: Mapping[str, Any]
    base: int
    size: int
    tensors: tuple[Tensor, ...]
    binaries: Mapping[str, bytes]
    functions: tuple[Code, ...]
    templates: Mapping[str, Template]
    graphs: Mapping[int, Graph]
    weights: Mapping[str, Any] = field(default_factory=dict)
    ranks: Mapping[str, Rank] = field(default_factory=dict)

    def sections(self) -> dict[str, bytes]:
        """What `archive.write` takes."""
        manifest = {
            "format": "foundry",
            "backend": "cuda",
            "fingerprint": dict(self.fingerprint),
            "model": dict(self.model),
            "arena": {"base": self.base, "size": self.size},
            "tensors": [asdict(t) for t in self.tensors],
            "binaries": {name: len(raw) for name, raw in self.binaries.items()},
            "functions": [asdict(f) for f in self.functions],
            "templates": sorted(self.templates),
            "graphs": [_plain(g) for _, g in sorted(self.graphs.items())],
            "weights": dict(self.weights),
            "ranks": {name: asdict(rank) for name, rank in self.ranks.items()},
        }
        made = {"manifest": canonical(manifest)}
        made |= {f"binary/{name}": raw for name, raw in self.binaries.items()}
        made |= {f"template/{key}": canonical(asdict(t)) for key, t in self.templates.items()}
        for g in self.graphs.values():
            made[f"slots/{g.size:06d}"] = g.words
            made[f"pointers/{g.size:06d}"] = struct.pack(f"<{len(g.pointers)}I", *g.pointers)
            made[f"probe/{g.size:06d}"] = g.probe.raw
        return made

    @property
    def topology(self) -> Mapping[str, Template]:
        """Templates that graphs have; the others are only inside child nodes."""
        return {g.template: self.templates[g.template] for _, g in sorted(self.graphs.items())}


def _plain(graph: Graph) -> dict[str, Any]:
    p = graph.probe
    return {
        "size": graph.size,
        "template": graph.template,
        "patches": [asdict(each) for each in graph.patches],
        "outputs": [asdict(t) for t in graph.outputs],
        "ignored": graph.ignored,
        "probe": {"fills": p.fills, "inputs": p.inputs, "kept": p.kept, "digest": p.digest},
    }


@dataclass(frozen=True)
class Piece:
    """Where a node's words lie: `path` is its index, below that of the child node it is in."""

    path: tuple[int, ...]
    kind: str
    start: int
    stop: int


def pieces(
    template: Template,
    templates: Mapping[str, Template],
    functions: Sequence[Code],
    row: Sequence[int],
    at: int = 0,
    path: tuple[int, ...] = (),
) -> Iterator[Piece]:
    """The words of each node, child graphs gone into. ValueError when the row is too short or names no function."""
    for i, node in enumerate(template.nodes):
        if node.kind == "child":
            if len(path) >= DEEPEST:
                raise ValueError(f"child graphs lie deeper than {DEEPEST}")
            for each in pieces(templates[node.child], templates, functions, row, at, (*path, i)):
                at = each.stop
                yield each
            continue
        size = {"memcpy": MEMCPY, "memset": MEMSET, "empty": 0}.get(node.kind, HEAD)
        if node.kind == "kernel":
            if at >= len(row) or row[at] >= len(functions):
                raise ValueError(f"node {(*path, i)} names no function")
            size += functions[row[at]].words
        if at + size > len(row):
            raise ValueError(f"parameters end before those of node {(*path, i)}")
        yield Piece((*path, i), node.kind, at, at + size)
        at += size


def node_of(
    kind: str, row: Sequence[int], functions: Sequence[Code], handles: Mapping[int, Handle]
) -> Kernel | Memcpy | Memset:
    """What the driver takes, from one node's words. `handles` are the loaded functions."""
    if kind == "memcpy":
        return Memcpy(*row)
    if kind == "memset":
        return Memset(*row)
    code = functions[row[0]]
    raw = struct.pack(f"<{len(row) - HEAD}Q", *row[HEAD:])
    grid, block = (row[1], row[2], row[3]), (row[4], row[5], row[6])
    return Kernel(handles[row[0]], grid, block, row[7], unpack(raw, code.layout))


def words_of(node: Kernel | Memcpy | Memset, layout: Sequence[tuple[int, int]] = ()) -> list[int]:
    """The inverse of `node_of`; a kernel's first word is its handle, until it is known which function that is."""
    if isinstance(node, Memcpy):
        return [
            node.dst, node.src, node.width, node.height, node.depth, node.dst_pitch, node.dst_height, node.src_pitch,
            node.src_height,
        ]  # fmt: skip
    if isinstance(node, Memset):
        return [node.dst, node.pitch, node.value, node.element, node.width, node.height]
    raw = pack(node.values, layout)
    return [
        node.function, *node.grid, *node.block, node.shared_bytes, *struct.unpack(f"<{len(raw) // 8}Q", raw),
    ]  # fmt: skip


def moved(graph: Graph, by: int, rank: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """The words with `by` added to every address, and the values of another rank in their places."""
    row = list(graph.row)
    for slot in graph.pointers:
        row[slot] = (row[slot] + by) % 2**64
    for patch in graph.patches:
        if rank is not None:
            mask = (1 << 8 * patch.width) - 1
            row[patch.slot] &= ~(mask << 8 * patch.byte)
            row[patch.slot] |= (rank[patch.name] & mask) << 8 * patch.byte
    return tuple(row)


def masked(word: int, mask: int, by: int) -> int:
    """A word with the bytes in `mask` taken from `by`."""
    bits = sum(255 << 8 * i for i in range(8) if mask >> i & 1)
    return word & ~bits | by & bits


def is_cuda(archive: Archive) -> bool:
    """Whether an archive says that it is of this backend; Refused when it has no manifest."""
    said = archive.json("manifest")
    return isinstance(said, dict) and said.get("backend") == "cuda"

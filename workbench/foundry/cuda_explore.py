"""What is in an archive of backend "cuda", for any front end: the same dicts as explore.py gives of the CPU's.

How many bytes lie behind an address is not known here, nor whether they are read or written: the driver does not tell.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.foundry import archive, compared
from workbench.foundry.archive import Refused
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_graph import HEAD, CudaCapture, Graph, Piece, pieces
from workbench.foundry.driver import PORTS, Driver

WORDS = {
    "kernel": ("function", "grid x", "grid y", "grid z", "block x", "block y", "block z", "dynamic shared bytes"),
    "memcpy": ("dst", "src", "width", "height", "depth", "dst pitch", "dst height", "src pitch", "src height"),
    "memset": ("dst", "pitch", "value", "element bytes", "width", "height"),
}


def inspect(path: str | Path) -> dict[str, Any]:
    """Everything about an archive but its bytes. Refused when it is damaged or of another backend."""
    raw = archive.read(path)
    found = decode(raw)
    return compared.head(raw, found, "cuda") | {
        "templates": [template(key, found) for key in sorted(found.templates)],
        "graphs": [_graph(g, found) for _, g in sorted(found.graphs.items())],
        "functions": [f"{f.symbol} of {f.binary[:8]}" for f in found.functions],
        "ranks": {name: {"bytes": r.width, "handle": r.handle} for name, r in found.ranks.items()},
    }


def template(key: str, found: CudaCapture) -> dict[str, Any]:
    """One template: who has it, how large and deep it is, what its nodes call."""
    t = found.templates[key]
    users = sorted(g.size for g in found.graphs.values() if g.template == key)
    labels = Counter(label for size in users[:1] for _, label in _labelled(found, found.graphs[size]))
    return {
        "key": key,
        "sizes": users,
        "inside": sorted(k[:8] for k, o in found.templates.items() if any(n.child == key for n in o.nodes)),
        "nodes": len(t.nodes),
        "edges": len(t.edges),
        "depth": compared.depth(len(t.nodes), t.edges),
        "kinds": dict(Counter(n.kind for n in t.nodes)),
        "ports": dict(Counter(PORTS.get(e[2], str(e[2])) for e in t.edges)),
        "attributes": sum(bool(n.attributes) for n in t.nodes),
        "labels": dict(labels),
        "slots": len(found.graphs[users[0]].row) if users else 0,
        "addresses": len(found.graphs[users[0]].pointers) if users else 0,
    }


def _graph(graph: Graph, found: CudaCapture) -> dict[str, Any]:
    return {
        "size": graph.size,
        "template": graph.template,
        "parameter_bytes": len(graph.words),
        "addresses": len(graph.pointers),
        "patches": len(graph.patches),
        "ignored": len(graph.ignored),
        "probe": graph.probe.digest,
        "outputs": {t.name: [t.dtype, list(t.shape)] for t in graph.outputs},
        "arena_end": max((graph.row[slot] - found.base for slot in graph.pointers), default=0),
    }


def _labelled(found: CudaCapture, graph: Graph) -> Iterator[tuple[Piece, str]]:
    """Each node's words, and what readers call the node."""
    row = graph.row
    for piece in pieces(found.templates[graph.template], found.templates, found.functions, row):
        yield piece, found.functions[row[piece.start]].symbol if piece.kind == "kernel" else piece.kind


def parameters(path: str | Path, size: int) -> list[dict[str, Any]]:
    """Every word of a graph: node, label, position, name, value, and of an address what it points at.

    ValueError when the size was not captured.
    """
    found = decode(archive.read(path))
    if size not in found.graphs:
        raise ValueError(f"no graph of batch {size} was captured; there are {sorted(found.graphs)}")
    return _parameters(found, found.graphs[size])


def _parameters(found: CudaCapture, graph: Graph) -> list[dict[str, Any]]:
    row, addresses, rows = graph.row, set(graph.pointers), []
    patched, ignored = {p.slot: p.name for p in graph.patches}, dict(graph.ignored)
    for number, (piece, label) in enumerate(_labelled(found, graph)):
        for position, slot in enumerate(range(piece.start, piece.stop)):
            names = WORDS.get(piece.kind, ())
            name = names[position] if position < len(names) else f"byte {8 * (position - HEAD)}"
            made = {"node": number, "label": label, "position": position, "name": name, "value": row[slot]}
            made["address"] = slot in addresses
            if slot in addresses:
                offset = row[slot] - found.base
                owner = (t.name for t in found.tensors if t.offset <= offset < t.offset + t.nbytes)
                made |= {"offset": offset, "bytes": 0, "of": next(owner, "scratch"), "access": "not known"}
            if slot in ignored:
                made["ignored_bytes"] = [i for i in range(8) if ignored[slot] >> i & 1]
            if slot in patched:
                made["rank"] = patched[slot]
            rows.append(made)
    return rows


def between_sizes(path: str | Path, first: int, second: int) -> list[dict[str, Any]]:
    """Words that differ between two sizes of one template: what a switch of size has to change.

    Where a node runs another kernel, that is the one row of it: its parameters are others. ValueError when a size is
    not there or the two have different templates.
    """
    a, b = parameters(path, first), parameters(path, second)
    compared.one_template(decode(archive.read(path)).graphs, first, second)
    found = []
    by_node = [{n: list(rows) for n, rows in itertools.groupby(each, key=lambda r: r["node"])} for each in (a, b)]
    for node, rows in by_node[0].items():
        others = by_node[1][node]
        if rows[0]["name"] == "function" and rows[0]["value"] != others[0]["value"]:
            found.append({**rows[0], "other": others[0]["value"], "other_label": others[0]["label"]})
            continue
        found += [{**x, "other": y["value"]} for x, y in zip(rows, others, strict=True) if x["value"] != y["value"]]
    return found


def diff(first: str | Path, second: str | Path) -> dict[str, Any]:
    """In what two archives differ: {} when they hold the same. Refused when one is damaged or of another backend."""
    a, b = (decode(archive.read(p)) for p in (first, second))
    plain = {"base": (a.base, b.base), "arena_bytes": (a.size, b.size), "ranks": (sorted(a.ranks), sorted(b.ranks))}
    return compared.diff(a, b, plain, _differ)


def _differ(x: Graph, y: Graph) -> str:
    if x.words != y.words:
        words = sum(p != q for p, q in zip(x.row, y.row)) + abs(len(x.row) - len(y.row))
        return f"{words} of {len(x.row)} words"
    return "" if x == y else "addresses, outputs or probe"


def verify(
    path: str | Path, driver: Driver | None = None, *, replay: bool = True, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Whether an archive may be used here: {"usable", "cause", "why", "checked", "verified_sizes"}; raises nothing.

    driver: the device to load it on, replaying every size on known inputs; the GPU here when None. Not `replay`: only
    its checksums and structure, which needs no GPU. `options` of cuda.load: `rank`, `weights`.
    """
    from workbench.foundry import cuda
    from workbench.foundry.driver import DriverError, NoDriver, Unsupported

    checked: list[str] = []
    try:
        decode(archive.read(path))
        checked += ["checksums", "structure"]
        if not replay:
            return {"usable": True, "cause": "", "why": "", "checked": checked, "verified_sizes": []}
        if driver is None:
            from workbench.foundry.driver_cuda import Cuda

            driver = Cuda()
        with cuda.load(path, driver, verify="all", **(options or {})) as ladder:
            checked += ["fingerprint", "weights", "kernels", "addresses", "replay"]
            sizes = sorted(ladder.verified)
    except (Refused, NoDriver, DriverError, Unsupported, ValueError, TimeoutError) as error:
        cause = error.cause if isinstance(error, Refused) else "foreign"
        return {"usable": False, "cause": cause, "why": str(error), "checked": checked, "verified_sizes": []}
    return {"usable": True, "cause": "", "why": "", "checked": checked, "verified_sizes": sizes}

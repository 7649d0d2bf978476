"""What is in an archive, what two differ in, and whether one may be used here. Plain dicts, for any front end.

Archives of the CUDA backend are handed on to cuda_explore.py, which gives the same dicts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from workbench.foundry import archive, compared, cuda_explore
from workbench.foundry.archive import Refused
from workbench.foundry.cuda_graph import is_cuda
from workbench.foundry.fingerprint import NoLibrary, differences, machine
from workbench.foundry.graph import READ, WRITE, Capture, Graph, Template, decode

ACCESS = {READ: "read", WRITE: "write", READ | WRITE: "read and write"}


def inspect(path: str | Path) -> dict[str, Any]:
    """Everything about an archive but its bytes. Refused when it is damaged."""
    raw = archive.read(path)
    if is_cuda(raw):
        return cuda_explore.inspect(path)
    found = decode(raw)
    return compared.head(raw, found, found.backend) | {
        "templates": [_template(key, found) for key in sorted(found.templates)],
        "graphs": [_graph(g, found) for _, g in sorted(found.graphs.items())],
    }


def _template(key: str, found: Capture) -> dict[str, Any]:
    t = found.templates[key]
    calls = Counter(t.functions[n.function].library or "compiled" if n.function >= 0 else n.kind for n in t.nodes)
    return {
        "key": key,
        "sizes": sorted(g.size for g in found.graphs.values() if g.template == key),
        "nodes": len(t.nodes),
        "edges": len(t.edges),
        "depth": depth(t),
        "slots": t.slots,
        "addresses": len(t.pointers),
        "kinds": dict(Counter(n.kind for n in t.nodes)),
        "calls": dict(calls),
        "labels": dict(Counter(n.label for n in t.nodes)),
    }


def _graph(graph: Graph, found: Capture) -> dict[str, Any]:
    touched = [(a, n) for _, a, n in graph.pointers(found.templates[graph.template])]
    return {
        "size": graph.size,
        "template": graph.template,
        "parameter_bytes": len(graph.slots),
        "probe": graph.probe,
        "outputs": {t.name: [t.dtype, list(t.shape)] for t in graph.outputs},
        "arena_end": max((a + n - found.base for a, n in touched), default=0),
    }


def depth(template: Template) -> int:
    """Nodes on the longest path of dependencies."""
    return compared.depth(len(template.nodes), template.edges)


def parameters(path: str | Path, size: int) -> list[dict[str, Any]]:
    """Every parameter of a graph: node, label, position, value, and whether it is an address, of what and how used."""
    raw = archive.read(path)
    if is_cuda(raw):
        return cuda_explore.parameters(path, size)
    found = decode(raw)
    if size not in found.graphs:
        raise ValueError(f"no graph of batch {size} was captured; there are {sorted(found.graphs)}")
    return _parameters(found, found.graphs[size])


def _parameters(found: Capture, graph: Graph) -> list[dict[str, Any]]:
    template = found.templates[graph.template]
    behind = {slot: (address, extent) for slot, address, extent in graph.pointers(template)}
    access, rows, slot = dict(template.pointers), [], 0
    for i, node in enumerate(template.nodes):
        for position in range(node.slots):
            word = int.from_bytes(graph.slots[8 * slot : 8 * slot + 8], "little")
            row = {"node": i, "label": node.label, "position": position, "value": word, "address": slot in behind}
            if slot in behind:
                offset = word - found.base
                row |= {"offset": offset, "bytes": behind[slot][1], "of": _owner(found, offset)}
                row |= {"access": ACCESS[access[slot]]}
            rows.append(row)
            slot += 1
    return rows


def _owner(found: Capture, offset: int) -> str:
    return next((t.name for t in found.tensors if t.offset <= offset < t.offset + t.nbytes), "scratch")


def between_sizes(path: str | Path, first: int, second: int) -> list[dict[str, Any]]:
    """Parameters that differ between two sizes of one template: what a switch of size has to change.

    ValueError when a size is not there or the two have different templates.
    """
    if is_cuda(archive.read(path)):
        return cuda_explore.between_sizes(path, first, second)
    a, b = parameters(path, first), parameters(path, second)
    compared.one_template(decode(archive.read(path)).graphs, first, second)
    return [{**x, "other": y["value"]} for x, y in zip(a, b, strict=True) if x["value"] != y["value"]]


def diff(first: str | Path, second: str | Path) -> dict[str, Any]:
    """In what two archives of one backend differ: {} when they hold the same. Refused when one is damaged."""
    raws = [archive.read(p) for p in (first, second)]
    if all(map(is_cuda, raws)):
        return cuda_explore.diff(first, second)
    a, b = map(decode, raws)
    plain = {"backend": (a.backend, b.backend), "base": (a.base, b.base), "arena_bytes": (a.size, b.size)}
    return compared.diff(a, b, plain, _differ)


def _differ(x: Graph, y: Graph) -> str:
    if x.slots != y.slots:
        words = sum(x.slots[i : i + 8] != y.slots[i : i + 8] for i in range(0, len(x.slots), 8))
        return f"{words} of {len(x.slots) // 8} parameters"
    return "" if (x.probe, x.outputs, x.extents) == (y.probe, y.outputs, y.extents) else "outcome or extents"


def verify(path: str | Path, *, replay: bool = True) -> dict[str, Any]:
    """Whether an archive may be used here: {"usable", "cause", "why", "checked", "verified_sizes"}; raises nothing.

    replay: load it and replay every size on known inputs; else only what needs no memory for weights.
    """
    checked: list[str] = []
    try:
        raw = archive.read(path)
        if is_cuda(raw):
            return cuda_explore.verify(path, replay=replay)
        found = decode(raw)
        checked += ["checksums", "structure"]
        if why := differences(found.fingerprint, machine()):
            raise Refused("foreign", "; ".join(why))
        checked.append("fingerprint")
        sizes: list[int] = []
        if replay:
            from workbench.foundry.load import load

            sizes = sorted(load(path, verify="all").verified)
            checked += ["weights", "addresses", "replay"]
    except (Refused, NoLibrary) as error:
        cause = error.cause if isinstance(error, Refused) else "foreign"
        return {"usable": False, "cause": cause, "why": str(error), "checked": checked, "verified_sizes": []}
    return {"usable": True, "cause": "", "why": "", "checked": checked, "verified_sizes": sizes}

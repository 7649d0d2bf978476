"""What explore.py and cuda_explore.py say alike of archives of either backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from workbench.foundry.archive import Archive


def head(raw: Archive, found: Any, backend: str) -> dict[str, Any]:
    """Of an archive and what it decodes to: all but its templates and graphs."""
    regions = Counter[str]()
    for t in found.tensors:
        regions[t.role] += t.nbytes
    fixed = max((t.offset + t.nbytes for t in found.tensors), default=0)
    return {
        "file": raw.where,
        "id": raw.id,
        "bytes": raw.nbytes,
        "backend": backend,
        "model": dict(found.model),
        "fingerprint": dict(found.fingerprint),
        "weights": dict(found.weights),
        "arena": {"base": hex(found.base), "bytes": found.size, "scratch_bytes": found.size - fixed, **regions},
        "binaries": {name: len(image) for name, image in sorted(found.binaries.items())},
    }


def depth(nodes: int, edges: Iterable[tuple[int, ...]]) -> int:
    """Nodes on the longest path; an edge begins with the node before and the node after."""
    deep = [1] * nodes
    for before, after, *_ in sorted(edges, key=lambda e: e[1]):
        deep[after] = max(deep[after], deep[before] + 1)
    return max(deep, default=0)


def one_template(graphs: Mapping[int, Any], first: int, second: int) -> None:
    """ValueError where graphs of two sizes have different templates."""
    if graphs[first].template != graphs[second].template:
        raise ValueError(f"batches {first} and {second} have different templates: nothing is shared that could differ")


def diff(a: Any, b: Any, plain: Mapping[str, tuple[Any, Any]], differ: Callable[[Any, Any], str]) -> dict[str, Any]:
    """In what two decoded archives differ: {} when they hold the same.

    plain: name -> a value of either. differ(graph of the first, of the second): in what, "" in nothing.
    """
    found: dict[str, Any] = {}
    for name in ("fingerprint", "model", "weights"):
        if changed := _changed(getattr(a, name), getattr(b, name)):
            found[name] = changed
    found |= {name: {"first": x, "second": y} for name, (x, y) in plain.items() if x != y}
    for name in ("templates", "binaries"):
        x, y = set(getattr(a, name)), set(getattr(b, name))
        if x != y:
            found[name] = {"only_first": sorted(x - y), "only_second": sorted(y - x), "shared": len(x & y)}
    sizes = {s: _graphs(a.graphs.get(s), b.graphs.get(s), differ) for s in sorted(a.graphs.keys() | b.graphs.keys())}
    if differing := {s: why for s, why in sizes.items() if why}:
        found["graphs"] = differing
    return found


def _graphs(x: Any, y: Any, differ: Callable[[Any, Any], str]) -> str:
    if x is None or y is None:
        return "only in the second" if x is None else "only in the first"
    return "another template" if x.template != y.template else differ(x, y)


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    keys = sorted(a.keys() | b.keys())
    return {k: {"first": a.get(k), "second": b.get(k)} for k in keys if a.get(k) != b.get(k)}

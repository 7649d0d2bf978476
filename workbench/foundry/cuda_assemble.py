"""From captured graphs to an archive: addresses found, kernels identified, sizes folded into templates.

    made = Assembly(driver, arena, other_base)
    made.add(size, graph_here, graph_there, outputs=..., probe=...)     # one for each batch size
    capture = made.finish(images, fingerprint=..., model=..., tensors=...)

Who captures (cuda_capture, with torch) hands over handles of graphs; from there on only the driver is asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.foundry.cuda_binaries import Image, identify
from workbench.foundry.cuda_graph import Code, CudaCapture, Graph, Patch, Probe, Rank, Template, masked
from workbench.foundry.cuda_walk import Declared, Spot, Unexplained, Walked, explain, ranks, walk
from workbench.foundry.driver import Driver, Handle, Unsupported
from workbench.foundry.graph import Tensor


@dataclass(frozen=True)
class Taken:
    """One size, before its kernels have names."""

    size: int
    walked: Walked
    pointers: tuple[int, ...]
    patches: tuple[Patch, ...]
    outputs: tuple[Tensor, ...]
    probe: Probe
    unexplained: tuple[Unexplained, ...] = ()  # where they are to be tested


@dataclass
class Assembly:
    """Sizes of one step, captured over arenas at `base` and at `other`, of `size` bytes each."""

    driver: Driver
    base: int
    other: int
    size: int
    taken: list[Taken] = field(default_factory=list)
    ranks: dict[str, Rank] = field(default_factory=dict)

    def add(
        self,
        size: int,
        here: Handle,
        there: Handle,
        *,
        outputs: Sequence[Tensor],
        probe: Probe,
        second_rank: Handle = 0,
        declared: Mapping[str, Declared] | None = None,
        test: bool = False,
    ) -> Taken:
        """Take a size in. Unsupported says what in its graph cannot be carried.

        test: bytes of parameters that are neither constant nor address are not refused but made zero; whoever captures
        has to show, by `scrambled`, that nothing depends on them.

        here, there: graphs over the two arenas. second_rank: the graph over the first arena as another rank, with the
        `declared` values that differ.
        """
        first, second = walk(self.driver, here), walk(self.driver, there)
        patches: tuple[Patch, ...] = ()
        if declared:
            self.ranks, patches = ranks(first, walk(self.driver, second_rank), declared)
        exempt = {p.slot for p in patches}
        arenas = (self.base, self.size), (self.other, self.size)
        pointers, unexplained = explain(self.driver, first, second, *arenas, exempt)
        if unexplained and not test:
            raise Unsupported(unexplained[0].why)
        self.taken.append(Taken(size, first, pointers, patches, tuple(outputs), probe, tuple(unexplained)))
        return self.taken[-1]

    def finish(
        self,
        images: Iterable[Image],
        *,
        fingerprint: Mapping[str, Any],
        model: Mapping[str, Any],
        tensors: Sequence[Tensor],
        weights: Mapping[str, Any] | None = None,
    ) -> CudaCapture:
        """All of the archive. Unsupported names a kernel whose binary is not among `images`."""
        layouts: dict[Handle, tuple[tuple[int, int], ...]] = {}
        for each in self.taken:
            layouts |= each.walked.functions
        codes, binaries = identify(self.driver, layouts, images)
        functions: dict[Code, int] = {}
        for code in codes.values():
            functions.setdefault(code, len(functions))
        index = {handle: functions[code] for handle, code in codes.items()}
        templates: dict[str, Template] = {}
        graphs: dict[int, Graph] = {}
        for t in self.taken:
            templates |= t.walked.templates
            row = list(t.walked.row)
            for spot in t.walked.spots:
                if spot.kind == "kernel":
                    row[spot.start] = index[row[spot.start]]
            ignored = tuple((u.slot, u.mask) for u in t.unexplained)
            for slot, mask in ignored:
                row[slot] = masked(row[slot], mask, 0)
            words = struct.pack(f"<{len(row)}Q", *row)
            graphs[t.size] = Graph(
                t.size, t.walked.template.key, words, t.pointers, t.patches, t.outputs, t.probe, ignored
            )  # fmt: skip
        return CudaCapture(
            fingerprint, model, self.base, self.size, tuple(tensors), binaries, tuple(functions), templates, graphs,
            weights or {}, self.ranks,
        )  # fmt: skip


def sealed(capture: CudaCapture, digests: Mapping[int, str]) -> CudaCapture:
    """The capture with the outcomes of its probes, by size, as the captured graphs themselves left them."""
    graphs = {size: replace(g, probe=replace(g.probe, digest=digests[size])) for size, g in capture.graphs.items()}
    return replace(capture, graphs=graphs)


def scrambled(capture: CudaCapture, word: int) -> CudaCapture:
    """The capture with other bytes where they are ignored; it must leave the same bits, or they do matter.

    Parameters that are structs have room that is never set (unused dimensions, padding): whatever lay there before.
    """
    graphs = {}
    for size, g in capture.graphs.items():
        row = list(g.row)
        for slot, mask in g.ignored:
            row[slot] = masked(row[slot], mask, word)
        graphs[size] = replace(g, words=struct.pack(f"<{len(row)}Q", *row))
    return replace(capture, graphs=graphs)


def described(taken: Taken) -> list[tuple[Spot, int]]:
    """Nodes of a size and how many of their words are addresses, for a progress line or a table."""
    return [(spot, sum(spot.start <= slot < spot.stop for slot in taken.pointers)) for spot in taken.walked.spots]

"""Archives damaged on purpose, a way each: what must be refused, with its reason, and be captured again.

bit         a bit of the file is flipped                        -> corrupt
cut         the file ends early                                 -> truncated
parameter   one product is doubled, under right checksums       -> mismatch, found by replay alone
machine     captured by a processor that this one is not        -> foreign
"""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

from workbench.foundry import archive
from workbench.foundry.graph import Capture, decode

TWO = 0x40000000  # the bits of 2.0 in fp32
WORDS = {
    "bit": "an archive with a flipped bit",
    "cut": "an archive that ends early",
    "parameter": "an archive with a doubled product under right checksums",
    "machine": "an archive of another processor",
}


def damage(kind: str, path: Path, copy: Path, seed: int) -> str:
    """Write a damaged copy of the archive at `path`; returns what was done, in words."""
    raw = bytearray(path.read_bytes())
    if kind == "bit":
        at, bit = random.Random(f"damage {seed}").randrange(len(raw)), 1 << seed % 8
        raw[at] ^= bit
        copy.write_bytes(raw)
        return f"bit {seed % 8} of byte {at:,} of {len(raw):,} flipped"
    if kind == "cut":
        copy.write_bytes(raw[: 2 * len(raw) // 3])
        return f"cut after {2 * len(raw) // 3:,} of {len(raw):,} bytes"
    found = decode(archive.read(path))
    if kind == "machine":
        features = list(found.fingerprint["cpu_features"])
        changed = replace(found, fingerprint={**found.fingerprint, "cpu_features": [*features, "avx1024"]})
        said = "fingerprint says that the processor had avx1024, under right checksums"
    else:
        changed, said = _doubled(found)
    archive.write(copy, changed.sections())
    return said


def _doubled(found: Capture) -> tuple[Capture, str]:
    """Alpha of the first product of the smallest batch size becomes 2."""
    size = min(found.graphs)
    graph = found.graphs[size]
    template, slot = found.templates[graph.template], 0
    for node in template.nodes:
        if node.kind == "gemm":
            break
        slot += node.slots
    words = list(struct.unpack(f"<{template.slots}Q", graph.slots))
    words[slot + 5] = TWO
    changed = replace(graph, slots=struct.pack(f"<{len(words)}Q", *words))
    return replace(found, graphs={**found.graphs, size: changed}), f"first product of batch {size} doubled"

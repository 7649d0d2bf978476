"""A genome with satellites: the shipped one with arrays of a tandem repeat put in, as centromeres have them.

Human alpha satellite is the model (Miga 2019, Genes 10:352): monomers of 171 bases that differ by 20 to 40 %, a row of
a dozen monomers repeated for hundreds of kilobases with copies that differ by 1 or 2 %. Repeats are what makes work
irregular: a read from an array has a hundred anchors where another has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from workbench.mm2.io import Record

MONOMER = 171
ROW = 12  # monomers of a higher-order repeat
BETWEEN_MONOMERS = 0.25  # bases that differ
BETWEEN_COPIES = 0.01
ARRAY_KB = 40.0  # of one array; a genome gets as many as it takes
BASES = np.frombuffer(b"ACGT", np.uint8)

Codes = np.ndarray[Any, np.dtype[np.uint8]]  # 0 to 3 for A, C, G, T


def with_satellites(genome: Iterable[Record], kilobases: float, seed: int = 0) -> Iterator[Record]:
    """The records of a genome; arrays of `kilobases` in all are put into the longest one, at equal distances.

    The row of monomers is the same in all arrays. Same arguments, same genome.
    """
    records = list(genome)
    arrays = max(1, round(kilobases / ARRAY_KB)) if kilobases > 0 else 0
    longest = max(range(len(records)), key=lambda at: len(records[at].sequence), default=-1)
    for at, record in enumerate(records):
        if at != longest or not arrays:
            yield record
            continue
        rng = np.random.default_rng([seed, arrays])
        row, size = _row(rng), round(kilobases * 1000 / arrays)
        cuts = [len(record.sequence) * n // (arrays + 1) for n in range(arrays + 1)]
        parts = [record.sequence[: cuts[1]]]
        for begin, end in zip(cuts[1:], [*cuts[2:], len(record.sequence)], strict=True):
            parts += [_array(row, size, rng), record.sequence[begin:end]]
        yield Record(record.name, b"".join(parts))


def _row(rng: np.random.Generator) -> Codes:
    """Codes of one higher-order repeat: monomers that are mutated copies of one ancestor."""
    ancestor = rng.integers(0, 4, MONOMER, dtype=np.uint8)
    return np.concatenate([_mutated(ancestor, BETWEEN_MONOMERS, rng) for _ in range(ROW)])


def _array(row: Codes, bases: int, rng: np.random.Generator) -> bytes:
    """So many bases of mutated copies of the row."""
    copies = -(-bases // len(row))
    return BASES[_mutated(np.tile(row, copies)[:bases], BETWEEN_COPIES, rng)].tobytes()


def _mutated(codes: Codes, share: float, rng: np.random.Generator) -> Codes:
    """A copy in which this share of the bases is another one."""
    swap = rng.random(len(codes)) < share
    shift = rng.integers(1, 4, len(codes), dtype=np.uint8)
    return np.where(swap, (codes + shift) % 4, codes).astype(np.uint8)

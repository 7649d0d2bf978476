"""Reads to map: simulated ones that know where they come from, the shipped genome, the real ones where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np

from workbench.mm2.io import Record
from workbench.mm2.paf import Hit

MARK = "!"  # between the parts of a simulated read's name
SHARES = (0.40, 0.35, 0.25)  # of errors: substitutions, deletions, insertions, as nanopore reads have them
BASES = np.frombuffer(b"ACGT", np.uint8)
CODE = np.full(256, 4, np.uint8)
CODE[np.frombuffer(b"ACGTacgt", np.uint8)] = np.tile(np.arange(4, dtype=np.uint8), 2)


def ecoli() -> Path:
    """The shipped genome: Escherichia coli K-12 MG1655, 4,639,675 bases (data/README.md says where it is from)."""
    return Path(str(resources.files("workbench.mm2"))) / "data" / "ecoli_k12_mg1655.fa.gz"


def real_reads() -> Path | None:
    """371 real ultra-long nanopore reads of E. coli under WORKBENCH_DATA; None where they are not."""
    root = os.environ.get("WORKBENCH_DATA")
    path = Path(root) / "dna" / "ecoli_ultralong_ont_2017.fa.gz" if root else None
    return path if path is not None and path.is_file() else None


@dataclass(frozen=True, slots=True)
class Truth:
    """Where a simulated read was taken from: 0-based, end exclusive, on the forward strand."""

    target: str
    start: int
    end: int
    strand: str

    @classmethod
    def of(cls, name: str) -> Truth:
        """From the name of a simulated read. Raises ValueError for any other name."""
        try:
            target, start, end, strand = name.split(MARK, 1)[1].rsplit(MARK, 3)
            truth = cls(target, int(start), int(end), strand)
        except (ValueError, IndexError):
            raise ValueError(f"{name!r} is not the name of a simulated read") from None
        if strand not in ("+", "-"):
            raise ValueError(f"{name!r} is not the name of a simulated read")
        return truth


def simulate(
    genome: Iterable[Record],
    *,
    count: int | None = None,
    bases: int | None = None,
    length: tuple[int, int] = (10_000, 100_000),
    identity: float = 0.95,
    seed: int = 0,
) -> Iterator[Record]:
    """Reads from random places and strands of a genome, until `count` reads or `bases` bases are given.

    Lengths are log-uniform over `length` (bases of the genome); of every 100 bases 100 (1 - identity) are an error.
    Places with ambiguous bases are avoided. Same arguments, same reads. Raises ValueError where nothing can be cut.
    """
    low, high = length
    if not 1 <= low <= high or not 0.0 < identity <= 1.0:
        raise ValueError("lengths must be 1 or more, shortest first, and identity above 0 and at most 1")
    if count is None and bases is None:
        raise ValueError("say how many reads or how many bases")
    rng = np.random.default_rng(seed)
    cutter = _Cutter(genome, low)
    made = total = 0
    while (count is None or made < count) and (bases is None or total < bases):
        want = round(exp(rng.uniform(log(low), log(high)))) if high > low else low
        name, start, piece = cutter.cut(want, rng)
        read = _mutate(piece, 1.0 - identity, rng)
        reverse = bool(rng.integers(2))
        if reverse:
            read = 3 - read[::-1]
        strand = "-" if reverse else "+"
        parts = (f"sim{made:06d}", name, str(start), str(start + len(piece)), strand)
        yield Record(MARK.join(parts), BASES[read].tobytes())
        made, total = made + 1, total + len(read)


class _Cutter:
    """Cuts pieces without ambiguous bases, every place of the genome equally likely."""

    TRIES = 1000

    def __init__(self, genome: Iterable[Record], low: int) -> None:
        self.parts = [(r.name, CODE[np.frombuffer(r.sequence, np.uint8)]) for r in genome if len(r.sequence) >= low]
        if not self.parts:
            raise ValueError(f"no sequence of the genome has {low} bases")
        self.ends = np.cumsum([len(codes) for _, codes in self.parts])

    def cut(self, want: int, rng: np.random.Generator) -> tuple[str, int, np.ndarray[Any, Any]]:
        for _ in range(self.TRIES):
            name, codes = self.parts[int(np.searchsorted(self.ends, rng.integers(self.ends[-1]), side="right"))]
            size = min(want, len(codes))
            start = int(rng.integers(len(codes) - size + 1))
            piece = codes[start : start + size]
            if piece.max() < 4:
                return name, start, piece
        raise ValueError(f"no {want} bases in a row without an ambiguous one were found in {self.TRIES} tries")


def _mutate(piece: np.ndarray[Any, Any], rate: float, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Codes with errors; a base may be substituted, deleted, or followed by a random one."""
    draw = rng.random(len(piece))
    substituted, deleted, inserted = np.cumsum(SHARES) * rate
    out = piece.copy()
    swap = draw < substituted
    out[swap] = (out[swap] + rng.integers(1, 4, int(swap.sum()), dtype=np.uint8)) % 4
    copies = np.ones(len(piece), np.int64)
    copies[(draw >= substituted) & (draw < deleted)] = 0
    extra = (draw >= deleted) & (draw < inserted)
    copies[extra] = 2
    out = np.repeat(out, copies)
    second = np.cumsum(copies)[extra] - 1  # the later of the two copies
    out[second] = rng.integers(0, 4, len(second), dtype=np.uint8)
    return out


def truth_accuracy(hits: Iterable[Hit], truth: Iterable[str]) -> float:
    """Share of simulated reads, given by name, whose primary hit is where the read comes from.

    A hit is there if it has the right strand and the two intervals share at least a tenth of what they cover
    together. Of several primary hits the best counts; a read without a hit is wrong. NaN without reads.
    """
    best: dict[str, Hit] = {}
    for hit in hits:
        if hit.primary and (hit.query not in best or hit.score > best[hit.query].score):
            best[hit.query] = hit
    names = list(truth)
    right = sum(name in best and _covers(best[name], Truth.of(name)) for name in names)
    return right / len(names) if names else float("nan")


def _covers(hit: Hit, truth: Truth, share: float = 0.1) -> bool:
    if hit.target != truth.target or hit.strand != truth.strand:
        return False
    common = min(hit.target_end, truth.end) - max(hit.target_start, truth.start)
    return common >= share * (max(hit.target_end, truth.end) - min(hit.target_start, truth.start))

"""Hits, and their lines in PAF (the Pairwise mApping Format of minimap2, its manual's section on output)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Hit:
    """One place of a read on the reference; coordinates are 0-based, ends exclusive, on the forward strands."""

    query: str
    query_length: int
    query_start: int
    query_end: int
    strand: str  # "+" or "-"
    target: str
    target_length: int
    target_start: int
    target_end: int
    matches: int  # bases under anchors, about
    block: int  # bases of the longer side
    mapq: int
    primary: bool
    anchors: int
    score: int
    second: int  # best score of another hit over the same bases; of a primary
    divergence: float  # from the share of minimizers that match; below 0 where unknown
    repetitive: int  # bases of the read under minimizers too frequent to use

    def paf(self) -> str:
        """One line, without its end: minimap2's bytes for a hit without base alignment."""
        fields = (
            f"{self.query}\t{self.query_length}\t{self.query_start}\t{self.query_end}\t{self.strand}\t{self.target}\t"
            f"{self.target_length}\t{self.target_start}\t{self.target_end}\t{self.matches}\t{self.block}\t{self.mapq}\t"
            f"tp:A:{'P' if self.primary else 'S'}\tcm:i:{self.anchors}\ts1:i:{self.score}"
        )
        if self.primary:
            fields += f"\ts2:i:{self.second}"
        if self.divergence == 0.0:
            fields += "\tdv:f:0"
        elif 0.0 < self.divergence <= 1.0:
            fields += f"\tdv:f:{self.divergence:.4f}"
        return f"{fields}\trl:i:{self.repetitive}"


def write_paf(hits: Iterable[Hit], out: IO[bytes]) -> int:
    """Write one line a hit to a binary file as the hits come; how many. OSErrors of the file pass through."""
    count = 0
    for hit in hits:
        out.write(hit.paf().encode("utf-8", "surrogateescape") + b"\n")
        count += 1
    return count


def read_paf(path: str | Path) -> Iterator[Hit]:
    """Hits of a PAF file, tags beyond minimap2's own ignored. Raises ValueError naming file and line."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield parse(line.decode("utf-8", "surrogateescape").rstrip("\r\n"))
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {number}: not PAF ({error})") from error


def parse(line: str) -> Hit:
    """A hit from its line. Raises ValueError or IndexError where the line is not one."""
    field = line.split("\t")
    tag = {f[:2]: f[5:] for f in field[12:] if f[2:3] == f[4:5] == ":"}
    if field[4] not in ("+", "-"):
        raise ValueError(f"strand {field[4]!r}")
    number = [int(field[i]) for i in (1, 2, 3, 6, 7, 8, 9, 10, 11)]
    return Hit(
        query=field[0],
        query_length=number[0],
        query_start=number[1],
        query_end=number[2],
        strand=field[4],
        target=field[5],
        target_length=number[3],
        target_start=number[4],
        target_end=number[5],
        matches=number[6],
        block=number[7],
        mapq=number[8],
        primary=tag.get("tp", "P") in ("P", "I"),
        anchors=int(tag.get("cm", 0)),
        score=int(tag.get("s1", 0)),
        second=int(tag.get("s2", 0)),
        divergence=float(tag.get("dv", -1)),
        repetitive=int(tag.get("rl", 0)),
    )

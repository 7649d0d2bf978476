"""Seeds of read mapping: minimizers of a sequence, an index of a reference's, anchors of a read, hits from chains.

    index = SeedIndex.build(sequences, k=15, w=10)
    found = index.seeds(read, SeedParams(mid_occ=index.cutoff()))       # anchors for workbench.kernels.chain
    table, divergence = regions(anchors_in_chains, chains, ...)         # what minimap2 calls regions

Everything equals minimap2 2.24 (Li, Bioinformatics 2018 and 2021), order included. `reference.py` is the definition;
the native version is tested against it and against minimap2 itself. Native calls let go of the
interpreter lock, and an index may be read by any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

COLUMNS = (  # of the table that `regions` gives; first: index of the hit's first anchor; rivals: hits about as good
    *("sequence", "reverse", "query_start", "query_end", "start", "end", "score", "anchors", "first"),
    *("matches", "block", "mapq", "second", "rivals", "primary"),
)


@dataclass(frozen=True, slots=True)
class SeedParams:
    """Which minimizers of a read give anchors; the defaults are minimap2's."""

    mid_occ: int  # with more places than this a minimizer is frequent, and left out
    max_max_occ: int = 4095  # but with no more than this one may be rescued
    occ_dist: int = 500  # one for so many bases of the read without any other; 0: none
    q_occ_frac: float = 0.01  # share of a read's minimizers above which a k-mer repeated within it is left out


class Seeds(NamedTuple):
    """Anchors of one read (u64 [n, 2]), the minimizers they came from (u64: span << 32 | last base), and two counts.

    An anchor is (reverse << 63 | sequence << 32 | last base, flags << 40 | span << 32 | last base of the read on the
    strand of the hit). `repetitive`: bases of the read under minimizers that were left out as frequent.
    """

    anchors: Array
    used: Array
    repetitive: int
    minimizers: int


def sketch(sequence: bytes, k: int, w: int, hpc: bool = False, backend: Literal["auto", "reference"] = "auto") -> Array:
    """Minimizers, u64 [n, 2]: (hash << 8 | span, last base << 1 | strand). 0 < k <= 28, 0 < w < 256, else ValueError.

    With `hpc`, runs of one base count as one base.
    """
    if backend == "reference":
        from workbench.kernels.seed import reference

        return reference.sketch(sequence, k, w, hpc)
    from workbench.kernels.seed import _seed

    return _seed.sketch(sequence, k, w, hpc)


class SeedIndex:
    """Where each minimizer of a reference stands: four flat arrays and the sequences' lengths.

    21 bytes or less a minimizer, about 0.19 minimizers a base at w = 10; `nbytes` says it. Raises ValueError where
    the arrays do not fit together, so that no look-up can leave them.
    """

    def __init__(self, arrays: tuple[Array, Array, Array, Array], lengths: Array, k: int, w: int, hpc: bool) -> None:
        from workbench.kernels.seed import _seed

        self.arrays, self.lengths, self.k, self.w, self.hpc = arrays, lengths, k, w, hpc
        self._native = _seed.Index(*arrays, lengths, k, w, hpc)

    @classmethod
    def build(cls, sequences: Iterable[bytes], k: int, w: int, hpc: bool = False) -> SeedIndex:
        """Of sequences one after another; only their minimizers are kept, 37 bytes each while sorting."""
        from workbench.kernels.seed import _seed

        builder, lengths = _seed.Builder(k, w, hpc), []
        for sequence in sequences:
            builder.add(sequence)
            lengths.append(len(sequence))
        return cls(builder.arrays(), np.array(lengths, np.int32), k, w, hpc)

    @classmethod
    def arrange(cls, hashes: Array, places: Array, lengths: Array, k: int, w: int, hpc: bool) -> SeedIndex:
        """Of (hash, sequence << 32 | last base << 1 | strand) pairs in any order, u64 [n] each."""
        from workbench.kernels.seed import _seed

        return cls(_seed.arrange(hashes, places, k), lengths, k, w, hpc)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in self.arrays) + self.lengths.nbytes

    @property
    def minimizers(self) -> tuple[int, int]:
        """How many, and how many distinct."""
        return len(self.arrays[3]), len(self.arrays[1])

    def cutoff(self, fraction: float = 2e-4, floor: int = 10, ceiling: int = 1_000_000) -> int:
        """Number of places above which a minimizer is frequent: all but `fraction` of the distinct ones have fewer."""
        counts = np.diff(self.arrays[2])
        if not len(counts):
            return floor
        rank = min(int((1.0 - float(np.float32(fraction))) * len(counts)), len(counts) - 1)
        cut = int(np.partition(counts, rank)[rank]) + 1
        return max(floor, min(cut, ceiling) if ceiling > floor else cut)

    def find(self, hash_: int) -> Array:
        """Places of one minimizer, u64, ascending: sequence << 32 | last base << 1 | strand."""
        return self._native.find(hash_)

    def seeds(self, read: bytes, params: SeedParams) -> Seeds:
        """Anchors of a read in minimap2's order. Raises ValueError for more than 2^31 - 1 bases."""
        found = self._native.seeds(read, params.mid_occ, params.max_max_occ, params.occ_dist, params.q_occ_frac)
        return Seeds(*found)


def regions(
    anchors: Array,
    chains: Array,
    seeds: Seeds,
    name: bytes,
    read_length: int,
    lengths: Array,
    *,
    k: int,
    max_gap: int = 5000,
    tie_seed: int = 11,
    mask_level: float = 0.5,
    pri_ratio: float = 0.8,
    best_n: int = 5,
    min_chain_score: int = 40,
) -> tuple[Array, Array]:
    """Hits of a read from its chains, best first: a table i32 [n, 15] with COLUMNS, and divergence f32 [n].

    `anchors` are those in chains, chain after chain; `chains` is u64: score << 32 | anchors. The read's name breaks
    ties. Raises ValueError for anchors outside read or reference, or counts that do not add up.
    """
    from workbench.kernels.seed import _seed

    return _seed.regions(
        anchors,
        chains,
        seeds.used,
        name,
        read_length,
        seeds.repetitive,
        lengths,
        tie_seed,
        mask_level,
        pri_ratio,
        best_n,
        2 * k,
        int(max_gap * 0.8),
        min_chain_score,
    )

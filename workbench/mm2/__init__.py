"""mm2-gb: long reads mapped as minimap2 maps them, chained on whatever the machine has (ACM BCB 2024).

io.py       FASTA and FASTQ                    mapper.py   seed, chain, join, choose; threads
index.py    a reference's minimizers           paf.py      hits and their lines
presets.py  minimap2's parameters              reads.py    simulated and real reads, and whether they map right
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.mm2.paf import Hit


def map(reads: Any, reference: Any, preset: str = "map-ont", **options: Any) -> Iterator[Hit]:
    """Hits of reads on a reference, streamed: see `workbench.mm2.mapper.map_hits`, which takes the same arguments."""
    from workbench.mm2.mapper import map_hits

    return map_hits(reads, reference, preset, **options)

"""mm2-gb: long reads mapped as minimap2 maps them, chained on whatever the machine has (ACM BCB 2024).

io.py       FASTA and FASTQ                    mapper.py   seed, chain, join, choose; threads
index.py    a reference's minimizers           paf.py      hits and their lines
presets.py  minimap2's parameters              reads.py    simulated and real reads, and whether they map right

work.py     a run, from reads to a result      stages.py   the mapper's stages over batches, with spans
loops.py    dynamic programmes in turn         rivals.py   whole mappers in turn: ours, minimap2, mappy
shape.py    windows, pairs, segments           sim.py      a batch's schedule on a GPU (modelled)
dots.py     a read's dot plot as data          satellites.py  a genome with tandem repeats
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.lazy import later
from workbench.mm2.config import BASELINES, PRESETS, Mm2Config
from workbench.mm2.result import COLUMNS, Mm2Result
from workbench.system import System

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workbench.mm2.paf import Hit


def map(reads: Any, reference: Any, preset: str = "map-ont", **options: Any) -> Iterator[Hit]:
    """Hits of reads on a reference, streamed: see `workbench.mm2.mapper.map_hits`, which takes the same arguments."""
    from workbench.mm2.mapper import map_hits

    return map_hits(reads, reference, preset, **options)


SYSTEM = System(
    name="mm2",
    title="mm2-gb: chaining long reads",
    paper="Dong et al., mm2-gb: GPU accelerated minimap2 for long read DNA mapping, ACM BCB 2024, "
    "doi 10.1145/3698587.3701366",
    about=(
        "Mapping a long read means chaining its exact matches with a reference, and the work of that grows with the "
        "read. minimap2 cuts it short by a heuristic. Here every predecessor is looked at, to the bit as minimap2 "
        "would without its heuristic, and mostly faster than with it; a GPU's schedule for it is modelled."
    ),
    config=Mm2Config,
    result=Mm2Result,
    work=later("workbench.mm2.work:work"),
    presets=PRESETS,
    baselines=BASELINES,
    backends=frozenset({"cpu", "cuda", "hip", "sim"}),
    columns=COLUMNS,
    preview=later("workbench.mm2.gantt:preview"),
    detail=later("workbench.mm2.why:explain"),
)

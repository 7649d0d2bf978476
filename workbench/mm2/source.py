"""What a run maps: its reference and reads, simulated, real or of the user, never more than the config's megabases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from workbench.mm2 import reads
from workbench.mm2.config import Mm2Config
from workbench.mm2.io import Record, read
from workbench.mm2.satellites import with_satellites

NO_DATA = (
    "reads: the real reads are not here; set WORKBENCH_DATA to a folder that holds dna/ecoli_ultralong_ont_2017.fa.gz, "
    "or take reads='simulated', or reads='file' with reads_file"
)


def reference(config: Mm2Config) -> Iterator[Record]:
    """Sequences to map onto. SequenceError or OSError names what is wrong with a file."""
    path = Path(config.reference_file) if config.reference_file else reads.ecoli()
    return with_satellites(read(path), config.satellite_kbp, config.seed) if config.satellite_kbp else read(path)


def query(config: Mm2Config, genome: list[Record] | None = None) -> Iterator[Record]:
    """Reads to map, at least one. FileNotFoundError says how to get the real ones.

    `genome`: the reference's records where they are at hand; simulated reads are cut from them.
    """
    limit = round(config.megabases * 1e6)
    if config.reads == "simulated":
        return reads.simulate(
            genome if genome is not None else reference(config),
            bases=limit,
            length=(round(config.length_kbp_min * 1000), round(config.length_kbp_max * 1000)),
            identity=1 - config.error_pct / 100,
            seed=config.seed,
        )
    path = reads.real_reads() if config.reads == "real" else Path(config.reads_file or "")
    if path is None:
        raise FileNotFoundError(NO_DATA)
    return _first(read(path), limit)


def _first(records: Iterator[Record], bases: int) -> Iterator[Record]:
    """Records until so many bases are reached."""
    for record in records:
        yield record
        bases -= len(record.sequence)
        if bases <= 0:
            return


def write_fasta(records: Iterator[Record], path: Path) -> Iterator[Record]:
    """The records as they pass, each also written to a file: what another mapper is given."""
    with path.open("wb") as file:
        for record in records:
            file.write(b">%b\n%b\n" % (record.name.encode("utf-8", "surrogateescape"), record.sequence))
            yield record

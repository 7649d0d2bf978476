"""What a run maps: a reference and reads, simulated, real or of the user, until so many megabases are reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from workbench.mm2 import reads
from workbench.mm2.config import Mm2Config
from workbench.mm2.io import Record, SequenceError, read, read_reference
from workbench.mm2.satellites import with_satellites

NO_DATA = (
    "reads: the real reads are not here; set WORKBENCH_DATA to a folder that holds dna/ecoli_ultralong_ont_2017.fa.gz, "
    "or take reads='simulated', or reads='file' with reads_file"
)


def reference(config: Mm2Config) -> Iterator[Record]:
    """Sequences to map onto. SequenceError or OSError names what is wrong with a file."""
    path = Path(config.reference_file) if config.reference_file else reads.ecoli()
    records = read_reference(path)
    repeats_kbp = config.satellite_kbp if config.reads == "simulated" else 0.0
    return with_satellites(records, repeats_kbp, config.seed) if repeats_kbp else records


def look(config: Mm2Config) -> None:
    """Open the files that a run reads, before it does anything. OSError names the one that cannot be."""
    for named in (config.reference_file, config.reads_file):
        if named is not None:
            Path(named).open("rb").close()


def query(config: Mm2Config, genome: list[Record] | None = None) -> Iterator[Record]:
    """Reads to map, at least one. FileNotFoundError says how to get the real ones.

    `genome`: the reference's records where they are at hand; simulated reads are cut from them.
    """
    limit = round(config.megabases * 1e6)
    if config.reads == "simulated":
        simulated = reads.simulate(
            genome if genome is not None else reference(config),
            bases=limit,
            length=(round(config.length_kbp_min * 1000), round(config.length_kbp_max * 1000)),
            identity=1 - config.error_pct / 100,
            seed=config.seed,
        )
        return _cut(simulated, config.reference_file or "the shipped genome")
    path = reads.real_reads() if config.reads == "real" else Path(config.reads_file or "")
    if path is None:
        raise FileNotFoundError(NO_DATA)
    return _first(read(path), limit)


def _cut(records: Iterator[Record], reference: str) -> Iterator[Record]:
    """The same records; what cannot be cut from the reference is told with its name."""
    try:
        yield from records
    except SequenceError:
        raise
    except ValueError as error:
        raise ValueError(f"{reference}: {error}; take shorter reads (length_kbp_min, length_kbp_max)") from error


def _first(records: Iterator[Record], bases: int) -> Iterator[Record]:
    """Records until so many bases are reached."""
    for record in records:
        yield record
        bases -= len(record.sequence)
        if bases <= 0:
            return


def write_fasta(records: Iterator[Record], path: Path) -> Iterator[Record]:
    """The records as they pass, each also written to a file: what another mapper is given.

    OSError names the record and the file where it cannot be written, as on a full disk.
    """
    with path.open("wb", buffering=0) as file:
        for record in records:
            line = b">%b\n%b\n" % (record.name.encode("utf-8", "surrogateescape"), record.sequence)
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError as error:
                why = f"{error.strerror} while writing {record.name}; TMPDIR names the folder for such files"
                raise OSError(error.errno, why, str(path)) from error
            yield record

"""The commands `workbench mm2 map` and `workbench mm2 index`: PAF on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from workbench import backends

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Map long reads as minimap2 does, without base alignment.",
)

REFERENCE = Annotated[
    Path, typer.Argument(metavar="REFERENCE", help="FASTA or FASTQ, gzip too; or an index: ours, or a minimap2 .mmi")
]
PRESET = Annotated[str, typer.Option("--preset", "-x", metavar="NAME", help="map-ont, map-pb, map-hifi or asm5/10/20")]
EVERY_S = {True: 0.2, False: 10.0}  # between two reports, in a terminal and in a file


class Failed(typer.TyperException):
    """The work failed: said in one line, exit code 1."""

    exit_code = 1


@app.command("map")
def map_(
    reference: REFERENCE,
    reads: Annotated[list[Path], typer.Argument(metavar="READS", help="FASTA or FASTQ, gzip too; - is stdin")],
    preset: PRESET = "map-ont",
    mode: Annotated[
        str, typer.Option(metavar="NAME", help="exact_skip25, as minimap2; or full: every predecessor is looked at")
    ] = "exact_skip25",
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, help="Default: every core it may use")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto or scalar; with --mode full also avx2, avx512, one_source, cuda, hip"),
    ] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write here, not to stdout")] = None,
) -> None:
    """Write a PAF line for every hit, in the order of the reads."""
    from workbench.mm2.index import open_index
    from workbench.mm2.io import read
    from workbench.mm2.mapper import Mapper, map_reads
    from workbench.mm2.paf import write_paf

    with _said(), _output(out, reference, *reads) as paf:
        _look_for(reads)
        told = _Told("the reference has", "sequences")
        index = open_index(reference, preset, told)
        told(len(index.names), sum(index.lengths))
        told.end()
        mapper = Mapper(index, preset, mode, backend)  # type: ignore[arg-type]
        mapper.chains(mapper.seeds(b""))  # says now what this backend cannot run
        paf.begin()
        told = _Told("mapped", "reads")
        records = (record for path in reads for record in read(path))
        mapped = map_reads(mapper, records, threads=threads or backends.cores(), progress=told)
        write_paf((hit for each in mapped for hit in each.hits), paf)
    told.end()


@app.command()
def index(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="FASTA or FASTQ, gzip too")],
    out: Annotated[Path, typer.Argument(metavar="INDEX", help="The file to write")],
    preset: PRESET = "map-ont",
) -> None:
    """Index a reference once, so that `map` need not; a preset has its own index."""
    from workbench.mm2.index import build

    told = _Told("indexed", "sequences")
    with _said():
        _spare(out, reference)
        built = build(reference, preset, told)
    with _said(str(out)):
        built.save(out)
    told.end()


def _spare(out: Path, *inputs: Path) -> None:
    """ValueError where the file to write is one of those to read: it would be empty before it is read."""
    for path in inputs:
        if str(path) != "-" and out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"{out}: is read from, so it cannot be written to; name another file")


def _look_for(reads: list[Path]) -> None:
    """OSError, before any work, for reads that are not there or may not be read."""
    for path in reads:
        if str(path) != "-" and not path.is_fifo():
            path.open("rb").close()


@contextmanager
def _said(file: str = "") -> Iterator[None]:
    """Faults of files and of the call, in one line. `file`: what they are about, where an error names another."""
    try:
        yield
    except ValueError as error:
        raise Failed(str(error)) from error
    except OSError as error:
        raise Failed(f"{file or error.filename or 'error'}: {error.strerror or error}") from error


class _Counting:
    """A binary file that says how far it came when it can be written to no more."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name, self.lines = file, name, 0

    def begin(self) -> None:
        """From here on there is something to write: what a file of that name held goes only now."""
        if self.file is not sys.stdout.buffer and Path(self.name).is_file():
            self.file.truncate(0)

    def write(self, line: bytes) -> int:
        with self._told():
            self.lines += 1
            return self.file.write(line)

    def flush(self) -> None:
        with self._told():
            self.file.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = "whoever read it is gone" if error.errno == errno.EPIPE else error.strerror
            raise Failed(
                f"{self.name}: {why}; the output is not complete, about {self.lines} hits were found"
            ) from error


@contextmanager
def _output(path: Path | None, *inputs: Path) -> Iterator[Any]:
    """The file to write to, flushed at the end, so that a full disk is seen before success is said."""
    if path is not None:
        _spare(path, *inputs)
        with path.open("ab") as file:
            counting = _Counting(file, str(path))
            try:
                yield counting
                counting.flush()
            except Failed:
                _forget(file)
                raise
        return
    counting = _Counting(sys.stdout.buffer, "stdout")
    try:
        yield counting
        counting.flush()
    except Failed:
        _forget(sys.stdout.buffer)
        raise


def _forget(file: IO[bytes]) -> None:
    """What is still in the buffer goes nowhere: closing the file later would fail on it once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


class _Told:
    """Progress on stderr: a line that is redrawn in a terminal, a new line now and then in a file."""

    def __init__(self, verb: str, noun: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.verb, self.noun, self.clock = verb, noun, clock
        self.began = self.said = clock()
        self.count = self.bases = 0
        self.terminal = sys.stderr.isatty()

    def __call__(self, count: int, bases: int) -> None:
        self.count, self.bases = count, bases
        if self.clock() - self.said >= EVERY_S[self.terminal]:
            self.said = self.clock()
            self._say("" if self.terminal else "\n")

    def end(self) -> None:
        self._say("\n")

    def _say(self, end: str) -> None:
        seconds = max(self.clock() - self.began, 1e-9)
        long = f"{self.bases / 1e6:,.1f} Mb" if self.bases >= 100_000 else f"{self.bases:,} bases"
        text = f"{self.verb} {self.count:,} {self.noun}, {long} in {seconds:,.1f} s"
        sys.stderr.write(f"\r{text:<70}{end}" if self.terminal else f"{text}{end}")
        sys.stderr.flush()

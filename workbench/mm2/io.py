"""Sequences in and out: FASTA and FASTQ, plain or gzip, one record after another in bounded memory."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, cast

BLOCK = 1 << 20  # bytes read at a time
PIECE = 1 << 16  # bytes unpacked at a time
MOST = (1 << 31) - 1  # bases of one sequence: positions have 31 bits
LETTERS = bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1)) + b"*-."
LINE_ENDS = b"\r\n"
KNOWN = {  # what a file may be that is neither FASTA nor FASTQ
    b"BAM\x01": "a BAM file",
    b"CRAM": "a CRAM file",
    b"\x89HDF": "an HDF5 (FAST5) file",
    b"\x8bPOD": "a POD5 file",
    b"MMI\x02": "a minimap2 index",
    b"WBMM2IDX": "an index of this workbench",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a zstd file",
    b"@HD\t": "a SAM file",
    b"@SQ\t": "a SAM file",
}


class SequenceError(ValueError):
    """A file that is no FASTA or FASTQ, or breaks off: says which file, which record and what is wrong."""


class Record(NamedTuple):
    """One sequence. Names are text with undecodable bytes kept as surrogates; bases are bytes as in the file."""

    name: str
    sequence: bytes


def read(path: str | Path) -> Iterator[Record]:
    """The records of a FASTA or FASTQ file, plain or gzip (several members too); "-" is standard input.

    Lower case, IUPAC codes and empty sequences are kept. The name is the header up to the first blank. Raises
    FileNotFoundError and other OSErrors as they are, SequenceError for what is in the file; records before a fault
    are given first.
    """
    for _, record in _numbered(path):
        yield record


def read_reference(path: str | Path) -> Iterator[Record]:
    """Like `read`, for a reference: at least one sequence, and no name twice, since a hit is told by its name."""
    seen: dict[str, int] = {}
    for number, record in _numbered(path):
        if (first := seen.setdefault(record.name, number)) != number:
            raise SequenceError(
                f"{path}, record {number}: the name {record.name!r} is already that of record {first}; "
                "hits on the two could not be told apart"
            )
        yield record
    if not seen:
        raise SequenceError(f"{path}: holds no sequence")


def batches(records: Iterable[Record], bases: int) -> Iterator[list[Record]]:
    """Lists of records of about `bases` bases, at least one record each; no more is held than one list."""
    batch: list[Record] = []
    held = 0
    for record in records:
        batch.append(record)
        held += len(record.sequence) + 200  # what a short read costs beside its bases
        if held >= bases:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@contextmanager
def opened(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a file or of standard input, unpacked if they are gzip."""
    standard = nullcontext(cast("BufferedReader", sys.stdin.buffer))
    with standard if str(path) == "-" else Path(path).open("rb") as raw:
        if raw.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(raw) as unpacked:
                yield cast("IO[bytes]", unpacked)
        else:
            yield raw


class _Place:
    """Where the reader is, for what an error says."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.number, self.name = path, 0, ""

    def fail(self, what: str) -> NoReturn:
        record = f", record {self.number}" + (f" ({self.name})" if self.name else "") if self.number else ""
        raise SequenceError(f"{self.path}{record}: {what}")


def _numbered(path: str | Path) -> Iterator[tuple[int, Record]]:
    place = _Place(path)
    with opened(path) as stream:
        parts = _parts(stream, place)
        while True:
            # Only what the decompressor says is about the file; what the caller's code raises passes through.
            try:
                record = next(parts, None)
            except EOFError:
                place.fail("the gzip stream breaks off here; the file is truncated")
            except (gzip.BadGzipFile, zlib.error) as error:
                place.fail(f"the gzip stream is damaged here ({error})")
            if record is None:
                return
            yield place.number, record


def _parts(stream: IO[bytes], place: _Place) -> Iterator[Record]:
    line = stream.readline(BLOCK)
    while line and not line.strip():  # blank lines before the first record
        line = stream.readline(BLOCK)
    if line[:1] == b">":
        yield from _fasta(stream, line, place)
    elif line[:1] == b"@" and not line.startswith((b"@HD\t", b"@SQ\t")):
        yield from _fastq(stream, line, place)
    elif line:
        known = next((what for magic, what in KNOWN.items() if line.startswith(magic)), "")
        begins = f"it is {known}" if known else f"it begins with {line[:20]!r}"
        place.fail(f"neither FASTA nor FASTQ: {begins}")


def _fasta(stream: IO[bytes], header: bytes, place: _Place) -> Iterator[Record]:
    """Blocks are cut where a line begins with ">"; the bases of a record are joined once, when it is complete."""
    place.number = 1
    place.name = _name(_whole_line(stream, header, place), place)
    body: list[bytes] = []
    at_line_start = True
    while block := _more(stream):
        begin = 0
        while (cut := _next_header(block, begin, at_line_start)) >= 0:
            body.append(block[begin:cut])
            yield Record(place.name, _bases(body, place))
            body = []
            end = block.find(b"\n", cut)
            line = block[cut : end + 1] if end >= 0 else _whole_line(stream, block[cut:], place)
            begin = end + 1 if end >= 0 else len(block)
            at_line_start = True
            place.number, place.name = place.number + 1, ""
            place.name = _name(line, place)
        body.append(block[begin:])
        at_line_start = block.endswith(b"\n") if begin < len(block) else True
    yield Record(place.name, _bases(body, place))


def _more(stream: IO[bytes]) -> bytes:
    """What can be had now, at most a block: of a gzip stream that breaks off everything up to there, then its error."""
    return cast("BufferedReader", stream).read1(BLOCK if isinstance(stream, BufferedReader) else PIECE)


def _next_header(block: bytes, begin: int, at_line_start: bool) -> int:
    if at_line_start and block[begin : begin + 1] == b">":
        return begin
    cut = block.find(b"\n>", begin)
    return cut + 1 if cut >= 0 else -1


def _fastq(stream: IO[bytes], header: bytes, place: _Place) -> Iterator[Record]:
    """Sequence lines up to "+", then as many qualities as bases, on as many lines as it takes."""
    while header:
        place.number, place.name = place.number + 1, ""
        header = _whole_line(stream, header, place)
        if header[:1] != b"@":
            place.fail(f"a FASTQ record begins with '@', this one with {header[:20]!r}")
        place.name = _name(header, place)
        body: list[bytes] = []
        line = stream.readline()
        while line and line[:1] != b"+":
            body.append(line)
            line = stream.readline()
        if not line:
            place.fail("the file ends before the record's '+' line")
        sequence = _bases(body, place)
        _skip_qualities(stream, len(sequence), place)
        yield Record(place.name, sequence)
        header = stream.readline(BLOCK)
        while header and not header.strip():
            header = stream.readline(BLOCK)


def _skip_qualities(stream: IO[bytes], bases: int, place: _Place) -> None:
    have, first = 0, True
    while have < bases or first:  # an empty read has one empty line of qualities
        line = stream.readline()
        if not line and have < bases:
            place.fail(f"the file ends after {have} of {bases} qualities")
        have += len(line.rstrip(LINE_ENDS))
        first = False
    if have != bases:
        place.fail(f"{have} qualities for {bases} bases")


def _whole_line(stream: IO[bytes], line: bytes, place: _Place) -> bytes:
    if not line.endswith(b"\n"):
        line += stream.readline(BLOCK)
        if len(line) >= BLOCK and not line.endswith(b"\n"):
            place.fail("a header of more than a million characters")
    return line


def _name(header: bytes, place: _Place) -> str:
    words = header[1:].split(None, 1)
    if not words or header[1:2].isspace():
        place.fail("the record has no name")
    return words[0].decode("utf-8", "surrogateescape")


def _bases(body: list[bytes], place: _Place) -> bytes:
    sequence = b"".join(body).translate(None, LINE_ENDS)
    if odd := sequence.translate(None, LETTERS):
        where = sequence.index(odd[:1]) + 1
        place.fail(f"character {odd[:1]!r} at base {where} is no base")
    if len(sequence) > MOST:
        place.fail(f"{len(sequence)} bases; a sequence may have at most {MOST}")
    return sequence

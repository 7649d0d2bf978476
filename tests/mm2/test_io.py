"""Reading FASTA and FASTQ: what is right comes out right, what is wrong is told with file and record."""

import gzip
import io
import random
import re
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.mm2 import io as mm2_io
from workbench.mm2.io import Record, SequenceError, batches, read, read_reference


def put(tmp_path, content, name="reads.fa"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def both(tmp_path, content):
    """The records of a content, the same plain and packed."""
    plain = list(read(put(tmp_path, content)))
    assert list(read(put(tmp_path, gzip.compress(content), "packed.gz"))) == plain
    return plain


GOOD = {
    "plain": (b">a one\nACGT\n>b\nGG\n", [("a", b"ACGT"), ("b", b"GG")]),
    "many lines": (b">a\nAC\nGT\n\nA\n>b\nGG", [("a", b"ACGTA"), ("b", b"GG")]),
    "lower case and IUPAC": (b">a\nacgtNnRYKMSWBDHVU*-.\n", [("a", b"acgtNnRYKMSWBDHVU*-.")]),
    "empty reads": (b">a\n>b\n\n>c\nA\n>d\n", [("a", b""), ("b", b""), ("c", b"A"), ("d", b"")]),
    "only N": (b">a\n" + b"N" * 5000 + b"\n", [("a", b"N" * 5000)]),
    "Windows lines": (b">a x\r\nAC\r\nGT\r\n>b\r\n", [("a", b"ACGT"), ("b", b"")]),
    "blank lines first": (b"\n\r\n>a\nA\n", [("a", b"A")]),
    "nothing": (b"", []),
    "blank": (b"\n \n", []),
    "FASTQ": (b"@a x\nACGT\n+\nIIII\n@b\nG\n+b\n@\n", [("a", b"ACGT"), ("b", b"G")]),
    "FASTQ of many lines": (b"@a\nAC\nGT\n+\n@I\n+I\n@b\nG\n+\n>\n", [("a", b"ACGT"), ("b", b"G")]),
    "FASTQ, empty read": (b"@a\n\n+\n\n@b\nG\n+\nI\n", [("a", b""), ("b", b"G")]),
    "FASTQ without last line end": (b"@a\nACGT\n+\nIIII", [("a", b"ACGT")]),
    "a name that is no text": (b">\xff\xe9 x\nA\n", [("\udcff\udce9", b"A")]),
    "equal names of reads": (b">a\nA\n>a\nC\n", [("a", b"A"), ("a", b"C")]),
}


@pytest.mark.parametrize("content", GOOD)
def test_right(tmp_path, content):
    text, want = GOOD[content]
    assert both(tmp_path, text) == [Record(*each) for each in want]


BAD = {
    "no FASTA": (b"hello world\n", "neither FASTA nor FASTQ.*hello"),
    "zip": (b"PK\x03\x04....", "a zip archive"),
    "BAM": (b"BAM\x01....", "a BAM file"),
    "an index": (b"MMI\x02....", "a minimap2 index"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "FAST5"),
    "SAM": (b"@HD\tVN:1.6\n@SQ\tSN:x\n", "a SAM file"),
    "no name": (b">a\nA\n>\nC\n", r"record 2: the record has no name"),
    "a blank name": (b"> x\nA\n", r"record 1: the record has no name"),
    "no base": (b">a\nA\n>b\nAC GT\n", r"record 2 \(b\): character b' ' at base 3"),
    "bytes": (b">a\nAC\x00\x01GT\n", r"record 1 \(a\): character b'\\x00' at base 3"),
    "digits": (b">a\n1 ACGT\n", r"record 1 \(a\): character b'1' at base 1"),
    "qualities missing": (b"@a\nACGT\n+\nII\n", r"record 1 \(a\): the file ends after 2 of 4 qualities"),
    "no plus": (b"@a\nACGT\n", r"record 1 \(a\): the file ends before the record's '\+'"),
    "qualities too many": (b"@a\nACGT\n+\nIIIIII\n@b\nA\n+\nI\n", r"record 1 \(a\): 6 qualities for 4 bases"),
    "no header": (b"@a\nA\n+\nI\nACGT\n", r"record 2: a FASTQ record begins with '@'"),
}


@pytest.mark.parametrize("content", BAD)
def test_wrong_is_told_with_file_and_record(tmp_path, content):
    text, message = BAD[content]
    for path in (put(tmp_path, text, "some.fa"), put(tmp_path, gzip.compress(text), "some.fa.gz")):
        with pytest.raises(SequenceError, match=message) as told:
            list(read(path))
        assert str(told.value).startswith(str(path))
        assert "\n" not in str(told.value)


def until_error(path):
    """Names of the records that came, and what was said then; "" where nothing was."""
    names = []
    try:
        for record in read(path):
            names.append(record.name)
    except SequenceError as error:
        return names, str(error)
    return names, ""


def test_what_comes_before_a_fault_is_given(tmp_path):
    names, error = until_error(put(tmp_path, b">a\nA\n>b\nC\n>c\n?\n"))
    assert names == ["a", "b"]
    assert "record 3" in error


def big(records=300, size=4000):
    return b"".join(b">r%d\n" % n + bytes(b"ACGT"[(n * i) % 4] for i in range(size)) + b"\n" for n in range(records))


def test_truncated_gzip(tmp_path):
    packed = gzip.compress(big())
    for size in (len(packed) - 1, len(packed) - 9, len(packed) // 2):
        path = put(tmp_path, packed[:size], "cut.fa.gz")
        names, error = until_error(path)
        assert re.search(r"cut.fa.gz, record \d+ \(r\d+\).*truncated", error)
        assert names == [f"r{n}" for n in range(len(names))]
        assert len(names) < 300


def test_all_records_before_the_end_of_a_truncated_gzip_are_given(tmp_path):
    """Also where less than a block could be unpacked: the record that breaks off is the one that is named."""
    rng = random.Random(4)
    text = b"".join(b">r%d\n%s\n" % (n, bytes(rng.choices(b"ACGT", k=3000))) for n in range(200))
    packed = gzip.compress(text)[:100_000]
    whole = zlib.decompressobj(wbits=31).decompress(packed).count(b">")
    names, error = until_error(put(tmp_path, packed, "cut.fa.gz"))
    assert whole > 50
    assert len(names) == whole - 1
    assert f"record {whole} (r{whole - 1})" in error


@pytest.mark.parametrize("size", [3, 9, 12])
def test_gzip_that_ends_in_its_header(tmp_path, size):
    with pytest.raises(SequenceError, match="truncated"):
        list(read(put(tmp_path, gzip.compress(b">a\nA\n")[:size], "cut.gz")))


def test_damaged_gzip(tmp_path):
    packed = bytearray(gzip.compress(big()))
    packed[-5] ^= 0xFF  # its length, after everything
    with pytest.raises(SequenceError, match="damaged"):
        list(read(put(tmp_path, bytes(packed), "bad.gz")))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(SequenceError, match=r"damaged|truncated|no base|record"):
        list(read(put(tmp_path, bytes(packed), "bad.gz")))


def bgzip(content, block=100):
    """Many members, each with the extra field of BGZF, and the empty one at the end."""
    out = b""
    for begin in [*range(0, len(content), block), len(content)]:
        deflate = zlib.compressobj(wbits=-15)
        part = content[begin : begin + block]
        body = deflate.compress(part) + deflate.flush()
        size = len(body) + 25
        out += b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + size.to_bytes(2, "little") + body
        out += zlib.crc32(part).to_bytes(4, "little") + len(part).to_bytes(4, "little")
    return out


def test_gzip_of_many_members(tmp_path):
    content = big(20, 500)
    want = list(read(put(tmp_path, content)))
    assert list(read(put(tmp_path, bgzip(content), "bgzip.gz"))) == want
    halves = gzip.compress(content[:4321]) + gzip.compress(content[4321:])
    assert list(read(put(tmp_path, halves, "two.gz"))) == want


def test_a_read_of_five_megabases(tmp_path):
    sequence = b"ACGTTGCAAC" * 500_000
    text = b">long\n" + sequence + b"\n>next\nA\n"
    assert [(r.name, len(r.sequence)) for r in both(tmp_path, text)] == [("long", 5_000_000), ("next", 1)]
    assert next(read(tmp_path / "reads.fa")).sequence == sequence
    lines = b"@long\n" + sequence + b"\n+\n" + b">" * len(sequence) + b"\n@b\nA\n+\nI\n"
    assert [len(r.sequence) for r in read(put(tmp_path, lines, "x.fq"))] == [5_000_000, 1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.text("abc|/!", min_size=1, max_size=9), st.text("ACGTN", max_size=40)), min_size=1),
    st.integers(1, 30),
    st.integers(1, 64),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_line_and_block_length(tmp_path_factory, records, width, block, end):
    path = tmp_path_factory.mktemp("fasta") / "x.fa"
    lines = []
    for name, sequence in records:
        lines += [f">{name} about", *(sequence[i : i + width] for i in range(0, len(sequence), width))]
    path.write_bytes((end.join(lines) + end).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mm2_io, "BLOCK", max(block, 30))  # headers fit, everything else is cut anywhere
        assert list(read(path)) == [Record(n, s.encode()) for n, s in records]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(">@+\nACGTI ", max_size=80).map(str.encode))
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x"
    path.write_bytes(content)
    names, error = until_error(path)
    assert all(names)
    assert not error or error.startswith(str(path))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(read(tmp_path / "none.fa"))


def test_what_the_caller_raises_is_not_about_the_file(tmp_path):
    reader = read(put(tmp_path, gzip.compress(b">a\nA\n>b\nC\n"), "x.gz"))
    next(reader)
    with pytest.raises(EOFError, match="mine"):
        reader.throw(EOFError("mine"))


def test_standard_input(monkeypatch):
    for content in (b">a\nACGT\n", gzip.compress(b">a\nACGT\n")):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert list(read("-")) == [Record("a", b"ACGT")]


def test_a_reference_has_every_name_once_and_at_least_one(tmp_path):
    with pytest.raises(SequenceError, match=r"ref.fa, record 3: the name 'a' is already that of record 1"):
        list(read_reference(put(tmp_path, b">a x\nA\n>b\nC\n>a y\nG\n", "ref.fa")))
    with pytest.raises(SequenceError, match="holds no sequence"):
        list(read_reference(put(tmp_path, b"", "ref.fa")))
    assert len(list(read_reference(put(tmp_path, b">a\n>b\n", "ref.fa")))) == 2


def test_batches_hold_a_bounded_number_of_bases():
    records = [Record(str(n), b"A" * size) for n, size in enumerate([10, 9000, 5, 5, 3000, 20_000, 1])]
    found = list(batches(records, 5000))
    assert [r for batch in found for r in batch] == records
    assert max(sum(len(r.sequence) for r in batch[:-1]) for batch in found) < 5000
    assert [len(batch) for batch in batches([Record("x", b"")] * 100, 5000)] == [25] * 4

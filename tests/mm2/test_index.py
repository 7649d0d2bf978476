"""An index file is whole and ours or is refused in words; minimap2's own are read."""

import errno
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest

from workbench.mm2 import index as mm2_index
from workbench.mm2.index import IndexFileError, build, load, load_mmi, open_index
from workbench.mm2.io import SequenceError
from workbench.mm2.presets import PRESETS, preset_of


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("ref") / "ref.fa"
    unit = rng.choice(list(b"ACGT"), 300).astype(np.uint8).tobytes()
    parts = [rng.choice(list(b"ACGT"), n).astype(np.uint8).tobytes() for n in (30_000, 5000, 0, 10)]
    parts[1] += unit * 60
    names = (b"one", b"two x", b"empty", b"\xff")
    path.write_bytes(b"".join(b">" + name + b"\n" + part + b"\n" for name, part in zip(names, parts)))
    return path


@pytest.fixture
def saved(reference, tmp_path):
    path = tmp_path / "ref.idx"
    build(reference).save(path)
    return path


def same(a, b):
    arrays = zip((a.seeds.lengths, *a.seeds.arrays), (b.seeds.lengths, *b.seeds.arrays), strict=True)
    return a.names == b.names and all(np.array_equal(p, q) for p, q in arrays)


def test_what_is_saved_is_loaded(reference, saved):
    made, kept = build(reference), load(saved)
    assert same(made, kept)
    assert made.names == ["one", "two", "empty", "\udcff"]
    assert made.lengths == [30_000, 23_000, 0, 10]
    assert (kept.seeds.k, kept.seeds.w, kept.seeds.hpc) == (15, 10, False)
    assert same(open_index(saved), open_index(reference))
    assert made.params(preset_of("map-ont")) == kept.params(preset_of("map-ont"))
    assert [path.name for path in saved.parent.iterdir()] == ["ref.idx"]


def test_memory_is_as_stated(reference):
    index = build(reference)
    total, distinct = index.seeds.minimizers
    assert 8 * total + 12 * distinct <= index.nbytes <= 8 * total + 12 * distinct + 2 * distinct + 4096


def test_progress_counts_sequences_and_bases(reference):
    told = []
    build(reference, progress=lambda *each: told.append(each))
    assert told == [(1, 30_000), (2, 53_000), (3, 53_000), (4, 53_010)]


def test_an_empty_reference_has_an_index_too(tmp_path):
    (tmp_path / "n.fa").write_text(">n\nNNNN\n")
    build(tmp_path / "n.fa").save(tmp_path / "n.idx")
    assert load(tmp_path / "n.idx").seeds.minimizers == (0, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_index_of_another_preset_is_refused(saved, preset):
    if preset == "map-ont":
        open_index(saved, preset)
        return
    with pytest.raises(IndexFileError, match=rf"ref.idx: made with k=15, w=10, but {preset} needs k=19"):
        open_index(saved, preset)


def test_every_flipped_byte_is_seen(saved):
    good = saved.read_bytes()
    rng = np.random.default_rng(3)
    for at in [*range(120), *rng.integers(120, len(good), 60).tolist()]:
        bad = bytearray(good)
        bad[at] ^= 0x10
        saved.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match=r"ref\.idx"):
            open_index(saved)


@pytest.mark.parametrize("size", [8, 12, 23, 24, 60, 5000, -8, -1])
def test_every_cut_is_seen(saved, size):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(IndexFileError, match=r"ref\.idx: (damaged|not an index)"):
        open_index(saved)


def test_more_than_there_should_be_is_seen(saved):
    saved.write_bytes(saved.read_bytes() + b"x")
    with pytest.raises(IndexFileError, match="damaged"):
        load(saved)


def test_another_version_is_told(saved, monkeypatch):
    monkeypatch.setattr(mm2_index, "VERSION", 2)
    with pytest.raises(IndexFileError, match="version 1, this program reads 2"):
        load(saved)


def test_a_full_disk_leaves_the_old_file(reference, saved, monkeypatch):
    before = saved.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build(reference).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["ref.idx"]


def test_a_reference_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "ref.fa").write_text(">a\nA\n>a\nC\n")
    with pytest.raises(SequenceError, match="record 2: the name 'a'"):
        build(tmp_path / "ref.fa")
    with pytest.raises(FileNotFoundError):
        open_index(tmp_path / "none")
    with pytest.raises(ValueError, match="no preset 'short'"):
        build(tmp_path / "ref.fa", "short")


def mmi(sequences=((b"r", 100),), *, w=10, k=15, bits=14, flag=2, places=(), after=b""):
    """A minimap2 index by hand: `places` are (bucket, shared places, pairs)."""
    out = b"MMI\x02" + struct.pack("<5I", w, k, bits, len(sequences), flag)
    for name, length in sequences:
        out += bytes([len(name)]) + name + struct.pack("<I", length)
    held = {bucket: (shared, pairs) for bucket, shared, pairs in places}
    for bucket in range(1 << bits):
        shared, pairs = held.get(bucket, ((), ()))
        out += struct.pack(f"<I{len(shared)}QI", len(shared), *shared, len(pairs))
        out += b"".join(struct.pack("<2Q", *pair) for pair in pairs)
    return out + after


def test_an_mmi_by_hand(tmp_path):
    path = tmp_path / "x.mmi"
    shared, pairs = (30 << 1, 50 << 1 | 1), ((7 << 1 | 1, 20 << 1), (9 << 1, 0 << 32 | 2))
    path.write_bytes(mmi(places=[(3, shared, pairs)]))
    index = load_mmi(path)
    assert index.names == ["r"]
    assert index.seeds.find(7 << 14 | 3).tolist() == [40]
    assert index.seeds.find(9 << 14 | 3).tolist() == [60, 101]
    assert index.seeds.minimizers == (3, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mmi()[:-1], "truncated"),
        (mmi()[:30], "truncated"),
        (b"MMI\x02\x01", "truncated"),
        (mmi(flag=4), "without the names"),
        (b"MMI\x03" + mmi()[4:], "not a minimap2 index of the known version"),
        (b"MMI\x02" + b"\xff" * 1000, "damaged"),
        (mmi([(b"r", 9), (b"r", 9)]), "two sequences of one name"),
        (mmi(k=40), "damaged"),
        (mmi(w=0), "damaged"),
        (mmi(after=b"MMI\x02"), "several parts"),
        (mmi(flag=0), "truncated"),
        (mmi(places=[(0, (), ((9 << 1, 5 << 32 | 2),))]), "damaged"),
        (mmi(places=[(0, (), ((1, 5 << 32),))]), "damaged"),
    ],
)
def test_an_mmi_that_is_no_good_is_told(tmp_path, content, message):
    path = tmp_path / "x.mmi"
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=rf"x\.mmi: .*{message}"):
        open_index(path)


@pytest.mark.minimap2
@pytest.mark.parametrize("preset", ["map-ont", "map-pb", "map-hifi"])
def test_minimap2s_index_is_ours(reference, tmp_path, preset):
    if shutil.which("minimap2") is None:
        pytest.skip("minimap2 is not on PATH: tools/setup.sh minimap2, on Debian 12")
    path = tmp_path / "ref.mmi"
    subprocess.run(["minimap2", "-x", preset, "-d", path, reference], check=True, capture_output=True)
    assert same(open_index(path, preset), build(reference, preset))

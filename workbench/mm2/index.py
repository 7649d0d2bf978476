"""A reference's index: built from FASTA, kept in a file of its own, or read from a minimap2 .mmi."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from workbench import aside
from workbench.kernels.seed import SeedIndex, SeedParams
from workbench.mm2.io import Record, read_reference
from workbench.mm2.presets import Preset, preset_of

MAGIC = b"WBMM2IDX"
VERSION = 1
MMI = b"MMI\x02"
HEAD = struct.Struct("<8sIIQ")  # magic, version, bytes of the description, checksum of the description
ARRAYS = (("lengths", "<i4"), ("bucket", "<u4"), ("keys", "<u8"), ("start", "<u4"), ("places", "<u8"))
HPC, NO_NAME = 1, 4  # flags of an .mmi
MOST_DESCRIPTION = 1 << 20

Array = np.ndarray[Any, Any]


class IndexFileError(ValueError):
    """An index file that cannot be used: says which file and why."""


class Index:
    """Minimizers of a reference, its sequences' names and lengths. May be shared by threads."""

    def __init__(self, names: list[str], seeds: SeedIndex) -> None:
        if len(names) != len(seeds.lengths):
            raise ValueError(f"{len(names)} names for {len(seeds.lengths)} sequences")
        self.names, self.seeds = names, seeds
        self.lengths: list[int] = seeds.lengths.tolist()

    @property
    def nbytes(self) -> int:
        """Memory of the minimizers, their places and the lengths."""
        return self.seeds.nbytes

    def params(self, preset: Preset) -> SeedParams:
        """How a read is seeded, with the cut-off for frequent minimizers that this reference asks for."""
        cutoff = self.seeds.cutoff(floor=preset.min_mid_occ, ceiling=preset.max_mid_occ)
        return SeedParams(mid_occ=cutoff, occ_dist=preset.occ_dist)

    def check(self, preset: Preset, path: str | Path) -> None:
        """Raises IndexFileError when the index was made with other parameters than the preset's."""
        have, want = (self.seeds.k, self.seeds.w, self.seeds.hpc), (preset.k, preset.w, preset.hpc)
        if have != want:
            raise IndexFileError(
                f"{path}: made with {_words(*have)}, but {preset.name} needs {_words(*want)}; make it again"
            )

    def save(self, path: str | Path) -> None:
        """Write the index, whole or not at all: a reader never sees half a file. OSErrors pass through."""
        with aside.whole(Path(path)) as out:
            self._write(out)

    def _write(self, file: IO[bytes]) -> None:
        names = "\n".join(self.names).encode("utf-8", "surrogateescape")
        arrays = [array.astype(dtype, copy=False) for array, (_, dtype) in zip(self._arrays(), ARRAYS)]
        bodies: list[bytes | memoryview] = [names, *(_view(array) for array in arrays)]
        check = xxhash.xxh3_64()
        for body in bodies:
            check.update(body)
        description = json.dumps(
            {
                "k": self.seeds.k,
                "w": self.seeds.w,
                "hpc": self.seeds.hpc,
                "sequences": len(self.names),
                "names": len(names),
                "counts": [len(array) for array in arrays],
                "checksum": check.hexdigest(),
            }
        ).encode()
        file.write(HEAD.pack(MAGIC, VERSION, len(description), xxhash.xxh3_64_intdigest(description)))
        file.write(description)
        for body in bodies:
            file.write(body)

    def _arrays(self) -> tuple[Array, ...]:
        return (self.seeds.lengths, *self.seeds.arrays)


def build(
    path: str | Path, preset: str | Preset = "map-ont", progress: Callable[[int, int], None] | None = None
) -> Index:
    """Index a FASTA or FASTQ file, one sequence in memory at a time; `progress(sequences, bases)` after each.

    Raises SequenceError for what is wrong in the file, OSError where it cannot be read.
    """
    chosen = preset_of(preset) if isinstance(preset, str) else preset
    return build_of(read_reference(path), chosen, progress)


def build_of(records: Iterator[Record], preset: Preset, progress: Callable[[int, int], None] | None = None) -> Index:
    """Index records as they come."""
    names: list[str] = []
    bases = 0

    def sequences() -> Iterator[bytes]:
        nonlocal bases
        for record in records:
            names.append(record.name)
            yield record.sequence
            bases += len(record.sequence)
            if progress:
                progress(len(names), bases)

    seeds = SeedIndex.build(sequences(), preset.k, preset.w, preset.hpc)
    return Index(names, seeds)


def open_index(
    path: str | Path, preset: str | Preset = "map-ont", progress: Callable[[int, int], None] | None = None
) -> Index:
    """What a path holds: an index of ours, a minimap2 .mmi, or sequences that are indexed now.

    Raises IndexFileError for an index that is damaged, of another version or made with other parameters.
    """
    chosen = preset_of(preset) if isinstance(preset, str) else preset
    magic = b""
    if str(path) != "-":
        with Path(path).open("rb") as file:
            magic = file.read(len(MAGIC))
    if magic == MAGIC or magic.startswith(MMI[:3]):
        index = load(path) if magic == MAGIC else load_mmi(path)
        index.check(chosen, path)
        return index
    return build(path, chosen, progress)


def load(path: str | Path) -> Index:
    """An index written by `Index.save`, checked against its checksum."""
    with Path(path).open("rb") as file:
        head = file.read(HEAD.size)
        if len(head) < HEAD.size or not head.startswith(MAGIC):
            raise IndexFileError(f"{path}: not an index of this workbench")
        _, version, size, checksum = HEAD.unpack(head)
        if version != VERSION:
            raise IndexFileError(f"{path}: an index of version {version}, this program reads {VERSION}; make it again")
        description = file.read(min(size, MOST_DESCRIPTION))
        if xxhash.xxh3_64_intdigest(description) != checksum:
            raise IndexFileError(f"{path}: damaged (its description does not fit its checksum)")
        about = json.loads(description)
        names, arrays = _read_bodies(file, about, path)
    if len(names) != about["sequences"]:
        raise IndexFileError(f"{path}: damaged ({len(names)} names for {about['sequences']} sequences)")
    lengths, bucket, keys, start, places = arrays
    return _made(path, names, lambda: SeedIndex((bucket, keys, start, places), lengths, *_kwh(about)))


def _kwh(about: dict[str, Any]) -> tuple[int, int, bool]:
    return about["k"], about["w"], about["hpc"]


def _read_bodies(file: BufferedReader, about: dict[str, Any], path: str | Path) -> tuple[list[str], list[Array]]:
    sizes = [about["names"], *(n * np.dtype(dtype).itemsize for n, (_, dtype) in zip(about["counts"], ARRAYS))]
    left = os.fstat(file.fileno()).st_size - file.tell()
    if left != sum(sizes):
        raise IndexFileError(f"{path}: damaged ({left} bytes where {sum(sizes)} should be)")
    names = file.read(sizes[0])
    check = xxhash.xxh3_64(names)
    arrays = []
    for count, (_, dtype) in zip(about["counts"], ARRAYS):
        array = np.empty(count, dtype)
        file.readinto(_view(array))
        check.update(_view(array))
        arrays.append(array)
    if check.hexdigest() != about["checksum"]:
        raise IndexFileError(f"{path}: damaged (its contents do not fit their checksum)")
    return names.decode("utf-8", "surrogateescape").split("\n") if sizes[0] else [], arrays


def load_mmi(path: str | Path) -> Index:
    """An index of minimap2 (`minimap2 -d`), in one part; the packed sequences at its end are not needed.

    Raises IndexFileError for a file that breaks off, has several parts, or was made without names or with one twice.
    """
    data = np.fromfile(path, np.uint8)
    reader = _Mmi(data, path)
    w, k, bits, count, flag = reader.take("<5I")
    if not (0 < k <= 28 and 0 < w < 256 and bits <= 2 * k and bits < 28):
        raise IndexFileError(f"{path}: damaged (k={k}, w={w}, {bits} bits of buckets)")
    if flag & NO_NAME:
        raise IndexFileError(f"{path}: made without the names of its sequences")
    names, lengths = [], []
    for _ in range(count):
        (size,) = reader.take("<B")
        names.append(reader.bytes(size).tobytes().decode("utf-8", "surrogateescape"))
        lengths.append(reader.take("<I")[0])
    if len(set(names)) < len(names):
        raise IndexFileError(f"{path}: has two sequences of one name; hits on them could not be told apart")
    hashes, places = reader.buckets(bits)
    if not flag & 2:
        reader.bytes((sum(lengths) + 7) // 8 * 4)
    if reader.at != len(data):
        raise IndexFileError(f"{path}: has several parts; make it with a larger minimap2 -I")
    sizes = np.array(lengths, np.int64).astype(np.int32)
    return _made(path, names, lambda: SeedIndex.arrange(hashes, places, sizes, k, w, bool(flag & HPC)))


class _Mmi:
    """Walks an .mmi; every step looks whether the file goes that far."""

    def __init__(self, data: Array, path: str | Path) -> None:
        self.data, self.path, self.at = data, path, len(MMI)
        if data[: len(MMI)].tobytes() != MMI:
            raise IndexFileError(f"{path}: not a minimap2 index of the known version")

    def bytes(self, size: int) -> Array:
        if self.at + size > len(self.data):
            raise IndexFileError(f"{self.path}: breaks off after {len(self.data)} bytes; the file is truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def take(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)).data)

    def buckets(self, bits: int) -> tuple[Array, Array]:
        """(hash, place) of every minimizer. A bucket: places of repeated ones, then (key, value) of each hash.

        A key is hash >> bits << 1, plus 1 for a hash with one place, which is then its value; otherwise the value is
        first << 32 | count, into the bucket's places.
        """
        hashes, places = [], []
        for bucket in range(1 << bits):
            (n,) = self.take("<I")
            shared = self.bytes(8 * n).view("<u8") if n else np.empty(0, np.uint64)
            (size,) = self.take("<I")
            pairs = self.bytes(16 * size).view("<u8").reshape(size, 2) if size else np.empty((0, 2), np.uint64)
            single = (pairs[:, 0] & 1).astype(bool)
            hash_ = pairs[:, 0] >> 1 << bits | bucket
            first, count = (pairs[~single, 1] >> 32).astype(np.int64), (pairs[~single, 1] & 0xFFFFFFFF).astype(np.int64)
            if count.sum() != n or (first + count > n).any():
                raise IndexFileError(f"{self.path}: damaged (bucket {bucket})")
            offset = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
            hashes += [hash_[single], np.repeat(hash_[~single], count)]
            places += [pairs[single, 1], shared[np.repeat(first, count) + offset]]
        return np.concatenate(hashes).astype(np.uint64), np.concatenate(places).astype(np.uint64)


def _view(array: Array) -> memoryview:
    return array.data.cast("B") if len(array) else memoryview(bytearray())


def _made(path: str | Path, names: list[str], make: Callable[[], SeedIndex]) -> Index:
    try:
        return Index(names, make())
    except ValueError as error:
        raise IndexFileError(f"{path}: damaged ({error})") from error


def _words(k: int, w: int, hpc: bool) -> str:
    return f"k={k}, w={w}" + (", homopolymers compressed" if hpc else "")

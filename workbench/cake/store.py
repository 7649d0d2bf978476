"""The KV store: one checksummed file a grain, keyed by everything that decides its content.

    key(i) = blake2b(key(i - 1) + token ids of grain i),   key(-1) = blake2b(model fingerprint + layout)

A file is a 4 KiB header (version, fingerprint, key, layout, checksums) and the raw KV bytes. It is written aside
and renamed, so a reader sees a whole grain or none. What cannot be trusted is refused by name, never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import xxhash

from workbench import aside

if TYPE_CHECKING:
    import torch

MAGIC = b"WBKVGRN\0"
VERSION = 1
HEADER_BYTES = 4096
WAY_OUT = "free some space or set TMPDIR to another disk"
LEFT_S = 3600.0  # a half-written file this old has no writer any more
SPARE = 0.05  # of the limit, in whole grains, is freed in one go: the folder is not looked through at every write
RECOUNT = 256  # writes after which it is in any case: other processes may write to the same folder
# magic, version, position of the grain, key, fingerprint, layout text, payload bytes, payload xxh3
_HEADER = struct.Struct("<8sII16s16s96sQQ")
_CHECK = struct.Struct("<Q")  # xxh3 of the packed header, right after it

Eviction = Literal["head-last", "head-first"]


class StoreError(RuntimeError):
    """A grain that cannot be had. `cause`: missing, truncated, corrupt, version, foreign or unreadable."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Layout:
    """Shape and dtype of a grain's KV: [layers, 2, kv_heads, tokens, head_dim], keys first."""

    layers: int
    kv_heads: int
    tokens: int
    head_dim: int
    dtype: str  # "float32", "bfloat16" or "float16"

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Shape of one grain."""
        return self.layers, 2, self.kv_heads, self.tokens, self.head_dim

    @property
    def nbytes(self) -> int:
        """Bytes of one grain."""
        return int(np.prod(self.shape)) * (4 if self.dtype == "float32" else 2)


class StoredPrompt(Protocol):
    """One prompt as a store sees it: which of its grains are there, read and write one of them."""

    stored: list[bool]

    def read(self, grain: int) -> torch.Tensor:
        """KV of one grain, shape `Layout.shape`. StoreError names the cause."""
        ...

    def write(self, grain: int, kv: torch.Tensor) -> None:
        """Keep the KV of one grain. OSError when it cannot be written."""
        ...


class Store(Protocol):
    """Where KV is kept: disk here, LMCache in lmcache.py."""

    layout: Layout

    def prompt(self, ids: Sequence[int]) -> StoredPrompt:
        """The prompt's grains in this store; looks each of them up."""
        ...

    def close(self) -> None:
        """Give back what the store holds open."""
        ...


def grain_keys(ids: Sequence[int], layout: Layout, fingerprint: str) -> list[bytes]:
    """Chained keys (16 bytes) of the whole grains of a prompt: equal prefix, equal keys; different model, none."""
    seed = f"{fingerprint}|{layout}".encode()
    key, keys = hashlib.blake2b(seed, digest_size=16).digest(), []
    tokens = np.asarray(ids, dtype="<i8")
    for start in range(0, len(tokens) // layout.tokens * layout.tokens, layout.tokens):
        body = tokens[start : start + layout.tokens].tobytes()
        key = hashlib.blake2b(key + body, digest_size=16).digest()
        keys.append(key)
    return keys


class DiskStore:
    """Grains as files in a folder, at most `limit_mb` of them in all (None: no limit).

    eviction: the least recently used context goes first; inside it, "head-last" drops from its end, which keeps
    prefixes whole for every reader, "head-first" drops from its front, which a two-ended reader recomputes while
    it loads the rest. cold: drop the file from the page cache before each read, so that reads are the disk's.
    """

    def __init__(
        self,
        folder: str | Path,
        layout: Layout,
        fingerprint: str,
        *,
        limit_mb: float | None = None,
        eviction: Eviction = "head-last",
        cold: bool = False,
        sync: bool = False,
    ) -> None:
        self.folder, self.layout, self.fingerprint = Path(folder), layout, fingerprint
        self.limit_mb, self.eviction, self.cold, self.sync = limit_mb, eviction, cold, sync
        self._used, self._written = 0, RECOUNT  # bytes as counted last and written since; writes since
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"KV store folder {folder} cannot be made: {error.strerror}") from error
        for left in self.folder.glob(".*.kv.*"):  # of a writer that was killed
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_S:
                    left.unlink()

    def prompt(self, ids: Sequence[int]) -> DiskPrompt:
        """Look the prompt's whole grains up; those found count as used now."""
        keys = grain_keys(ids, self.layout, self.fingerprint)
        now = time.time_ns()
        stored = []
        for key in keys:
            try:
                os.utime(self.path(key), ns=(now, now))
                stored.append(True)
            except OSError:
                stored.append(False)
        return DiskPrompt(self, keys, stored, now)

    def close(self) -> None:
        """Nothing is held open between calls."""

    def path(self, key: bytes) -> Path:
        """File of a grain."""
        return self.folder / f"{key.hex()}.kv"

    def used_mb(self) -> float:
        """Size of all grains, MB (10**6 bytes)."""
        return sum(size for _, size, _ in self._files()) / 1e6

    def _files(self) -> list[tuple[Path, int, int]]:
        found = []
        for path in self.folder.glob("*.kv"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((path, stat.st_size, stat.st_mtime_ns))
        return found

    def _evict(self, added: int) -> None:
        """Make room for what was added, when the limit is passed."""
        if self.limit_mb is None:
            return
        limit = int(self.limit_mb * 1e6)
        self._used, self._written = self._used + added, self._written + 1
        if self._used <= limit and self._written < RECOUNT:
            return
        files = self._files()
        self._used, self._written = sum(size for _, size, _ in files), 0
        if self._used <= limit:
            return
        over = self._used - limit + int(SPARE * limit) // self.layout.nbytes * self.layout.nbytes
        for path, size in self._oldest(files):
            if over <= 0:
                return
            path.unlink(missing_ok=True)
            over, self._used = over - size, self._used - size

    def _oldest(self, files: list[tuple[Path, int, int]]) -> Iterator[tuple[Path, int]]:
        """Files in the order in which they go; headers are read only of contexts that come to go."""
        sign = -1 if self.eviction == "head-last" else 1
        for _, context in groupby(sorted(files, key=lambda f: f[2]), key=lambda f: f[2]):
            for path, size, _ in sorted(context, key=lambda f: _place(f[0], sign)):
                yield path, size


class DiskPrompt:
    """One prompt's grains in a DiskStore."""

    def __init__(self, store: DiskStore, keys: list[bytes], stored: list[bool], stamp: int) -> None:
        self.store, self.keys, self.stored, self._stamp = store, keys, stored, stamp

    def read(self, grain: int) -> torch.Tensor:
        """Read and verify one grain. StoreError names what is wrong with it."""
        import torch

        payload = _read(self.store, self.keys[grain], grain)
        layout = self.store.layout
        return torch.frombuffer(payload, dtype=getattr(torch, layout.dtype)).view(layout.shape)

    def write(self, grain: int, kv: torch.Tensor) -> None:
        """Write one grain aside and rename it; evict down to the limit."""
        import torch

        layout, path = self.store.layout, self.store.path(self.keys[grain])
        if tuple(kv.shape) != layout.shape or str(kv.dtype) != f"torch.{layout.dtype}":
            raise ValueError(f"KV of {tuple(kv.shape)} {kv.dtype} does not fit the store's {layout}")
        raw: Any = kv.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(-1)
        payload = memoryview(raw)
        told = f"KV store in {path.parent}: {len(payload) / 1e6:.1f} MB"
        with aside.whole(path, sync=self.store.sync, told=told, way_out=WAY_OUT) as out:
            out.write(_pack(self.store, self.keys[grain], grain, payload))
            out.write(payload)
            out.flush()  # else what is still to be written would be the newer stamp
            os.utime(out.fileno(), ns=(self._stamp, self._stamp))
        self.stored[grain] = True
        self.store._evict(HEADER_BYTES + len(payload))


def _pack(store: DiskStore, key: bytes, grain: int, payload: memoryview) -> bytes:
    fields = (key, _short(store.fingerprint), str(_plain(store.layout)).encode(), len(payload))
    packed = _HEADER.pack(MAGIC, VERSION, grain, *fields, xxhash.xxh3_64_intdigest(payload))
    return (packed + _CHECK.pack(xxhash.xxh3_64_intdigest(packed))).ljust(HEADER_BYTES, b"\0")


def _plain(layout: Layout) -> str:
    return f"{layout.dtype}:{'x'.join(str(n) for n in layout.shape)}"


def _short(fingerprint: str) -> bytes:
    return hashlib.blake2b(fingerprint.encode(), digest_size=16).digest()


def _place(path: Path, sign: int) -> float:
    """`sign` times the grain's position, from the file's header; unreadable files go first, whatever the order."""
    try:
        with open(path, "rb") as file:
            return sign * int(_HEADER.unpack(file.read(_HEADER.size))[2])
    except (OSError, struct.error):
        return -math.inf


def _read(store: DiskStore, key: bytes, grain: int) -> bytearray:
    """Payload of a grain, after every check."""
    path = store.path(key)
    try:
        with open(path, "rb", buffering=0) as file:
            if store.cold and hasattr(os, "posix_fadvise"):  # macOS has none
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            header = file.read(HEADER_BYTES)
            _check_header(store, key, grain, header, path)
            payload = bytearray(store.layout.nbytes)
            view, got = memoryview(payload), 0
            while got < len(payload) and (n := file.readinto(view[got:])):
                got += n
    except FileNotFoundError:
        raise StoreError("missing", f"{path.name} is gone from the store") from None
    except OSError as error:
        raise StoreError("unreadable", f"{path.name} cannot be read: {error.strerror}") from error
    if got < len(payload):
        raise StoreError("truncated", f"{path.name} ends after {got} of {len(payload)} bytes")
    if xxhash.xxh3_64_intdigest(payload) != _HEADER.unpack_from(header)[7]:
        raise StoreError("corrupt", f"{path.name}: checksum of the KV bytes does not match")
    return payload


def _check_header(store: DiskStore, key: bytes, grain: int, header: bytes, path: Path) -> None:
    if len(header) < HEADER_BYTES:
        raise StoreError("truncated", f"{path.name} ends inside its header")
    packed = header[: _HEADER.size]
    magic, version, position, own_key, fingerprint, layout, nbytes, _ = _HEADER.unpack(packed)
    if magic != MAGIC or _CHECK.unpack_from(header, _HEADER.size)[0] != xxhash.xxh3_64_intdigest(packed):
        raise StoreError("corrupt", f"{path.name}: header is damaged")
    if version != VERSION:
        raise StoreError("version", f"{path.name} has format {version}, this is {VERSION}: delete the store")
    mine = (key, grain, _short(store.fingerprint), _plain(store.layout).encode(), store.layout.nbytes)
    if (own_key, position, fingerprint, layout.rstrip(b"\0"), nbytes) != mine:
        raise StoreError("foreign", f"{path.name} was written for another prompt, model or layout")


def in_memory(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder's file system is memory (tmpfs), where reading says nothing of a disk. False where unknown."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return False
    kinds = {line[1].encode().decode("unicode_escape"): line[2] for line in lines if len(line) > 2}  # \\040: a space
    above = next((str(p) for p in (folder.resolve(), *folder.resolve().parents) if str(p) in kinds), "/")
    return kinds.get(above) in ("tmpfs", "ramfs")


class TokenBucket:
    """Holds a stream of bytes to `mb_s` MB/s (10**6 bytes) without bursts; 0 or None: no limit.

    latency_s is added before the first byte of each read, as a network store would.

    Time spent reading counts: `reserve` before the read says when its bytes may be there at the earliest.
    """

    def __init__(self, mb_s: float | None, latency_s: float = 0.0) -> None:
        self.mb_s, self.latency_s, self._free_at = mb_s, latency_s, 0.0

    def reserve(self, nbytes: int) -> float:
        """Book `nbytes`; returns the time (time.monotonic) before which they must not count as arrived."""
        first = time.monotonic() + self.latency_s
        if not self.mb_s:
            return first
        self._free_at = max(first, self._free_at) + nbytes / (self.mb_s * 1e6)
        return self._free_at

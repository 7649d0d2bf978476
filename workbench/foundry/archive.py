"""The container: named byte sections in one file, checksummed throughout, the same for every backend.

    0    header, 64 bytes: magic, version, number of sections, file size, digest of the directory, digest of the header
    64   directory, 96 bytes a section: name, offset, size, digest
    ...  sections, each on a multiple of 64, gaps zero, nothing after the last

Digests are blake2b of 16 bytes. There is one encoding of given sections: every byte is either under a digest or must be
what the rest says it is, so no bit can flip unseen. Digests find damage; a forger can compute them. Who does not trust
where an archive comes from compares `Archive.id`, which covers all of it, with one that was told another way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from workbench import aside

MAGIC = b"WBFNDRY\0"
VERSION = 1
ALIGN = 64
MAX_SECTIONS = 1 << 16
MAX_BYTES = 1 << 34  # of a file
MAX_JSON = 1 << 26  # of a JSON section
LEFT_S = 3600.0  # a half-written file this old has no writer any more
_HEADER = struct.Struct("<8sIIQ16s8x16s")
_ENTRY = struct.Struct("<64sQQ16s")
_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-/")


class Refused(Exception):
    """An archive that is not used, with the reason.

    `cause`: missing, unreadable, truncated, corrupt, version, malformed, foreign, memory, weights or mismatch.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def refuse(cause: str, message: str) -> NoReturn:
    """Raise Refused."""
    raise Refused(cause, message)


def digest(raw: bytes | memoryview) -> bytes:
    """16 bytes that name a content."""
    return hashlib.blake2b(raw, digest_size=16).digest()


class Archive:
    """Sections by name, all verified. `id` is a digest over everything, in hex."""

    def __init__(self, raw: bytes, where: str = "archive") -> None:
        self.where, self.nbytes = where, len(raw)
        self.id, self.sections = _parse(raw, where)

    def __getitem__(self, name: str) -> bytes:
        found = self.sections.get(name)
        if found is None:
            refuse("malformed", f"{self.where} has no section {name!r}")
        return found

    def json(self, name: str) -> Any:
        """A section that is JSON. Refused when it is none, repeats a key or holds a number that is none."""
        return parse_json(self[name], f"{self.where}, section {name!r}")


def read(path: str | Path) -> Archive:
    """Read and verify a file. Refused names what is wrong with it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                refuse("malformed", f"{path.name} has {size} bytes; an archive has at most {MAX_BYTES}")
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Refused("missing", f"{path} does not exist: capture first") from None
    except OSError as error:
        raise Refused("unreadable", f"{path.name or path} cannot be read: {error.strerror}") from error
    return Archive(raw, path.name)


def write(path: str | Path, sections: Mapping[str, bytes]) -> str:
    """Write all sections aside and rename; returns the archive's id.

    A reader sees a whole archive or none, and of two writers the later one's. OSError when it cannot be written, then
    nothing is left of it; ValueError on a bad name.
    """
    path, raw = Path(path), encode(sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    with aside.whole(path, told=f"archive {path}: {len(raw) / 1e6:.1f} MB") as out:
        out.write(raw)
    return raw[48:64].hex()


def encode(sections: Mapping[str, bytes]) -> bytes:
    """The one encoding of these sections."""
    names = sorted(sections)
    if len(names) > MAX_SECTIONS:
        raise ValueError(f"an archive has at most {MAX_SECTIONS} sections, not {len(names)}")
    at, entries, body = _HEADER.size + _ENTRY.size * len(names), [], bytearray()
    start = at
    for name in names:
        coded = name.encode("ascii", "replace")
        if not 1 <= len(coded) <= 64 or not _NAME.issuperset(coded):
            raise ValueError(f"no name of a section: {name!r} (1 to 64 of a-z 0-9 . _ - /)")
        body += bytes(-at % ALIGN)
        at += -at % ALIGN
        entries.append(_ENTRY.pack(coded, at, len(sections[name]), digest(sections[name])))
        body += sections[name]
        at += len(sections[name])
    directory = b"".join(entries)
    assert start + len(body) == at
    head = _HEADER.pack(MAGIC, VERSION, len(names), at, digest(directory), bytes(16))[:48]
    return b"".join((head, digest(head), directory, body))


def _parse(raw: bytes, where: str) -> tuple[str, dict[str, bytes]]:
    if len(raw) < _HEADER.size:
        refuse("truncated", f"{where} ends inside its header")
    magic, version, count, size, listed, sealed = _HEADER.unpack_from(raw)
    if magic != MAGIC:
        refuse("corrupt", f"{where} is no Foundry archive, or its first bytes are damaged")
    if version != VERSION and digest(raw[:48]) == sealed:
        refuse("version", f"{where} has format {version}, this reads {VERSION}: capture again")
    if digest(raw[:48]) != sealed or raw[40:48] != bytes(8):
        refuse("corrupt", f"{where}: header is damaged")
    if len(raw) < size:
        refuse("truncated", f"{where} ends after {len(raw)} of {size} bytes")
    if len(raw) != size or count > MAX_SECTIONS:
        refuse("malformed", f"{where} has {len(raw)} bytes and {count} sections, which its header does not allow")
    body = _HEADER.size + count * _ENTRY.size
    if body > size:
        refuse("malformed", f"{where}: no room for a directory of {count} sections")
    if digest(raw[_HEADER.size : body]) != listed:
        refuse("corrupt", f"{where}: directory is damaged")
    return sealed.hex(), _sections(raw, where, count, body)


def _sections(raw: bytes, where: str, count: int, at: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    last = b""
    for i in range(count):
        coded, offset, size, sealed = _ENTRY.unpack_from(raw, _HEADER.size + i * _ENTRY.size)
        name = coded.rstrip(b"\0")
        if not name or not _NAME.issuperset(name) or name <= last:
            refuse("malformed", f"{where}: section {i} has no proper name, or comes out of order")
        if offset != at + -at % ALIGN or size > len(raw) - min(offset, len(raw)):
            refuse("malformed", f"{where}: section {name.decode()!r} lies outside the file or leaves a gap")
        if raw[at:offset].strip(b"\0"):
            refuse("corrupt", f"{where}: the gap before {name.decode()!r} is not empty")
        part = raw[offset : offset + size]
        if digest(part) != sealed:
            refuse("corrupt", f"{where}: checksum of section {name.decode()!r} does not match")
        found[name.decode()], at, last = part, offset + size, name
    if at != len(raw):
        refuse("malformed", f"{where}: {len(raw) - at} bytes belong to no section")
    return found


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: keys in order, no spaces, no number that is none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_json(raw: bytes, where: str) -> Any:
    """JSON without surprises. Refused when it is too long, too deep, repeats a key, or holds NaN or infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key stands there twice")
        return made

    def number(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    if len(raw) > MAX_JSON:
        refuse("malformed", f"{where} has {len(raw)} bytes of JSON; {MAX_JSON} is the limit")
    try:
        return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"{where} is no proper JSON: {error}") from error


def _sweep(path: Path) -> None:
    """Remove what writers that were killed left beside `path`."""
    for left in path.parent.glob(aside.left(path)):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink()

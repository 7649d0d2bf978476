"""Weights as versions that are pulled: one buffer in chunks, each with its checksum, complete or not there at all.

    store = WeightStore(keep=2);  store.publish(3, model.state_dict())       on the sender's side
    pull = Pull(store.manifest())                                            on an instance, at any moment of a step
    for n in pull.missing(): pull.take(n, store.chunk(pull.manifest.version, n))
    weights = pull.weights()                                                 name -> tensor, to the bit

An instance that joins in the middle of a step pulls the version of now and nobody waits for it; one that dies while
pulling leaves nothing behind; one whose version became old while it pulled begins again with the newer. Source: arXiv
2510.19225, section 4.3 (pull-based transfer by an agent of its own on each side).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_BYTES = 4 << 20  # small enough that a kill is noticed within a chunk


class WeightError(RuntimeError):
    """A version that is not there (any more), a damaged chunk, or an incomplete pull; the message says which."""


@dataclass(frozen=True)
class Piece:
    """Where one tensor lies in the buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    size: int  # bytes


@dataclass(frozen=True)
class Manifest:
    """What a version consists of. `digest` is of the whole buffer and of what lies where."""

    version: int
    size: int
    chunk_bytes: int
    checksums: tuple[str, ...]
    pieces: tuple[Piece, ...]
    digest: str


class WeightStore:
    """The newest versions, as bytes. Publishing replaces the manifest in one step: no reader sees half a version."""

    def __init__(self, keep: int = 2, chunk_bytes: int = CHUNK_BYTES) -> None:
        if keep < 1 or chunk_bytes < 1:
            raise ValueError(f"keep and chunk_bytes are 1 or more, not {keep} and {chunk_bytes}")
        self.keep, self.chunk_bytes = keep, chunk_bytes
        self.sent_bytes = 0
        self._versions: dict[int, tuple[Manifest, memoryview]] = {}

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> Manifest:
        """Take a copy of these weights as `version`, which must be the newest. ValueError otherwise, or for none."""
        if not weights:
            raise ValueError("a version has one tensor or more")
        if self._versions and version <= max(self._versions):
            raise ValueError(f"version {version} does not follow {max(self._versions)}")
        manifest, buffer = _packed(version, weights, self.chunk_bytes)
        self._versions[version] = (manifest, buffer)
        for old in sorted(self._versions)[: -self.keep]:
            del self._versions[old]
        return manifest

    def manifest(self, version: int | None = None) -> Manifest:
        """Of this version, or of the newest. WeightError names the versions there are."""
        return self._version(max(self._versions, default=-1) if version is None else version)[0]

    def chunk(self, version: int, number: int) -> bytes:
        """Bytes of one chunk. WeightError where the version is gone: its puller begins again with the newest."""
        manifest, buffer = self._version(version)
        if not 0 <= number < len(manifest.checksums):
            raise WeightError(f"version {version} has {len(manifest.checksums)} chunks, there is no {number}")
        part = bytes(buffer[number * manifest.chunk_bytes : (number + 1) * manifest.chunk_bytes])
        self.sent_bytes += len(part)
        return part

    def _version(self, version: int) -> tuple[Manifest, memoryview]:
        if version not in self._versions:
            there = ", ".join(map(str, sorted(self._versions))) or "none"
            raise WeightError(f"weights of version {version} are not held; held: {there}")
        return self._versions[version]


class Pull:
    """One instance's copy of one version, as it comes in. Chunks may come in any order, from any sender, again."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._buffer = bytearray(manifest.size)
        self._missing = dict.fromkeys(range(len(manifest.checksums)))

    def missing(self) -> list[int]:
        """Chunks that are not here yet."""
        return list(self._missing)

    def take(self, number: int, part: bytes) -> None:
        """A chunk. WeightError for a damaged one, which stays missing."""
        m = self.manifest
        if not 0 <= number < len(m.checksums):
            raise WeightError(f"version {m.version} has {len(m.checksums)} chunks, there is no {number}")
        if _checksum(part) != m.checksums[number]:
            raise WeightError(f"chunk {number} of weights {m.version} is damaged: {len(part)} bytes, another checksum")
        at = number * m.chunk_bytes
        self._buffer[at : at + len(part)] = part
        self._missing.pop(number, None)

    def weights(self) -> dict[str, Tensor]:
        """All tensors, sharing this pull's memory. WeightError while chunks are missing."""
        if self._missing:
            raise WeightError(
                f"weights {self.manifest.version} are not complete: {len(self._missing)} of "
                f"{len(self.manifest.checksums)} chunks are missing"
            )
        found = {}
        for p in self.manifest.pieces:
            flat = torch.frombuffer(self._buffer, dtype=torch.uint8, count=p.size, offset=p.start)
            found[p.name] = flat.view(getattr(torch, p.dtype)).view(p.shape)
        return found


def digest(weights: Mapping[str, Tensor]) -> str:
    """Hash of weights by name, shape, type and bits: equal for two trainings that ended in the same place."""
    return _packed(0, weights, CHUNK_BYTES)[0].digest


def _packed(version: int, weights: Mapping[str, Tensor], chunk_bytes: int) -> tuple[Manifest, memoryview]:
    parts, pieces, at = [], [], 0
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        raw = tensor.reshape(-1).view(torch.uint8)
        padded = -raw.numel() % 8  # a view needs an offset that its type divides
        pieces.append(Piece(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), at, raw.numel()))
        parts += [raw, torch.zeros(padded, dtype=torch.uint8)]
        at += raw.numel() + padded
    buffer = memoryview(torch.cat(parts).numpy().data)
    checksums = tuple(_checksum(buffer[n : n + chunk_bytes]) for n in range(0, at, chunk_bytes))
    layout = repr([(p.name, p.shape, p.dtype, p.start) for p in pieces]).encode()
    whole = hashlib.blake2b(layout, digest_size=16)
    whole.update(buffer)
    return Manifest(version, at, chunk_bytes, checksums, tuple(pieces), whole.hexdigest()), buffer


def _checksum(part: bytes | memoryview) -> str:
    return hashlib.blake2b(part, digest_size=16).hexdigest()

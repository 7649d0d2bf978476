"""The arena on a device: one reserved range with memory behind all of it; weights from their file; known inputs.

arena = DeviceArena(driver, base, size)      # elsewhere when the place is taken; `arena.base` says where
load_weights(arena, about, folder)
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from workbench import aside
from workbench.foundry.archive import Refused, refuse
from workbench.foundry.cuda_graph import CudaCapture, Graph
from workbench.foundry.driver import Driver, DriverError
from workbench.foundry.graph import Tensor

CHUNK = 32 << 20  # bytes on their way between a file and the device
BLOCK = 4099  # numbers of the seeded pattern: a prime, so that no row of a tensor is the row of another


class DeviceArena:
    """`size` bytes of device memory at `base`, or elsewhere when that place is taken. Close it once nothing runs."""

    def __init__(self, driver: Driver, base: int, size: int) -> None:
        self.driver = driver
        grain = driver.granularity()
        self.size = size + -size % grain
        self._memory = 0
        try:
            self.base = driver.reserve(self.size, base)
        except DriverError as error:
            raise Refused("memory", f"no {self.size / 1e9:.1f} GB of addresses can be reserved: {error}") from error
        try:
            self._memory = driver.create(self.size)
            driver.map(self.base, self.size, self._memory)
        except DriverError as error:
            self._give_back(mapped=False)
            raise Refused("memory", f"{self.size / 1e9:.1f} GB for the arena are not to be had: {error}") from error

    def close(self) -> None:
        """Unmap and free. Twice is once."""
        if self._memory:
            self._give_back(mapped=True)

    def _give_back(self, *, mapped: bool) -> None:
        if mapped:
            self.driver.unmap(self.base, self.size)
        if self._memory:
            self.driver.release(self._memory)
            self._memory = 0
        self.driver.unreserve(self.base, self.size)

    def write(self, offset: int, raw: bytes | memoryview) -> None:
        """Host to arena. ValueError outside of it."""
        self._check(offset, len(raw))
        self.driver.write(self.base + offset, raw)

    def read(self, offset: int, size: int) -> bytes:
        """Arena to host. ValueError outside of it."""
        self._check(offset, size)
        return self.driver.read(self.base + offset, size)

    def _check(self, offset: int, size: int) -> None:
        if not 0 <= offset <= offset + size <= self.size:
            raise ValueError(f"{size} bytes at {offset} leave an arena of {self.size}")


def store_weights(arena: DeviceArena, nbytes: int, folder: Path) -> dict[str, Any]:
    """Keep [0, nbytes) of the arena as a file that is called by its content; returns what a manifest says of it."""
    sums = xxhash.xxh3_128()

    def name() -> str:
        return f"{sums.hexdigest()}.weights"

    told = f"weights in {folder}: {nbytes / 1e6:.0f} MB"
    with aside.whole(folder / "weights", name=name, sync=False, told=told) as out:
        for at in range(0, nbytes, CHUNK):
            raw = arena.read(at, min(CHUNK, nbytes - at))
            sums.update(raw)
            out.write(raw)
    return {"file": name(), "bytes": nbytes, "digest": sums.hexdigest()}


def load_weights(arena: DeviceArena, about: Mapping[str, Any], folder: Path) -> None:
    """Fill [0, bytes) of the arena from the file. Refused when it is missing, too short or not what was captured."""
    name, nbytes, seal = about.get("file"), about.get("bytes"), about.get("digest")
    if not isinstance(name, str) or Path(name).name != name or type(nbytes) is not int or not 0 < nbytes <= arena.size:
        refuse("malformed", f"the manifest names no proper file of weights: {name!r}, {nbytes!r} bytes")
    sums, at = xxhash.xxh3_128(), 0
    try:
        with open(folder / name, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > nbytes:
                refuse("weights", f"weights {name} have more than the {nbytes} bytes that were captured")
            while raw := file.read(CHUNK):
                sums.update(raw)
                arena.write(at, raw)
                at += len(raw)
    except OSError as error:
        raise Refused("weights", f"weights {name} in {folder} cannot be read: {error.strerror}") from error
    if at != nbytes:
        refuse("truncated", f"weights {name} end after {at} of {nbytes} bytes")
    if sums.hexdigest() != seal:
        refuse("weights", f"weights {name} are not those that were captured: checksum differs")


def pattern(dtype: str, nbytes: int) -> bytes:
    """`nbytes` of seeded numbers: floats in [-1, 1), whole numbers from 0 to 6."""
    draw = random.Random("block")
    floats = [draw.uniform(-1.0, 1.0) for _ in range(BLOCK)]
    if dtype == "float32":
        block = array("f", floats).tobytes()
    elif dtype == "float16":
        block = struct.pack(f"<{BLOCK}e", *floats)
    elif dtype == "bfloat16":
        wide = array("f", floats).tobytes()
        block = b"".join(wide[i + 2 : i + 4] for i in range(0, len(wide), 4))
    else:
        size = {"int64": 8, "int32": 4}.get(dtype, 1)
        top = 2 if dtype == "bool" else 7
        block = b"".join((i % top).to_bytes(size, "little") for i in range(BLOCK))
    return (block * (nbytes // len(block) + 1))[:nbytes]


@contextlib.contextmanager
def probing(arena: DeviceArena, capture: CudaCapture, graph: Graph, *, restore: bool = True) -> Iterator[None]:
    """Known inputs are in the arena meanwhile. restore: what they and the step overwrite is put back."""
    places = list(_places(capture, graph))
    extents = {offset: len(raw) for offset, raw in places}
    starts = {t.name: t.offset for t in capture.tensors}
    for name, nbytes in graph.probe.kept:
        extents[starts[name]] = max(nbytes, extents.get(starts[name], 0))
    kept = [(offset, arena.read(offset, n)) for offset, n in extents.items()] if restore else []
    try:
        for offset, raw in places:
            arena.write(offset, raw)
        yield
    finally:
        for offset, raw in kept:
            arena.write(offset, raw)


def _places(capture: CudaCapture, graph: Graph) -> Iterator[tuple[int, bytes]]:
    by_name = {t.name: t for t in capture.tensors}
    turn = 0
    for name, nbytes in graph.probe.fills:
        tensor = by_name[name]
        turn += 8  # another place of the pattern for each tensor, on whole numbers of every type
        yield tensor.offset, pattern(tensor.dtype, nbytes + turn)[turn:]
    at = 0
    for name, nbytes in graph.probe.inputs:
        yield by_name[name].offset, graph.probe.raw[at : at + nbytes]
        at += nbytes


def outcome(arena: DeviceArena, tensors: Mapping[str, Tensor], graph: Graph) -> str:
    """Digest of what a step left: outputs, and the state that the probe fills."""
    sums = xxhash.xxh3_128()
    for each in graph.outputs:
        sums.update(arena.read(each.offset, each.nbytes))
    for name, nbytes in graph.probe.fills:
        sums.update(arena.read(tensors[name].offset, nbytes))
    return sums.hexdigest()

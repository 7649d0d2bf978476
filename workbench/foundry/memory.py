"""The arena as tensors' bytes: weights from their file, views by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import xxhash

from workbench import aside
from workbench.foundry.archive import Refused, refuse

if TYPE_CHECKING:
    from workbench.kernels.replay import Arena

CHUNK = 8 << 20  # bytes read at once, and hashed while the next ones are


def make_arena(base: int, size: int) -> Arena:
    """Reserve `size` bytes at `base`, or elsewhere when that place is taken. Refused when there is no room at all."""
    from workbench.kernels.replay import Arena

    try:
        return Arena(base, size)
    except (RuntimeError, ValueError) as error:
        raise Refused("memory", f"{error} ({size / 1e9:.1f} GB asked for)") from error


def store_weights(arena: Arena, nbytes: int, folder: Path) -> dict[str, Any]:
    """Keep [0, nbytes) of the arena as a file that is called by its content; returns what a manifest says of it."""
    view = arena.view(0, nbytes)
    seal = xxhash.xxh3_128_hexdigest(view)
    path = folder / f"{seal}.weights"
    if not path.exists() or path.stat().st_size != nbytes:
        with aside.whole(path, sync=False, told=f"weights {path}: {nbytes / 1e6:.0f} MB") as out:
            out.write(view)
    return {"file": path.name, "bytes": nbytes, "digest": seal}


def load_weights(arena: Arena, about: Mapping[str, Any], folder: Path) -> None:
    """Fill [0, bytes) of the arena from the file. Refused when it is missing, too short or not what was captured."""
    name, nbytes, seal = about.get("file"), about.get("bytes"), about.get("digest")
    if not isinstance(name, str) or Path(name).name != name or type(nbytes) is not int or not 0 < nbytes <= arena.size:
        refuse("malformed", f"the manifest names no proper file of weights: {name!r}, {nbytes!r} bytes")
    view, sums, hashed = arena.view(0, nbytes), xxhash.xxh3_128(), 0
    filled: SimpleQueue[int | OSError] = SimpleQueue()  # how far it is read; hashed here meanwhile
    threading.Thread(target=_read, args=(folder / name, view, filled), daemon=True).start()
    while isinstance(read := filled.get(), int) and read >= 0:
        sums.update(view[hashed:read])
        hashed = read
    if isinstance(read, OSError):
        raise Refused("weights", f"weights {name} in {folder} cannot be read: {read.strerror}") from read
    if hashed != nbytes:
        refuse("truncated", f"weights {name} end after {hashed} of {nbytes} bytes")
    if sums.hexdigest() != seal:
        refuse("weights", f"weights {name} are not those that were captured: checksum differs")


def _read(path: Path, into: memoryview, filled: SimpleQueue[int | OSError]) -> None:
    """Read a file that has exactly the size of `into`; says how far, then -1, or what went wrong."""
    done = 0
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > len(into):
                raise OSError(0, f"it has more than the {len(into)} bytes that were captured")
            while got := file.readinto(into[done : done + CHUNK]):
                done += got
                filled.put(done)
        filled.put(-1)
    except OSError as error:
        filled.put(error)

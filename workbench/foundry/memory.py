"""The arena as tensors' bytes: weights from their file, views by name."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from workbench.foundry.archive import Refused, refuse

if TYPE_CHECKING:
    from workbench.kernels.replay import Arena

CHUNK = 8 << 20  # bytes read, then hashed while they are in cache


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
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
        try:
            with open(aside, "xb") as out:
                out.write(view)
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            said = f"weights {path}: {nbytes / 1e6:.0f} MB cannot be written: {error.strerror}"
            raise OSError(error.errno, f"{said}; free some space or choose another folder") from error
    return {"file": path.name, "bytes": nbytes, "digest": seal}


def load_weights(arena: Arena, about: Mapping[str, Any], folder: Path) -> None:
    """Fill [0, bytes) of the arena from the file. Refused when it is missing, too short or not what was captured."""
    name, nbytes, seal = about.get("file"), about.get("bytes"), about.get("digest")
    if not isinstance(name, str) or Path(name).name != name or type(nbytes) is not int or not 0 < nbytes <= arena.size:
        refuse("malformed", f"the manifest names no proper file of weights: {name!r}, {nbytes!r} bytes")
    view, sums, done = arena.view(0, nbytes), xxhash.xxh3_128(), 0
    try:
        with open(folder / name, "rb", buffering=0) as file:
            while done < nbytes:
                got = file.readinto(view[done : done + CHUNK])
                if not got:
                    refuse("truncated", f"weights {name} end after {done} of {nbytes} bytes")
                sums.update(view[done : done + got])
                done += got
            if os.fstat(file.fileno()).st_size != nbytes:
                refuse("weights", f"weights {name} have more than the {nbytes} bytes that were captured")
    except OSError as error:
        raise Refused("weights", f"weights {name} in {folder} cannot be read: {error.strerror}") from error
    if sums.hexdigest() != seal:
        refuse("weights", f"weights {name} are not those that were captured: checksum differs")

"""A file that is written aside and put in its place when whole: a reader sees the old one or the new one, never half.

with whole(path) as out:
out.write(content)
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT)


def left(path: Path) -> str:
    """The pattern, in its folder, of what a killed writer of `path` leaves behind."""
    return f".{path.name}.*.part"


@contextmanager
def whole(
    path: Path,
    *,
    name: Callable[[], str] | None = None,
    sync: bool = True,
    told: str = "",
    way_out: str = "",
) -> Iterator[BinaryIO]:
    """A binary stream whose content becomes `path` when the block ends; where the block raises, nothing has changed.

    name: the file's name in path's folder, asked for at the end, where it depends on the content. sync: it is on the
    disk before it takes its place, so that no crash of the machine leaves an empty one. Of two writers the later one's
    stays. OSErrors pass through; with `told` they say "`told` cannot be written: why; `way_out`": unless given,
    another folder, or space on a full disk.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with open(part, "xb") as out:
            yield out
            out.flush()
            if sync:
                os.fsync(out.fileno())
        part.replace(path.with_name(name()) if name else path)
    except OSError as error:
        if not told:
            raise
        raise OSError(error.errno, f"{told} cannot be written: {error.strerror}; {way_out or out_of(error)}") from error
    finally:
        part.unlink(missing_ok=True)


def out_of(error: OSError) -> str:
    """What helps where a file cannot be written."""
    return f"{'free some space or ' * (error.errno in FULL)}choose another folder"

"""stdout for the answer alone: what engines, their children and C libraries print goes to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What an engine, its children or a C library print goes to stderr, so that stdout holds the answer alone."""
    ours = sys.stdout
    ours.flush()  # of Python alone: what C holds is not ours
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        flush(ours)  # who kept sys.stdout, or prints in C, has it in a buffer that would come out after the answer
        os.dup2(kept, 1)
        os.close(kept)


def flush(python: TextIO) -> None:
    """Write out what this stream and all of C's hold."""
    import ctypes

    python.flush()
    ctypes.CDLL(None).fflush(None)

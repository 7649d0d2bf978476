"""Claim ledgers in memory that vLLM's scheduler and its worker share, which may be two processes.

One small memory-mapped file a job, in a folder of its own under /dev/shm that carries the engine's process id. The
file is unlinked as soon as the worker has it open, the folder when the engine ends; what a killed engine left
behind, the next one removes.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from workbench.cake.ledger import Ledger

PREFIX = "workbench-cake-"
_OWNED = re.compile(rf"{PREFIX}(\d+)-\w+")


class Segment:
    """A ledger in a file that a second process can open."""

    def __init__(self, path: Path, ledger: Ledger, memory: mmap.mmap) -> None:
        self.path, self.ledger, self._memory = path, ledger, memory

    @classmethod
    def create(cls, path: Path, grains: int, stored: Sequence[bool]) -> Segment:
        """A new file with a fresh ledger. OSError when shared memory is full."""
        size = Ledger.nbytes(grains)
        with open(path, "x+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full /dev/shm is an error here, not a bus error later
            memory = mmap.mmap(file.fileno(), size)
        return cls(path, Ledger(grains, stored, memory), memory)

    @classmethod
    def attach(cls, path: Path, grains: int) -> Segment:
        """The ledger that another process (or another side of this one) created."""
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), Ledger.nbytes(grains))
        return cls(path, Ledger(grains, buffer=memory, create=False), memory)

    def unlink(self) -> None:
        """Remove the file; the memory lives on while someone has it open."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the memory. The ledger cannot be used any more."""
        self.ledger.release()
        with contextlib.suppress(BufferError):  # a view is still about: the memory goes when that does
            self._memory.close()


def make_folder(root_name: str = "") -> Path:
    """A folder for this process's segments, removed at exit; folders of processes that are gone are removed now."""
    root = Path(root_name or "/dev/shm")  # noqa: S108  names in it are made by mkdtemp
    if not os.access(root, os.W_OK):
        root = Path(tempfile.gettempdir())
    sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=root))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep(root: Path) -> list[Path]:
    """Remove folders whose process no longer runs; returns them."""
    gone = []
    for folder in root.glob(f"{PREFIX}*"):
        match = _OWNED.fullmatch(folder.name)
        if match and not _alive(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

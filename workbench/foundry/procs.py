"""A job in a process of its own: captures, loads and rivals are measured from the start of a process to its answer.

    answer = ask({"do": "rebuild", "path": "..."}, folder, "the loader", patience_s=60, hear=print, stop=flag)

    with contextlib.closing(Process(job, folder, "eager")) as one:      # one that stays, and is asked again
        ready = one.answer(patience_s=60)
        one.send({"size": 8})
        took = one.answer(patience_s=60)

Jobs and answers are JSON; child.py does them. Whatever happens here, the process and all that it started is ended.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event as Flag
from typing import Any

from workbench.child import Child
from workbench.lm.files import cache_root
from workbench.pump import Stopped

BEAT_S = 0.05
COMMAND = (sys.executable, "-m", "workbench.foundry.child")
Hear = Callable[[dict[str, Any]], None]


class Process:
    """A process that was given a job. `close` ends it and all that it started.

    cache: where torch keeps what it compiles, in `folder` when None. command: another child than child.py.
    """

    def __init__(
        self,
        job: Mapping[str, Any],
        folder: Path,
        name: str,
        *,
        cache: Path | None = None,
        threads: int = 1,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _share_headers(folder)
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(cache or folder / "compiled"),
            "TORCH_WARM_POOL": "0",  # Inductor's other processes are for Triton: they would import torch for nothing
        }
        started = time.time()
        self.name = name
        self._child = Child(list(command), folder, environment, name)
        self._child.send({**job, "started": started})

    def send(self, fields: Mapping[str, Any]) -> None:
        """One more line to it."""
        self._child.send(fields)

    def answer(self, *, patience_s: float, hear: Hear = lambda _: None, stop: Flag | None = None) -> dict[str, Any]:
        """Its next answer; `hear` gets what it says before.

        RuntimeError with its words when it fails, ChildDied when it ends without any, TimeoutError, naming what it was
        at, when it takes longer than patience_s; Stopped when `stop` is set.
        """
        limit = time.monotonic() + patience_s
        while True:
            said = self._child.read(BEAT_S)
            if stop is not None and stop.is_set():
                raise Stopped(f"{self.name} was ended: the run was cancelled")
            if time.monotonic() > limit:
                at, way_out = self._child.doing, "take fewer layers or batch sizes, or a larger patience_s"
                raise TimeoutError(f"{self.name} took longer than {patience_s:.0f} s at '{at}': {way_out}")
            for fields in said:
                kind = fields.get("is")
                if kind == "answer":
                    answer: dict[str, Any] = fields["answer"]
                    return answer
                if kind == "error":
                    raise RuntimeError(f"{self.name} failed at '{self._child.doing}': {fields['text']}")
                if kind == "at":
                    self._child.doing = fields["what"]
                hear(fields)

    def close(self) -> None:
        """End it. Twice is no error."""
        self._child.end()


def ask(
    job: Mapping[str, Any],
    folder: Path,
    name: str,
    *,
    cache: Path | None = None,
    threads: int = 1,
    patience_s: float = 600.0,
    hear: Hear = lambda _: None,
    stop: Flag | None = None,
    command: tuple[str, ...] = COMMAND,
) -> dict[str, Any]:
    """Do `job` in a fresh process whose temporary files lie in `folder`; returns its answer. See Process."""
    one = Process(job, folder, name, cache=cache, threads=threads, command=command)
    with contextlib.closing(one):
        return one.answer(patience_s=patience_s, hear=hear, stop=stop)


def _share_headers(folder: Path) -> None:
    """Torch keeps headers that it precompiled, once a machine, by the folder of temporary files; its own empty caches
    (fresh_cache) leave them there. Ours is a folder for each process: they are shared, or each would take 20 s more,
    as it does where the user's cache folder cannot be written.
    """
    shared = cache_root() / "foundry-headers"
    with contextlib.suppress(OSError):
        shared.mkdir(parents=True, exist_ok=True)
        if os.access(shared, os.W_OK):
            (folder / f"torchinductor_{getpass.getuser()}").symlink_to(shared, target_is_directory=True)

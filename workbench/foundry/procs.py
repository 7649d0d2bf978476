"""A job in a process of its own: captures, loads and rivals are measured from the start of a process to its answer.

    answer = ask({"do": "rebuild", "path": "..."}, folder, "the loader", patience_s=60, hear=print, stop=flag)

Jobs and answers are JSON; child.py does them. Whatever happens here, the process and all that it started is ended.
"""

from __future__ import annotations

import contextlib
import getpass
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
Hear = Callable[[dict[str, Any]], None]


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
) -> dict[str, Any]:
    """Do `job` in a fresh process whose temporary files lie in `folder`; returns its answer.

    cache: where torch keeps what it compiles, in `folder` when None. `hear` gets what it says before. RuntimeError with
    its words when it fails, ChildDied when it ends without any, TimeoutError, naming what it was at, when it takes
    longer than patience_s; Stopped when `stop` is set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _share_headers(folder)
    environment = {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(cache or folder / "compiled")}
    limit, started = time.monotonic() + patience_s, time.time()
    child = Child([sys.executable, "-m", "workbench.foundry.child"], folder, environment, name)
    with contextlib.closing(_Ended(child)):
        child.send({**job, "started": started})
        while True:
            said = child.read(BEAT_S)
            if stop is not None and stop.is_set():
                raise Stopped(f"{name} was ended: the run was cancelled")
            if time.monotonic() > limit:
                way_out = "take fewer layers or batch sizes, or a larger patience_s"
                raise TimeoutError(f"{name} took longer than {patience_s:.0f} s at '{child.doing}': {way_out}")
            for fields in said:
                kind = fields.get("is")
                if kind == "answer":
                    answer: dict[str, Any] = fields["answer"]
                    return answer
                if kind == "error":
                    raise RuntimeError(f"{name} failed at '{child.doing}': {fields['text']}")
                if kind == "at":
                    child.doing = fields["what"]
                hear(fields)


def _share_headers(folder: Path) -> None:
    """Torch keeps headers that it precompiled, once a machine, by the folder of temporary files; its own empty caches
    (fresh_cache) leave them there. Ours is a folder for each process: they are shared, or each would take 20 s more.
    """
    shared = cache_root() / "foundry-headers"
    shared.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / f"torchinductor_{getpass.getuser()}").symlink_to(shared, target_is_directory=True)


class _Ended:
    """Closing it ends a child."""

    def __init__(self, child: Child) -> None:
        self.close = child.end

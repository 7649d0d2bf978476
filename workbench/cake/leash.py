"""A helper process that cannot outlive its owner: `python leash.py OWNER COMMAND...`, OWNER a process id.

It runs COMMAND, ends with its code, and kills it and all that it started when the owner is gone (also when that
happened before this file ran) or when it is told to end. It is run by its path: importing the package takes longer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

import psutil

LOOK_S = 0.2
END_S = 2.0


def start(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` on a leash of this process; what it says goes to `log`."""
    leashed = [sys.executable, __file__, str(os.getpid()), *command]
    env = None if environment is None else dict(environment)
    return subprocess.Popen(leashed, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)


def end(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """Kill a process and everything below it; none of them is left when this returns, within END_S seconds."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    if isinstance(process, subprocess.Popen):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    psutil.wait_procs(family, timeout=END_S)


def main() -> None:
    """Run the command of the command line."""
    owner, told = int(sys.argv[1]), list[int]()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted notebook cell ends its run in its own way
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    if os.getppid() != owner:
        return
    child = subprocess.Popen(sys.argv[2:])
    while child.poll() is None:
        if told or os.getppid() != owner:
            end(child)
            sys.exit(128 + signal.SIGTERM)
        time.sleep(LOOK_S)
    sys.exit(child.returncode)


if __name__ == "__main__":
    main()

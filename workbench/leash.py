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
    leashed = [sys.executable, "-P", __file__, str(os.getpid()), *command]  # -P: our trace.py is not Python's
    env = None if environment is None else dict(environment)
    return subprocess.Popen(leashed, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)


def end(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """Kill a process, everything below it and in its process group; none of them is left when this returns.

    Python's resource trackers go last and by themselves, within END_S: they remove the shared memory and semaphores
    that the others can no longer give back.
    """
    family = _family(process.pid)
    trackers = [one for one in family if _is_tracker(one)]
    others = [one for one in family if one not in trackers]
    for one in others:
        _kill(one)
    for one in trackers:  # they may be suspended
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()
    if isinstance(process, subprocess.Popen):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    psutil.wait_procs(others, timeout=END_S)
    _, left = psutil.wait_procs(trackers, timeout=END_S)
    for one in left:
        _kill(one)


def _family(pid: int) -> list[psutil.Process]:
    """A process, what is below it, and what was below it: members of its group whose parents are gone."""
    found = set[psutil.Process]()
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found |= {root, *root.children(recursive=True)}
    if pid != os.getpgid(0):
        for one in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(one.pid) == pid:
                    found.add(one)
    return list(found)


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


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

"""How things end, for any test: a generator with all it yielded, a process for good."""

import time

import psutil


def drained(going):
    """([what it yielded], what it returned)"""
    found = []
    while True:
        try:
            found.append(next(going))
        except StopIteration as end:
            return found, end.value


def alive(pid):
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(what, seconds=20.0):
    """What `what()` gives at last, looked at until it is true or the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found

"""SIGTERM as an orderly end: what `kill` and job schedulers send first, and what Python would not clean up after."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM came. As KeyboardInterrupt it is no Exception: nothing stands in its way but what must be freed."""


@contextlib.contextmanager
def raises() -> Iterator[None]:
    """Within this SIGTERM raises Terminated in the main thread; after it a second one does nothing until the exit.

    Does nothing on other threads: signals come to the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def stop(number: int, _: object) -> None:  # not SIG_IGN after the first: children would inherit that
        told.append(number)
        if len(told) == 1:
            raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # once told, the process is about to end; Python's exit drops every handler, but leaves a signal ignored
        signal.signal(signal.SIGTERM, signal.SIG_IGN if told else before)

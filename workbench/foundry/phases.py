"""What both backends do around a load: say how long each phase took, and capture again where an archive is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from workbench.foundry.archive import Refused

T = TypeVar("T")


class Clock:
    """Says how long each phase took: clock("weights") is called when that phase is over."""

    def __init__(self, phase: Callable[[str, float], None]) -> None:
        self._phase, self._last = phase, time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self._phase(name, now - self._last)
        self._last = now


def or_again(load: Callable[[], T], again: Callable[[], object]) -> tuple[T, str]:
    """What `load` gives, or, where it is refused, what it gives after `again`: (it, "" or why it was refused)."""
    try:
        return load(), ""
    except Refused as error:
        why = f"{error.cause}: {error}"
    again()
    return load(), why

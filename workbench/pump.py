"""Work on a thread of its own, seen as the generator that the contract asks for.

    result = yield from pump(lambda say, stop: measure(say, stop))

`say(event)` may be called from any thread; `stop` is set when the generator is closed. A body that makes offers gives
`hear`, say the `put` of a queue that it looks at:

    asked = queue.SimpleQueue()
    result = yield from pump(lambda say, stop: measure(say, stop, asked), asked.put)

and a generator that makes them anywhere has them heard in one place: `yield from listen(steps(asked), asked.append)`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from workbench.system import Asked, Event, Progress

T = TypeVar("T")
BEAT_S = 0.05  # at least one event, or a repeated progress, in so long: cancel is looked at between two events
JOIN_S = 1.5  # a body inside something that cannot be stopped (a first `import torch`) ends by itself a little later


class Stopped(Exception):
    """The run was cancelled: what a body raises at its next look at `stop`."""


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self.began


def pump(
    body: Callable[[Callable[[Event], None], threading.Event], T], hear: Callable[[str], object] | None = None
) -> Generator[Event, Asked, T]:
    """Run `body(say, stop)` on a thread, yield what it says, return what it returns, raise what it raises.

    Closing the generator sets `stop` and waits JOIN_S for the body to end, which it does at its next look at `stop`.
    `hear(name)` is called on the generator's thread for each offer that was chosen, BEAT_S later at most, and must
    return at once. The body may have taken that offer back meanwhile: it ignores a name that means nothing any more.
    """
    said: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    stop, outcome, failure = threading.Event(), list[T](), list[BaseException]()

    def work() -> None:
        try:
            outcome.append(body(said.put, stop))
        except BaseException as error:  # noqa: BLE001  raised again on the generator's thread
            failure.append(error)
        said.put(None)

    thread = threading.Thread(target=work, name="workbench-work", daemon=True)
    thread.start()
    last: Event = Progress(0, 1, "starting")
    try:
        while True:
            try:
                event = said.get(timeout=BEAT_S)
            except queue.Empty:
                _tell((yield last), hear)
                continue
            if event is None:
                break
            if isinstance(event, Progress):
                last = event
            _tell((yield event), hear)
    finally:
        stop.set()
        thread.join(JOIN_S)
    if failure:
        raise failure[0]
    return outcome[0]


def listen(work: Generator[Event, object, T], hear: Callable[[str], object]) -> Generator[Event, Asked, T]:
    """Yield what `work` yields, return what it returns; each name that is chosen goes to `hear`, on this thread."""
    with contextlib.closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                found: T = end.value
                return found
            _tell((yield event), hear)


def _tell(asked: Asked, hear: Callable[[str], object] | None) -> None:
    for name in asked or ():
        if hear is None:
            raise TypeError(f"{name!r} was offered and chosen, but nobody hears of it: give pump a `hear`")
        hear(name)

"""Work on a thread of its own, seen as the generator that the contract asks for.

    result = yield from pump(lambda say, stop: measure(say, stop))

`say(event)` may be called from any thread; `stop` is set when the generator is closed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from workbench.system import Event, Progress

T = TypeVar("T")
BEAT_S = 0.05  # at least one event, or a repeated progress, in so long: cancel is looked at between two events
JOIN_S = 1.5  # a body inside something that cannot be stopped (a first `import torch`) ends by itself a little later


def pump(body: Callable[[Callable[[Event], None], threading.Event], T]) -> Generator[Event, None, T]:
    """Run `body(say, stop)` on a thread, yield what it says, return what it returns, raise what it raises.

    Closing the generator sets `stop` and waits JOIN_S for the body to end, which it does at its next look at `stop`.
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
                yield last
                continue
            if event is None:
                break
            if isinstance(event, Progress):
                last = event
            yield event
    finally:
        stop.set()
        thread.join(JOIN_S)
    if failure:
        raise failure[0]
    return outcome[0]

"""Work on a thread of its own, seen as the generator that the contract asks for.

    result = yield from pump(lambda say, stop: measure(say, stop))

`say(event)` may be called from any thread; `stop` is set when the generator is closed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from workbench.system import Event

T = TypeVar("T")
BEAT_S = 0.05  # at least one event, or a repeated progress, in so long: cancel is looked at between two events
JOIN_S = 30.0


def pump(body: Callable[[Callable[[Event], None], threading.Event], T]) -> Generator[Event, None, T]:
    """Run `body(say, stop)` on a thread, yield what it says, return what it returns, raise what it raises.

    Closing the generator sets `stop` and waits for the body to end; TimeoutError names a body that does not.
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
    last: Event | None = None
    try:
        while True:
            try:
                event = said.get(timeout=BEAT_S)
            except queue.Empty:
                if last is not None:
                    yield last
                continue
            if event is None:
                break
            if type(event).__name__ == "Progress":
                last = event
            yield event
    finally:
        stop.set()
        thread.join(JOIN_S)
        if thread.is_alive():
            raise TimeoutError(f"the work thread did not stop within {JOIN_S:.0f} s of being asked to")
    if failure:
        raise failure[0]
    return outcome[0]

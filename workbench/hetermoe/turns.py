"""Micro-batches that take turns on one processor, each in a thread of its own that runs somebody else's forward.

    turn = Turn("micro-batch 0", body)      body(turn) runs in the thread; nothing runs yet
    told = turn.go()                        it runs until it hands something over; ENDED when body is done
    given = turn.hand(told)                 within: gives the processor back, goes on when `go(given)` is called

Only one of them runs at a time, so that stages of several micro-batches interleave in an order that the caller decides
while the code between two of them stays as it was written. Imports no torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

ENDED: Final = object()
PATIENCE_S = 600.0  # of one turn: whoever computes for longer is named


class Stuck(RuntimeError):
    """A turn took longer than its patience; the message says whose."""


class _Dropped(BaseException):
    """Ends a thread whose turn will not come any more."""


class Turn:
    """A thread and the baton. `body(turn)` may hand over any number of times."""

    def __init__(self, name: str, body: Callable[[Turn], object], patience_s: float = PATIENCE_S) -> None:
        self.name, self.body, self.patience_s = name, body, patience_s
        self.cpu_s = 0.0  # processor time of the last turn
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._given: Any = None
        self._told: Any = None
        self._error: BaseException | None = None
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def go(self, given: object = None) -> Any:
        """One turn: what it hands over, or ENDED. The body's own error, or Stuck."""
        self._given = given
        if self._thread.ident is None:
            self._thread.start()
        self._mine.release()
        if not self._theirs.acquire(timeout=self.patience_s):
            raise Stuck(f"{self.name} has computed for {self.patience_s:.0f} s without reaching its next MoE layer")
        if self._error is not None:
            raise self._error
        return self._told

    def hand(self, told: object) -> Any:
        """From within: end this turn; what the next `go` gives."""
        self._told = told
        self._pass_on()
        self._wait()
        return self._given

    def end(self) -> None:
        """No more turns: a thread that waits for one ends."""
        self._dropped = True
        self._mine.release()

    def _run(self) -> None:
        try:
            self._wait()
            self.body(self)
            self._told = ENDED
        except _Dropped:
            return
        except BaseException as error:  # noqa: BLE001  raised where the turn was given
            if self._dropped:
                return
            self._error = error
        self._pass_on()

    def _wait(self) -> None:
        self._mine.acquire()
        if self._dropped:
            raise _Dropped
        _HERE.turn, self._began = self, time.thread_time()

    def _pass_on(self) -> None:
        self.cpu_s = time.thread_time() - self._began
        self._theirs.release()


class _Here(threading.local):
    turn: Turn | None = None


_HERE = _Here()


def here() -> Turn | None:
    """The turn of the thread that asks."""
    return _HERE.turn

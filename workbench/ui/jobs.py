"""Runs one after another on a thread of their own that ends with them, and is the only painter while it lives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.runner import Run
from workbench.system import Config, System

PERIOD_S = 0.1  # at most 10 paints a second


@dataclass(frozen=True)
class Job:
    """A config to run, under a name: "" is the form's own, else a baseline's."""

    name: str
    config: Config


class Jobs:
    """Calls `tick(job, run)` ten times a second while a run goes, `ended(job, run)` after it, `idle(error)` last.

    `turn(busy)` is told each change of `busy`, whatever fails between, and in the order of the changes.
    """

    def __init__(
        self,
        system: System,
        tick: Callable[[Job, Run], None],
        ended: Callable[[Job, Run], None],
        idle: Callable[[BaseException | None], None],
        turn: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._system, self._tick, self._ended, self._idle, self._turn = system, tick, ended, idle, turn
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.busy = False  # whether runs are going or waiting
        self.run: Run | None = None

    def start(self, jobs: Sequence[Job]) -> bool:
        """Begin; False when others are still going."""
        with self._lock:
            if self.busy:
                return False
            self._stop.clear()
            thread = threading.Thread(target=self._work, args=(jobs,), name="workbench-panel", daemon=True)
            self._mark(True)
            try:
                thread.start()
            except BaseException:
                self._mark(False)
                raise
            self._thread = thread
        return True

    def cancel(self) -> None:
        """Ask the run to stop, and start none of those that wait. Harmless when nothing goes."""
        self._stop.set()
        run = self.run
        if run is not None:
            run.cancel()

    def wait(self, timeout_s: float) -> None:
        """Until all have ended and are painted. TimeoutError after `timeout_s`."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                raise TimeoutError(f"{self._system.name} is still running after {timeout_s} s")

    def _work(self, jobs: Sequence[Job]) -> None:
        error: BaseException | None = None
        try:
            for job in jobs:
                if self._stop.is_set():
                    break
                self.run = Run(self._system, job.config).start()
                if self._stop.is_set():  # cancelled between the two lines above
                    self.run.cancel()
                self._follow(job, self.run)
                self._ended(job, self.run)
        except BaseException as fault:  # noqa: BLE001  a picture that cannot be drawn must not end the thread unseen
            error = fault
            self.cancel()
        try:
            self._idle(error)  # still busy: a run started now would paint over what this paints
        finally:
            with self._lock:
                self._mark(False)

    def _mark(self, busy: bool) -> None:
        self.busy = busy
        self._turn(busy)

    def _follow(self, job: Job, run: Run) -> None:
        while True:
            try:
                run.wait(PERIOD_S)
                return
            except TimeoutError:
                self._tick(job, run)

"""What a process says it is at, as spans of a timeline and as progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from workbench.held import Held
from workbench.system import Event, Progress


class Ear:
    """Hears one process. `began_s` is when it was started, in seconds of the run; its own times count from there."""

    def __init__(self, say: Callable[[Event], None], lane: str, began_s: float, done: float, share: float) -> None:
        self.lane, self.held, self.refused = lane, list[Held](), dict[str, Any]()
        self.seconds: dict[str, float] = {}  # of what it was at, by name
        self._say, self._began_s, self._done, self._share = say, began_s, done, share
        self._what, self._since_s, self._reached = "start", 0.0, 0.0
        say(Progress(done, 100, f"{lane}: start"))

    def hear(self, fields: dict[str, Any]) -> None:
        """A line of it."""
        if fields["is"] == "at":
            self._close(fields["at_s"])
            self._what, self._since_s = fields["what"], fields["at_s"]
            if fields["total"]:
                self._reached = max(self._reached, 0.95 * fields["done"] / fields["total"])
            self._say(Progress(self._done + self._share * self._reached, 100, f"{self.lane}: {self._what}"))
        elif fields["is"] == "refused":
            self.refused = fields
            why = {"cause": fields["cause"], "why": fields["why"]}
            self._keep(Held(
                lane=self.lane, start_s=self._began_s + fields["at_s"], end_s=self._began_s + fields["at_s"],
                label=f"refused: {fields['cause']}", kind="refused", why=why,
            ))  # fmt: skip

    def end(self, at_s: float) -> None:
        """It has answered, `at_s` after its start."""
        self._close(at_s)

    def _close(self, at_s: float) -> None:
        at_s = max(at_s, self._since_s)
        self.seconds[self._what] = self.seconds.get(self._what, 0.0) + at_s - self._since_s
        self._keep(Held(
            lane=self.lane, start_s=self._began_s + self._since_s, end_s=self._began_s + at_s, label=self._what,
            kind=kind_of(self._what),
        ))  # fmt: skip

    def _keep(self, one: Held) -> None:
        self.held.append(one)
        self._say(one.span())


class Listening:
    """A run that hears one process after the other: its clock, its bar, and the spans that it heard."""

    def __init__(self, say: Callable[[Event], None]) -> None:
        self.say, self.began, self.held = say, time.monotonic(), list[Held]()
        self._done = 0.0  # of the bar, per cent

    def _now(self) -> float:
        return time.monotonic() - self.began

    def _ear(self, lane: str, until: float) -> Ear:
        """Hears a process that is done when the bar is at `until` per cent."""
        return Ear(self.say, lane, self._now(), self._done, max(0.0, until - self._done))

    def _heard(self, ear: Ear, began_s: float, until: float) -> None:
        ear.end(self._now() - began_s)
        self.held += ear.held
        self._done = max(self._done, until)


def kind_of(what: str) -> str:
    """The kind of a span by what was done in it."""
    for start, kind in KINDS.items():
        if what.startswith(start):
            return kind
    return "run"


KINDS = {
    "start": "wait",
    "import": "import",
    "load": "load",
    "batch": "capture",
    "replay": "run",
    "write": "transfer",
    "make": "compile",
    "first run": "compile",
}

"""What a run offers to its user while it goes on, and what was chosen of it.

Offer of the work -> open -> Run.act -> handed to the work at its next yield, an Act in the stream -> the work's answer:
an Offer of that name, open again or taken back

A work hears at each of its yields, `for name in (yield event) or (): ...`, or has all of them heard in one place:

    asked = deque()
    return (yield from listen(steps(config, asked), asked.append))      # of pump, as pump(body, hear) for a thread
"""

from __future__ import annotations

import threading

from workbench.system import Act, Event, Note, Offer


class NotOffered(ValueError):
    """What was chosen is not to be had now; the message says why and what is."""


class Offers:
    """Folded from a run's events: what is `open` by name, and who of these is `waiting` for the run's answer."""

    def __init__(self) -> None:
        self.open: dict[str, Offer] = {}
        self.waiting: set[str] = set()

    def take(self, event: Event) -> None:
        """Fold in one more event."""
        match event:
            case Offer(name):
                self.waiting.discard(name)
                self.open.pop(name, None)
                if event.open:
                    self.open[name] = event
            case Act(name):
                self.waiting.add(name)


class Desk:
    """Where choices are left for a run, from any thread, and fetched by the thread that drives it."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._offers = Offers()
        self._asked: dict[str, Offer] = {}  # chosen, and not handed over yet
        self._over = ""

    @property
    def free(self) -> tuple[Offer, ...]:
        """What may be chosen now."""
        with self._lock:
            held = self._offers.waiting | set(self._asked)
            return () if self._over else tuple(o for name, o in self._offers.open.items() if name not in held)

    @property
    def waiting(self) -> frozenset[str]:
        """Names that were chosen and that the run has not answered yet."""
        with self._lock:
            return frozenset(self._offers.waiting | set(self._asked))

    def choose(self, name: str) -> None:
        """Leave a choice. NotOffered says why that cannot be."""
        with self._lock:
            offered = self._offers.open
            if self._over:
                raise NotOffered(f"{self._owner} {self._over}: nothing can be done in it any more")
            if name in self._offers.waiting or name in self._asked:
                raise NotOffered(f"{name!r} was chosen before; {self._owner} has not answered yet")
            if name not in offered:
                there = f"it offers {', '.join(offered)}" if offered else "it offers nothing"
                raise NotOffered(f"{self._owner} does not offer {name!r} now; {there}")
            self._asked[name] = offered[name]

    def take(self, event: Event) -> None:
        """Hear of what the work said."""
        if isinstance(event, Offer | Act):
            with self._lock:
                self._offers.take(event)

    def fetch(self) -> list[Act | Note]:
        """An Act for each choice left since, in their order; a Note for one that was taken back meanwhile."""
        if not self._asked:
            return []
        with self._lock:
            said: list[Act | Note] = []
            for name, offer in self._asked.items():
                if name in self._offers.open:
                    said.append(Act(name, offer.label))
                    self._offers.waiting.add(name)
                else:
                    said.append(_late(offer, "it had been taken back"))
            self._asked.clear()
            return said

    def close(self, why: str) -> list[Note]:
        """Take no more choices, because of `why`; a Note for each that the run never heard of."""
        with self._lock:
            self._over = self._over or why
            late = [_late(offer, "the run had ended") for offer in self._asked.values()]
            self._asked.clear()
            return late


def _late(offer: Offer, why: str) -> Note:
    return Note(f"not done: {offer.label}; {why}", "warning")

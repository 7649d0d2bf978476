"""What the user may do in a run that is going on: a button each, and a mark of what was done.

A button keeps its place while the run goes on. One that is taken back stays there, faint, until another comes into its
place: nothing moves under the pointer, and no press meets what it was not meant for.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Sequence
from html import escape
from typing import Protocol

import ipywidgets as widgets

from workbench import theme
from workbench.offers import NotOffered, Offers
from workbench.system import Act, Event, Offer
from workbench.ui.view import View

REST_S = 1.5  # a place stays empty so long: whoever was about to press there sees that it has changed
_WAITING = "waiting for the run"


class Acting(Protocol):
    """A run, as far as it is acted in."""

    @property
    def waiting(self) -> frozenset[str]:
        """Names that were chosen and not answered."""

    def act(self, name: str) -> None:
        """Choose an offer."""


class Board(Offers):
    """Offers as they stand: `places` by group, the open ones and those left empty; `marks` of what was done."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, list[Offer]] = {}
        self.marks: list[tuple[int, float, Act]] = []  # (how many events up to it, seconds, what)
        self._left_s: dict[str, float] = {}  # name -> when it was taken back

    def hear(self, place: int, at_s: float, event: Event) -> None:
        """Fold in an event: the `place`-th, from 1."""
        self.take(event)
        if isinstance(event, Act):
            self.marks.append((place, at_s, event))
        elif isinstance(event, Offer):
            self._leave(event, at_s)
            if event.open:
                self._settle(event, at_s)

    def _leave(self, event: Offer, at_s: float) -> None:
        """What stood under this name stands there no more."""
        self._left_s[event.name] = at_s
        for row in self.places.values():
            for at, one in enumerate(row):
                if one.name == event.name:
                    row[at] = dataclasses.replace(one, open=False)

    def _settle(self, event: Offer, at_s: float) -> None:
        """Its own place, else the first that has been empty for a while, else a new one."""
        row = self.places.setdefault(event.group, [])
        own = [at for at, one in enumerate(row) if one.name == event.name]
        empty = [at for at, one in enumerate(row) if not one.open and at_s - self._left_s[one.name] >= REST_S]
        at = next(iter(own + empty), len(row))
        row[at : at + 1] = [event]


class Acts(widgets.VBox):  # type: ignore[misc]
    """Takes no room before the run offers something, and none when it has ended."""

    def __init__(self) -> None:
        self.buttons, self.told = View(), widgets.HTML()
        self._board = Board()
        self._run: Acting | None = None
        self._lock = threading.RLock()  # the run's painter and a press paint the same row
        super().__init__([self.buttons, self.told])
        self.add_class("wb-acts")
        self.layout.display = "none"
        self.buttons.on_pick(self.press)

    def follow(self, run: Acting | None) -> None:
        """Let the buttons act in this run; in none: show nothing."""
        self._run = run
        self.told.value = ""

    def paint(self, board: Board, live: bool) -> None:
        """Show the offers of a run that goes on; of another nothing."""
        with self._lock:
            self._board = board
            shown = live and bool(board.places)
            self.layout.display = "" if shown else "none"
            html = buttons_html(board, self._waiting()) if shown else ""
            if self.buttons.html != html:
                self.buttons.html = html

    def press(self, name: str) -> None:
        """What a button does: choose what it offers. What is refused is told below the buttons."""
        if self._run is None:
            return
        said = ""
        try:
            self._run.act(name)
        except NotOffered as error:
            said = f'<div class="wb-error" role="alert">not done: {escape(str(error))}</div>'
        if self.told.value != said:
            self.told.value = said
        with self._lock:  # the run's last picture may come between
            self.paint(self._board, live=self.layout.display == "")

    def _waiting(self) -> set[str]:
        return self._board.waiting | (self._run.waiting if self._run is not None else frozenset())

    def __repr__(self) -> str:
        return "Acts()"


def buttons_html(board: Board, waiting: Iterable[str] = ()) -> str:
    """A group a row, a button an offer, and what was done so far."""
    held = set(waiting)
    groups = "".join(_group(name, row, held) for name, row in list(board.places.items()))
    done = list(board.marks)
    said = f'<div class="wb-quiet" aria-live="polite">Done by hand: {_latest(done)}</div>' if done else ""
    bar = '<div class="wb-actbar" role="toolbar" aria-label="what you may do while it runs" data-home tabindex="-1">'
    return f"{bar}{groups}</div>{said}"


def _group(name: str, row: Sequence[Offer], waiting: set[str]) -> str:
    title = name or "while it runs"
    cells = "".join(_button(offer, offer.name in waiting) for offer in row)
    head = f'<h4 aria-hidden="true">{escape(title)}</h4>'
    return f'<div class="wb-actgroup" role="group" aria-label="{escape(title)}">{head}<div>{cells}</div></div>'


def _button(offer: Offer, waiting: bool) -> str:
    """Free, chosen and waiting, or left empty: told by look, by words and by aria-disabled."""
    kind, note = (
        ("wb-gone", "not any more") if not offer.open else ("wb-asked", _WAITING) if waiting else ("", offer.note)
    )
    off = ' aria-disabled="true"' if kind else ""
    aria = escape(f"{offer.label}: {note}" if note else offer.label)
    words = f"<b>{escape(offer.label)}</b><span>{escape(note)}</span>"
    return (
        f'<button type="button" class="wb-act {kind}" data-pick="{escape(offer.name)}" aria-label="{aria}" '
        f'title="{aria}"{off}>{words}</button>'
    )


def _latest(marks: Sequence[tuple[int, float, Act]]) -> str:
    """The last few in words, the newest first."""
    shown = [f"{escape(act.label)} ({theme.number(at_s)} s)" for _, at_s, act in marks[:-6:-1]]
    more = len(marks) - len(shown)
    return ", ".join(shown) + (f" and {more} before" if more > 0 else "")


def marks_html(marks: Sequence[tuple[int, float, Act]], place: int) -> str:
    """A button for each thing that was done, which leads to it; those after `place` are still to come."""
    if not marks:
        return ""
    cells = "".join(
        f'<button type="button" class="wb-mark{"" if at <= place else " wb-tocome"}" data-pick="{at}" '
        f'aria-label="go to {escape(act.label)} at {theme.number(at_s)} seconds" '
        f'aria-current="{"true" if at == place else "false"}">'
        f"{escape(act.label)} <span>{theme.number(at_s)} s</span></button>"
        for at, at_s, act in marks
    )
    return f'<div class="wb-marks" role="group" aria-label="done by hand"><b>Done by hand</b>{cells}</div>'


def by_hand(count: int) -> str:
    """A word for a result that its settings alone did not decide; "" when they did."""
    return f"{count} {'thing' if count == 1 else 'things'} done by hand" if count else ""

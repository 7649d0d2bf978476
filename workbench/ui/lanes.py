"""Things in lanes that are moved: dragged by a pointer, carried by keys, or pressed and put down; the setting follows.

    lanes = Lanes(change)              change(setting, text) when something is moved, None: as the system has it
    lanes.show(board)                  what there is to move, and what comes of where it lies

The text of the setting (workbench.lanes), in the form, is the same in writing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets as widgets

from workbench.lanes import Board, Rows, write
from workbench.ui.bank import board_html, sheets_html
from workbench.ui.view import PANE, View

Change = Callable[[str, str | None], None]
_MOST_UNDO = 200
_HINT = (
    "Drag {a} {thing} to another lane. With keys: Enter lifts it, arrows carry it to other lanes, Enter puts it down, "
    "Escape takes it back."
)


class LanesView(View):
    """A pane whose parts with `data-drag` can be dropped on those with `data-drop`, and carried there by keys."""

    _esm = PANE + (Path(__file__).parent / "lanes.js").read_text(encoding="utf-8")

    def on_drop(self, call: Callable[[str, str], None]) -> None:
        """`call(what, where)` when a part was dropped."""
        self.on_msg(lambda _, said, __: call(str(said["drag"]), str(said["drop"])) if "drag" in said else None)

    def on_carry(self, call: Callable[[str], None]) -> None:
        """`call(key)` at each ArrowUp, ... or Escape while a part is lifted."""
        self.on_msg(lambda _, said, __: call(str(said["key"])) if "carry" in said else None)

    def __repr__(self) -> str:
        return "LanesView()"


class Lanes(widgets.VBox):  # type: ignore[misc]
    """`board` is what the system said last, `rows` what is seen: ahead of it from a move to the system's answer.

    A move that the system refuses is taken back, with the reason. All of it works from any thread.
    """

    def __init__(self, change: Change) -> None:
        self.board: Board | None = None
        self.rows: Rows = ()
        self.sheet = self.entry = 0  # entry: the thing that Tab reaches
        self.every = False  # whether a move is one in all sheets
        self.lifted: int | None = None
        self._change = change
        self._given = False
        self._past: list[tuple[Rows, bool]] = []
        self._kept = 0  # length of the past when a thing was lifted
        self._from: tuple[Rows, bool] = (), False  # and where all was then: what Escape goes back to
        self._note, self._alert, self._turn = "", False, 0
        self._lock = threading.RLock()
        self.sheets, self.drawn, self.told = View(), LanesView(), View()
        self.undo = widgets.Button(description="Undo", tooltip="Take the last move back")
        self.reset = widgets.Button(description="Not by hand", tooltip="Leave it to the system again")
        buttons = widgets.HBox([self.undo, self.reset])
        buttons.add_class("wb-steps")
        super().__init__([self.sheets, self.told, self.drawn, buttons])
        self.add_class("wb-moving")
        self.layout.display = "none"
        self.sheets.on_pick(self._on_sheet)
        self.drawn.on_pick(self.pick)
        self.drawn.on_drop(self.drop)
        self.drawn.on_carry(self.carry)
        self.undo.on_click(lambda _: self.back())
        self.reset.on_click(lambda _: self.leave())

    # -- what a user does ------------------------------------------------------------------------------------------

    def pick(self, name: str) -> None:
        """A thing was pressed, which lifts it or puts it down; or a lane, into which what is lifted goes."""
        kind, _, number = name.partition(":")
        with self._lock:
            if kind in ("lane", "group"):
                if self.lifted is not None:
                    self.drop(f"thing:{self.lifted}", name)
            elif kind == "thing" and self._has(int(number)):
                self.entry = int(number)
                down = self.lifted == self.entry
                self.lifted = None if down else self.entry
                self._kept, self._from = len(self._past), (self.rows, self._given)
                if down:
                    self._say(f"put down on {self._lane(self.entry)}")
                else:
                    self._say(f"lifted from {self._lane(self.entry)}: arrows carry it, Escape takes it back")

    def drop(self, what: str, where: str) -> None:
        """A thing was dropped on a lane, or on a group: then into its emptiest lane."""
        with self._lock:
            board, thing = self.board, int(what.partition(":")[2])
            kind, _, number = where.partition(":")
            if board is None or not self._has(thing):
                return
            self.lifted, self.entry, lane = None, thing, int(number)
            if kind == "group":
                group, here = board.groups[lane], board.lanes[self.rows[self.sheet][thing]].group
                lane = self.rows[self.sheet][thing] if group == here else board.emptiest(group, self.sheet, self.rows)
            self.move(thing, lane)

    def carry(self, key: str) -> None:
        """What is lifted goes up and down the lanes of its group, left and right to the next group, or back."""
        with self._lock:
            board, thing = self.board, self.lifted
            if board is None or thing is None:
                return
            if key == "Escape":
                self._escape(thing)
                return
            lane = self.rows[self.sheet][thing]
            groups, group = board.groups, board.lanes[lane].group
            own = board.lanes_of(group)
            at, step = own.index(lane), {"ArrowUp": -1, "ArrowDown": 1}.get(key, 0)
            if not step:
                other = groups.index(group) + {"ArrowLeft": -1, "ArrowRight": 1}.get(key, 0)
                own = board.lanes_of(groups[min(max(other, 0), len(groups) - 1)])
            self.move(thing, own[min(max(at + step, 0), len(own) - 1)])

    def move(self, thing: int, lane: int) -> None:
        """Into another lane, of this sheet or of every one."""
        with self._lock:
            board = self.board
            if board is None:
                return
            rows = tuple(
                (*row[:thing], lane, *row[thing + 1 :]) if self.every or sheet == self.sheet else row
                for sheet, row in enumerate(self.rows)
            )
            if rows == self.rows:
                self._say(f"stays on {board.lanes[lane].label}")
                return
            before = self._lane(thing)
            self._kept -= len(self._past) > _MOST_UNDO  # the oldest goes
            self._past = [*self._past[-_MOST_UNDO:], (self.rows, self._given)]
            everywhere = f", in every {board.sheet}" if self.every else ""
            self._take(rows, True, f"{board.thing} {thing}: {before} to {board.lanes[lane].label}{everywhere}")

    def back(self) -> None:
        """Take the last move back."""
        with self._lock:
            if self._past:
                self.lifted = None
                self._take(*self._past.pop(), "the last move is taken back")

    def leave(self) -> None:
        """Leave the placement to the system; Undo brings what was moved again."""
        with self._lock:
            if self._given:
                self._past = [*self._past[-_MOST_UNDO:], (self.rows, True)]
                self.lifted = None
                self._take(self.rows, False, "left to the system again")

    def _escape(self, thing: int) -> None:
        self.lifted = None
        if len(self._past) > self._kept:
            self._past = self._past[: max(self._kept, 0)]
            self._take(*self._from, "")
        self._say(f"taken back to {self._lane(thing)}")

    def _on_sheet(self, name: str) -> None:
        with self._lock:
            if name == "every":
                self.every = not self.every
            else:
                self.sheet, self.lifted = int(name), None
            self._note = ""
            self._draw()

    # -- what the system says --------------------------------------------------------------------------------------

    def show(self, board: Board, latest: Callable[[], bool] = lambda: True) -> None:
        """What the system says of a setting, if that is still what is asked for: `latest()`."""
        with self._lock:
            if not latest():
                return
            old, self.board = self.board, board
            if old is None or (len(old.lanes), len(old.rows), len(old.rows[0])) != (
                len(board.lanes), len(board.rows), len(board.rows[0]),
            ):  # fmt: skip
                self._past, self.sheet, self.entry, self.lifted, self._note = [], 0, 0, None, ""
            if self.rows != board.rows:
                self.lifted = None  # another placement: not what was in hand
            self.rows, self._given = board.rows, board.given
            self._draw()

    def refuse(self, why: str, latest: Callable[[], bool] = lambda: True) -> None:
        """The system cannot have what is asked for: what was moved since its last word is taken back."""
        with self._lock:
            board = self.board
            if board is None or not latest() or self.rows == board.rows:
                return
            rows = self.rows
            while self._past and rows != board.rows:
                rows = self._past.pop()[0]
            self.lifted = None
            self._take(board.rows, board.given, f"refused: {why}", alert=True)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def _take(self, rows: Rows, given: bool, note: str, alert: bool = False) -> None:
        self.rows, self._given = rows, given
        self._note, self._alert = note, alert
        self._draw()
        if self.board is not None:
            self._change(self.board.field, write(rows) if given else None)

    def _has(self, thing: int) -> bool:
        return bool(self.rows) and 0 <= thing < len(self.rows[self.sheet])

    def _lane(self, thing: int) -> str:
        return self.board.lanes[self.rows[self.sheet][thing]].label if self.board else ""

    def _say(self, what: str) -> None:
        if self.board is not None:
            self._note, self._alert = f"{self.board.thing} {self.entry} {what}", False
            self._draw()

    def _draw(self) -> None:
        board = self.board
        if board is None:
            return
        self.layout.display = ""
        self._turn += 1  # a drop that changes nothing draws anew too: the thing goes back to where it was
        self.sheets.html = sheets_html(board, self.rows, self.sheet, self.every)
        self.drawn.html = board_html(board, self.rows, self.sheet, self.entry, self.lifted, self._turn)
        self.told.html = self._told(board)
        self.undo.disabled, self.reset.disabled = not self._past, not self._given

    def _told(self, board: Board) -> str:
        a = "an" if board.thing[0] in "aeiou" else "a"
        note = escape(self._note[:1].upper() + self._note[1:]) or _HINT.format(a=a, thing=board.thing)
        faint = ' class="wb-dim"' if self.rows != board.rows else ""
        kind = 'class="wb-error" role="alert"' if self._alert else 'class="wb-help"'
        return f'<div role="status" aria-live="polite"><p{faint}>{board.told}</p><p {kind}>{note}</p></div>'

    def __repr__(self) -> str:
        return "Lanes()"

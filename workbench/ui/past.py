"""The History tab: past runs of the system, to reopen in this panel or to delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets

from workbench import records, theme
from workbench.records import Record
from workbench.ui.live import STATES
from workbench.ui.view import View

_LISTED = 100
_CALL = 160  # letters of a call: a setting may hold a whole graph


class Past(widgets.VBox):  # type: ignore[misc]
    """Lists records of system `name`. `on_open` and `on_delete` hear which record was meant, `on_found` all of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_open: Callable[[Record], None] = lambda _: None
        self.on_delete: Callable[[Record], None] = lambda _: None
        self.on_found: Callable[[list[Record]], None] = lambda _: None
        self._found: dict[str, Record] = {}
        self.listed = widgets.Select(options=[], rows=8, tooltip="Past runs, the newest first")
        self.listed.add_class("wb-past")
        self.reopen = widgets.Button(description="Reopen", tooltip="Show this run here, its settings in the form")
        self.delete = widgets.Button(description="Delete", tooltip="Remove this run from disk")
        self.refresh_now = widgets.Button(description="Refresh", tooltip="Look for new runs")
        self.told = View()
        buttons = widgets.HBox([self.reopen, self.delete, self.refresh_now])
        buttons.add_class("wb-steps")
        super().__init__([self.listed, buttons, self.told])
        self.reopen.on_click(lambda _: self._act(self.on_open))
        self.delete.on_click(lambda _: self._on_delete())
        self.refresh_now.on_click(lambda _: self.refresh())
        self.listed.observe(self._on_choice, "value")
        self.refresh()

    @property
    def chosen(self) -> Record | None:
        """The record that is marked in the list."""
        return self._found.get(str(self.listed.value))

    @property
    def found(self) -> list[Record]:
        """The records in the list, the newest first."""
        return list(self._found.values())

    def refresh(self) -> None:
        """Read the list anew; what was chosen stays so while it is there, else the newest is marked."""
        newest, chosen, armed = next(iter(self._found), None), self.listed.value, self.delete.description
        found = records.history(self.name)
        self._found = {record.id: record for record in list(found)[:_LISTED]}
        self.listed.options = [(_line(record), record.id) for record in self._found.values()]
        stays = chosen != newest and chosen in self._found
        self.listed.value = chosen if stays else next(iter(self._found), None)
        for button in (self.reopen, self.delete):
            button.disabled = not self._found
        said = "" if self._found else '<div class="wb-quiet">No run of this system is on disk yet.</div>'
        more = f"The newest {_LISTED} of {len(found)} runs." if len(found) > _LISTED else ""
        self.told.html = f'{said}<div class="wb-quiet">{more}</div>{unread_html(found.skipped)}'
        self._on_choice(None)
        if stays:
            self.delete.description = armed
        self.on_found(self.found)

    def _on_choice(self, _: Any) -> None:
        self.delete.description = "Delete"

    def _on_delete(self) -> None:
        """The first press asks, the second deletes."""
        if self.delete.description == "Delete":
            self.delete.description = "Really delete"
        else:
            self._act(self._remove)

    def _remove(self, record: Record) -> None:
        record.delete()
        self.on_delete(record)
        self.refresh()

    def _act(self, call: Callable[[Record], None]) -> None:
        record = self.chosen
        if record is None:
            return
        try:
            call(record)
        except (ValueError, OSError) as error:  # deleted meanwhile, or of another version
            self.told.html = f'<div class="wb-error" role="alert">{escape(str(error))}</div>'

    def __repr__(self) -> str:
        return f"Past({self.name!r})"


def _line(record: Record) -> str:
    when, took, call = told(record)
    return f"{STATES.get(record.state, '')} {record.state} · {when} · {took} · {call}"


def told(record: Record) -> tuple[str, str, str]:
    """(when it began in UTC, how long it took, its settings) in words, as lists of runs show them."""
    call = record.code.removeprefix(f'wb.run("{record.system}", ').removesuffix(")")
    call = call if len(call) <= _CALL else f"{call[: _CALL - 1]}…"
    return record.started_at[:19].replace("T", " "), f"{theme.number(record.seconds)} s", call


def unread_html(skipped: Sequence[str]) -> str:
    """What of the history could not be read, a line each with its cause; nothing where all was."""
    bad = "".join(f"<li>{escape(line)}</li>" for line in skipped)
    return f'<div class="wb-quiet wb-unread">Not readable, left alone:<ul>{bad}</ul></div>' if bad else ""

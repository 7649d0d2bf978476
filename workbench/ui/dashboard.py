"""All systems at once: this machine, a card for each, a panel when one is asked for, and the runs of all of them.

board = wb.open()
board.cards["cake"].start(); board.wait()
"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape
from typing import Any, overload

import ipywidgets as widgets

from workbench import doctor
from workbench.records import Record
from workbench.system import Config, Result, System, systems
from workbench.ui import machine
from workbench.ui.card import Card, Turns, columns
from workbench.ui.iopub import keep_all
from workbench.ui.panel import Panel, open_panel
from workbench.ui.past import Past
from workbench.ui.runs import Runs
from workbench.ui.view import View

_TITLE = (
    "<h3>Workbench</h3>"
    '<p class="wb-about">Published systems, running here. A card runs a preset; its panel has every setting, '
    "figure and table. Nothing starts before a press.</p>"
)


class Place(widgets.VBox):  # type: ignore[misc]
    """Where a panel lies once one is wanted: one at a time, so that there is at most one of its live figures."""

    def __init__(self) -> None:
        self.panel: Panel | None = None
        self.on_found: Callable[[], None] = lambda: None  # the open panel has read its history anew
        self.on_closed: Callable[[System], None] = lambda _: None
        self._opened = 0
        self.head = View()
        self.head.on_pick(lambda _: self.close_panel())
        super().__init__([])
        self.add_class("wb-place")
        self._lay()

    def put(self, system: System, what: Record | Config) -> Panel:
        """Open the panel of a system with a past run or settings; the one that is open stays if it is this system's.

        ValueError where another one's run is going, or the run of the past cannot be read.
        """
        if self.panel is None or self.panel.system is not system:
            self._free()
            fresh = open_panel(what) if isinstance(what, Record) else open_panel(system, what)
            self._clear()
            self.panel = fresh
            self._hear(fresh.results.past)
        elif isinstance(what, Record):
            self.panel.reopen(what)
        self._opened += 1
        name = escape(system.short)
        self.head.html = (
            f'<div class="wb-placehead" data-reveal="{self._opened}" tabindex="-1"><h4>Panel of {name}</h4>'
            f'<button type="button" class="wb-toggle" data-pick="close">Close</button></div>'
        )
        self._lay(self.head, self.panel)
        return self.panel

    def close_panel(self) -> None:
        """Close it. While it runs it stays, and says so."""
        try:
            self._free()
        except ValueError as error:
            self._lay(self.head, _told(str(error)), self.panel)
            return
        closed = self.panel
        self._clear()
        if closed is not None:
            self.on_closed(closed.system)

    def _free(self) -> None:
        if self.panel is not None and self.panel.jobs.busy:
            name = self.panel.system.short
            raise ValueError(f"the panel of {name} is running: cancel it or wait, then close it or open another")

    def _clear(self) -> None:
        if self.panel is not None:
            self._lay()
            _close(self.panel)
            self.panel = None

    def _hear(self, past: Past) -> None:
        offer = past.on_found

        def found(listed: list[Record]) -> None:
            offer(listed)
            self.on_found()

        past.on_found = found

    def _lay(self, *parts: Any) -> None:
        self.children = parts
        self.layout.display = "" if parts else "none"


class Dashboard(widgets.VBox):  # type: ignore[misc]
    """Every system as a card. Making it reads small files and loads no engine; nothing runs before a press."""

    def __init__(self) -> None:
        keep_all()
        catalogue = dict(systems())
        self.turns, self.place = Turns(), Place()
        self.machine = View()
        self.cards = {name: Card(one, self.turns) for name, one in catalogue.items()}
        self.runs = Runs(catalogue)
        self.runs.on_open, self.place.on_found = self.open_record, self.refresh
        self.place.on_closed = lambda closed: self.cards[closed.name].open_button.focus()  # where the keys were
        for card in self.cards.values():
            card.on_open, card.on_ended, card.beside = self.open_card, self._ended, self._beside
        title = widgets.HTML(_TITLE)
        title.add_class("wb-title")
        cards = columns(list(self.cards.values()))
        super().__init__([title, self.machine, cards, self.place, self.runs])
        self.add_class("wb-panel")
        self.add_class("wb-dash")
        findings = doctor.examine()
        self.machine.html = machine.html(findings)
        self.runs.place(next((f for f in findings if f.what == "history"), None))
        self.refresh()

    @property
    def panel(self) -> Panel | None:
        """The panel that is open."""
        return self.place.panel

    def refresh(self) -> None:
        """Read the history anew, for the list and for what each card says of its last run."""
        self.runs.refresh()
        for name, card in self.cards.items():
            card.tell(self.runs.last(name))

    def open_card(self, card: Card) -> None:
        """What Open panel does: the panel with the card's preset, or as it was left."""
        try:
            self.place.put(card.system, card.system.presets[str(card.preset.value)])
        except ValueError as error:
            card.refuse(str(error))

    def open_record(self, record: Record) -> None:
        """Open a past run in its panel. ValueError says why it cannot be."""
        self.place.put(self.cards[record.system].system, record)

    def wait(self, timeout_s: float = 60.0) -> Dashboard:
        """Until no card runs or waits any more. TimeoutError after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while (card := self.turns.first) is not None:
            card.jobs.wait(max(0.0, until - time.monotonic()))
            time.sleep(0.005)
        return self

    def _ended(self) -> None:
        """A card's run has ended: the list, the cards and the history of the panel that is open follow."""
        panel = self.panel  # a worker asks, while Close may take it away
        if panel is not None and not panel.jobs.busy:
            panel.results.past.refresh()  # which has all else refreshed
        else:
            self.refresh()

    def _beside(self) -> str:
        """What else runs, for the card that starts."""
        panel = self.place.panel
        if panel is None or not panel.jobs.busy:
            return ""
        return f"beside the run in {panel.system.short}'s panel: measured times are of a shared machine"

    def __repr__(self) -> str:
        return "Dashboard()"


@overload
def open_view() -> Dashboard: ...
@overload
def open_view(
    target: str | System | Config | Record | Result,
    config: Config | None = None,
    *,
    preset: str | None = None,
    **changes: Any,
) -> Panel: ...
def open_view(
    target: str | System | Config | Record | Result | None = None,
    config: Config | None = None,
    *,
    preset: str | None = None,
    **changes: Any,
) -> Panel | Dashboard:
    """`open()`: the Dashboard over all systems; `open("cake")`, with what `open_panel` takes: the Panel of one."""
    if target is not None:
        return open_panel(target, config, preset=preset, **changes)
    if config is not None or preset is not None or changes:
        raise ValueError('name the system that these settings are of: wb.open("cake", preset="small")')
    return Dashboard()


def _told(text: str) -> Any:
    return widgets.HTML(f'<div class="wb-error" role="alert">{escape(text)}</div>')


def _close(widget: Any) -> None:
    """Close a widget and all in it, in the page too."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()

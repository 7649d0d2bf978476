"""The history over all systems: filter, choose, open, lay two side by side, export. Reads no result before a press."""

from __future__ import annotations

import threading
from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets as widgets

from workbench import records
from workbench.doctor import Finding
from workbench.records import Record
from workbench.system import Span, System
from workbench.ui import export
from workbench.ui.beside import Beside
from workbench.ui.live import STATES
from workbench.ui.past import told, unread_html
from workbench.ui.view import View, table

FIRST, MORE = 10, 25  # rows at first, and with each press of More
_ALL = ""
_HINT = "Choose one run to open or export it, two of one system to compare them."


class Runs(widgets.VBox):  # type: ignore[misc]
    """Lists runs of `systems`, the newest first. `on_open(record)` hears which is wanted in its panel.

    `found` are all that can be read, `chosen` those that are marked, at most two, the first one first.
    """

    def __init__(self, systems: dict[str, System]) -> None:
        self.systems = systems
        self.on_open: Callable[[Record], None] = lambda _: None
        self.found: list[Record] = []
        self.chosen: list[Record] = []
        self.beside: Beside | None = None  # made when two are compared first
        self._shown, self._skipped, self._place = FIRST, list[str](), ""
        self._lock = threading.RLock()  # a run that ends refreshes from its thread
        names = [("all systems", _ALL), *((one.short, name) for name, one in systems.items())]
        states = [("all states", _ALL), *((state, state) for state in ("done", "cancelled", "failed"))]
        self.by_system = widgets.Dropdown(options=names, value=_ALL, tooltip="Show the runs of one system")
        self.by_state = widgets.Dropdown(options=states, value=_ALL, tooltip="Show the runs that ended like this")
        self.refresh_button = _button("Refresh", "Look for new runs")
        self.open_button = _button("Open in panel", "Its settings, events, figure and tables")
        self.compare_button = _button("Compare", "The two chosen runs side by side")
        self.export_button = _button("Export", "Page, table, JSON and trace beside this notebook")
        self.more_button = _button("More", "Older runs")
        self.told, self.listed, self.trouble = View(), View(), View()
        acts = [self.open_button, self.compare_button, self.export_button]
        bar = widgets.HBox([self.by_system, self.by_state, self.refresh_button, *acts])
        bar.add_class("wb-runbar")
        title = widgets.HTML("<h4>Runs</h4>")
        title.add_class("wb-runtitle")
        self._parts = [title, bar, self.told, self.listed, self.more_button, self.trouble]
        super().__init__(self._parts)
        self.add_class("wb-runs")
        self._connect()

    def _connect(self) -> None:
        self.listed.on_pick(self.pick)
        self.refresh_button.on_click(lambda _: self.refresh())
        self.open_button.on_click(lambda _: self._act(self._open))
        self.compare_button.on_click(lambda _: self._act(self._compare))
        self.export_button.on_click(lambda _: self._act(self._export))
        self.more_button.on_click(lambda _: self._on_more())
        for choice in (self.by_system, self.by_state):
            choice.observe(lambda _: self._on_filter(), "value")

    @property
    def filtered(self) -> list[Record]:
        """Those of the system and the state that are asked for."""
        return [
            record
            for record in self.found
            if self.by_system.value in (_ALL, record.system) and self.by_state.value in (_ALL, record.state)
        ]

    def place(self, finding: Finding | None) -> None:
        """Say where runs are kept, and that they cannot be where that is so."""
        if finding is None or finding.ok:
            self._place = ""
        else:
            self._place = f"Runs are not kept: {finding.detail}. To keep them, {finding.how}."

    def refresh(self) -> None:
        """Read the list anew, its small files only. What is chosen stays so while it is there."""
        with self._lock:
            kept = {name: records.history(name) for name in self.systems}
            found = [record for name, listed in kept.items() for record in listed if record.system == name]
            self.found = sorted(found, key=lambda record: record.id, reverse=True)
            self._skipped = [
                f"{self.systems[name].short}: {line}"
                for name, history in kept.items()
                for line in (*history.skipped, *(_odd(r) for r in history if r.system != name))
            ]
            self._paint()
        if self.beside is not None and (of := self._compared()):
            self.beside.offer(record for record in self.found if record.system == of)

    def last(self, name: str) -> Record | None:
        """The last finished run of a system."""
        return next((r for r in self.found if r.system == name and r.state == "done"), None)

    def pick(self, key: str) -> None:
        """Mark a run, or no longer; of more than two the one marked first gives way."""
        with self._lock:
            meant = [record for record in self.found if _key(record) == key]
            kept = [record for record in self.chosen if _key(record) != key]
            self.chosen = kept if len(kept) < len(self.chosen) else [*self.chosen, *meant][-2:]
            self._paint()

    def _on_filter(self) -> None:
        with self._lock:
            self._shown = FIRST
            self._paint()

    def _on_more(self) -> None:
        with self._lock:
            self._shown += MORE
            self._paint()

    def _paint(self) -> None:
        rows = self.filtered
        there = {_key(record): record for record in rows}
        self.chosen = [there[key] for key in map(_key, self.chosen) if key in there]
        self.listed.html = self._table(rows[: self._shown])
        left = len(rows) - self._shown
        self.more_button.layout.display = "" if left > 0 else "none"
        self.more_button.description = f"{min(left, MORE)} more of {left}"
        self.open_button.disabled = len(self.chosen) != 1
        self.compare_button.disabled = len(self.chosen) != 2
        self.export_button.disabled = not self.chosen
        self._say(self._hint())
        place = f'<div class="wb-error" role="alert">{escape(self._place)}</div>' if self._place else ""
        self.trouble.html = f"{place}{unread_html(self._skipped)}"

    def _hint(self) -> str:
        if not self.chosen:
            return _HINT if self.found else ""
        names = " and ".join(f"{self.systems[r.system].short} of {told(r)[0]}" for r in self.chosen)
        return f"Chosen: {names}."

    def _say(self, text: str) -> None:
        self.told.html = f'<div class="wb-quiet" role="status">{escape(text)}</div>'

    def _alarm(self, text: str) -> None:
        self.told.html = f'<div class="wb-error" role="alert">{escape(text)}</div>'

    def _table(self, rows: list[Record]) -> str:
        if not rows:
            why = "No run is like this." if self.found else "No run is on disk yet: press Run on a card."
            return f'<div class="wb-blank">{why}</div>'
        marked = [_key(record) for record in self.chosen]
        home = next((key for key in marked if key in map(_key, rows)), _key(rows[0]))
        cells = [self._row(record, _key(record) in marked, _key(record) == home) for record in rows]
        head = ['<span class="wb-unseen">chosen</span>', "began (UTC)", "system", "state", "took", "settings"]
        body = table(head, cells)
        return f'<div class="wb-runlist" data-arrows="plane" data-lm-suppress-shortcuts="true">{body}</div>'

    def _row(self, record: Record, marked: bool, home: bool) -> list[str]:
        """One run: its box is what is picked. Tab reaches one of them, the arrow keys the others."""
        when, took, call = told(record)
        name = escape(self.systems[record.system].short)
        said = escape(f"{self.systems[record.system].short}, {record.state}, {when}")
        box = (
            f'<button type="button" class="wb-choose" role="checkbox" data-pick="{escape(_key(record))}" '
            f'aria-checked="{str(marked).lower()}" tabindex="{0 if home else -1}" aria-label="{said}">'
            f"{'✓' if marked else ''}</button>"
        )
        ended = escape(record.state)
        state = f'<span class="wb-pill wb-{ended}">{STATES.get(record.state, "")} {ended}</span>'
        why = f'<div class="wb-quiet">{escape(record.error)}</div>' if record.error else ""
        return [box, when, name, state, took, f'<code class="wb-settings">{escape(call)}</code>{why}']

    def _act(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (ValueError, OSError) as error:  # deleted meanwhile, damaged, of another version, a full disk
            self._alarm(str(error))

    def _open(self) -> None:
        if len(self.chosen) == 1:
            self.on_open(self.chosen[0])

    def _compare(self) -> None:
        """Two runs of one system, in what panels compare with; the rest of that system can be chosen there."""
        if len(self.chosen) != 2:
            raise ValueError("choose two runs first")
        a, b = self.chosen
        if a.system != b.system:
            names = " and ".join(self.systems[r.system].short for r in (a, b))
            raise ValueError(f"runs of different systems cannot be compared: {names}; choose two of one")
        for record in (a, b):
            if record.state != "done":
                raise ValueError(f"run {record.id} was {record.state}: it has no result to compare")
        beside = self._beside()
        beside.offer(record for record in self.found if record.system == a.system)
        beside.second.value = ""
        beside.first.value, beside.second.value = a.id, b.id

    def _beside(self) -> Beside:
        if self.beside is None:
            self.beside = Beside()
            self.beside.add_class("wb-runpair")
            self.children = (*self._parts, self.beside)
        return self.beside

    def _compared(self) -> str:
        """The system whose runs are laid side by side now."""
        if self.beside is None:
            return ""
        return next((record.system for record in self.beside.kept.values()), "")

    def _export(self) -> None:
        """What a panel saves, of each chosen run."""
        if not self.chosen:
            raise ValueError("choose a run first")
        folder, names = Path.cwd(), list[str]()
        for record in self.chosen:
            result = record.result()
            spans = [event for _, event in record.events() if isinstance(event, Span)]
            paths = export.save_all(result, folder, f"{record.system}-{record.id}", spans)
            names += [path.name for path in paths]
        self._say(f"Saved in {folder}: {', '.join(names)}")

    def __repr__(self) -> str:
        return "Runs()"


def _button(text: str, tip: str) -> widgets.Button:
    return widgets.Button(description=text, tooltip=tip)


def _odd(record: Record) -> str:
    return f"{record.id}: record.json says that it is of {record.system!r}"


def _key(record: Record) -> str:
    return f"{record.system}/{record.id}"

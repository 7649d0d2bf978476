"""The Compare tab: two results from this panel or from the history, or all of the baselines at once."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import ipywidgets as widgets

from workbench.records import Record
from workbench.system import Result
from workbench.ui.compare import Comparison, result_of
from workbench.ui.pane import FigurePane
from workbench.ui.view import View

_HINT = (
    '<div class="wb-blank">Run twice, press Run baselines, or choose two past runs: '
    "results are laid side by side here.</div>"
)
_NONE = ("choose a result", "")


class Beside(widgets.VBox):  # type: ignore[misc]
    """Holds results by key, a run's id where it has one; `comparison` is what is shown, None at first.

    `sources` are those of this panel, the newest first; `kept` are the runs on disk, read when they are chosen.
    """

    def __init__(self) -> None:
        self.sources: dict[str, Result | Record] = {}
        self.kept: dict[str, Record] = {}
        self.comparison: Comparison | None = None
        self._names: dict[str, str] = {}  # key -> what a source is called where it is shown
        self._busy = False
        self.first = widgets.Dropdown(description="Compare", options=[_NONE], tooltip="What the other is measured by")
        self.second = widgets.Dropdown(description="with", options=[_NONE], tooltip="The other result")
        self.told, self.figure = View(), FigurePane()
        pair = widgets.HBox([self.first, self.second])
        pair.add_class("wb-pair")
        super().__init__([pair, self.told, self.figure])
        self.told.html = _HINT
        for side in (self.first, self.second):
            side.observe(self._on_choice, "value")

    def add(self, key: str, one: Result | Record, name: str = "") -> None:
        """Offer one more, shown as `name`, else by its key; the same key again replaces it."""
        self.sources = {key: one} | {k: v for k, v in self.sources.items() if k != key}
        self._names[key] = name or key
        self._refresh()

    def offer(self, records: Iterable[Record]) -> None:
        """Offer these runs on disk besides; those without a result are left out."""
        self.kept = {record.id: record for record in records if record.state == "done"}
        self._refresh()

    def drop(self, key: str) -> None:
        """Offer one no longer."""
        self.sources.pop(key, None)
        self.kept.pop(key, None)
        self._refresh()

    def _refresh(self) -> None:
        """Both lists anew; what is chosen stays chosen while it is there."""
        known = dict.fromkeys([*self.sources, *self.kept])
        options = [_NONE, *((self._name(key), key) for key in known)]
        self._busy = True
        try:
            for side in (self.first, self.second):
                value = side.value
                side.options = options
                side.value = value if value in known else ""
        finally:
            self._busy = False

    def _name(self, key: str) -> str:
        return self._names.get(key, key)

    def show(self, results: dict[str, Result], trouble: dict[str, str] | None = None) -> None:
        """Lay these side by side; `trouble` says of others why they are not there."""
        said = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in (trouble or {}).items())
        errors = f'<div class="wb-error" role="alert"><ul>{said}</ul></div>' if said else ""
        try:
            self.comparison = Comparison(results)
        except ValueError as error:
            self._say(errors or f'<div class="wb-error" role="alert">{escape(str(error))}</div>')
            return
        self.told.html = errors + self.comparison.html()
        self.figure.show(self.comparison.figure())

    def _on_choice(self, _: Any) -> None:
        keys = [self.first.value, self.second.value]
        if self._busy or not all(keys):
            return
        if keys[0] == keys[1]:
            self._say('<div class="wb-quiet">Choose two different results.</div>')
            return
        try:
            chosen = {self._name(key): result_of(self.sources.get(key) or self.kept[key]) for key in keys}
        except (ValueError, OSError) as error:  # a record that was deleted or is of another version
            self._say(f'<div class="wb-error" role="alert">{escape(str(error))}</div>')
            return
        self.show(chosen)

    def _say(self, html: str) -> None:
        """Words where no comparison can be shown."""
        self.comparison = None
        self.told.html = html
        self.figure.clear()

    def __repr__(self) -> str:
        return "Beside()"

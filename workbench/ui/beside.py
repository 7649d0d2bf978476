"""The Compare tab: two results from this panel or from the history, or all of the baselines at once."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from workbench.records import Record
from workbench.system import Result
from workbench.ui.compare import Comparison, result_of
from workbench.ui.pane import FigurePane
from workbench.ui.view import View

_HINT = '<div class="wb-blank">Run twice, or press Run baselines: results are laid side by side here.</div>'


_NONE = ("choose a result", "")


class Beside(widgets.VBox):  # type: ignore[misc]
    """Holds results by name; `comparison` is what is shown, None at first."""

    def __init__(self) -> None:
        self.sources: dict[str, Result | Record] = {}
        self.comparison: Comparison | None = None
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

    def add(self, name: str, one: Result | Record) -> None:
        """Offer one more, the newest first; the same name again replaces it."""
        self.sources = {name: one} | {k: v for k, v in self.sources.items() if k != name}
        kept = self.first.value, self.second.value
        self._busy = True
        try:
            for side, value in zip((self.first, self.second), kept, strict=True):
                side.options = [_NONE, *((name, name) for name in self.sources)]
                side.value = value if value in self.sources else ""
        finally:
            self._busy = False

    def drop(self, name: str) -> None:
        """Offer one no longer."""
        self.sources.pop(name, None)
        for side in (self.first, self.second):
            side.options = [_NONE, *((name, name) for name in self.sources)]

    def show(self, results: dict[str, Result], trouble: dict[str, str] | None = None) -> None:
        """Lay these side by side; `trouble` says of others why they are not there."""
        said = "".join(f"<li><b>{escape(k)}</b>: {escape(v)}</li>" for k, v in (trouble or {}).items())
        errors = f'<div class="wb-error" role="alert"><ul>{said}</ul></div>' if said else ""
        try:
            self.comparison = Comparison(results)
        except ValueError as error:
            self.told.html = errors or f'<div class="wb-error" role="alert">{escape(str(error))}</div>'
            self.figure.clear()
            return
        self.told.html = errors + self.comparison.html()
        self.figure.show(self.comparison.figure())

    def _on_choice(self, _: Any) -> None:
        names = [self.first.value, self.second.value]
        if self._busy or not all(names):
            return
        if names[0] == names[1]:
            self.told.html = '<div class="wb-quiet">Choose two different results.</div>'
            self.figure.clear()
            return
        try:
            chosen = {name: result_of(self.sources[name]) for name in names}
        except (ValueError, OSError) as error:  # a record that was deleted or is of another version
            self.told.html = f'<div class="wb-error" role="alert">{escape(str(error))}</div>'
            self.figure.clear()
            return
        self.show(chosen)

    def __repr__(self) -> str:
        return "Beside()"

"""A part of a panel that is folded away under its title, and unfolded by a click, by Enter or by Space."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets
import traitlets

from workbench.ui.view import View


class Fold(widgets.VBox):  # type: ignore[misc]
    """`unfolded` says whether `body` is shown. ipywidgets has an Accordion, whose heads no key reaches."""

    unfolded = traitlets.Bool(False)

    def __init__(self, title: str, body: Any) -> None:
        self.title, self.body, self.head = title, body, View()
        super().__init__([self.head, body])
        self.add_class("wb-group")
        self.head.on_pick(lambda _: self.set_trait("unfolded", not self.unfolded))
        self.observe(lambda _: self._draw(), "unfolded")
        self._draw()

    def _draw(self) -> None:
        self.body.layout.display = "" if self.unfolded else "none"
        mark, said = ("▾", "true") if self.unfolded else ("▸", "false")
        self.head.html = (
            f'<button type="button" class="wb-fold" data-pick="fold" aria-expanded="{said}">'
            f'<span aria-hidden="true">{mark}</span> {escape(self.title)}</button>'
        )

    def __repr__(self) -> str:
        return f"Fold({self.title!r})"

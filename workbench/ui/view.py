"""A pane of HTML that follows the JupyterLab theme and tells which of its parts was clicked."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import anywidget
import traitlets

PANE = (Path(__file__).parent / "view.js").read_text(encoding="utf-8")  # defines `pane`, which a view exports


class View(anywidget.AnyWidget):  # type: ignore[misc]
    """Shows `html`; a click, Enter or Space on a part with `data-pick="x"` calls what `on_pick` was given with "x"."""

    html = traitlets.Unicode("").tag(sync=True)
    _esm = f"{PANE}\nexport default pane;\n"
    _css = Path(__file__).parent / "panel.css"

    def on_pick(self, call: Callable[[str], None]) -> None:
        """`call(name)` at each pick, of the same part again too: a pick is a message, not a state."""
        self.on_msg(lambda _, content, __: call(str(content["pick"])) if "pick" in content else None)

    def __repr__(self) -> str:
        return "View()"


def table(head: list[str], rows: list[list[str]], *, caption: str = "", numeric: int = -1) -> str:
    """An HTML table of cells that are HTML already; columns from `numeric` on are set right."""

    def cells(row: list[str], tag: str) -> str:
        left, right = (
            ' style="text-align:left"',
            ' class="wb-num" style="text-align:right"',
        )  # a saved cell has no style sheet
        kind = [right if 0 <= numeric <= at else left for at in range(len(row))]
        return "".join(f"<{tag}{k}>{cell}</{tag}>" for k, cell in zip(kind, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    title = f'<caption style="text-align:left;font-weight:600">{escape(caption)}</caption>' if caption else ""
    return f'<table class="wb-table">{title}<thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table>'

"""A pane of HTML that follows the JupyterLab theme and tells which of its parts was clicked."""

from __future__ import annotations

from html import escape
from pathlib import Path

import anywidget
import traitlets

_ESM = """
export default {
  render({ model, el }) {
    const draw = () => { el.innerHTML = model.get("html"); };
    const pick = (event) => {
      const part = event.target.closest("[data-pick]");
      if (!part || (event.type === "keydown" && event.key !== "Enter" && event.key !== " ")) return;
      if (event.type === "keydown") event.preventDefault();
      model.set("picked", part.dataset.pick);
      model.save_changes();
    };
    el.addEventListener("click", pick);
    el.addEventListener("keydown", pick);
    // plotly's widget measures itself before it is in the page: a pane with data-resize beside it has it look again
    const nudge = () => { if (el.querySelector("[data-resize]")) window.dispatchEvent(new Event("resize")); };
    const redraw = () => { draw(); [300, 1000, 3000].forEach((ms) => setTimeout(nudge, ms)); };
    const shown = new ResizeObserver(() => setTimeout(nudge, 50));
    shown.observe(el);
    model.on("change:html", redraw);
    draw();
    return () => { model.off("change:html", redraw); shown.disconnect(); };
  },
};
"""


class View(anywidget.AnyWidget):  # type: ignore[misc]
    """Shows `html`; a click, Enter or Space on a part with `data-pick="x"` sets `picked` to "x"."""

    html = traitlets.Unicode("").tag(sync=True)
    picked = traitlets.Unicode("").tag(sync=True)
    _esm = _ESM
    _css = Path(__file__).parent / "panel.css"

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

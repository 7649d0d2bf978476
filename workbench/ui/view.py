"""A pane of HTML that follows the JupyterLab theme and tells which of its parts was clicked."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import anywidget
import traitlets

_ESM = """
export default {
  render({ model, el }) {
    // Tab reaches one part, arrows, Home and End the others; the focus survives that the html is drawn anew
    const parts = () => [...el.querySelectorAll("[data-pick]")];
    const focus = (part) => {
      parts().forEach((each) => each.setAttribute("tabindex", each === part ? "0" : "-1"));
      part.focus();
    };
    const draw = () => {
      const held = el.contains(document.activeElement) ? document.activeElement.dataset?.pick : undefined;
      el.innerHTML = model.get("html");
      const again = held === undefined ? undefined : parts().find((part) => part.dataset.pick === held);
      if (again) focus(again);
    };
    const pick = (part) => model.send({ pick: part.dataset.pick });
    el.addEventListener("click", (event) => {
      const part = event.target.closest("[data-pick]");
      if (part) { focus(part); pick(part); }
    });
    el.addEventListener("keydown", (event) => {
      const part = event.target.closest("[data-pick]");
      if (!part || event.ctrlKey || event.metaKey || event.altKey) return;
      const all = parts(), at = all.indexOf(part);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (event.key === "Enter" || event.key === " ") pick(part);
      else if (to !== undefined) focus(all[Math.min(Math.max(to, 0), all.length - 1)]);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
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
    """Shows `html`; a click, Enter or Space on a part with `data-pick="x"` calls what `on_pick` was given with "x"."""

    html = traitlets.Unicode("").tag(sync=True)
    _esm = _ESM
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

"""Progress of a run that blocks: tqdm in a terminal, lines in a file, a bar that leaves nothing in a notebook."""

from __future__ import annotations

import re
import sys
import time
from html import escape
from typing import Any, Protocol

NUMBER = re.compile(r"\d[\d,.]*")
EVERY_S = 5.0


class Bar(Protocol):
    """Shows a share from 0 to 1 and a text."""

    def update(self, share: float, text: str) -> None:
        """Show this."""

    def close(self) -> None:
        """Show no more."""


def bar(name: str) -> Bar:
    """The bar for where we are."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is not None:
        return NotebookBar(name)
    return TerminalBar(name) if sys.stderr.isatty() else LinesBar(name)


class TerminalBar:
    """One line on stderr."""

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self._name = name
        self._bar: Any = tqdm(total=100, file=sys.stderr, bar_format="{desc} {percentage:3.0f}%|{bar:30}|{elapsed}")

    def update(self, share: float, text: str) -> None:
        """Show this."""
        self._bar.set_description_str(f"{self._name}: {text[:60]}")
        self._bar.n = 100 * share
        self._bar.refresh()

    def close(self) -> None:
        """End the line."""
        self._bar.close()


class LinesBar:
    """A line on stderr for each thing that is done: for files and pipes, where a bar redrawn is noise.

    What counts up, "reads, 3 of 64", is said every EVERY_S at most.
    """

    def __init__(self, name: str) -> None:
        self._name, self._said, self._thing, self._at_s = name, "", "", 0.0

    def update(self, share: float, text: str) -> None:
        """Say this, if it is new."""
        thing, now_s = NUMBER.sub("", text), time.monotonic()
        if text == self._said or (thing == self._thing and now_s - self._at_s < EVERY_S):
            return
        self._said, self._thing, self._at_s = text, thing, now_s
        sys.stderr.write(f"{self._name}: {100 * share:3.0f}% {text}\n")

    def close(self) -> None:
        """Nothing to end."""


class NotebookBar:
    """An output of the cell, emptied at the end: a saved notebook holds results, not what time they took to come."""

    def __init__(self, name: str) -> None:
        from IPython.display import display

        self._name = name
        self._said = ""
        put: Any = display
        self._handle = put(self._bundle(0.0, ""), raw=True, display_id=True)

    def update(self, share: float, text: str) -> None:
        """Show this, if it is new."""
        said = f"{share:.3f} {text}"
        if said != self._said:
            self._said = said
            self._handle.update(self._bundle(share, text), raw=True)

    def close(self) -> None:
        """Leave an empty output."""
        self._handle.update({"text/html": "", "text/plain": ""}, raw=True)

    def _bundle(self, share: float, text: str) -> dict[str, str]:
        line = f"{self._name}: {text}"
        html = (
            f'<div role="status" style="font-size:13px">{escape(line)}<div style="height:6px;margin-top:4px;'
            f'max-width:420px;border-radius:3px;background:rgba(128,128,128,0.25)"><div style="height:6px;'
            f'width:{100 * share:.1f}%;border-radius:3px;background:#0072B2"></div></div></div>'
        )
        return {"text/html": html, "text/plain": f"{line} {100 * share:.0f}%"}

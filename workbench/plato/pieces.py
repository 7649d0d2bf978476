"""Text that comes in pieces: an id for each, stop texts that begin in one and end in another, halves of characters."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence

PIECE = re.compile(r"\s*\w{1,6}|\s*[^\w\s]|\s+")  # about a token of English
NOTHING, SYSTEM, USER, ASSISTANT = range(4)  # ids without text: a token that is not shown, who speaks


class Words:
    """Pieces of text and their ids, both ways; from any thread, as prompts and answers come on two."""

    def __init__(self) -> None:
        self._texts = ["", "", "", ""]
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def id(self, text: str) -> int:
        """Its id: always the same one, and nobody else's."""
        if not text:
            return NOTHING
        with self._lock:
            if text not in self._ids:
                self._ids[text] = len(self._texts)
                self._texts.append(text)
            return self._ids[text]

    def encode(self, text: str) -> list[int]:
        return [self.id(piece) for piece in PIECE.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._texts[i] for i in ids)


def mended(text: str, last: bool) -> str:
    """Halves of surrogate pairs joined: servers that count in UTF-16 send them one by one. One alone becomes U+FFFD;
    at the end its other half may still come, unless this is the `last` of the text.
    """
    waits = text[-1:] if not last and "\ud800" <= text[-1:] <= "\udbff" else ""
    whole = text[: len(text) - len(waits)].encode("utf-16-le", "surrogatepass")
    return whole.decode("utf-16-le", "replace") + waits


def stopped(text: str, stops: Sequence[str], ended: str) -> tuple[str, str]:
    """`text` up to the first stop text in it, and how that ends it."""
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    return (text, ended) if first < 0 else (text[:first], "stop")


def unsure(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that wait for the next event: a stop text may have begun, or half a character."""
    half = int("\ud800" <= text[-1:] <= "\udbff")
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=half)

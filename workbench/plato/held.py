"""KV of sequences that have ended, kept so that others may begin with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class _Entry:
    ids: tuple[int, ...]
    kv: Any


class Held:
    """At most `most` tokens of KV; the least recently used go first, and none is the beginning of another."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: list[_Entry] = []  # least recently used first

    @property
    def tokens(self) -> int:
        return sum(len(entry.ids) for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, ids: tuple[int, ...]) -> tuple[int, Any]:
        """How many tokens the best entry shares with `ids` from the front, and its KV; (0, None) when none does."""
        best, found = 0, None
        for entry in reversed(self._entries):
            if (n := common(ids, entry.ids)) > best:
                best, found = n, entry
        if found is None:
            return 0, None
        self._touch(found)
        return best, found.kv

    def add(self, ids: tuple[int, ...], kv: Any) -> None:
        """Keep `kv`, which holds `ids`; nothing longer than all there may be, and nothing that another holds."""
        if not ids or len(ids) > self._most:
            return
        for entry in self._entries:
            if entry.ids[: len(ids)] == ids:
                self._touch(entry)
                return
        self._entries = [e for e in self._entries if e.ids != ids[: len(e.ids)]]
        self._entries.append(_Entry(ids, kv))
        while self.tokens > self._most:
            del self._entries[0]

    def clear(self) -> None:
        self._entries.clear()

    def _touch(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self._entries.append(entry)


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens both begin with."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next((i for i in range(n) if a[i] != b[i]), n)

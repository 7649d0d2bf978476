"""Checks of what a manifest says, one line each. What does not fit is Refused as malformed, with where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.foundry.archive import refuse


class Check:
    """Checks of one archive; `where` opens every message."""

    def __init__(self, where: str) -> None:
        self.where = where

    def record(self, value: Any, what: str, fields: Mapping[str, type]) -> dict[str, Any]:
        """A dict with exactly these keys and types; True is no int."""
        if not isinstance(value, dict) or set(value) != set(fields):
            refuse("malformed", f"{self.where}: {what} has not exactly the fields {', '.join(sorted(fields))}")
        for name, kind in fields.items():
            if type(value[name]) is not kind:
                refuse("malformed", f"{self.where}: {what}.{name} is no {kind.__name__}")
        return value

    def bounds(self, value: Any, what: str, limit: int) -> int:
        """An int with 0 <= value < limit."""
        if type(value) is not int or not 0 <= value < limit:
            refuse("malformed", f"{self.where}: {what} is not a whole number from 0 to {limit - 1}")
        return value

    def pair(self, value: Any, what: str, first: int, second: int) -> tuple[int, int]:
        """Two ints, each from 0 to below its limit."""
        if not isinstance(value, list) or len(value) != 2:
            refuse("malformed", f"{self.where}: {what} is no pair")
        return self.bounds(value[0], what, first), self.bounds(value[1], what, second)

    def strings(self, value: Any, what: str) -> list[str]:
        """A list of different strings."""
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value) or len(set(value)) != len(value):
            refuse("malformed", f"{self.where}: {what} is no list of different names")
        return value

    def arena(self, value: Any) -> tuple[int, int]:
        """(base, bytes) of a manifest's arena: whole pages, where a process can have them."""
        told = self.record(value, "arena", {"base": int, "size": int})
        base, size = self.bounds(told["base"], "arena.base", 2**47), self.bounds(told["size"], "arena.size", 2**46)
        if base % 4096 or size % 4096 or not size:
            refuse("malformed", f"{self.where}: base and size of the arena are whole pages")
        return base, size

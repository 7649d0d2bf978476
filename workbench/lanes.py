"""Things in lanes, sheet by sheet, as text: for settings that hold such a placement, dragged in a panel or typed.

    0-3: 2x4 3x4; 4: 2x3 0 3x4

A part is a sheet or several (0, 1, ...), then the lane of each thing in order; `2x4` is four things in lane 2. Parts
are separated by semicolons or line ends. Every sheet has the same things, and stands in one part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

Rows = tuple[tuple[int, ...], ...]  # rows[sheet][thing]: its lane
MOST = 4096  # sheets, and things of a sheet
_PART = re.compile(r"([0-9,\-\s]+):([0-9x\s]+)")
_SHEETS = re.compile(r"([0-9]{1,4})(?:\s*-\s*([0-9]{1,4}))?")
_RUN = re.compile(r"([0-9]{1,4})(?:x([0-9]{1,4}))?")


class LanesError(ValueError):
    """Text that is no such placement; the message names the part."""


@dataclass(frozen=True)
class Lane:
    """Where things can lie. group: of lanes alike, side by side. share: of it that is in use, 0 to 1, if known."""

    label: str
    group: str
    share: float | None = None


@dataclass(frozen=True)
class Board:
    """A placement as a panel shows it. field: the setting that holds its text; given: whether it does.

    thing, sheet: what they are called. weights[sheet][thing]: its share of the sheet, if they differ. away: the group
    whose things are marked. told: what comes of the placement, a sentence of HTML.
    """

    field: str
    lanes: Sequence[Lane]
    rows: Rows
    thing: str
    sheet: str
    given: bool = False
    away: str = ""
    told: str = ""
    weights: Sequence[Sequence[float]] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups in the order of their lanes."""
        return tuple(dict.fromkeys(lane.group for lane in self.lanes))

    def lanes_of(self, group: str) -> list[int]:
        """Places of a group's lanes."""
        return [at for at, lane in enumerate(self.lanes) if lane.group == group]

    def weight(self, sheet: int, thing: int) -> float:
        """Its share of the sheet."""
        return self.weights[sheet][thing] if self.weights else 1 / len(self.rows[sheet])

    def emptiest(self, group: str, sheet: int, rows: Rows) -> int:
        """The group's lane with the least in it, the first of equals."""
        held = dict.fromkeys(self.lanes_of(group), 0.0)
        for thing, lane in enumerate(rows[sheet]):
            if lane in held:
                held[lane] += self.weight(sheet, thing)
        return min(held, key=lambda lane: (round(held[lane], 9), lane))


def read(text: str) -> Rows:
    """The lanes of a text. LanesError names the part that is malformed, and sheets that are missing or told twice."""
    found: dict[int, tuple[int, ...]] = {}
    for part in re.split(r"[;\n]", text):
        if not part.strip():
            continue
        shape = _PART.fullmatch(part.strip())
        if shape is None:
            raise LanesError(f"{part.strip()[:60]!r} is not a part like '0-3: 2x4 3x4'")
        row = _row(shape[2])
        for sheet in _sheets(shape[1]):
            if sheet in found:
                raise LanesError(f"{sheet} is told twice; leave one of them out")
            found[sheet] = row
    if not found:
        raise LanesError("there is nothing in it; write at least one part, like '0-3: 2x4 3x4'")
    gone = next((sheet for sheet in range(len(found)) if sheet not in found), None)
    if gone is not None:
        raise LanesError(f"{gone} is missing, and there is a {max(found)}; tell all from 0 on")
    rows = tuple(found[sheet] for sheet in sorted(found))
    if uneven := next((n for n, row in enumerate(rows) if len(row) != len(rows[0])), None):
        raise LanesError(f"{uneven} has {len(rows[uneven])} things, 0 has {len(rows[0])}; all have the same")
    return rows


def write(rows: Sequence[Sequence[int]]) -> str:
    """The text of a placement, the shortest that this form has."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for sheet, row in enumerate(rows):
        alike.setdefault(tuple(row), []).append(sheet)
    return "; ".join(f"{_ranges(sheets)}: {_runs(row)}" for row, sheets in alike.items())


def _row(text: str) -> tuple[int, ...]:
    row: list[int] = []
    for word in text.split():
        run = _RUN.fullmatch(word)
        if run is None:
            raise LanesError(f"{word[:20]!r} is neither a lane nor a number of things in one, as 2 or 2x4")
        row += [int(run[1])] * int(run[2] or 1)
        if len(row) > MOST:
            raise LanesError(f"{len(row)} things and more in a sheet: {MOST} at most")
    if not row:
        raise LanesError("a sheet without a thing; tell the lane of each")
    return tuple(row)


def _sheets(text: str) -> list[int]:
    found: list[int] = []
    for word in text.split(","):
        span = _SHEETS.fullmatch(word.strip())
        if span is None or int(span[2] or span[1]) < int(span[1]):
            raise LanesError(f"{word.strip()[:20]!r} is neither a sheet nor some of them, as 4 or 0-3")
        found += range(int(span[1]), int(span[2] or span[1]) + 1)
        if len(found) > MOST:
            raise LanesError(f"{len(found)} sheets: {MOST} at most")
    return found


def _ranges(sheets: Sequence[int]) -> str:
    spans = []
    for _, run in groupby(enumerate(sheets), key=lambda at: at[1] - at[0]):
        span = [sheet for _, sheet in run]
        spans.append(f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}")
    return ", ".join(spans)


def _runs(row: Sequence[int]) -> str:
    spans = ((lane, sum(1 for _ in run)) for lane, run in groupby(row))
    return " ".join(f"{lane}x{count}" if count > 1 else f"{lane}" for lane, count in spans)

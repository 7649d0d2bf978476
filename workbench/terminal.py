"""A result as text for a terminal: its sentence, its numbers with their badges, the paper's numbers beside ours."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.system import Claim, Result

MOST_COLUMNS = 120  # wider lines of prose are hard to read


def words(title: str, result: Result) -> str:
    """Everything a result of the system called `title` has to say, in plain text."""
    badges = result.provenance.badges
    summary = [(name, f"{value:.6g}", badges.get(name, "")) for name, value in result.summary().items()]
    parts = [result.sentence(), table(("number", "value", "how it was had"), summary)]
    if claims := result.claims():
        parts.append(_claims(title, claims))
    told = result.provenance
    parts.append(f"{told.backend} on {told.device}; commit {told.commit}")
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a head."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def error_pct(claim: Claim) -> float | None:
    """By how much ours is off the paper's: in per cent of it, of per cent in points; None where that means nothing."""
    if claim.ours is None or not math.isfinite(claim.ours):
        return None
    if claim.unit == "%":
        return claim.ours - claim.paper
    if claim.paper == 0:
        return None
    return 100 * (claim.ours - claim.paper) / abs(claim.paper)


def _claims(title: str, claims: Sequence[Claim]) -> str:
    """The table, and under it each different note once, by the number that its claims carry."""
    notes = list(dict.fromkeys(c.note for c in claims if c.note))
    rows = []
    for c in claims:
        mark = f" [{notes.index(c.note) + 1}]" if c.note else ""
        ours = "not in this run" if c.ours is None else f"{c.ours:.4g} {c.unit}"
        error = error_pct(c)
        off = "" if error is None else f"{error:+.1f} {'points' if c.unit == '%' else '%'}"
        rows.append((c.what + mark, f"{c.paper:.4g} {c.unit}", ours, off, c.badge, c.source))
    head = (f"claim of {title}", "paper", "ours", "error", "how ours was had", "source")
    width = min(MOST_COLUMNS, shutil.get_terminal_size((100, 24)).columns)
    told = [_note(f"[{at}] ", note, width) for at, note in enumerate(notes, start=1)]
    return "\n".join([table(head, rows), *([""] if told else []), *told])


def _note(mark: str, note: str, width: int) -> str:
    return textwrap.fill(
        note,
        width=max(width, 20),
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )

"""Tables of one's own: CSV files whose columns are the fields of a dataclass, read with the wrong line named.

rows = read(file, Price, lambda row: Price(row["name"], ...), ValueError)
write(file, Price, rows)
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read(
    file: Path, kind: type[Any], made: Callable[[Mapping[str, str]], T], error: type[ValueError] = ValueError
) -> list[T]:
    """Each line as `made` takes it. `error` names the file, and the line where `made` raised ValueError, TypeError."""
    wanted = [f.name for f in fields(kind)]
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:  # a spreadsheet puts a mark in front
            table = csv.DictReader(stream)
            if set(wanted) - set(table.fieldnames or ()):
                raise error(f"{file}: needs the columns {', '.join(wanted)}")
            return [_row(file, number, row, made, error) for number, row in enumerate(table, 2)]
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{file} cannot be read: {getattr(cause, 'strerror', None) or cause}") from cause


def _row(
    file: Path, number: int, row: Mapping[str, str], made: Callable[[Mapping[str, str]], T], error: type[ValueError]
) -> T:
    try:
        return made(row)
    except (TypeError, ValueError) as cause:
        raise error(f"{file}, line {number}: {cause}") from None


def write(file: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    """The rows, to be edited and read again; None is an empty cell."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        out = csv.DictWriter(stream, [f.name for f in fields(kind)])
        out.writeheader()
        out.writerows(asdict(row) for row in rows)

"""Benchmarks (bench.py of kernels and systems) and the files that their numbers are kept in: benchmarks/<name>.csv."""

from __future__ import annotations

import csv
import importlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench import backends

TOLD = ("at", "commit", "device")  # of every row, written here
ROW = ("case", "number", "value", "badge")  # what main() of a bench.py returns a list of, unless it has COLUMNS


def benches() -> dict[str, str]:
    """Benchmarks by the name of their folder (plato_quality: its second), and the module whose `main()` runs each."""
    places = {"workbench.kernels": backends.ROOT / "kernels", "workbench": backends.ROOT / "workbench"}
    found = {
        path.parent.name: f"{package}.{path.parent.name}.bench"
        for package, folder in places.items()
        for path in sorted(folder.glob("*/bench.py"))
    }
    more = sorted((backends.ROOT / "workbench").glob("*/quality_bench.py"))
    return found | {f"{path.parent.name}_quality": f"workbench.{path.parent.name}.quality_bench" for path in more}


def measure(name: str) -> Path:
    """Run one benchmark and keep its rows. ValueError or OSError says before it runs that they could not be kept."""
    module = importlib.import_module(benches()[name])
    columns = tuple(getattr(module, "COLUMNS", ROW))
    ready(name, columns)
    return append(name, module.main(), columns)


def ready(name: str, columns: Sequence[str] = ROW) -> Path:
    """The file that rows of these columns can be appended to. ValueError when it has others, OSError when it cannot."""
    path = backends.ROOT / "benchmarks" / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        tempfile.TemporaryFile(dir=path.parent).close()
        return path
    with path.open("r+", newline="", encoding="utf-8") as kept:  # r+: it must be writable too
        there = next(csv.reader(kept), [])
    wanted = [*TOLD, *columns]
    if there and there != wanted:
        raise ValueError(f"{path} has the columns {', '.join(there)}, not {', '.join(wanted)}; move it aside")
    return path


def append(name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ROW) -> Path:
    """Add measured rows, each with its time, commit and device; a row may name its own. ValueError: other columns."""
    path = ready(name, columns)
    told = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": backends.commit()}
    full = [told | {"device": backends.device()} | dict(row) for row in rows]
    wanted = [*TOLD, *columns]
    for row in full:
        if set(row) != set(wanted):
            raise ValueError(f"a row of {name} has the columns {', '.join(row)}, not {', '.join(wanted)}")
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, wanted)
        if new and full:
            writer.writeheader()
        writer.writerows(full)
    return path

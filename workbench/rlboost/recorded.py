"""Recorded traces under WORKBENCH_DATA, where they are: none is shipped."""

from __future__ import annotations

import os
from pathlib import Path

FOLDERS = ("bamboo", "parcae", "skypilot")  # of spot/; each set has its own licence beside it
ENDINGS = {".csv", ".txt", ".json", ".jsonl"}


def recorded(named: str = "") -> dict[str, Path]:
    """Files by name ("bamboo/p3-trace.csv") whose name holds `named`; {} without data. `traces.read` reads each."""
    root = os.environ.get("WORKBENCH_DATA")
    if not root:
        return {}
    spot = Path(root).expanduser() / "spot"
    found = (file for folder in FOLDERS for file in sorted((spot / folder).rglob("*")) if file.suffix in ENDINGS)
    return {file.relative_to(spot).as_posix(): file for file in found if named in file.relative_to(spot).as_posix()}

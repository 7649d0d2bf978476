"""Write notebooks with each figure on a line of its own: indented, half of a notebook is spaces before single numbers.

python tools/pack_notebooks.py notebooks/*.ipynb     changes files in place, whole or not at all
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

from workbench import aside


def packed(text: str) -> str:
    """The same notebook: data of outputs that is JSON (figures, views) without spaces, all else as nbformat has it."""
    notebook = json.loads(text)
    kept: dict[str, Any] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            for kind, data in output.get("data", {}).items():
                if isinstance(data, dict):
                    output["data"][kind] = mark = uuid.uuid4().hex
                    kept[mark] = data
    lines = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True)
    for mark, data in kept.items():
        line = json.dumps(data, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        lines = lines.replace(f'"{mark}"', line, 1)
    return lines + "\n"


def main() -> None:
    """Pack the files given."""
    for path in map(Path, sys.argv[1:]):
        before = path.read_text(encoding="utf-8")
        if (after := packed(before)) != before:
            with aside.whole(path) as out:
                out.write(after.encode())


if __name__ == "__main__":
    main()

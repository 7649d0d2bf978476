"""`make notebooks` on a notebook of ours: executed in place, with a history of its own, without traces of when."""

import os
import subprocess
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
CELL = 'import os, workbench as wb\nprint(os.environ["WORKBENCH_HOME"])\nprint(len(wb.history()))'


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_notebooks_are_made_with_a_history_of_their_own(tmp_path, monkeypatch):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    book.cells[0].metadata["execution"] = {"iopub.status.busy": "2026-01-01T00:00:00Z"}
    book.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path, stamp = tmp_path / "one.ipynb", tmp_path / "ready"
    nbformat.write(book, path)
    stamp.touch()  # set up, as far as make can tell
    mine = os.environ["WORKBENCH_HOME"]
    done = subprocess.run(
        ["make", "notebooks", f"NOTEBOOKS={path}", f"STAMP={stamp}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    made = nbformat.read(path, as_version=4)
    home, runs = "".join(output.text for output in made.cells[0].outputs).split()
    assert home != mine
    assert not Path(home).exists()
    assert runs == "0"
    assert made.cells[0].execution_count == 1
    assert "execution" not in made.cells[0].metadata
    assert "widgets" not in made.metadata

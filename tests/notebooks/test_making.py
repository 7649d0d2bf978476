"""`make notebooks` on a notebook of ours: executed in place, with a history of its own, without traces of when."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from pack_notebooks import main as pack  # noqa: E402
from pack_notebooks import packed  # noqa: E402

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


def test_packing_changes_no_content_and_is_done_once(tmp_path, monkeypatch):
    figure = {"data": [{"x": list(range(50)), "name": 'packed here: 0 "é"'}], "layout": {}}
    data = {"application/vnd.plotly.v1+json": figure, "text/plain": "packed here: 1"}
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell("# a")])
    book.cells[0].outputs = [nbformat.v4.new_output("display_data", data=each) for each in (data, data)]
    text = nbformat.writes(book)
    once = packed(text)
    assert json.loads(once) == json.loads(text)
    assert packed(once) == once
    assert len(once.splitlines()) < len(text.splitlines()) - 90  # two lists of fifty numbers
    file = tmp_path / "a.ipynb"
    file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["", str(file)])
    pack()
    assert file.read_text() == once
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]

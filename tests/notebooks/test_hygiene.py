"""Notebooks stay thin, small and readable without a kernel. That they run is tested by running them (nbval)."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BYTES = 200_000
CODE_CELLS = 12
MAY_IMPORT = {"workbench"}
PANEL = "application/vnd.jupyter.widget-view+json"  # what shows nothing without a kernel
SHOWN = {"text/html", "application/vnd.plotly.v1+json"}
OURS = re.compile(r"(?<![\w.])/(?:home|root|work|Users|tmp|mnt|opt|var|private)/[\w.]|[A-Z]:\\\\")


def problems(text):
    """What is wrong with a notebook, in words."""
    found = []
    if len(text.encode()) >= BYTES:
        found.append(f"{len(text.encode())} bytes: 200 KB is the most")
    notebook = json.loads(text)
    if "widgets" in notebook["metadata"]:
        found.append("holds the state of widgets: make notebooks")
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    if len(cells) > CODE_CELLS:
        found.append(f"{len(cells)} code cells: {CODE_CELLS} are the most")
    run = [c for c in cells if "nbval-skip" not in c["metadata"].get("tags", ())]  # those are shown, not run
    counts = [c["execution_count"] for c in run if "".join(c["source"]).strip()]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"not run from top to bottom: execution counts {counts}")
    for at, cell in enumerate(cells, 1):
        said = (*_code("".join(cell["source"])), *_metadata(cell["metadata"]), *_outputs(cell["outputs"]))
        found += [f"cell {at}: {each}" for each in said]
        if _kinds(cell) & {PANEL} and not _kinds(*cells[at : at + 1]) & SHOWN:
            found.append(f"cell {at}: a panel, and the next cell shows no plain result or table beside it")
    if OURS.search(text):
        found.append(f"a path of one machine: {OURS.search(text)[0]}...")
    return found


def _kinds(*cells):
    """MIME types of what these cells put out."""
    return {kind for cell in cells for output in cell["outputs"] for kind in output.get("data", {})}


def _metadata(metadata):
    for key in ("execution", "widgets", "ExecuteTime"):
        if key in metadata:
            yield f"metadata.{key} says when it ran or how it looked: make notebooks"


def _code(source):
    plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield "defines something: code belongs into the package"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] not in MAY_IMPORT:
                yield f"imports {name}: only workbench is imported"
    if plain != source:
        yield "a magic or shell line: it runs nowhere but here"


def _outputs(outputs):
    for output in outputs:
        if output["output_type"] == "error":
            yield f"ended in {output['ename']}"
        if output.get("name") == "stderr":
            yield "holds what went to stderr"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook(path):
    assert problems(path.read_text()) == []


def test_there_are_notebooks():
    assert "00_tour.ipynb" in [p.name for p in NOTEBOOKS]


def shown(*kinds):
    return {"output_type": "display_data", "data": dict.fromkeys(kinds, "x"), "metadata": {}}


def panel_then(*kinds, last=False):
    """A cell with a panel, and one after it that shows these kinds of output; or the panel's cell `last`."""
    book = json.loads(notebook("panel") if last else notebook("panel", "result"))
    book["cells"][0]["outputs"] = [shown("text/plain", PANEL)]
    if not last:
        book["cells"][1]["outputs"] = [shown(kind) for kind in kinds]
    return json.dumps(book)


@pytest.mark.parametrize("kind", sorted(SHOWN))
def test_a_panel_beside_its_plain_result_is_fine(kind):
    assert problems(panel_then("text/plain", kind)) == []


def notebook(*sources, outputs=(), counts=None, metadata=None, of_cell=None):
    cells = [
        {
            "cell_type": "code",
            "source": [source],
            "outputs": list(outputs),
            "metadata": of_cell or {},
            "execution_count": at if counts is None else counts[at - 1],
        }
        for at, source in enumerate(sources, 1)
    ]
    return json.dumps({"cells": cells, "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5})


def test_a_good_notebook_has_no_problems():
    assert problems(notebook("import workbench as wb", 'wb.run("cake")')) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (notebook("def f(): pass"), "defines something"),
        (notebook("f = lambda: 0"), "defines something"),
        (notebook("class A: pass"), "defines something"),
        (notebook("import numpy"), "imports numpy"),
        (notebook("from pathlib import Path"), "imports pathlib"),
        (notebook("%matplotlib inline"), "magic"),
        (notebook(*["1"] * 13), "13 code cells"),
        (notebook("1", "2", counts=[1, 3]), "execution counts [1, 3]"),
        (notebook("1", counts=[None]), "execution counts [None]"),
        (notebook("1", metadata={"widgets": {}}), "state of widgets"),
        (notebook("1", of_cell={"execution": {"iopub.status.busy": "2026"}}), "metadata.execution"),
        (notebook("1", of_cell={"widgets": {}}), "metadata.widgets"),
        (panel_then("text/plain"), "cell 1: a panel, and the next cell shows no plain result"),
        (panel_then(), "cell 1: a panel"),
        (panel_then(last=True), "cell 1: a panel"),
        (panel_then(PANEL), "cell 2: a panel"),
        (notebook("1", outputs=[{"output_type": "error", "ename": "KeyError"}]), "ended in KeyError"),
        (notebook("1", outputs=[{"output_type": "stream", "name": "stderr", "text": ["x"]}]), "stderr"),
        (notebook('open("/home/me/data")'), "a path of one machine"),
        (notebook("1", outputs=[{"output_type": "stream", "name": "stdout", "text": ["x" * 200_001]}]), "200 KB"),
    ],
)
def test_a_bad_notebook_is_told_so(text, said):
    assert any(said in each for each in problems(text))

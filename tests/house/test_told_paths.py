"""What texts name is there: every path of ours in README, docs, notebooks and docstrings, and no place left to fill."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = sorted(path for top in ("workbench", "kernels", "tests") for path in (ROOT / top).rglob("*.py"))
OURS = r"(?:notebooks|workbench|kernels|tests|docs|benchmarks|tools|\.ci)"
NAMED = re.compile(rf"(?<![\w/.@:~$}}>-])({OURS}/[\w./*-]*)(?![\w<{{])")
LINKED = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
TO_FILL = re.compile(r"<!--.*?-->|\bTODO\b|\bTBD\b|\bFIXME\b", re.DOTALL)


def missing(text, folder=ROOT):
    """Paths that a text names and that are not there; links are followed from `folder`."""
    links = [link for link in LINKED.findall(text) if "://" not in link and not link.startswith("mailto:")]
    named = [name.rstrip(".") for name in NAMED.findall(LINKED.sub("]", text))]
    gone = [link for link in links if not (folder / link).exists()]
    return gone + [name for name in named if not _there(name)]


def _there(name):
    return any(ROOT.glob(name)) if "*" in name else (ROOT / name).exists()


def markdown(path):
    """The text of a notebook: its markdown cells and its code."""
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_pages_name_what_is_there(path):
    assert missing(path.read_text(), path.parent) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_name_what_is_there(path):
    assert missing(markdown(path), path.parent) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_name_what_is_there(path):
    assert missing(ast.get_docstring(ast.parse(path.read_text())) or "") == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_nothing_is_left_to_fill_in(path):
    assert TO_FILL.findall(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("see docs/nosuch.md.", ["docs/nosuch.md"]),
        ("`benchmarks/nosuch.csv`", ["benchmarks/nosuch.csv"]),
        ("rows in (workbench/nosuch/*.py)", ["workbench/nosuch/*.py"]),
        ("[a page](nosuch.md#part)", ["nosuch.md"]),
        ("docs/decisions.md, workbench/ui/, kernels/*/bench.py and [this](README.md)", []),
        ("benchmarks/<name>.csv, https://x.org/docs/nosuch, ~/docs/a, workbench/{name}.py", []),
    ],
)
def test_a_path_that_is_not_there_is_seen(text, gone):
    assert missing(text) == gone


@pytest.mark.parametrize("text", ["<!-- numbers: cake -->", "a\n<!-- two\nlines -->", "TODO: more"])
def test_a_place_to_fill_in_is_seen(text):
    assert TO_FILL.search(text)

"""docs/dependencies.md tells of each package that pyproject.toml names, of no other, and of all that is imported."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as plain

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
ROW = re.compile(r"^\| `([\w.-]+)` \| ([\w.]+) \| (\d{4}-\d\d-\d\d|unknown)", re.MULTILINE)
CELLS = 6
IMPORT = re.compile(
    r"^[ \t]*(?:import (\w+)[\w., ]*$|from (\w+)[\w.]* import )", re.MULTILINE
)  # five times as fast as ast
OURS = ("workbench", "_claim", "_seed")


def asked_for():
    """{name: what is allowed} of every group of pyproject.toml."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = read["project"]["optional-dependencies"].values()
    lines = [
        *read["build-system"]["requires"],
        *read["project"]["dependencies"],
        *(e for extra in extras for e in extra),
    ]
    return {plain(one.name): one.specifier for one in map(Requirement, lines)}


def problems(page, asked):
    """Names that the page lacks or has too many, versions that are not allowed, rows that leave something out."""
    told = {plain(name): version for name, version, _ in ROW.findall(page)}
    wrong = [f"{name} is not on the page" for name in asked.keys() - told.keys()]
    wrong += [f"{name} is asked for by nothing" for name in told.keys() - asked.keys()]
    wrong += [f"{n} {v} is not {asked[n]}" for n, v in told.items() if n in asked and v not in asked[n]]
    for row in (line for line in page.splitlines() if line.startswith("| `")):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != CELLS or not all(cells):
            wrong.append(f"{cells[0]} has {len([cell for cell in cells if cell])} cells of {CELLS}")
    return wrong


def imported(*folders):
    """Top names of what is imported in these folders, also by code in strings, and is neither Python's own nor ours."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    ours = {*OURS, *(file.stem for top in ("tests", "tools") for file in (ROOT / top).rglob("*.py"))}
    found = {one or other for file in files for one, other in IMPORT.findall(file.read_text())}
    return {name for name in found - ours - sys.stdlib_module_names if not name.startswith("test_")}


def undeclared(names, asked, page):
    """Those that come from a package which is neither asked for nor named as brought by another."""
    brought = set(re.findall(r"`(\w+)`", page.partition("brings it:")[2].partition("\n\n")[0]))
    here = packages_distributions()

    def is_asked_for(name):
        packages = here.get(name) or [each for each in asked if each == name or each.startswith(f"{name}-")]
        return bool({plain(package) for package in packages} & asked.keys())

    return sorted(name for name in names - brought if not is_asked_for(name))


def test_the_page_tells_of_each_and_of_no_other():
    assert problems(PAGE, asked_for()) == []


def test_what_is_imported_is_asked_for():
    assert undeclared(imported("workbench", "kernels", "tests", "tools"), asked_for(), PAGE) == []


def test_a_gap_is_seen():
    asked = asked_for()
    row = next(line for line in PAGE.splitlines(keepends=True) if line.startswith("| `simpy`"))
    assert problems(PAGE.replace(row, ""), asked) == ["simpy is not on the page"]
    assert problems(PAGE.replace("| `simpy` |", "| `salabim` |"), asked)[1] == "salabim is asked for by nothing"
    assert problems(PAGE.replace("| `simpy` | 4.1.2", "| `simpy` | 3.0"), asked) == ["simpy 3.0 is not ==4.1.2"]
    assert problems(PAGE.replace(row, row.rstrip(" |\n").rpartition("|")[0] + "| |\n"), asked) == [
        "`simpy` has 5 cells of 6"
    ]
    assert undeclared({"simpy", "traitlets", "yaml", "requests"}, asked, PAGE) == ["requests"]
    assert undeclared({"traitlets"}, asked, "") == ["traitlets"]

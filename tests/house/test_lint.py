"""The tools of `make lint`, run as it runs them: what they find is a failure here too."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOOLS = {"ruff check": ["ruff", "check"], "ruff format": ["ruff", "format", "--check"], "mypy": ["mypy"]}
BAD = {
    "ruff check": "import os\n",  # imported for nothing
    "ruff format": "x = {  'a':1 }\n",
    "mypy": "def one() -> int:\n    return 'one'\n",
}


def said_by(tool, *args):
    """(exit code, what it said)"""
    done = subprocess.run([BIN / TOOLS[tool][0], *TOOLS[tool][1:], *args], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("tool", TOOLS)
def test_lint(tool):
    code, said = said_by(tool, *([] if tool == "mypy" else ["."]))
    assert code == 0, said


@pytest.mark.parametrize("tool", TOOLS)
def test_lint_finds_what_it_should(tool, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(BAD[tool])
    settings = ["--config-file" if tool == "mypy" else "--config", str(ROOT / "pyproject.toml")]
    code, said = said_by(tool, *settings, str(bad))
    assert code == 1
    assert "bad.py" in said


def test_make_lint_runs_the_same():
    told = subprocess.run(["make", "-n", "lint"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in ("ruff check .", "ruff format --check .", "mypy"):
        assert f".venv/bin/{line}\n" in told

"""Imports run one way and stay light; files stay short."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.system import NAMES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("workbench/**/*.py"), *ROOT.glob("kernels/**/*.py")])
LINES = 400
CPU_S = 0.3
HEAVY = ("torch", "plotly", "vllm", "ray", "pandas", "numpy", "ipywidgets", "transformers", "jupyterlab")

# What a system may stand on, beside lm and kernels.
HOUSE = {"system", "aside", "backends", "child", "dag", "held", "lanes", "lazy", "leash", "prices", "published", "pump"}
HOUSE |= {"tables", "theme", "trace", "vllm_process"}
MAY = {  # part -> parts of workbench that it may import, wherever in its files the import stands
    "kernels": set(),
    "__init__": {"claimed", "records", "runner", "system", "ui"},
    "system": {"lanes", "ui"},  # of ui only how a result shows itself, fetched when it is shown
    "backends": {"__init__", "system"},
    "offers": {"system"},
    "pump": {"system"},
    "dag": set(),
    "held": {"system"},
    "lanes": set(),
    "leash": set(),
    "prices": set(),
    "published": {"system"},
    "aside": set(),
    "claimed": {"aside", "backends", "records", "runner", "system", "terminal", "ui"},
    "tables": set(),
    "child": {"leash"},
    "vllm_process": {"backends", "child"},
    "bar": set(),
    "theme": set(),
    "trace": {"system"},
    "lm": {"backends", "kernels"},
    "records": {"runner", "system"},
    "runner": {"bar", "offers", "records", "system"},
    "ui": {
        "aside",
        "backends",
        "claimed",
        "dag",
        "doctor",
        "lanes",
        "offers",
        "records",
        "runner",
        "system",
        "terminal",
    }
    | {"theme", "trace"},
    "flags": {"system"},
    "lazy": set(),
    "sigterm": set(),
    "streams": set(),
    "terminal": {"system"},
    "doctor": {"backends", "kernels", "lm", "records"},
    "benches": {"backends"},
    "cli": {"backends", "bar", "benches", "doctor", "flags", "lazy", "lm", "records", "runner", "sigterm", "system"}
    | {"claimed", "streams", "terminal", "ui"},
} | {name: HOUSE | {"lm", "kernels"} for name in NAMES}
MAY["combine"] = HOUSE | {"lm", *NAMES}  # the only part that knows several systems; that nobody names it keeps it last


def part_of(path):
    """kernels/claim/reference.py -> kernels; workbench/cake/policy.py -> cake; workbench/runner.py -> runner."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "kernels" if parts[0] == "kernels" else parts[1]


def imports(text):
    """Modules of workbench that a source file imports, as the names after "workbench."; "__init__" for itself."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a file stands"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "workbench" else [node.module]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
        for name in names:
            if name.split(".")[0] == "workbench":
                inner = name.split(".")[1] if "." in name else "__init__"
                yield "__init__" if inner.startswith("__") else inner


def forbidden(part, text):
    return sorted(set(imports(text)) - MAY[part] - {part})


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = part_of(path)
    assert part in MAY, f"{part} is new: say in MAY what it stands on"
    allowed_for_bench = {"__init__", "runner", "records"} if path.name == "bench.py" else set()
    assert not set(forbidden(part, path.read_text())) - allowed_for_bench


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("kernels", "from workbench.system import Config"),
        ("system", "def f():\n    from workbench.runner import run"),
        (NAMES[0], "import workbench.ui.panel"),
        (NAMES[0], "from workbench import runner"),
        ("ui", f"from workbench.{NAMES[0]} import policy"),
        (NAMES[0], f"from workbench.{NAMES[1]} import config"),
        (NAMES[0], "from workbench.combine import union"),
        ("ui", "import workbench.combine.join"),
        ("combine", "from workbench.ui.panel import Panel"),
        ("lm", f"from importlib import import_module\nimport_module('workbench.{NAMES[0]}.policy')"),
    ],
)
def test_a_forbidden_import_is_seen(part, text):
    assert forbidden(part, text)


def private(text):
    """What a file takes of others that their names say is not for others: `_x` imported, or fetched as an attribute."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") not in ("self", "cls"):
            names = [node.attr]
        else:
            continue
        yield from (name for name in names if name.startswith("_") and not name.endswith("__"))


@pytest.mark.parametrize("path", sorted(ROOT.glob("workbench/combine/*.py")), ids=lambda p: p.name)
def test_systems_are_combined_by_public_names(path):
    assert list(private(path.read_text())) == []


@pytest.mark.parametrize(
    "text", ["from workbench.cake.store import _read", "from workbench.lte import _x", "def f(a):\n    a.b._c()"]
)
def test_a_private_name_is_seen(text):
    assert list(private(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= LINES, f"{lines} lines"


def test_other_sources_are_short():
    for pattern in ("kernels/**/*.cpp", "kernels/**/*.h", "tests/**/*.py", "tools/*.*"):
        for path in ROOT.glob(pattern):
            assert len(path.read_text().splitlines()) <= LINES, path


def cost(module):
    """CPU seconds and heavy modules of importing `module` in a fresh process."""
    code = f"""
import json, resource, sys
before = resource.getrusage(resource.RUSAGE_SELF)
import {module}
after = resource.getrusage(resource.RUSAGE_SELF)
used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps([used, [m for m in {HEAVY!r} if m in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_workbench_is_light():
    costs = [cost("workbench") for _ in range(3)]
    assert costs[0][1] == []
    assert min(used for used, _ in costs) < CPU_S  # CPU seconds, not the clock's: other programs do not count


@pytest.mark.parametrize(
    "module", ["workbench.cli", "workbench.doctor", "workbench.runner", "workbench.lm", "workbench.combine"]
)
def test_these_load_nothing_heavy(module):
    assert cost(module)[1] == []


def test_a_heavy_import_is_seen():
    used, heavy = cost("pandas")
    assert heavy == ["pandas", "numpy"]
    assert used > 0.1


def test_kernels_is_no_name_of_ours():
    """`kernels` is another project's import name: ours is workbench.kernels alone."""
    code = "import importlib.util, workbench.kernels.claim; print(importlib.util.find_spec('kernels'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout.strip() == "None", done.stdout + done.stderr

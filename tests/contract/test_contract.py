"""Every system of the catalogue, held against every check. A new system is tested as soon as it has a name."""

import subprocess
import sys

import contract_checks as checks
import pytest

from workbench.system import NAMES, system

HEAVY = ("torch", "plotly", "vllm", "ray", "lmcache", "deepspeed", "transformers", "pandas")


@pytest.fixture(scope="module", params=NAMES)
def subject(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("contract-home")))
        yield checks.Subject(system(request.param))


@pytest.fixture(autouse=True)
def own_home():
    """The runs of a subject are made once: their home is the subject's."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", checks.ALL, ids=lambda c: c.__name__)
def test_contract(subject, check):
    check(subject)


def loaded_by(module, heavy=HEAVY):
    """Which heavy modules are there after importing `module` in a fresh process."""
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_light_import(name):
    assert loaded_by(f"workbench.{name}") == "[]"


def test_a_heavy_import_would_be_seen():
    assert loaded_by("plotly") == "['plotly']"

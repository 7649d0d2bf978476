"""All loops under the address and undefined-behaviour sanitizers; and no code of one instruction set in another's."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workbench.kernels import sparse_mlp

SOURCE = Path(sparse_mlp.__file__).parent
SECONDS = 5
COMMON = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
SETS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_bf16": [*AVX512, "-mavx512bf16"],
    "amx": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}
X86 = os.uname().machine == "x86_64"


def compile_all(folder, sources, flags):
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build with")

    def build(name):
        out = folder / f"{name}.o"
        own = [*flags, *SETS.get(name, []), *(["-DSPARSE_MLP_X86"] if X86 else [])]
        subprocess.run([compiler, *own, "-c", SOURCE / f"{name}.cpp", "-o", out], check=True, capture_output=True)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return compiler, list(pool.map(build, sources))


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """The fuzzer, built with the sanitizers from the module's own sources."""
    folder = tmp_path_factory.mktemp("sanitized")
    compiler, objects = compile_all(folder, ["fuzz", "layer", "portable", *(SETS if X86 else [])], COMMON)
    program = folder / "fuzz"
    subprocess.run([compiler, *COMMON, *objects, "-o", program], check=True, capture_output=True, text=True)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_loop_errs(fuzz, seed):
    done = subprocess.run([fuzz, str(SECONDS), str(seed)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 20  # rounds


def test_the_linker_cannot_give_one_instruction_set_to_all(tmp_path):
    """Built without inlining, a file of loops defines its own entries and nothing that other files may define too."""
    if not X86 or shutil.which("nm") is None:
        pytest.skip("needs nm and x86-64")
    _, objects = compile_all(tmp_path, SETS, ["-std=c++20", "-O0"])
    for each in objects:
        said = subprocess.run(["nm", "-C", each], capture_output=True, text=True, check=True).stdout.splitlines()
        shared = [line for line in said if line.split()[-2 if len(line.split()) < 3 else 1] in {"W", "V", "u"}]
        assert not shared, f"{each.name}: {shared}"
        assert any(f"run_{each.stem}" in line for line in said)  # control: nm did read it

"""The C++ of the seed kernel under the address and undefined-behaviour sanitizers, on damaged and random input."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGS = ("-std=c++20", "-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
SANITIZE = "-fsanitize=address,undefined,float-cast-overflow"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles a source with the sanitizers; returns the program."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")

    def make(source):
        program = tmp_path_factory.mktemp("fuzz") / "fuzz"
        include = f"-I{ROOT / 'kernels' / 'seed'}"
        done = subprocess.run([compiler, *FLAGS, SANITIZE, include, str(source), "-o", str(program)],
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return program

    return make


def run(program, *args):
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=0"}
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=60, env=environment)


def test_random_and_damaged_input(build):
    program = build(HERE / "seed_fuzz.cpp")
    for seed in ("1", "2", "3"):
        done = run(program, "400", seed)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        words = done.stdout.split()
        anchors, hits, refused, damaged = (int(words[i]) for i in (0, 2, 4, 6))
        assert anchors > 10_000
        assert hits > 1000
        assert refused > 100
        assert damaged > 5


def test_a_fault_is_seen(build, tmp_path):
    """A control: reading past a sequence's end must be caught."""
    source = tmp_path / "fault.cpp"
    source.write_text(
        '#include <vector>\n#include "sketch.h"\n'
        "int main() { std::vector<uint8_t> s(100, 'A'); uint64_t n = 0;\n"
        "seed::sketch(s.data(), 101, 15, 10, false, 0, [&](const seed::Pair& m) { n += m.y; }); return n == 1; }\n"
    )
    done = run(build(source))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr

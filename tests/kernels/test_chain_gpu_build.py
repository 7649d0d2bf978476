"""The kernels compile for NVIDIA and AMD GPUs; nothing is run. Compiled for gfx90a, never run there."""

import csv
import subprocess
from pathlib import Path

import pytest

from workbench.kernels.chain import gpu_build

KEPT = Path(__file__).resolve().parents[2] / "benchmarks" / "chain_gpu_build.csv"


@pytest.mark.parametrize("target", gpu_build.TARGETS)
def test_compiles_without_spills(target, tmp_path):
    try:
        rows = gpu_build.build(target, tmp_path)
    except gpu_build.NoCompiler as error:
        pytest.skip(str(error))
    assert {row["kernel"] for row in rows} == set(gpu_build.KERNELS)
    for row in rows:
        assert set(row) == set(gpu_build.COLUMNS)
        assert row["spill_bytes"] == 0, row
        assert 0 < row["registers"] <= 64, row
        assert ("never run there" in row["told"]) == (target == "gfx90a")
    kernels = {row["kernel"]: row for row in rows}
    assert kernels["long_ones"]["shared_bytes"] == 2 * 6 * 256 * 4 + 4  # two tiles of six columns, the ticket


def test_what_is_kept_is_of_these_kernels():
    with KEPT.open(newline="") as kept:
        rows = list(csv.DictReader(kept))
    assert {(row["target"], row["kernel"]) for row in rows} == {
        (target, kernel) for target in gpu_build.TARGETS for kernel in gpu_build.KERNELS
    }
    assert all(row["told"] == "compiled for gfx90a, never run there" for row in rows if row["target"] == "gfx90a")


def test_an_error_of_the_compiler_is_told(monkeypatch, tmp_path):
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'gpu.cu: no such thing' >&2\nexit 2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match="no such thing"):
        gpu_build.build("sm_90", tmp_path)


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_build.Path, "exists", lambda self: False)
    with pytest.raises(gpu_build.NoCompiler, match=r"no hipcc to compile for gfx90a: install hipcc \(Debian 12"):
        gpu_build.compiler("gfx90a")


def test_the_table_is_written(tmp_path):
    import sys

    out = tmp_path / "table.csv"
    command = [sys.executable, "-m", "workbench.kernels.chain.gpu_build", out]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = out.read_text().splitlines()
    assert lines[0] == ",".join(gpu_build.COLUMNS)
    missing = told.stderr.count("no nvcc") + told.stderr.count("no hipcc")
    assert len(lines) == 1 + len(gpu_build.KERNELS) * (len(gpu_build.TARGETS) - missing)

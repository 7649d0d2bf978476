"""Foundry's CUDA backend on a real GPU. Collected only where there is one; never run on one here.

pytest tests/gpu/test_foundry_cuda.py                        must pass before anything is claimed
python -m workbench.foundry.cuda_bench run foundry_cuda.csv  then the numbers
"""

import csv

import pytest

from workbench.foundry import cuda_bench, driver_cuda
from workbench.kernels import cupti

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    assert driver_cuda.missing() == ""
    assert cupti.missing() == ""
    path = tmp_path_factory.mktemp("cuda") / "small.foundry"
    return path, cuda_bench._ask("capture", "small", str(path), timeout_s=900)


@pytest.mark.parametrize("way", ["nodes", "graph"])
@pytest.mark.parametrize("base", ["0x600000000000", "0x610000000000"])
def test_a_fresh_process_leaves_the_bits_of_torchs_graphs(captured, way, base):
    said = cuda_bench._ask("load", str(captured[0]), way, base, timeout_s=600)
    assert said["verified"] == captured[1]["graphs"] == 4
    assert not said["torch"]
    assert not said["moved"]


def test_the_benchmark_writes_its_rows(tmp_path):
    cuda_bench.run(tmp_path / "rows.csv", ["small"])
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert {"capture_s", "load_s", "update_and_replay_us"} <= {row["number"] for row in rows}
    assert all(row["device"] and row["driver"] for row in rows)

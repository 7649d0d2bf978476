"""The chaining kernels on a real GPU, against the CPU. Collected only where there is one; never run on one here."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import chain as ck
from workbench.kernels.chain import bench, gpu, gpu_check
from workbench.kernels.chain.one_source import Limits

pytestmark = pytest.mark.gpu
FULL = ck.ChainParams(max_skip=None)


def same(done, reads, params=FULL):
    for got, read in zip(done.reads, reads, strict=True):
        for one, other in zip(got, ck.dp(read, params, backend="scalar")):
            np.testing.assert_array_equal(one, other)


def test_the_device_passes_its_check(kind):
    assert gpu_check.replay(gpu.device(kind).run) > 10_000
    assert gpu.best(FULL) is not None


def test_many_runs_give_the_same_bits(kind):
    reads = gpu_check.anchors()
    for _ in range(20):
        same(gpu.device(kind).run(reads, FULL, limits=gpu_check.LIMITS[0]), reads)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_limit_changes_the_answer(kind, data):
    limits = data.draw(st.builds(
        Limits, micro_batch=st.integers(1, 5000), micro_batches=st.integers(1, 4), short_anchors=st.integers(1, 300),
        long_pairs=st.integers(0, 50_000), split_pairs=st.integers(0, 100_000),
    ))  # fmt: skip
    reads = gpu_check.anchors()[:5]
    same(gpu.device(kind).run(reads, FULL, limits=limits), reads)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("WORKBENCH_DATA"), reason="WORKBENCH_DATA is not set")
def test_real_reads_and_satellites(kind):
    for reads in bench.sets().values():
        done = gpu.device(kind).run(reads, FULL, timed=True)
        same(done, reads)
        assert done.ms["long"] > 0


def test_the_benchmark_writes_its_rows(kind, tmp_path):
    from workbench.kernels.chain import gpu_bench

    out = Path(tmp_path, "gpu.csv")
    gpu_bench.main([kind, str(out)])
    text = out.read_text()
    assert "pairs_per_s" in text
    assert gpu.device(kind).about()["name"].split(",")[0] in text

"""What runs a GPU, on a double of its driver: the same host code and kernels, every call checked, every bit compared.

No GPU is at hand: tests/gpu holds what runs on one. The libraries for CUDA and HIP are compiled here and asked for a
device, which they refuse in their runtimes' words.
"""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.backends import BackendUnavailable
from workbench.kernels import chain as ck
from workbench.kernels.chain import gpu, gpu_build, gpu_check
from workbench.kernels.chain.one_source import Limits
from workbench.mm2 import stages
from workbench.mm2.config import Mm2Config
from workbench.mm2.index import build_of
from workbench.mm2.io import Record
from workbench.mm2.mapper import Mapper, map_reads, place
from workbench.mm2.presets import preset_of

FULL = ck.ChainParams(max_skip=None)
SMALL = gpu_check.LIMITS[0]
READS = gpu_check.anchors()


@pytest.fixture(scope="session")  # the library takes seconds to compile
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(scope="session")  # the library takes seconds to compile
def double(folder):
    device = gpu.Device("double", folder=folder)
    yield device
    device.close()


@pytest.fixture
def clean(monkeypatch):
    """No device is known yet."""
    monkeypatch.setattr(gpu, "_known", {})


@pytest.fixture
def present(monkeypatch, clean, folder):
    """A machine on which backend "cuda" is the double, whose driver loses the call that `dropped` names."""
    real, dropped = gpu.Device, {"call": 0}

    class Present(real):
        def __init__(self, kind, **given):
            super().__init__("double", folder=folder, dropped=dropped["call"])
            self.kind = kind

    monkeypatch.setattr(gpu, "missing", lambda kind: "" if kind == "cuda" else "no HIP device: none")
    monkeypatch.setattr(gpu, "Device", Present)
    yield dropped
    for each in gpu._known.values():
        if not isinstance(each, str):
            each.close()


def same(done, reads, params=FULL):
    for got, read in zip(done.reads, reads, strict=True):
        for one, other in zip(got, ck.dp(read, params, backend="scalar")):
            np.testing.assert_array_equal(one, other)


def test_the_double_passes_the_check(double):
    assert gpu_check.replay(double.run) > 20_000


def made(draw, n):
    """Anchors in order, close enough to chain and with ties."""
    x, y, span = (
        np.array(draw(st.lists(st.integers(1, most), min_size=n, max_size=n)), np.int64) for most in (2500, 2500, 30)
    )
    x = np.sort(x + 6000 * (x // 900))
    return np.stack([x, span << 32 | y], 1).astype(np.uint64)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_hypothesis_anchors(double, data):
    limits = data.draw(st.builds(
        Limits, micro_batch=st.integers(1, 200), micro_batches=st.integers(1, 3), short_anchors=st.integers(1, 40),
        long_pairs=st.integers(0, 300), split_pairs=st.integers(0, 600),
    ))  # fmt: skip
    reads = [made(data.draw, data.draw(st.integers(0, 60))) for _ in range(data.draw(st.integers(0, 5)))]
    params = dataclasses.replace(FULL, max_iter=data.draw(st.sampled_from([3, 5000])))
    same(double.run(reads, params, limits=limits), reads, params)


@pytest.mark.slow
@pytest.mark.skipif("WORKBENCH_DATA" not in os.environ, reason="WORKBENCH_DATA is not set")
def test_real_reads_and_human_satellites(double):
    from workbench.kernels.chain import bench

    for reads in (each[::3] for each in bench.sets().values()):
        done = double.run(reads, FULL, limits=Limits(long_pairs=1 << 14, split_pairs=1 << 20))
        same(done, reads)
        assert all(done.counts[way] > 0 for way in ("short", "mid", "long")), done.counts
    assert done.counts["split"] > 0  # on the satellites


def test_reads_cut_by_max_iter_are_done_again_and_counted(double):
    params = dataclasses.replace(FULL, max_iter=50)
    cut = [ck.stats(each, params).capped for each in READS]
    done = double.run(READS, params, limits=SMALL)
    same(done, READS, params)
    assert 0 < done.counts["redone"] == sum(cut) < len(READS)


def test_memory_is_kept_between_runs_and_grows(double):
    for reads in (READS[:3], READS, READS[::-1], [], READS[:1], READS):
        same(double.run(reads, FULL, limits=SMALL), reads)


def test_time_is_told_by_kind_of_work(double):
    done = double.run(READS, FULL, limits=SMALL, timed=True)
    same(done, READS)
    assert set(done.ms) == set(gpu.CLOCKS)
    assert all(ms > 0 for ms in done.ms.values())
    assert double.run(READS, FULL, limits=SMALL).ms == {}


def test_threads_take_turns(double):
    wrong = []

    def work():
        for _ in range(5):
            try:
                same(double.run(READS[:4], FULL, limits=SMALL), READS[:4])
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not wrong


def test_too_little_memory_is_told_and_the_device_is_not_used_again(folder):
    poor = gpu.Device("double", folder=folder, memory=1 << 16)
    with pytest.raises(RuntimeError, match=r"out of memory, \d+ bytes are not free"):
        poor.run(READS, FULL)
    with pytest.raises(RuntimeError, match="an earlier run failed on this device"):
        poor.run(READS[:2], FULL)
    poor.close()
    with pytest.raises(RuntimeError, match="the double device was closed"):
        poor.run(READS, FULL)


def test_what_it_cannot_do_is_refused(double):
    with pytest.raises(ck.Unsupported, match="no limit on skips"):
        double.run(READS, ck.ChainParams())
    with pytest.raises(ValueError, match="not sorted by x"):
        double.run([READS[3][::-1]], FULL)
    with pytest.raises(ValueError, match="a batch at most"):
        double.run(READS, FULL, limits=Limits(micro_batch=0))
    same(double.run(READS[:4], FULL), READS[:4])  # and the device is as good as before


def test_backend_cuda_is_the_device(present, monkeypatch):
    calls = []
    real = gpu.Device.run
    monkeypatch.setattr(
        gpu.Device, "run", lambda self, reads, *a, **k: calls.append(len(reads)) or real(self, reads, *a, **k)
    )
    for each, other in zip(ck.chains(READS, FULL, backend="cuda"), ck.chains(READS, FULL, backend="scalar")):
        np.testing.assert_array_equal(each.u, other.u)
        np.testing.assert_array_equal(each.members, other.members)
    assert calls[-1] == len(READS)
    count = len(calls)
    assert len(ck.dps(READS, FULL)) == len(READS)  # auto: there is a device, and it passed
    ck.dp(READS[2], FULL, backend="cuda")
    assert len(calls) == count + 2
    ck.dp(READS[2], FULL)  # auto, one read: the CPU's
    ck.dps(READS, ck.ChainParams(), backend="auto")  # a limit on skips: the CPU's
    assert len(calls) == count + 2


def test_a_device_that_computes_something_else_is_refused(present):
    """Control: a launch that the driver loses. What asks for the device fails, auto warns and takes the CPU."""
    lost = None
    for call in range(2, 40):  # the first that changes results only
        gpu._known.clear()
        present["call"] = call
        try:
            gpu.device("cuda")
        except ck.Unsupported as error:
            if "differ from the CPU" in str(error):
                lost = call
                break
    assert lost, "no lost call changed a result"
    with pytest.raises(ck.Unsupported, match=r"'cuda' is not available: self-check: \d+ of \d+ anchors of read"):
        ck.dps(READS, FULL, backend="cuda")
    with pytest.warns(RuntimeWarning, match="self-check: .*; the CPU chains"):
        found = ck.dps(READS, FULL)
    np.testing.assert_array_equal(found[3][0], ck.dp(READS[3], FULL)[0])


def test_a_compiler_that_fails_is_told(present, monkeypatch):
    def fails(kind, folder=None):
        raise RuntimeError("nvcc failed: no such header")

    monkeypatch.setattr(gpu_build, "library", fails)
    with pytest.raises(ck.Unsupported, match="'cuda' is not available: nvcc failed: no such header"):
        ck.dp(READS[2], FULL, backend="cuda")


def test_a_compiler_that_does_not_end_is_told_and_the_cpu_chains(present, monkeypatch):
    def late(command, **given):
        raise subprocess.TimeoutExpired(command, given["timeout"])

    def compiled(kind, folder=None):
        return gpu_build._run(["nvcc", "gpu_library.cu"])

    monkeypatch.setattr(gpu_build, "library", compiled)
    monkeypatch.setattr(gpu_build.subprocess, "run", late)
    with pytest.raises(ck.Unsupported, match=r"'cuda' is not available: Command .*nvcc.* timed out after 600 seconds"):
        ck.dp(READS[2], FULL, backend="cuda")
    with pytest.warns(RuntimeWarning, match="timed out after 600 seconds; the CPU chains"):
        found = ck.dps(READS, FULL)
    np.testing.assert_array_equal(found[3][0], ck.dp(READS[3], FULL)[0])


@pytest.mark.parametrize("kind", gpu.KINDS)
def test_without_a_device_the_reason_is_one_line(kind, clean):
    reason = gpu.missing(kind)
    if not reason:
        pytest.fail("a device is here: run tests/gpu, and let this test ask for one that is not")
    assert reason.startswith(f"no {kind.upper()} device: ")
    assert "\n" not in reason
    with pytest.raises(ck.Unsupported, match=f"^chain: backend '{kind}' is not available: no {kind.upper()} device: "):
        ck.dps(READS, FULL, backend=kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", gpu.KINDS)
def test_the_library_is_built_and_asks_the_real_runtime(kind, folder):
    try:
        path = gpu_build.library(kind, folder)
    except gpu_build.NoCompiler as error:
        pytest.skip(str(error))
    if not gpu.missing(kind):
        pytest.skip("there is a device: tests/gpu runs it")
    with pytest.raises(RuntimeError, match=f"^{kind.upper()}: counting devices: .+"):
        gpu.Device(kind, folder=folder)
    assert gpu_build.library(kind, folder) == path


def test_a_library_is_compiled_once_for_the_same_sources(tmp_path, monkeypatch):
    compiled = []

    def compile_it(command):
        if "-o" in command:
            compiled.append(command)
            Path(command[-1]).write_bytes(b"library")
        return "release 13.0, V13.0.88"

    monkeypatch.setattr(gpu_build, "_run", compile_it)
    first = gpu_build.library("double", tmp_path)
    assert gpu_build.library("double", tmp_path) == first
    assert len(compiled) == 1
    monkeypatch.setattr(gpu_build, "HOST", [*gpu_build.HOST, "-DOTHER"])
    other = gpu_build.library("double", tmp_path)
    assert other != first
    assert sorted(tmp_path.iterdir()) == sorted([first, other])  # no remains beside them


def test_a_source_that_changes_makes_another_library(tmp_path, monkeypatch):
    for name in ("gpu_library.cu", "plan.cpp", "one_source_cpu.cpp", "launch.h"):
        (tmp_path / name).write_text("int before;")
    monkeypatch.setattr(gpu_build, "SOURCE", tmp_path / "gpu.cu")
    monkeypatch.setattr(gpu_build, "_run", lambda command: Path(command[-1]).write_text("x") if "-o" in command else "")
    first = gpu_build.library("double", tmp_path / "made")
    (tmp_path / "launch.h").write_text("int after;")
    assert gpu_build.library("double", tmp_path / "made") != first


@pytest.fixture(scope="module")
def genome_and_reads():
    """A made-up genome with a repeat, and reads of it with errors, some of them reversed."""
    random = np.random.default_rng(8)
    repeat = random.choice(list(b"ACGT"), 300)
    genome = random.choice(list(b"ACGT"), 120_000).astype(np.uint8)
    genome[50_000:53_000] = np.tile(repeat, 10)
    reads = []
    for number, length in enumerate([300, 4000, 12_000, 40_000, 900, 6000, 60]):
        begin = int(random.integers(0, 70_000))
        read = genome[begin : begin + length].copy()
        at = random.random(length) < 0.06
        read[at] = random.choice(list(b"ACGT"), int(at.sum()))
        reads.append(Record(f"read {number}", bytes(read)))
    return Record("genome", bytes(genome)), [*reads, Record("empty", b"")]


def paf(mapped):
    return [hit.paf() for each in mapped for hit in each.hits]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_mapper_on_the_device_writes_the_same_lines(present, genome_and_reads, monkeypatch, threads):
    genome, reads = genome_and_reads
    index = build_of(iter([genome]), preset_of("map-ont"))
    wanted = list(map_reads(Mapper(index, mode="full", backend="scalar"), reads))
    together = []
    real = gpu.Device.run
    monkeypatch.setattr(
        gpu.Device, "run", lambda self, given, *a, **k: together.append(len(given)) or real(self, given, *a, **k)
    )
    one = Mapper(index, mode="full", backend="cuda")
    assert one.on_gpu
    del together[:]
    mapped = list(map_reads(one, reads, threads=threads))
    assert paf(mapped) == paf(wanted)
    assert len(paf(mapped)) >= 6
    assert together == [len(reads)]  # one batch, chained together
    assert [each.anchors for each in mapped] == [each.anchors for each in wanted]
    assert all(each.chain_s > 0 for each in mapped if each.anchors)
    batches = list(stages.run_all(one, iter(reads), threads, threading.Event()))
    assert [hit.paf() for batch in batches for hits in batch.hits for hit in hits] == paf(wanted)
    assert Mapper(index, mode="full").backend == "cuda"  # auto
    assert Mapper(index, mode="full", backend="cpu").backend == "cpu"
    assert Mapper(index).backend == "cpu"  # minimap2's heuristic


def test_a_mapper_refuses_a_device_with_the_reason(present, genome_and_reads):
    index = build_of(iter([genome_and_reads[0]]), preset_of("map-ont"))
    with pytest.raises(ck.Unsupported, match=r"cuda looks at every predecessor.*take mode full"):
        Mapper(index, backend="cuda")
    with pytest.raises(ck.Unsupported, match="'hip' is not available: no HIP device: none"):
        Mapper(index, mode="full", backend="hip")
    with pytest.raises(BackendUnavailable, match="'hip' is not available: no HIP device: none; take backend='cpu'"):
        place("hip", "full")
    assert [place("auto", "full"), place("auto", "exact_skip25"), place("auto", "full", "scalar")] == [
        "cuda",
        "cpu",
        "cpu",
    ]
    assert [place("cuda", "full"), place("cpu", "full"), place("sim", "full")] == ["cuda", "cpu", "sim"]


@pytest.mark.parametrize("change", [{"mode": "exact_skip25"}, {"kernel": "avx2"}])
def test_a_config_for_a_device_fits_together(change):
    assert Mm2Config(backend="cuda").backend == "cuda"
    with pytest.raises(ValueError, match="backend: a GPU has its own kernel"):
        Mm2Config(backend="cuda", **change)


def test_the_benchmark_measures_what_is_asked_for(double):
    """Its rows on the double: the numbers are a CPU's and are thrown away."""
    from workbench.kernels.chain import gpu_bench

    rows = list(gpu_bench.measure(double, {"made": READS}))
    assert {row["number"] for row in rows} >= {"occupancy", "pairs_per_s", "share_of_device_time", "wall_s"}
    assert all(set(row) == set(gpu_bench.COLUMNS) for row in rows)
    shares = [row["value"] for row in rows if row["number"] == "share_of_device_time"]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    faster = [row for row in rows if row["number"].startswith("times_faster_than CPU, ")]
    assert len(faster) == 2


def test_the_benchmark_refuses_with_the_reason(tmp_path):
    command = [sys.executable, "-m", "workbench.kernels.chain.gpu_bench", "cuda", str(tmp_path / "gpu.csv")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=hidden, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no CUDA device: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "gpu.csv").exists()

"""The real driver's code and the helper in C, each over a stand-in for NVIDIA's library. No GPU is used."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.foundry import cuda, driver_cuda
from workbench.foundry.cuda_binaries import elf_kernels
from workbench.foundry.driver import NoDriver
from workbench.kernels import cupti

HERE = Path(__file__).parent


def test_the_whole_way_through_cuda_bindings(tmp_path):
    """Capture to update over libcuda's C interface: the same archive as without it, the same bits from it."""
    pytest.importorskip("cuda.bindings")
    call = [sys.executable, str(HERE / "cuda_through_bindings.py"), str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("wrong") == []
    assert said.pop("held") == [0, 1]  # who only asks whether there is a driver leaves no context behind
    assert said.pop("nodes") == said.pop("graph") == [4, [], False]
    assert said.pop("float") == 0.5
    assert said.pop("unsupported")[0] == "Unsupported"
    assert said.pop("dead") == ["DriverError", "cuGraphLaunch: CUDA_ERROR_INVALID_HANDLE"]
    assert said.pop("image") == ["DriverError", "cuLibraryLoadData: CUDA_ERROR_INVALID_IMAGE"]
    assert said.pop("absent")[0] == "NoDriver"
    assert said.pop("update")
    assert said == dict.fromkeys(("about", "same_archive", "read", "packed", "by_kernel", "copy"), True)


def test_without_bindings_or_driver_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "pip install 'cuda-bindings>=13'" in driver_cuda.missing()
    with pytest.raises(NoDriver):
        driver_cuda.Cuda()


def test_what_never_ran_is_listed():
    """Until the GPU tests have passed somewhere, and then the list and this test change together."""
    text = " ".join(cuda.NEVER_RAN)
    assert all(word in text for word in ("driver_cuda", "cuda_capture", "cupti", "measured"))
    assert len(cuda.NEVER_RAN) == 7


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("helper")
    assert cupti.missing() == ""
    path = cupti.library(folder)
    assert cupti.library(folder) == path  # made once
    source = HERE / "libcupti_double.c"
    flags = [f"-I{each}" for each in cupti.headers()]
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", *flags, source, "-o", folder / "libcupti.so"], check=True, timeout=60)
    return cupti.Helper(path), folder / "libcupti.so"


def test_images_are_kept_while_they_are_shown(helper):
    made, path = helper
    double = ctypes.CDLL(str(path))
    show = lambda raw: double.double_load(raw, len(raw))  # noqa: E731
    show(b"too early")
    with made.collecting(str(path)):
        for raw in (b"one" * 100, b"two\0two", b"one" * 100):
            show(raw)
        for i in range(200):
            show(bytes([i]) * 10)
        with pytest.raises(cupti.NoHelper, match="collected already"), made.collecting(str(path)):
            pass
    show(b"too late")
    found = made.images()
    assert found[:2] == [b"one" * 100, b"two\0two"]
    assert len(found) == 202
    made.forget()
    assert made.images() == []
    with pytest.raises(cupti.NoHelper, match="cannot open shared object"), made.collecting("/nowhere/libcupti.so"):
        pass
    double.double_busy(1)
    said = r"cuptiSubscribe failed: error .39.; a profiler runs"
    with pytest.raises(cupti.NoHelper, match=said), made.collecting(str(path)):
        pass


def test_capture_over_a_double_of_torch(helper, tmp_path):
    """From warm-up to a written and proved archive: two places, two ranks, and what must be refused."""
    call = [sys.executable, str(HERE / "cuda_capture_double.py"), str(tmp_path)]
    environment = os.environ | {"WORKBENCH_CUPTI": str(helper[1]), "WORKBENCH_CACHE": str(tmp_path)}
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["told"] == [[i, 6, f"batch {n}"] for i, n in enumerate((8, 4, 1, 8, 4, 1))]
    assert said["verified"] == [1, 4, 8]
    assert said["scratch"] == [True] * 3
    assert said["weights"] == 4352
    assert said["written"]
    assert said["cleared"] == 4  # workspaces, before and after each place
    assert said["patches"] == [2, 2]
    assert "kernel fused: no binary with it was seen; begin to collect" in said["not loaded"]
    assert "batch 8 needs more than the 4 MB of the arena's room" in said["room"]
    assert "does not leave the same bits twice" in said["twice"]
    assert said["left"] == {}


def test_addresses_rise_and_end(helper):
    made, _ = helper
    for _ in range(2):  # the same from the beginning
        made.arena(0x600000000000, 8 << 20)
        assert [made.alloc(n) for n in (1, 3 << 20, 0)] == [0x600000000000, 0x600000200000, 0]
        assert (made.used, made.refused) == (6 << 20, 0)
        assert made.alloc(3 << 20) == 0
        assert made.refused == 4 << 20
        assert made.alloc(2 << 20) == 0x600000600000


def test_without_headers_the_helper_says_so(monkeypatch):
    monkeypatch.setattr(cupti, "_package", lambda *_: None)
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: "/usr/local/cuda" not in str(self) and real(self))
    assert "pip install nvidia-cuda-cupti" in cupti.missing()


def test_kernels_of_a_real_cubin(tmp_path):
    """What ptxas makes, as a driver would be given it."""
    triton = importlib.util.find_spec("triton")
    assert triton is not None
    ptxas = Path(triton.submodule_search_locations[0], "backends", "nvidia", "bin", "ptxas")
    entries = "".join(
        f".visible .entry {name}(.param .u64 a, .param .u32 b) {{ ret; }}\n" for name in ("first", "_Z3fooPf")
    )
    (tmp_path / "a.ptx").write_text(f".version 8.0\n.target sm_90\n.address_size 64\n{entries}")
    subprocess.run([ptxas, "-arch=sm_90", tmp_path / "a.ptx", "-o", tmp_path / "a.cubin"], check=True, timeout=60)
    assert elf_kernels((tmp_path / "a.cubin").read_bytes()) == {"first", "_Z3fooPf"}
    assert driver_cuda.Cuda.symbols(None, b"no cubin") == set()

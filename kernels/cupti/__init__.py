"""Capturing CUDA graphs, the part in C: an allocator for torch's MemPool and the kernel binaries that CUPTI shows.

    helper = Helper(library())                 # compiled on the first call, where CUPTI's headers are
    helper.arena(base, size)                   # torch.cuda.memory.CUDAPluggableAllocator(path, *ALLOCATOR) hands it out
    with helper.collecting(cupti()): ...       # whatever the driver loads meanwhile is in helper.images()

Nothing of this is built with the package: only who captures on a GPU needs it. Compiled with CUPTI's headers and driven
by a stand-in for its library; never run with CUPTI itself.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("helper.c")
ALLOCATOR = ("foundry_alloc", "foundry_free")
FLAGS = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
SAID = 512  # bytes for an error


class NoHelper(RuntimeError):
    """The helper cannot be compiled or CUPTI cannot be used; the message says why, and the way out."""


def missing() -> str:
    """Why the helper cannot be compiled here, in one line; "" when it can."""
    try:
        _compiler()
        headers()
    except NoHelper as error:
        return str(error)
    return ""


def headers() -> list[Path]:
    """Folders with cupti.h and cuda.h: CUDA_HOME's, those of NVIDIA's packages, Triton's, /usr/local/cuda's."""
    inside = [_package("nvidia", "cu13"), _package("nvidia", "cuda_cupti"), _package("nvidia", "cuda_runtime")]
    inside += [_package("triton", "backends", "nvidia")]
    homes = [Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []
    folders = [f / "include" for f in [*homes, *(f for f in inside if f), Path("/usr/local/cuda")]]
    with_cupti = next((f for f in folders if (f / "cupti.h").exists()), None)
    with_cuda = next((f for f in [with_cupti, *folders] if f and (f / "cuda.h").exists()), None)
    if with_cupti is None or with_cuda is None:
        raise NoHelper("no cupti.h and cuda.h: pip install nvidia-cuda-cupti nvidia-cuda-runtime, or set CUDA_HOME")
    return [with_cupti, with_cuda]


def cupti() -> str:
    """The libcupti to use: WORKBENCH_CUPTI, of NVIDIA's packages, of CUDA_HOME, else whatever the loader finds."""
    if own := os.environ.get("WORKBENCH_CUPTI"):
        return own
    inside = [_package("nvidia", "cu13"), _package("nvidia", "cuda_cupti")]
    folders = [f / "lib" for f in inside if f]
    folders += [
        Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / name for name in ("lib64", "extras/CUPTI/lib64")
    ]
    found = [path for f in folders for path in sorted(f.glob("libcupti.so.*"), reverse=True)]
    return str(found[0]) if found else "libcupti.so"


def _package(name: str, *parts: str) -> Path | None:
    """A folder inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(folder, *parts)).is_dir():
            return found
    return None


def _compiler() -> str:
    found = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if found is None:
        raise NoHelper("no C compiler: install gcc, or name one in CC")
    return found


def library(folder: Path | None = None) -> Path:
    """The compiled helper, made when it is not yet in `folder` (default: the user's cache). NoHelper says why not."""
    command = [_compiler(), *FLAGS, *(f"-I{each}" for each in dict.fromkeys(headers()))]
    told = hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
    made = (folder or _cache()) / f"cupti-{told}.so"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as own:  # two processes may compile at once
            aside = Path(own, "made.so")
            try:
                done = subprocess.run(
                    [*command, str(SOURCE), "-o", str(aside), "-ldl", "-lpthread"],
                    capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise NoHelper(f"{command[0]} did not compile the helper within 120 s: is the machine busy?") from None
            if done.returncode:
                raise NoHelper(f"the helper does not compile:\n{done.stderr}")
            aside.replace(made)
    return made


def _cache() -> Path:
    if own := os.environ.get("WORKBENCH_CACHE"):
        return Path(own).expanduser() / "cupti"
    import platformdirs

    return platformdirs.user_cache_path("ml-systems-workbench", appauthor=False) / "cupti"


class Helper:
    """The compiled helper. One a process: torch and CUPTI call into it."""

    def __init__(self, path: Path) -> None:
        self.path, c = path, ct.CDLL(str(path))
        c.foundry_arena.argtypes, c.foundry_arena.restype = [ct.c_uint64, ct.c_uint64], None
        c.foundry_alloc.argtypes, c.foundry_alloc.restype = [ct.c_ssize_t, ct.c_int, ct.c_void_p], ct.c_uint64
        for name in ("foundry_used", "foundry_refused", "foundry_images", "foundry_lost"):
            getattr(c, name).restype = ct.c_uint64
        c.foundry_collect.argtypes = [ct.c_char_p, ct.c_char_p, ct.c_size_t]
        c.foundry_image.argtypes, c.foundry_image.restype = [ct.c_size_t, ct.POINTER(ct.c_void_p)], ct.c_size_t
        c.foundry_forget.restype = None
        self._c = c

    def arena(self, base: int, size: int) -> None:
        """Hand addresses out from `base` on; begins anew each time."""
        self._c.foundry_arena(base, size)

    def alloc(self, nbytes: int) -> int:
        """What torch gets for that many bytes: an address on a multiple of 2 MB, 0 when the range is used up."""
        return int(self._c.foundry_alloc(nbytes, 0, None))

    @property
    def used(self) -> int:
        """Bytes handed out so far."""
        return int(self._c.foundry_used())

    @property
    def refused(self) -> int:
        """Bytes of the last request that did not fit; 0 when all did."""
        return int(self._c.foundry_refused())

    @contextlib.contextmanager
    def collecting(self, cupti: str) -> Iterator[None]:
        """Collect images meanwhile. NoHelper when CUPTI cannot be subscribed to."""
        said = ct.create_string_buffer(SAID)
        if self._c.foundry_collect(cupti.encode(), said, SAID):
            raise NoHelper(f"kernel binaries cannot be collected with {cupti}: {said.value.decode(errors='replace')}")
        try:
            yield
        finally:
            self._c.foundry_stop()

    def images(self) -> list[bytes]:
        """Images collected so far, each once. NoHelper when memory for one was not to be had."""
        if self._c.foundry_lost():
            raise NoHelper(f"{self._c.foundry_lost()} kernel binaries could not be kept: not enough memory")
        found: dict[bytes, None] = {}
        for i in range(self._c.foundry_images()):
            raw = ct.c_void_p()
            size = self._c.foundry_image(i, ct.byref(raw))
            found[ct.string_at(raw.value or 0, size)] = None
        return list(found)

    def forget(self) -> None:
        """Free the images."""
        self._c.foundry_forget()

"""The chaining kernels on a GPU: NVIDIA's by CUDA, AMD's by HIP. Compiled, never run on a GPU here: none was at hand.

    missing("cuda")                    "" or why there is no device, in the driver's words; nothing is compiled
    device("cuda").run(reads, params)  scores of many reads at once; the library is compiled on the first call

A device is only handed out when it has replayed a few thousand anchors with every bit as the CPU has it. The host code
is launch.h; the kind "double" is the same library with driver_cpu.h for a driver, by which all of this is tested.
"""

from __future__ import annotations

import ctypes as ct
import subprocess
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.kernels import chain
from workbench.kernels.chain import gpu_build, gpu_check
from workbench.kernels.chain.one_source import Done, Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["cuda", "hip", "double"]
KINDS: tuple[Kind, ...] = ("cuda", "hip")  # best first, as "auto" tries them
TIMEOUT_S = 120.0  # of one wait for a device; a pool takes milliseconds
SAID = 2048  # bytes for an error of the library
CAPABILITY = (8, 0)  # of an NVIDIA GPU, at least: what the library is compiled for
COUNTS = ("short", "mid", "long", "split", "tasks", "pools", "redone")
CLOCKS = ("range", "short", "mid", "long", "copies")

_known: dict[Kind, Device | str] = {}  # devices that passed, or why there is none
_knowing = threading.Lock()


def missing(kind: Kind) -> str:
    """Why there is no device of this kind or nothing to compile for it with, in one line; "" when there is."""
    if kind == "double":
        return ""
    reason = _no_cuda() if kind == "cuda" else _no_hip()
    if reason:
        return f"no {kind.upper()} device: {reason}"
    try:
        gpu_build.compiler(gpu_build.LIBRARIES[kind])
    except gpu_build.NoCompiler as error:
        return str(error)
    return ""


def device(kind: Kind) -> Device:
    """The first device of this kind, checked once a process. chain.Unsupported (a ValueError) says why it is not."""
    with _knowing:
        if kind not in _known:
            _known[kind] = _checked(kind)
        found = _known[kind]
    if isinstance(found, str):
        raise chain.Unsupported(f"chain: backend {kind!r} is not available: {found}")
    return found


def best(params: chain.ChainParams) -> Device | None:
    """What "auto" takes for many reads: a device that passed its check and can do these parameters, or None.

    A device that is there but failed is warned of, once: the CPU does its work.
    """
    if not params.simple or params.max_skip is not None:
        return None
    for kind in KINDS:
        if missing(kind):
            continue
        try:
            return device(kind)
        except chain.Unsupported as error:
            warnings.warn(f"{error}; the CPU chains", RuntimeWarning, stacklevel=3)
    return None


def _checked(kind: Kind) -> Device | str:
    if reason := missing(kind):
        return reason
    try:
        opened = Device(kind)
        gpu_check.replay(opened.run)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    return opened


class Device:
    """A GPU with the library that runs it. May be shared by threads: calls take turns.

    RuntimeError in the driver's words; OSError when the library cannot be loaded. For tests, of the double:
    `dropped` is the call of the driver that is left out, `memory` the bytes it has.
    """

    def __init__(
        self,
        kind: Kind,
        index: int = 0,
        *,
        folder: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        workers: int = 2,
        dropped: int = 0,
        memory: int = 1 << 40,
    ) -> None:
        self.kind = kind
        self._turn = threading.Lock()
        self._library = _load(gpu_build.library(kind, folder))
        self._said = ct.create_string_buffer(SAID)
        count = self._library.chain_devices(self._said, SAID)
        if count < 1:
            raise RuntimeError(self._text() or f"{kind.upper()} counts no device")
        opened = _Open(index, workers, dropped, memory, timeout_s)
        self._handle = self._library.chain_open(ct.byref(opened), self._said, SAID)
        if not self._handle:
            raise RuntimeError(self._text())

    def about(self) -> dict[str, Any]:
        """Name with versions; units and what one holds; blocks of the two scoring kernels that fit; memory, free."""
        told = _About()
        with self._turn:
            if not self._library.chain_about(self._open(), ct.byref(told), self._said, SAID):
                raise RuntimeError(self._text())
        found = {name: getattr(told, name) for name, _ in _About._fields_}
        return found | {"name": told.name.decode("utf-8", "replace")}

    def run(
        self,
        reads: Sequence[NDArray[np.uint64]],
        params: chain.ChainParams,
        *,
        limits: Limits | None = None,
        timed: bool = False,
    ) -> Done:
        """Scores of all reads; those whose window max_iter cut are done again by the CPU's exact loop, and counted.

        `timed` puts everything on one stream and fills `Done.ms` by the device's clock. ValueError for anchors or
        parameters out of range, Unsupported for what the kernels do not do, RuntimeError in the driver's words.
        """
        if not params.simple or params.max_skip is not None:
            raise chain.Unsupported(f"chain: {self.kind} does one read, no introns, no skip penalty, no limit on skips")
        given = [chain.checked(each) for each in reads]
        made = [(np.empty(len(a), np.int32), np.empty(len(a), np.int64), np.empty(len(a), np.int32)) for a in given]
        redo = np.zeros(len(given), np.bool_)
        job = _job(given, made, redo, params, limits or Limits(), timed)
        with self._turn:
            if not self._library.chain_run(self._open(), ct.byref(job), self._said, SAID):
                said = self._text()
                raise ValueError(said) if said.startswith("chain: ") else RuntimeError(said)
        for at in np.flatnonzero(redo).tolist():
            made[at] = chain.dp(given[at], params)
        return Done(made, dict(zip(COUNTS, job.counts)), dict(zip(CLOCKS, job.ms)) if timed else {})

    def close(self) -> None:
        """Give back all memory of the device; closing again does nothing."""
        with self._turn:
            handle, self._handle = self._handle, None
            if handle:
                self._library.chain_close(handle)

    def _open(self) -> Any:
        if not self._handle:
            raise RuntimeError(f"the {self.kind} device was closed")
        return self._handle

    def _text(self) -> str:
        return self._said.value.decode("utf-8", "replace")


class _Open(ct.Structure):
    _fields_ = (
        ("device", ct.c_int32), ("workers", ct.c_int32), ("dropped", ct.c_int64), ("memory", ct.c_int64),
        ("timeout_s", ct.c_double),
    )  # fmt: skip


class _About(ct.Structure):
    _fields_ = (
        ("name", ct.c_char * 512), ("units", ct.c_int32), ("threads_of_unit", ct.c_int32),
        ("threads_of_block", ct.c_int32), ("blocks_short", ct.c_int32), ("blocks_long", ct.c_int32),
        ("memory", ct.c_int64), ("free", ct.c_int64),
    )  # fmt: skip


class _Params(ct.Structure):
    _fields_ = (
        ("max_dist_x", ct.c_int32), ("max_dist_y", ct.c_int32), ("bw", ct.c_int32), ("max_skip", ct.c_int32),
        ("max_iter", ct.c_int32), ("min_cnt", ct.c_int32), ("min_score", ct.c_int32),
        ("gap", ct.c_float), ("skip", ct.c_float), ("cdna", ct.c_bool), ("n_seg", ct.c_int32),
    )  # fmt: skip


class _Limits(ct.Structure):
    _fields_ = (
        ("micro_batch", ct.c_int32), ("micro_batches", ct.c_int32), ("short_anchors", ct.c_int32),
        ("long_pairs", ct.c_int64), ("split_pairs", ct.c_int64),
    )  # fmt: skip


class _Job(ct.Structure):
    _fields_ = (
        ("reads", ct.c_int64), ("anchors", ct.POINTER(ct.c_void_p)), ("sizes", ct.POINTER(ct.c_int64)),
        ("score", ct.POINTER(ct.c_void_p)), ("previous", ct.POINTER(ct.c_void_p)), ("peak", ct.POINTER(ct.c_void_p)),
        ("redo", ct.c_void_p), ("params", _Params), ("limits", _Limits), ("timed", ct.c_int32),
        ("counts", ct.c_int64 * len(COUNTS)), ("ms", ct.c_double * len(CLOCKS)),
    )  # fmt: skip


def _job(given: Any, made: Any, redo: Any, params: chain.ChainParams, limits: Limits, timed: bool) -> _Job:
    """`given`, `made` and `redo` must outlive it."""
    count, p = len(given), params
    pointers = ct.c_void_p * count
    window = (p.max_dist_x, p.max_dist_y, p.bw, 2**31 - 1, p.max_iter, p.min_cnt, p.min_score)
    ways = (limits.micro_batch, limits.micro_batches, limits.short_anchors, limits.long_pairs, limits.split_pairs)
    return _Job(
        count,
        pointers(*(each.ctypes.data for each in given)),
        (ct.c_int64 * count)(*map(len, given)),
        *(pointers(*(each[column].ctypes.data for each in made)) for column in range(3)),
        redo.ctypes.data,
        _Params(*window, *map(float, p.penalties), p.is_cdna, p.n_seg),
        _Limits(*ways),
        timed,
    )


def _load(path: Path) -> Any:
    library = ct.CDLL(str(path))
    text = (ct.c_char_p, ct.c_int32)
    for name, result, takes in (
        ("chain_layout", ct.c_int64, ()),
        ("chain_devices", ct.c_int32, text),
        ("chain_open", ct.c_void_p, (ct.POINTER(_Open), *text)),
        ("chain_about", ct.c_int32, (ct.c_void_p, ct.POINTER(_About), *text)),
        ("chain_run", ct.c_int32, (ct.c_void_p, ct.POINTER(_Job), *text)),
        ("chain_close", None, (ct.c_void_p,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, takes
    if library.chain_layout() != ct.sizeof(_Open) << 40 | ct.sizeof(_Job) << 20 | ct.sizeof(_About):
        raise RuntimeError(f"{path}: lays out its structures otherwise than Python does")
    return library


@cache
def _no_cuda() -> str:
    """By the driver's own library, which every NVIDIA driver brings."""
    try:
        driver = ct.CDLL("libcuda.so.1")
    except OSError:
        return "libcuda.so.1, which NVIDIA's driver brings, is not on this machine"
    count, major, minor, words = ct.c_int(), ct.c_int(), ct.c_int(), ct.c_char_p()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ct.byref(count))
    if error:
        driver.cuGetErrorString(error, ct.byref(words))
        return f"the driver says: {(words.value or b'').decode() or f'error {error}'}"
    if count.value < 1:
        return "the driver counts none; CUDA_VISIBLE_DEVICES may hide it"
    for attribute, into in ((75, major), (76, minor)):  # compute capability
        driver.cuDeviceGetAttribute(ct.byref(into), attribute, 0)
    if (major.value, minor.value) < CAPABILITY:
        return f"the first has compute capability {major.value}.{minor.value}, the kernels need 8.0 or later"
    return ""


@cache
def _no_hip() -> str:
    if not Path("/dev/kfd").exists():  # asked first: loading the runtime takes a while
        return "the kernel has no AMD GPU driver, /dev/kfd is not there"
    for name in ("libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"):
        try:
            runtime = ct.CDLL(name)
        except OSError:
            continue
        count = ct.c_int()
        runtime.hipGetErrorString.restype = ct.c_char_p
        if error := runtime.hipGetDeviceCount(ct.byref(count)):
            return f"the runtime says: {runtime.hipGetErrorString(error).decode()}"
        return "" if count.value > 0 else "the runtime counts none; HIP_VISIBLE_DEVICES may hide it"
    return "libamdhip64.so, which ROCm brings, is not on this machine"

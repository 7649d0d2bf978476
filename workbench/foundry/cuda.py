"""Rebuilding captured CUDA graphs in a fresh process: no warm-up, no capture, no library but the driver.

    from workbench.foundry.driver_cuda import Cuda

    ladder = load("llama.cuda.foundry", Cuda())      # Refused says why not
    ladder.write("ids", raw)                         # inputs lie in the arena
    ladder.replay(8)                                 # batch 8: the template's executable, updated if it held another
    logits = ladder.read("logits", 8)

What is checked before a graph may run: every checksum, the fingerprint of device, driver and libraries, every kernel's
parameter layout, every address against the arena; and then by replay on known inputs, which must leave the captured
bits. What of all this has never run on a GPU is in `NEVER_RAN`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from workbench import backends
from workbench.backends import BackendUnavailable
from workbench.foundry import archive
from workbench.foundry.archive import refuse
from workbench.foundry.cuda_build import Way
from workbench.foundry.cuda_decode import decode
from workbench.foundry.cuda_graph import CudaCapture
from workbench.foundry.cuda_ladder import Ladder, check_rank, smallest
from workbench.foundry.cuda_memory import DeviceArena, load_weights
from workbench.foundry.driver import Driver
from workbench.foundry.fingerprint import differences
from workbench.foundry.phases import Clock, or_again

Verify = Literal["all", "templates", "first use", "never"]
BUILD_TIMEOUT_S = 120.0
# Told wherever the backend is shown. An entry goes when tests/gpu/test_foundry_cuda.py has passed and the rows of
# cuda_bench, with device and driver, are in benchmarks/.
NEVER_RAN = (
    "driver_cuda.Cuda: each call checked against a stand-in for libcuda.so.1, never against a driver with a device",
    "cuda_capture.capture: torch.cuda.CUDAGraph(keep_graph=True) over a MemPool of our own allocator",
    "equal addresses in every process, cuBLAS workspaces included: expected, never seen",
    "kernels/cupti: compiled with CUPTI's headers and driven by a stand-in for libcupti.so, never by CUPTI",
    "updates of a real executable: what they carry over, and what they cost",
    "descriptors that hold an address in a form of their own (TMA): expected as a plain word, refused otherwise",
    "no capture, load, replay or update time of this backend has been measured; none is shown",
)


def _to_verify(capture: CudaCapture, verify: Verify) -> Sequence[int]:
    if verify in ("first use", "never"):
        return ()
    return sorted(capture.graphs if verify == "all" else smallest(capture).values())


def load(
    path: str | Path,
    driver: Driver,
    *,
    verify: Verify = "templates",
    base: int | None = None,
    rank: Mapping[str, int] | None = None,
    expect: str | None = None,
    here: Mapping[str, Any] | None = None,
    weights: Callable[[DeviceArena], None] | None = None,
    hot: Sequence[int] = (),
    background: bool = False,
    way: Way = "nodes",
    promote_after: int = 8,
    phase: Callable[[str, float], None] = lambda *_: None,
) -> Ladder:
    """Rebuild an archive's graphs. Refused, with its reason, whenever they cannot be trusted on this device.

    verify: "all" replays every size now, "templates" the smallest of each template, the others at their first use;
    "never" trusts. base: another place than the captured one. rank: values of this rank, by name. expect: the archive's
    id, where its origin is not trusted. here: the fingerprint to compare with. weights: fills them in where the archive
    has no file of them. hot: sizes that get executables of their own at once. background: templates are built in a
    thread and nothing is verified before its first use; `ladder.start_build` was called. way: see cuda_build.Built.
    What is in state and input tensors after a load is not defined.
    """
    path, clock = Path(path), Clock(phase)
    raw = archive.read(path)
    if expect is not None and raw.id != expect:
        refuse("foreign", f"{path.name} is not the archive that was asked for: its id is {raw.id}, not {expect}")
    found = decode(raw)
    if unknown := sorted(set(hot) - set(found.graphs)):
        raise ValueError(f"no graph of batch {unknown[0]} was captured; there are {sorted(found.graphs)}")
    rank = check_rank(found, rank)
    if why := differences(found.fingerprint, here if here is not None else fingerprint(driver)):
        refuse("foreign", f"{path.name} was captured elsewhere: {'; '.join(why)}")
    clock("archive")
    arena = DeviceArena(driver, found.base if base is None else base, found.size)
    clock("memory")
    ladder = Ladder(
        found, driver, arena, rank=rank, way=way, promote_after=promote_after, check_first_use=verify != "never"
    )
    try:
        if found.weights:
            load_weights(arena, found.weights, path.parent)
        if weights is not None:
            weights(arena)
        clock("weights")
        if background:
            ladder.start_build(hot=hot)
            return ladder
        with ladder.start_build(hot=hot) as build:
            build.wait(BUILD_TIMEOUT_S)
        clock("templates")
        for size in _to_verify(found, verify):
            ladder.verify(size, restore=False)
        clock("verify")
    except BaseException:
        ladder.close()
        raise
    return ladder


def load_or_capture(
    path: str | Path, driver: Driver, again: Callable[[], object], **options: Any
) -> tuple[Ladder, str]:
    """The archive's graphs, or, where it is refused, those of a new capture: (ladder, "" or why it was refused).

    `again` writes a new archive at `path`. What it raises goes to the caller: then neither way works.
    """
    return or_again(lambda: load(path, driver, **options), again)


def status() -> dict[str, Any]:
    """What of this backend can be used here: {"load", "capture": "" or why not, "never_ran"}; needs no GPU to ask."""
    from workbench.foundry import driver_cuda
    from workbench.kernels import cupti

    why = driver_cuda.missing()
    return {"load": why, "capture": why or cupti.missing(), "never_ran": list(NEVER_RAN)}


def check() -> None:
    """BackendUnavailable, in one sentence with its cause and the way out, where this backend cannot run.

    A run captures and loads: it needs a driver, CUPTI's headers, a compiler, and a torch that was built with CUDA.
    """
    found = backends.backend("cuda")
    if why := status()["capture"] or ("" if found.available else found.detail):
        raise BackendUnavailable(
            f"backend 'cuda' is not available: {why.rstrip('.')}; take backend='cpu' here, or a machine with an NVIDIA "
            "GPU (make setup EXTRA=gpu), where it has never run so far: it was tested on a software double of the "
            "driver only (workbench.foundry.cuda.NEVER_RAN)"
        )


def fingerprint(driver: Driver) -> dict[str, Any]:
    """Fingerprint of a device, its driver and the installed libraries that choose kernels; all of it is compared."""
    found: dict[str, Any] = dict(driver.about())
    for name in ("torch", "triton", "nvidia-cublas", "nvidia-cudnn-cu13"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found

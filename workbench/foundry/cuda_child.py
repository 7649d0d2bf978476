"""The CUDA backend's jobs, each in a process of its own: `python -m workbench.foundry.cuda_child FD`, for cuda_run.py.

Lines are those of child.py. What a test does otherwise is to put its own `subject` here: the step to capture.
Never run on a GPU yet (`cuda.NEVER_RAN`).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.foundry import child, probe
from workbench.foundry.child import HEAVY, ROUNDS, Job
from workbench.foundry.cuda_memory import outcome, probing
from workbench.foundry.ready import MB, Ready

if TYPE_CHECKING:
    from workbench.foundry.cuda_graph import CudaCapture
    from workbench.foundry.cuda_ladder import Ladder
    from workbench.foundry.cuda_memory import DeviceArena
    from workbench.foundry.driver import Driver


def subject(job: Job) -> Any:
    """The step to capture, as cuda_capture wants it."""
    from workbench import lm
    from workbench.foundry.cuda_step import Step

    model = lm.load(job["model"], seed=job["seed"])
    return Step.of(model, job["sizes"], capacity=job["capacity"], layers=job["layers"])


def driver() -> Driver:
    """The GPU's."""
    from workbench.foundry.driver_cuda import Cuda

    return Cuda()


def answers(
    arena: DeviceArena, found: CudaCapture, size: int, seed: int, run: Callable[[int], object]
) -> list[str]:  # fmt: skip
    """Digests of the outputs of ROUNDS steps of `size` sequences, from empty state, on inputs drawn from the seed."""
    for each in found.tensors:
        if each.role == "state":
            arena.write(each.offset, bytes(each.nbytes * size // each.shape[0]))
    said = []
    for step in range(ROUNDS):
        ids, positions = probe.drawn(seed, size, step, found.model["vocab"], found.model["capacity"])
        for each in found.tensors:
            if each.role == "input":
                arena.write(each.offset, array("q", ids if each.name == "ids" else positions).tobytes())
        run(size)
        left = [arena.read(t.offset, t.nbytes) for t in found.graphs[size].outputs]
        said.append(sha256(b"".join(left)).hexdigest()[:16])
    return said


def capture(job: Job) -> dict[str, Any]:
    """Capture, and what torch's own graphs say to other inputs than the probe's. Times leave the latter out."""
    job.at("import torch")
    from workbench.foundry import cuda_capture

    job.at("load the model")
    what, said, asking = subject(job), dict[int, list[str]](), [0.0]

    def witness(place: cuda_capture.Place, done: CudaCapture) -> None:
        start = job.now()
        job.at("ask torch's graphs")
        for size in sorted(done.graphs):
            said[size] = answers(place.arena, done, size, job["seed"], place.replay)
        asking[0] = job.now() - start

    cuda_capture.capture(
        what, job["sizes"], job["path"], driver=driver(), unexplained="test", witness=witness,
        said=lambda done, total, now: job.at(now, done, total),
    )  # fmt: skip
    return {"seconds": job.now() - asking[0], "said": said}


def rebuild(job: Job) -> dict[str, Any]:
    """Load, answer the same inputs, and answer them wrongly with one bit of one weight changed."""
    from workbench.foundry import cuda
    from workbench.foundry.archive import Refused

    phases: dict[str, float] = {}
    job.at("load")
    device = driver()
    try:
        ladder = cuda.load(job["path"], device, verify=job["verify"], phase=phases.__setitem__)
    except Refused as error:
        job.say(**{"is": "refused", "cause": error.cause, "why": str(error), "at_s": job.now()})
        raise
    with ladder:
        answer: dict[str, Any] = {"phases": phases, "load_s": job.now(), "device": device.about()}
        answer["heavy"] = [name for name in HEAVY if name in sys.modules]
        found, sizes = ladder.capture, sorted(ladder.capture.graphs)
        run = partial(_run, ladder, device)
        job.at("answer")
        said = {size: answers(ladder.arena, found, size, job["seed"], run) for size in sizes}
        job.at("the control")
        last = [t for t in found.tensors if t.role == "weight"][-1]
        number = ladder.arena.read(last.offset, 4)
        ladder.arena.write(last.offset, number[:3] + bytes([number[3] ^ 0x40]))  # its exponent
        control = {size: answers(ladder.arena, found, size, job["seed"], run) for size in sizes}
        ladder.arena.write(last.offset, number)
        back = answers(ladder.arena, found, sizes[0], job["seed"], run) == said[sizes[0]]
        relocated = ladder.arena.base != found.base
        return answer | {"said": said, "control": control, "back": back, "relocated": relocated}


def _run(ladder: Ladder, device: Driver, size: int) -> None:
    ladder.replay(size)
    device.synchronize(0)


def way(job: Job) -> dict[str, Any]:
    """One way until it is ready, its steps by turns: "foundry" rebuilds, "recapture" captures as a server does."""
    ready = _foundry(job) if job["way"] == "foundry" else _recapture(job)
    answer = ready.first_runs(job["sizes"], job.at)
    job.turn = ready.turn
    return answer


def _foundry(job: Job) -> Ready:
    from workbench.foundry import cuda

    started, imported = float(job["started"]), job.now()
    phases: dict[str, float] = {}
    job.at("load")
    device = driver()
    ladder = cuda.load(job["archive"], device, phase=phases.__setitem__)
    found = ladder.capture
    tensors = {t.name: t for t in found.tensors}

    def inputs(size: int) -> Callable[[], None]:
        with probing(ladder.arena, found, found.graphs[size], restore=False):
            ladder.verified.add(size)  # the first run is timed as the other way's; the parent compares its bits
        return partial(_run, ladder, device, size)

    def left(size: int) -> str:
        return outcome(ladder.arena, tensors, found.graphs[size])

    return Ready(
        "foundry", started, imported, Path(job["archive"]).stat().st_size / MB, inputs, left, phases=phases
    )  # fmt: skip


def _recapture(job: Job) -> Ready:
    """torch.cuda.CUDAGraph for every size at every start, over torch's own memory."""
    job.at("import torch")
    import torch

    started, imported = float(job["started"]), job.now()
    job.at("load the model")
    what, cuda = subject(job), _any(torch.cuda)
    place = {
        t.name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype), device="cuda") for t in what.tensors
    }  # fmt: skip
    what.fill(place)
    pool, stream, graphs = cuda.MemPool(), cuda.Stream(), dict[int, Any]()

    def ready(size: int) -> Callable[[], None]:
        def run() -> None:
            if size not in graphs:
                graphs[size] = _captured(what, place, size, pool, stream)
            graphs[size].replay()
            cuda.synchronize()

        return run

    # what torch's graphs leave is compared in the capturing process: here no address is an arena's
    return Ready("recapture", started, imported, 0.0, ready, lambda _: "")


def _captured(what: Any, place: Mapping[str, Any], size: int, pool: Any, stream: Any) -> Any:
    import torch

    cuda = _any(torch.cuda)
    with cuda.stream(stream), cuda.use_mem_pool(pool), torch.inference_mode():
        what.step(place, size)  # kernels are chosen and loaded
    stream.synchronize()
    graph = cuda.CUDAGraph()
    with torch.inference_mode(), cuda.graph(graph, pool=pool.id, stream=stream):
        what.step(place, size)
    return graph


def _any(module: Any) -> Any:
    """Classes of torch.cuda are not typed."""
    return module


DO: dict[str, Callable[[Job], dict[str, Any]]] = {"capture": capture, "rebuild": rebuild, "way": way}
if __name__ == "__main__":
    child.main(DO)

"""Capturing a ladder of decode steps on a GPU with torch, hook-free, and writing the archive.

    from workbench.foundry.cuda_capture import capture
    from workbench.foundry.cuda_step import Step

    capture(Step.of(lm.load("smollm2"), sizes), sizes, "smollm2.cuda.foundry")      # in a process that is still fresh

Each size is captured by torch.cuda.CUDAGraph(keep_graph=True) over two arenas. Tensors with a place of their own are
put there without an allocator; what the step allocates comes from a MemPool over our pluggable allocator, behind them.
Kernel binaries are seen while they are loaded, so nothing of the step may have run in the process before. Then
`cuda_assemble` takes over. What is written has been rebuilt and has left the bits that torch's own graphs left.

Never run on a GPU yet (`cuda.NEVER_RAN`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from workbench.foundry import archive
from workbench.foundry.archive import Refused
from workbench.foundry.cuda import fingerprint
from workbench.foundry.cuda_assemble import Assembly, scrambled, sealed
from workbench.foundry.cuda_binaries import Image
from workbench.foundry.cuda_graph import CudaCapture, Probe
from workbench.foundry.cuda_ladder import Ladder
from workbench.foundry.cuda_memory import DeviceArena, outcome, probing, store_weights
from workbench.foundry.cuda_walk import DISTANCE, Declared
from workbench.foundry.driver import Driver, Unsupported
from workbench.foundry.graph import Tensor
from workbench.foundry.shape import BASE, HUGE

if TYPE_CHECKING:
    from workbench.kernels.cupti import Helper

ROOM = 4 << 30  # bytes of an arena for what a step allocates, workspaces of cuBLAS included
SCRAMBLED = (2**64 - 1, 0xA5A5A5A5A5A5A5A5)  # besides zero, into bytes that should not matter
WARM_UPS = 2  # runs before a capture: kernels are chosen and loaded, workspaces made
log = logging.getLogger(__name__)


class Subject(Protocol):
    """What is captured. Tensors are placed by name; weights come first among them."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything with a place of its own."""
        ...

    def about(self) -> Mapping[str, Any]:
        """For the manifest's `model`."""
        ...

    def fill(self, place: Mapping[str, torch.Tensor]) -> None:
        """Put weights into their places."""
        ...

    def step(self, place: Mapping[str, torch.Tensor], size: int) -> Mapping[str, torch.Tensor]:
        """One step of `size` sequences on the current stream; its outputs, contiguous."""
        ...

    def probe(self, size: int) -> Probe:
        """Known inputs for the verifying replay; the digest is left empty."""
        ...


@dataclass
class Place:
    """An arena as torch sees it: tensors at their offsets, and a pool for what a step allocates behind them."""

    driver: Driver
    helper: Helper
    base: int
    tensors: Sequence[Tensor]
    room: int
    graphs: dict[int, Any] = field(default_factory=dict)
    outputs: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        end = max(t.offset + t.nbytes for t in self.tensors)
        self.free = end + -end % HUGE
        self.arena = DeviceArena(self.driver, self.base, self.free + self.room)
        self.named = {t.name: at(self.arena.base + t.offset, t) for t in self.tensors}
        self._keep: list[Any] = []

    def record(self, subject: Subject, sizes: Sequence[int], said: Callable[[str], None]) -> None:
        """Capture every size. Unsupported when the room does not suffice."""
        self.helper.arena(self.arena.base + self.free, self.arena.size - self.free)
        from workbench.kernels.cupti import ALLOCATOR

        torch._C._cuda_clearCublasWorkspaces()  # those of another place would be used again
        cuda: Any = torch.cuda  # its classes are not typed
        allocator = cuda.memory.CUDAPluggableAllocator(str(self.helper.path), *ALLOCATOR)
        pool, stream = cuda.MemPool(allocator.allocator()), cuda.Stream()
        self._keep += [allocator, pool, stream]
        for size in sorted(sizes, reverse=True):  # the largest first: smaller ones find room that was there
            said(f"batch {size}")
            try:
                self._one(subject, size, pool, stream)
            except torch.OutOfMemoryError as error:
                if self.helper.refused:
                    raise Unsupported(
                        f"batch {size} needs more than the {self.room / 1e6:.0f} MB of the arena's room: {error}"
                    ) from error
                raise
        torch._C._cuda_clearCublasWorkspaces()

    def _one(self, subject: Subject, size: int, pool: Any, stream: Any) -> None:
        with torch.cuda.stream(stream), torch.cuda.use_mem_pool(pool):
            for _ in range(WARM_UPS):
                subject.step(self.named, size)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph, pool=pool.id, stream=stream):
            out = subject.step(self.named, size)
        self.graphs[size], self.outputs[size] = graph, self._told(out)

    def _told(self, out: Mapping[str, torch.Tensor]) -> tuple[Tensor, ...]:
        """Outputs as an archive describes them; the tensors are let go, so that other sizes use their memory again.

        Unsupported when one is not in the arena or not whole.
        """
        found = []
        for name, t in out.items():
            offset = t.data_ptr() - self.arena.base
            if not t.is_contiguous() or not 0 <= offset < self.arena.size or offset % 64:
                raise Unsupported(f"output {name} is not contiguous, or lies outside of the arena")
            found.append(Tensor(name, "output", str(t.dtype).removeprefix("torch."), tuple(t.shape), offset))
        return tuple(found)

    def replay(self, size: int) -> None:
        """Run torch's own graph of a size, and wait for it."""
        self.graphs[size].replay()
        torch.cuda.synchronize()

    def close(self) -> None:
        """Drop graphs and tensors, then the memory behind them."""
        torch.cuda.synchronize()
        for each in (self.graphs, self.outputs, self.named, self._keep):
            each.clear()
        self.arena.close()


class _Pointer:
    """Device memory that torch.as_tensor takes over without a copy."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip


def at(address: int, tensor: Tensor) -> torch.Tensor:
    """A tensor at an address of the device; the memory stays the arena's."""
    flat = torch.as_tensor(_Pointer(address, tensor.nbytes), device="cuda")
    return flat.view(getattr(torch, tensor.dtype)).view(tensor.shape)


@contextlib.contextmanager
def triton_images(seen: list[Image]) -> Iterator[None]:
    """Triton's binaries go to `seen` with the handles that they become, while this is open."""
    try:
        from triton import knobs
    except ImportError:
        yield
        return
    from torch._inductor import config

    def loaded(_module: Any, function: Any, _name: str, group: Mapping[str, str], _hash: str) -> None:
        for name, path in group.items():
            if name.endswith(".cubin"):
                seen.append(Image(Path(path).read_bytes(), int(function), "triton"))

    knobs.runtime.kernel_load_end_hook.add(loaded)
    try:
        with config.patch(use_static_cuda_launcher=False):  # it loads kernels past the hook
            yield
    finally:
        knobs.runtime.kernel_load_end_hook.remove(loaded)


def capture(
    subject: Subject,
    sizes: Sequence[int],
    path: str | Path,
    *,
    driver: Driver | None = None,
    base: int = BASE,
    room: int = ROOM,
    second_rank: Subject | None = None,
    declared: Mapping[str, Declared] | None = None,
    unexplained: Literal["refuse", "test"] = "refuse",
    said: Callable[[int, int, str], None] = lambda *_: None,
    witness: Callable[[Place, CudaCapture], None] = lambda *_: None,
) -> CudaCapture:
    """Capture a ladder and write the archive, weights beside it.

    second_rank, declared: the step as another rank and the values in which they differ; then one archive serves all.
    unexplained: what to do with bytes of parameters that are neither constant nor address. Structs have room that is
    never set, with whatever lay there before; "test" makes it zero if replays leave the same bits whatever is in it.
    That is shown on the known inputs only, and a byte that does matter may end the context.
    `said` hears (done, total, what). `witness` is shown the place where torch's own graphs still are, and what will be
    written, before anything of them is gone. driver.Unsupported names what cannot be carried; driver.NoDriver and
    kernels.cupti.NoHelper say what is not installed; Refused("mismatch") when what was rebuilt leaves other bits, or
    the captured graph itself does not leave the same bits twice.
    """
    from workbench.foundry.driver_cuda import Cuda
    from workbench.kernels import cupti

    if not sizes or min(sizes) < 1:
        raise ValueError(f"batch sizes are whole numbers from 1 on, not {list(sizes)}")
    driver, helper, start = driver or Cuda(), cupti.Helper(cupti.library()), time.perf_counter()
    images: list[Image] = []
    steps = _Said(said, (2 + (second_rank is not None)) * len(sizes))
    with contextlib.ExitStack() as stack:

        def place(at: int) -> Place:
            return stack.enter_context(contextlib.closing(Place(driver, helper, at, subject.tensors, room)))

        with triton_images(images), helper.collecting(cupti.cupti()), torch.device("cuda"), torch.inference_mode():
            here = place(base)
            there = place(here.arena.base + DISTANCE)
            for each in (here, there):
                subject.fill(each.named)
                torch.cuda.synchronize()  # the stream that captures waits for no other
                each.record(subject, sizes, steps)
            other = _as_other_rank(here, second_rank, sizes, steps)
        images += [Image(raw) for raw in helper.images()]
        helper.forget()
        made = Assembly(driver, here.arena.base, there.arena.base, here.arena.size)
        for size in sorted(sizes):
            made.add(
                size, here.graphs[size].raw_cuda_graph(), there.graphs[size].raw_cuda_graph(),
                outputs=here.outputs[size], probe=subject.probe(size), declared=declared, test=unexplained == "test",
                second_rank=other[size].raw_cuda_graph() if other else 0,
            )  # fmt: skip
        done = _archive(made, images, subject, here, Path(path).parent)
        witness(here, done)
    archive.write(path, done.sections())
    log.info("captured %d sizes in %.1f s: %s", len(sizes), time.perf_counter() - start, path)
    return done


def _archive(made: Assembly, images: Sequence[Image], subject: Subject, here: Place, folder: Path) -> CudaCapture:
    """What is written, proved over the place it was captured in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = max((t.offset + t.nbytes for t in subject.tensors if t.role == "weight"), default=0)
    done = made.finish(
        images,
        fingerprint=fingerprint(here.driver),
        model=subject.about(),
        tensors=subject.tensors,
        weights=store_weights(here.arena, weights, folder) if weights else {},
    )
    done = sealed(done, {size: _left(here, done, size) for size in done.graphs})
    _prove(done, here.driver, here.arena)
    suspect = [u.why for t in made.taken for u in t.unexplained]
    for word in SCRAMBLED if suspect else ():
        try:
            _prove(scrambled(done, word), here.driver, here.arena)
        except Refused as error:
            raise Unsupported(f"of these bytes some do matter ({error}): {'; '.join(suspect[:5])}") from error
    return done


def _as_other_rank(
    place: Place, subject: Subject | None, sizes: Sequence[int], said: Callable[[str], None]
) -> dict[int, Any]:
    """Graphs of the second rank over the same arena, the first rank's kept aside."""
    if subject is None:
        return {}
    graphs, outputs = place.graphs, place.outputs
    place.graphs, place.outputs = {}, {}
    place.record(subject, sizes, said)
    found, place.graphs, place.outputs = place.graphs, graphs, outputs
    return found


def _left(place: Place, done: CudaCapture, size: int) -> str:
    """The outcome of torch's own graph on the probe, which must be the same twice."""
    graph, tensors, seals = place.graphs[size], {t.name: t for t in done.tensors}, set()
    for _ in range(2):
        with probing(place.arena, done, done.graphs[size], restore=False):
            graph.replay()
            torch.cuda.synchronize()
            seals.add(outcome(place.arena, tensors, done.graphs[size]))
    if len(seals) > 1:
        raise Refused(
            "mismatch",
            f"the captured graph of batch {size} does not leave the same bits twice, so nothing could be held against "
            "it; torch.use_deterministic_algorithms finds the operation",
        )
    return seals.pop()


def _prove(done: CudaCapture, driver: Driver, arena: DeviceArena) -> None:
    """Rebuild every size over the arena it was captured in, and compare with what torch's graphs left."""
    values = {name: r.captured for name, r in done.ranks.items()} or None
    ladder = Ladder(done, driver, arena, rank=values)
    for size in sorted(done.graphs):
        ladder.verify(size, restore=False)
    ladder.close(arena=False)


class _Said:
    """Counts what is told."""

    def __init__(self, said: Callable[[int, int, str], None], total: int) -> None:
        self._said, self._total, self._done = said, total, 0

    def __call__(self, what: str) -> None:
        self._said(self._done, self._total, what)
        self._done += 1

"""Capturing a ladder of decode steps on CPU: compile with Inductor, record at two bases, pack, replay, write.

    about = capture(model, sizes=(1, 2, 4, 8), path="smollm2.foundry", capacity=256)

Of each size the compiled function is run once more over an arena (record.py). A second run over an arena elsewhere
shows which argument bytes are addresses: those that differ, and they must differ by the distance of the two. Then
buffers are packed, and the packed graph is replayed and must leave the bits that torch.compile left, or nothing is
written.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.foundry import archive, probe
from workbench.foundry.fingerprint import machine
from workbench.foundry.graph import Capture, Function, Graph, Tensor
from workbench.foundry.load import Runner
from workbench.foundry.memory import make_arena, store_weights
from workbench.foundry.plan import Call, Operand, pack, template_of, uninitialised
from workbench.foundry.record import Recorder, Unsupported, rebound
from workbench.foundry.shape import BASE, Shape
from workbench.foundry.step import compiled_step, mark_batch, shape_of, weights_of

if TYPE_CHECKING:
    from workbench.kernels.replay import Arena
    from workbench.lm import LM

ROOM = 4 << 30  # bytes of address space for buffers while recording; only what is touched becomes memory
THREADS = Function("", "torch_cpu", "omp_set_num_threads")
log = logging.getLogger(__name__)


@dataclass
class Compiled:
    """torch.compile of the step, with what Inductor made of it kept at hand."""

    shape: Shape
    dynamic: bool
    fresh: bool = False  # torch's caches are empty
    graphs: list[Any] = field(default_factory=list)  # CompiledFxGraph, one per compilation
    types: dict[str, list[str]] = field(default_factory=dict)  # of kernel arguments, by the file of the binary

    def __post_init__(self) -> None:
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def inner(graph: Any, inputs: Any, **more: Any) -> Any:
            made = compile_fx_inner(graph, inputs, **more)
            self.graphs.append(made)
            return made

        def backend(graph: Any, inputs: Any) -> Any:
            return compile_fx(graph, inputs, inner_compile=inner)

        self.call = compiled_step(self.shape, dynamic=self.dynamic, backend=backend)

    def run(self, place: Place, size: int) -> tuple[torch.Tensor, ...]:
        """One step of `size` sequences over the arena's tensors; compiles when nothing fits yet."""
        return self.prepared(place, size)()

    def prepared(self, place: Place, size: int) -> Callable[[], tuple[torch.Tensor, ...]]:
        """The call of that step, to be made again and again."""
        arguments = place.arguments(size, self.dynamic and size > 1)
        # a hit in the outer cache would not come by `inner`; where nothing is there yet, it is filled as by anybody
        cached = torch._functorch.config.patch(enable_autograd_cache=self.fresh)

        def call() -> tuple[torch.Tensor, ...]:
            with torch.inference_mode(), self._kernels_seen(), cached:
                return self.call(*arguments)

        return call

    def record(self, place: Place, size: int) -> tuple[Recorder, tuple[torch.Tensor, ...]]:
        """The same step, written down."""
        self.run(place, size)  # compiles when it must
        recorder = place.recorder()
        used: list[Any] = []
        with contextlib.ExitStack() as stack:
            for each in self.graphs:
                real = each.current_callable
                stack.callback(setattr, each, "current_callable", real)
                again = rebound(real, recorder, self.types)

                def noted(args: Any, each: Any = each, again: Callable[..., Any] = again) -> Any:
                    used.append(each)
                    return again(args)

                each.current_callable = noted
            place.probe(size)
            out = self.run(place, size)
        if len(used) != 1:
            raise Unsupported(f"the step of {size} is {len(used)} compiled graphs; one is wanted")
        return recorder, out

    @contextlib.contextmanager
    def _kernels_seen(self) -> Iterator[None]:
        """Keep the argument types of every kernel that is compiled or found in a cache meanwhile."""
        from torch._inductor.async_compile import AsyncCompile

        real = AsyncCompile.cpp_pybinding
        pending: list[tuple[list[str], Any]] = []

        def seen(own: Any, argtypes: list[str], source: str) -> Any:
            made = real(own, argtypes, source)
            pending.append((list(argtypes), made))
            return made

        AsyncCompile.cpp_pybinding = seen  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            AsyncCompile.cpp_pybinding = real  # type: ignore[method-assign]
        for argtypes, made in pending:
            kernel = made.result() if hasattr(made, "result") else made
            self.types[kernel.__self__.__file__] = argtypes


class Place:
    """An arena with the step's tensors in it, as torch sees them."""

    def __init__(self, shape: Shape, base: int, weights: dict[str, torch.Tensor]) -> None:
        self.shape, self.tensors = shape, shape.tensors()
        self.arena: Arena = make_arena(base, shape.scratch() + ROOM)
        self.seen = {t.name: self._torch(t) for t in self.tensors}
        for name, value in weights.items():
            self.seen[name].copy_(value)

    def _torch(self, t: Tensor) -> torch.Tensor:
        flat = torch.frombuffer(self.arena.view(t.offset, t.nbytes), dtype=getattr(torch, t.dtype))
        return flat.view(t.shape)

    def arguments(self, size: int, dynamic: bool) -> tuple[Any, ...]:
        """What the step takes, for the first `size` sequences."""
        ids, positions = (self.seen[name][:size] for name in ("ids", "positions"))
        k, v = ([self.seen[f"{i}.{which}"][:size] for i in range(self.shape.layers)] for which in "kv")
        if dynamic:
            mark_batch(self.shape, ids, positions, k, v)
        return {n: self.seen[n] for n, _ in self.shape.weights()}, ids, positions, k, v

    def probe(self, size: int) -> None:
        """Put the known inputs down."""
        at = probe.ids_and_positions(size, self.shape.vocab, self.shape.capacity)
        probe.fill(self.arena.view, self.tensors, size, *at)

    def recorder(self) -> Recorder:
        """One that knows the tensors."""
        made = Recorder(self.arena, self.shape.scratch())
        for each in self.tensors:
            made.know(self.arena.base + each.offset, each.nbytes)
        return made


def capture(
    model: LM,
    sizes: Sequence[int],
    path: str | Path,
    *,
    capacity: int = 256,
    layers: int | None = None,
    dynamic: bool = True,
    base: int = BASE,
    said: Callable[[int, int, str], None] = lambda *_: None,
    first_runs: Callable[[Compiled, Place], None] | None = None,
    witness: Callable[[Compiled, Place], None] = lambda *_: None,
) -> Capture:
    """Capture the model's decode step at each batch size and write the archive, weights beside it.

    dynamic: one compilation for all sizes from 2 on, as AOTInductor with a dynamic batch; else one a size. `said` hears
    (done, total, what). `first_runs` has torch.compile's step before all else, where nothing is compiled and torch's
    caches are empty, and runs every size. `witness` is shown that step and the arena that it ran over, before anything
    of them is gone. Unsupported when a graph does what no node stands for, ValueError on bad sizes, OSError when
    the archive cannot be written, archive.Refused("mismatch") when a replay does not leave torch.compile's bits.
    """
    wanted = sorted(set(sizes))
    if not wanted or wanted[0] < 1:
        raise ValueError(f"batch sizes are whole numbers from 1 on, not {list(sizes)}")
    shape = shape_of(model, capacity, wanted[-1], layers)
    weights, start = weights_of(model, shape), time.perf_counter()
    first, compiled = Place(shape, base, weights), Compiled(shape, dynamic, fresh=first_runs is not None)
    if first_runs is not None:
        first_runs(compiled, first)
    second = Place(shape, base + (1 << 40), weights)  # before inference_mode: the tensors are as anybody's
    with torch.inference_mode():
        made = Parts()
        for i, size in enumerate(wanted):
            said(i, len(wanted), f"batch {size}")
            made.add(_one(compiled, first, second, size))
        needed = shape.scratch() + made.scratch
        total = needed + -needed % 4096
        about = {"name": model.name, "fingerprint": model.fingerprint, "dynamic": dynamic, **shape.to_dict()}
        done = Capture(
            "cpu", machine() | built(), about, first.arena.base, total, shape.tensors(), made.binaries, made.templates,
            made.graphs, store_weights(first.arena, shape.weight_bytes(), _folder(path)),
        )  # fmt: skip
        said(len(wanted), len(wanted), "replay")
        _prove(done, first)
        witness(compiled, first)
    said(len(wanted), len(wanted), "write")
    archive.write(path, done.sections())
    log.info("captured %d sizes in %.1f s: %s", len(wanted), time.perf_counter() - start, path)
    return done


def _folder(path: str | Path) -> Path:
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Parts:
    """What the sizes of a ladder share."""

    templates: dict[str, Any] = field(default_factory=dict)
    graphs: dict[int, Graph] = field(default_factory=dict)
    binaries: dict[str, bytes] = field(default_factory=dict)
    scratch: int = 0

    def add(self, one: tuple[Any, Graph, dict[str, bytes], int]) -> None:
        """Take one size in."""
        template, graph, binaries, scratch = one
        self.templates[template.key] = template
        self.graphs[graph.size] = graph
        self.binaries |= binaries
        self.scratch = max(self.scratch, scratch)


def _one(compiled: Compiled, first: Place, second: Place, size: int) -> tuple[Any, Graph, dict[str, bytes], int]:
    """Record, compare the two bases, pack: template, graph, binaries, bytes of scratch."""
    noted, out = compiled.record(first, size)
    other, _ = compiled.record(second, size)
    threads = Call("kernel", THREADS, (torch.get_num_threads(),), "threads")
    calls = [threads, *noted.calls]
    template = template_of(calls)
    _differential(noted, other, second.arena.base - first.arena.base)
    own = {b: noted.sizes[b] for b in range(len(first.tensors), len(noted.sizes))}
    if bad := uninitialised(calls, own):
        raise Unsupported(f"{bad[0]} reads a buffer that no recorded call wrote")
    results = [noted.operand(t, 1) for t in out]
    places = pack(calls, own, [r.buffer for r in results])
    scratch = first.shape.scratch()
    starts = [t.offset for t in first.tensors] + [scratch + places.get(b, 0) for b in own]

    def word(each: Operand | int) -> int:
        return first.arena.base + starts[each.buffer] + each.offset if isinstance(each, Operand) else each

    words = [word(a) for call in calls for a in call.arguments]
    extents = [o.extent for call in calls for o in call.operands]
    outputs = tuple(
        Tensor(name, "output", str(t.dtype).removeprefix("torch."), tuple(t.shape), starts[r.buffer] + r.offset)
        for name, t, r in zip(("logits", "next"), out, results, strict=True)
    )
    left = [first.arena.view(_offset(t, first), o.nbytes) for o, t in zip(outputs, out)]
    seal = probe.outcome(first.arena.view, first.tensors, left, size)
    graph = Graph(size, template.key, _pack(words), _pack(extents), outputs, seal)
    return template, graph, noted.binaries, max((places[b] + own[b] for b in places), default=0)


def _offset(t: torch.Tensor, place: Place) -> int:
    if not t.is_contiguous():
        raise Unsupported("an output of the step is not contiguous")
    return t.data_ptr() - place.arena.base


def _pack(words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


def _differential(first: Recorder, second: Recorder, distance: int) -> None:
    """Argument words that differ between the bases are addresses, and must be those that were recorded as such."""
    if [c.function for c in first.calls] != [c.function for c in second.calls]:
        raise Unsupported("two runs made different calls")
    known = [isinstance(a, Operand) for call in first.calls for a in call.arguments]
    for i, (a, b, pointer) in enumerate(zip(first.words, second.words, known, strict=True)):
        if b - a != (distance if pointer else 0):
            raise Unsupported(
                f"argument word {i} moved by {b - a}: {'an address' if pointer else 'not one'}, or so it seemed"
            )


def _prove(done: Capture, place: Place) -> None:
    """Replay every size, over the same arena, and compare with what torch.compile left."""
    runner = Runner(done, place.arena)
    for size in sorted(done.graphs):
        runner.verify(size)


def built() -> dict[str, Any]:
    """What the binaries were made by and for. For readers: what counts is their content, which has its digest."""
    from torch._inductor.cpp_builder import CppTorchOptions, get_cpp_compiler
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    isa = pick_vec_isa()
    compiler = get_cpp_compiler()
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return {
        "compiler": (said.splitlines() or [compiler])[0],
        "isa": str(isa),
        "flags": " ".join([*CppTorchOptions(vec_isa=isa).get_cflags(), str(isa.build_arch_flags())]),
        "threads": torch.get_num_threads(),
    }

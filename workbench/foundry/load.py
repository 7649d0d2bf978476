"""Rebuilding captured graphs in a fresh process: no torch, no compiler, no first run but the one that verifies.

    ladder = load("smollm2.foundry")                 # Refused says why not
    logits, tokens = ladder.step(ids=[11, 12], positions=[5, 9])

What is checked before a graph may run: every checksum, the fingerprint, the weights, every address and extent against
the arena, every product's sizes; and then by replay: a graph's first run is on known inputs and must leave the captured
bits.
"""

from __future__ import annotations

import contextlib
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.foundry import archive, probe
from workbench.foundry.archive import Refused, refuse
from workbench.foundry.fingerprint import NoLibrary, differences, machine, torch_cpu
from workbench.foundry.graph import KINDS, Capture, Function, Graph, decode, relocate
from workbench.foundry.memory import load_weights, make_arena
from workbench.foundry.phases import Clock, or_again
from workbench.foundry.shape import Shape

if TYPE_CHECKING:
    from workbench.kernels.replay import Arena

Verify = Literal["all", "templates", "first use"]


class Runner:
    """A capture's graphs over an arena that holds its weights. One thread at a time."""

    def __init__(self, capture: Capture, arena: Arena) -> None:
        self.capture, self.arena = capture, arena
        self.shape = Shape.from_dict(capture.model)
        self.verified: set[int] = set()
        self._check_layout()
        self._programs: dict[str, Any] = {}
        self._index: dict[int, int] = {}
        self._by_name = {t.name: t for t in capture.tensors}

    def _check_layout(self) -> None:
        """The arena's tensors are where this version puts them, so that names mean what they say."""
        c, weights = self.capture, self.shape.weight_bytes()
        if c.tensors != self.shape.tensors() or c.weights.get("bytes") != weights or max(c.graphs) > self.shape.slots:
            refuse("malformed", "tensors, weights or sizes are not laid out as the model's shape asks for")
        for g in c.graphs.values():
            told = [(t.name, t.dtype, t.shape) for t in g.outputs]
            if told != [("logits", "float32", (g.size, self.shape.vocab)), ("next", "int64", (g.size,))]:
                refuse("malformed", f"graph of batch {g.size} has other outputs than logits and next tokens")
        if self.arena.size < c.size:
            refuse("memory", f"the arena has {self.arena.size} of {c.size} bytes")
        self.arena.freeze(0, weights)

    def view(self, name: str) -> memoryview:
        """The bytes of a weight, KV or input tensor."""
        t = self._by_name[name]
        return self.arena.view(t.offset, t.nbytes)

    def _address(self, function: Function) -> int:
        key = function.binary or function.library
        try:
            found = _image(self.capture.binaries[key], key) if function.binary else _torch_library()
            return found.address(function.symbol)
        except RuntimeError as error:
            raise Refused("foreign", f"{function.symbol} of {key} cannot be loaded: {error}") from error

    def _program(self, key: str) -> Any:
        from workbench.kernels.replay import Program

        if key not in self._programs:
            template = self.capture.templates[key]
            addresses = [self._address(f) for f in template.functions]
            nodes, first = [], 0
            for node in template.nodes:
                called = addresses[node.function] if node.function >= 0 else 0
                nodes.append((KINDS.index(node.kind), first, node.slots, called))
                first += node.slots
            self._programs[key] = Program(self.arena, nodes, list(template.pointers))
        return self._programs[key]

    def prepare(self, size: int) -> tuple[Any, int]:
        """The program and parameter set of a size, checked against the arena. Refused says what does not fit."""
        graph = self._graph(size)
        try:
            program = self._program(graph.template)
            if size not in self._index:
                moved = relocate(
                    graph.slots, self.capture.templates[graph.template], self.arena.base - self.capture.base
                )
                self._index[size] = program.add(moved, graph.extents)
        except (ValueError, IndexError, RuntimeError) as error:
            raise Refused("malformed", f"graph of batch {size} does not fit: {error}") from error
        return program, self._index[size]

    def _graph(self, size: int) -> Graph:
        found = self.capture.graphs.get(size)
        if found is None:
            have = ", ".join(map(str, sorted(self.capture.graphs)))
            raise ValueError(f"no graph of batch {size} was captured; there are {have}")
        return found

    def outputs(self, size: int) -> list[memoryview]:
        """Bytes of logits and next tokens of a size's last replay."""
        return [self.arena.view(t.offset, t.nbytes) for t in self._graph(size).outputs]

    def replay(self, size: int) -> None:
        """Run a graph on what lies in the arena. RuntimeError names the node that failed."""
        program, index = self.prepare(size)
        program.replay(index)

    def verify(self, size: int) -> None:
        """Replay on the probe's inputs and compare bits with the capture; KV and inputs are put back afterwards.

        Refused("mismatch") when they differ.
        """
        graph, view, tensors = self._graph(size), self.arena.view, self.capture.tensors
        kept = probe.keep(view, tensors, size)
        at = probe.ids_and_positions(size, self.shape.vocab, self.shape.capacity)
        try:
            probe.fill(view, tensors, size, *at)
            self.replay(size)
            got = probe.outcome(view, tensors, self.outputs(size), size)
        except RuntimeError as error:
            raise Refused("mismatch", f"graph of batch {size} failed on known inputs: {error}") from error
        finally:
            probe.put_back(view, kept)
        if got != graph.probe:
            refuse("mismatch", f"graph of batch {size} does not leave the bits that were captured")
        self.verified.add(size)

    def step(self, ids: Sequence[int], positions: Sequence[int]) -> tuple[memoryview[float], list[int]]:
        """One decode step: logits [b, vocab] as a view of fp32 that the next step overwrites, and the likeliest tokens.

        ValueError when a token or position does not exist, or no graph of this batch was captured; Refused when the
        graph's first run finds that it cannot be trusted.
        """
        size, s = len(ids), self.shape
        self._graph(size)
        if len(positions) != size or not all(0 <= i < s.vocab for i in ids):
            raise ValueError(f"{size} tokens of 0 to {s.vocab - 1} and as many positions are wanted")
        if not all(0 <= p < s.capacity for p in positions):
            raise ValueError(f"positions are 0 to {s.capacity - 1}, the captured capacity")
        if size not in self.verified:
            self.verify(size)
        for name, values in (("ids", ids), ("positions", positions)):
            raw = array("q", values).tobytes()
            self.view(name)[: len(raw)] = raw
        self.replay(size)
        logits, tokens = self.outputs(size)
        return logits.cast("f", (size, s.vocab)), list(tokens.cast("q"))


def load(
    path: str | Path,
    *,
    verify: Verify = "templates",
    base: int | None = None,
    expect: str | None = None,
    here: dict[str, Any] | None = None,
    phase: Callable[[str, float], None] = lambda *_: None,
) -> Runner:
    """Rebuild an archive's graphs. Refused, with its reason, whenever they cannot be trusted on this machine.

    verify: "all" replays every size now, "templates" the smallest of each template, the others at their first use.
    base: another place than the captured one, for the arena. expect: the id that the archive must have, where its
    origin is not trusted: it holds machine code. here: the fingerprint to compare with, this machine's when None.
    `phase` hears (name, seconds) of each phase.
    """
    path, clock = Path(path), Clock(phase)
    raw = archive.read(path)
    if expect is not None and raw.id != expect:
        refuse("foreign", f"{path.name} is not the archive that was asked for: its id is {raw.id}, not {expect}")
    found = decode(raw)
    if found.backend != "cpu":
        refuse("foreign", f"{path.name} was captured on backend {found.backend}, this is cpu")
    try:
        if why := differences(found.fingerprint, here or machine()):
            refuse("foreign", f"{path.name} was captured elsewhere: {'; '.join(why)}")
    except NoLibrary as error:
        raise Refused("foreign", str(error)) from error
    clock("archive")
    opening = threading.Thread(target=_open_early, daemon=True)
    opening.start()
    arena = make_arena(found.base if base is None else base, found.size)
    load_weights(arena, found.weights, path.parent)
    clock("weights")
    opening.join()
    runner = Runner(found, arena)
    for size in sorted(found.graphs):
        runner.prepare(size)
    clock("graphs")
    for size in _to_verify(found, verify):
        runner.verify(size)
    clock("verify")
    return runner


_images: dict[str, Any] = {}  # by digest: what a process has loaded stays, and serves every archive that has it too
_opening = threading.Lock()


def _open_early() -> None:
    """Load torch's library while the weights are read: a third of a second each."""
    with contextlib.suppress(RuntimeError):  # it is raised again where the library is wanted
        _torch_library()


def _torch_library() -> Any:
    """The CPU library of torch, for BLAS and OpenMP; torch itself is not imported."""
    from workbench.kernels.replay import Library

    with _opening:
        if "" not in _images:
            _images[""] = Library(str(torch_cpu()), True)
    return _images[""]


def _image(raw: bytes, key: str) -> Any:
    from workbench.kernels.replay import Library

    if key not in _images:
        _images[key] = Library.from_bytes(raw, key)
    return _images[key]


def _to_verify(found: Capture, verify: Verify) -> list[int]:
    if verify == "first use":
        return []
    sizes = sorted(found.graphs)
    if verify == "all":
        return sizes
    smallest: dict[str, int] = {}
    for size in sizes:
        smallest.setdefault(found.graphs[size].template, size)
    return sorted(smallest.values())


def load_or_capture(path: str | Path, again: Callable[[], Any], **options: Any) -> tuple[Runner, str]:
    """The archive's graphs, or, where it is refused, those of a new capture: (runner, "" or why it was refused).

    `again` writes a new archive at `path`. What it raises goes to the caller: then neither way works.
    """
    return or_again(lambda: load(path, **options), again)

"""A ladder of graphs on a device: which executable serves a batch size, what it holds, and whether it is trusted yet.

One executable a template, updated from size to size; sizes that are asked for again and again get one of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Self

from workbench.foundry.archive import Refused, refuse
from workbench.foundry.cuda_build import Build, Built, Parts, Way, split
from workbench.foundry.cuda_graph import CudaCapture, Graph, moved
from workbench.foundry.cuda_memory import DeviceArena, outcome, probing
from workbench.foundry.driver import Driver, DriverError, Handle
from workbench.foundry.graph import Tensor


class Ladder:
    """A capture's graphs on a device. `replay` and what it needs: one thread at a time; a background build beside it.

    `counts`: launches, updates, nodes_set, built, promoted, verified. `notes`: what went another way than usual.
    """

    def __init__(
        self,
        capture: CudaCapture,
        driver: Driver,
        arena: DeviceArena,
        *,
        rank: Mapping[str, int] | None = None,
        promote_after: int = 8,
        most_promoted: int = 16,
        way: Way = "nodes",
        check_first_use: bool = True,
    ) -> None:
        self.capture, self.driver, self.arena, self.way = capture, driver, arena, way
        self.rank = check_rank(capture, rank)
        self.promote_after, self.most_promoted = promote_after, most_promoted
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.verified: set[int] = set()
        self._check_first_use = check_first_use
        self._functions = _Functions(driver, capture)
        self._tensors = {t.name: t for t in capture.tensors}
        self._parts: dict[int, Parts] = {}
        self._shared: dict[str, Built] = {}
        self._own: dict[int, Built] = {}
        self._locks = {key: threading.Lock() for key in capture.topology}
        self._promoting = threading.Lock()
        self._switches: Counter[int] = Counter()
        self._build: Build | None = None

    # memory
    def tensor(self, name: str, size: int | None = None) -> Tensor:
        """A tensor by its name; an output of a batch size. KeyError when there is none."""
        if size is not None:
            for each in self._graph(size).outputs:
                if each.name == name:
                    return each
        return self._tensors[name]

    def write(self, name: str, raw: bytes | memoryview) -> None:
        """Put bytes at the start of a weight, state or input tensor."""
        t = self._tensors[name]
        if len(raw) > t.nbytes:
            raise ValueError(f"{name} has {t.nbytes} bytes, not {len(raw)}")
        self.arena.write(t.offset, raw)

    def read(self, name: str, size: int | None = None) -> bytes:
        """Bytes of a tensor, or of an output of a batch size."""
        t = self.tensor(name, size)
        return self.arena.read(t.offset, t.nbytes)

    def address(self, name: str, size: int | None = None) -> int:
        """Where a tensor, or an output of a batch size, lies on the device; `cuda_capture.at` makes torch's of it."""
        return self.arena.base + self.tensor(name, size).offset

    # graphs
    def _graph(self, size: int) -> Graph:
        found = self.capture.graphs.get(size)
        if found is None:
            raise ValueError(f"no graph of batch {size} was captured; there are {sorted(self.capture.graphs)}")
        return found

    def parts(self, size: int) -> Parts:
        """A size's parameters at this arena and of this rank, node by node."""
        if size not in self._parts:
            self._parts[size] = self._moved(size, self.rank)
        return self._parts[size]

    def _moved(self, size: int, rank: Mapping[str, int] | None) -> Parts:
        graph = self._graph(size)
        row = moved(graph, self.arena.base - self.capture.base, rank)
        return split(self.capture, graph.template, row)

    def prepare(self, size: int) -> Built:
        """The executable that serves a size, built if it is not there yet; another size's parameters may be in it.

        Refused when the driver will not build it.
        """
        if size in self._own:
            return self._own[size]
        key = self._graph(size).template
        with self._locks[key]:
            if key not in self._shared:
                self._shared[key] = self._new(size)
            return self._shared[key]

    def _new(self, size: int) -> Built:
        key = self._graph(size).template
        try:
            built = Built(self.driver, self.capture, self._functions, key, self.parts(size))
        except DriverError as error:
            raise Refused("foreign", f"graph of batch {size} cannot be built here: {error}") from error
        self.driver.upload(built.executable, 0)
        self.counts["built"] += 1
        return built

    def replay(self, size: int, stream: Handle = 0) -> None:
        """Run a size once, in the order of the stream. ValueError: not captured; Refused: it cannot be trusted."""
        if self._check_first_use and size not in self.verified:
            self.verify(size, stream)
        set_ = self._run(size, self.parts(size), stream)
        self.counts["launches"] += 1
        if set_:
            self.counts["updates"] += 1
            self.counts["nodes_set"] += set_
            self._switches[size] += 1
            if self._switches[size] >= self.promote_after:
                self.promote(size)

    def _run(self, size: int, parts: Parts, stream: Handle) -> int:
        """Launch a size with these parameters; how many nodes had to be set for it."""
        built = self.prepare(size)
        with self._locks[self._graph(size).template]:
            set_ = built.hold(parts, self.way)
            built.launch(stream)
        self.notes += built.notes
        built.notes.clear()
        return set_

    def promote(self, size: int) -> bool:
        """Give a size an executable of its own, so that it never waits for an update. False: it has, or none is left.

        Done by itself after `promote_after` updates for the size, for at most `most_promoted` sizes.
        """
        with self._promoting:
            if size in self._own or len(self._own) >= self.most_promoted:
                return False
            built = self._new(size)
            self._own[size] = built
            self.counts["promoted"] += 1
            return True

    @property
    def promoted(self) -> list[int]:
        """Sizes with an executable of their own."""
        return sorted(self._own)

    def verify(self, size: int, stream: Handle = 0, *, restore: bool = True) -> None:
        """Replay on the probe's inputs and compare bits with the capture; what it overwrote is put back (`restore`).

        Refused("mismatch") when they differ, or when a kernel failed: if it touched what is not mapped, the driver ends
        the context, and only a new process can go on. Values of the rank are the captured ones meanwhile. Where one is
        a handle, which no other process has, nothing can be compared, and only `verify="never"` accepts that.
        """
        graph = self._graph(size)
        ranks, mine = self.capture.ranks, self.rank or {}
        if gone := {
            p.name for p in graph.patches if ranks[p.name].handle and mine.get(p.name) != ranks[p.name].captured
        }:
            told = ", ".join(sorted(gone))
            refuse("mismatch", f"graph of batch {size} needs {told} of this process and cannot be verified by replay")
        parts = self._moved(size, None)
        try:
            self.driver.synchronize(stream)
            with probing(self.arena, self.capture, graph, restore=restore):
                self._run(size, parts, stream)
                self.driver.synchronize(stream)
                got = outcome(self.arena, self._tensors, graph)
        except DriverError as error:
            raise Refused("mismatch", f"graph of batch {size} failed on known inputs: {error}") from error
        if got != graph.probe.digest:
            refuse("mismatch", f"graph of batch {size} does not leave the bits that were captured")
        self.verified.add(size)
        self.counts["verified"] += 1

    # building beside other work
    def start_build(self, *, hot: Iterable[int] = ()) -> Build:
        """Build every template, then executables for `hot` sizes, in a thread. `replay` builds what it needs first."""
        if self._build is not None and self._build.running:
            raise RuntimeError("a build is running already; wait for it or cancel it")
        jobs: list[tuple[str, Callable[[], object]]] = []
        for key, size in smallest(self.capture).items():
            jobs.append((f"template {key[:8]} (batch {size})", partial(self.prepare, size)))
        jobs += [(f"batch {size}", partial(self.promote, size)) for size in hot]
        self._build = Build(jobs, self.driver.enter)
        return self._build

    def close(self, *, arena: bool = True) -> None:
        """Stop building, free executables, code and (`arena`) memory; nothing may run any more."""
        if self._build is not None:
            self._build.cancel()
        every = [*self._own.values(), *self._shared.values()]
        self._own.clear()
        self._shared.clear()
        closing = [each.close for each in every]
        closing += [self._functions.close, *([self.arena.close] if arena else [])]
        for step in (lambda: self.driver.synchronize(0), *closing):
            try:
                step()
            except DriverError as error:  # of a context that a kernel has ended nothing can be given back
                self.notes.append(f"not given back: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Functions(Mapping[int, Handle]):
    """Kernels by their number in the archive, loaded when first asked for."""

    def __init__(self, driver: Driver, capture: CudaCapture) -> None:
        self._driver, self._capture = driver, capture
        self._libraries: dict[str, Handle] = {}
        self._found: dict[int, Handle] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Handle:
        with self._lock:
            if index not in self._found:
                self._found[index] = self._load(index)
            return self._found[index]

    def _load(self, index: int) -> Handle:
        code, driver = self._capture.functions[index], self._driver
        try:
            if code.binary not in self._libraries:
                self._libraries[code.binary] = driver.load(self._capture.binaries[code.binary])
            function = driver.function(self._libraries[code.binary], code.symbol)
            now = driver.settings(function)
            for name, value in code.settings:
                if now[name] != value:
                    driver.set_setting(function, name, value)
            layout = driver.layout(function)
        except DriverError as error:
            raise Refused("foreign", f"kernel {code.symbol} of {code.binary[:8]} cannot be loaded: {error}") from error
        if layout != code.layout:
            refuse("foreign", f"kernel {code.symbol} takes other parameters than those that were captured")
        return function

    def close(self) -> None:
        for each in self._libraries.values():
            self._driver.unload(each)
        self._libraries.clear()
        self._found.clear()

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._capture.functions)))

    def __len__(self) -> int:
        return len(self._capture.functions)


def check_rank(capture: CudaCapture, given: Mapping[str, int] | None) -> dict[str, int] | None:
    """The values of this rank, checked by name and width; None means those that were captured."""
    if given is None:
        if handles := [name for name, r in capture.ranks.items() if r.handle]:
            raise ValueError(f"this archive needs rank={{{handles[0]!r}: ...}}: a handle that this process made")
        return None
    if set(given) != set(capture.ranks):
        raise ValueError(f"rank names {sorted(capture.ranks)}, given were {sorted(given)}")
    for name, value in given.items():
        if not 0 <= value < 1 << 8 * capture.ranks[name].width:
            raise ValueError(f"the rank's {name} is {value}, which does not fit {capture.ranks[name].width} bytes")
    return dict(given)


def smallest(capture: CudaCapture) -> dict[str, int]:
    """The smallest size of each template."""
    found: dict[str, int] = {}
    for size in sorted(capture.graphs):
        found.setdefault(capture.graphs[size].template, size)
    return found

"""Executables: one a template, updated from size to size, and one of its own for a size that is often asked for.

    built = Built(driver, capture, handles, key, parts)     # parts: the words of each node
    built.hold(other_parts)                                 # what differs is set, the rest stays
    built.launch(stream)

An update changes later launches only, not those under way (CUDA driver API, cuGraphExecKernelNodeSetParams), so nothing
is waited for. Where the driver refuses one, the executable is made anew, and `notes` say why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Self

from workbench.foundry.archive import Refused
from workbench.foundry.cuda_graph import CudaCapture, Template, node_of, pieces
from workbench.foundry.cuda_walk import walk
from workbench.foundry.driver import Child, Driver, DriverError, Edge, Empty, Handle, Node

Parts = tuple[tuple[int, ...], ...]
Way = Literal["nodes", "graph"]


def split(capture: CudaCapture, key: str, row: Sequence[int]) -> Parts:
    """The words of each node, in the order of the template, child graphs gone into."""
    template = capture.templates[key]
    return tuple(tuple(row[p.start : p.stop]) for p in pieces(template, capture.templates, capture.functions, row))


class Built:
    """A template's graph and its executable, holding one size's parameters. One thread at a time.

    `way` of an update: "nodes" sets each node that differs in the executable; "graph" sets them in the graph and hands
    the whole of it to cuGraphExecUpdate. Nodes of child graphs can only be reached by the latter.
    """

    def __init__(
        self, driver: Driver, capture: CudaCapture, handles: Mapping[int, Handle], key: str, parts: Parts
    ) -> None:
        self.driver, self.capture, self.handles, self.key = driver, capture, handles, key
        self.notes: list[str] = []
        self.executable = 0
        self._nodes: list[tuple[str, Handle, bool]] = []  # kind, node, whether inside a child graph
        self._in_graph = self._in_executable = parts
        self.graph = driver.graph()
        try:
            self._fill(self.graph, capture.templates[key], iter(parts))
            self.executable = driver.instantiate(self.graph)
        except BaseException:
            self.close()
            raise

    def _fill(self, graph: Handle, template: Template, parts: Iterator[tuple[int, ...]]) -> None:
        made: list[Handle] = []
        for node in template.nodes:
            if node.kind == "child":
                made.append(self._child(graph, self.capture.templates[node.child], parts))
                continue
            words = next(parts)
            made.append(self.driver.add(graph, self._node(node.kind, words)))
            if node.attributes:
                self.driver.set_attributes(made[-1], node.attributes)
            self._nodes.append((node.kind, made[-1], False))
        if template.edges:
            edges = [Edge(made[a], made[b], *ports) for a, b, *ports in template.edges]
            self.driver.connect(graph, edges)

    def _child(self, graph: Handle, template: Template, parts: Iterator[tuple[int, ...]]) -> Handle:
        """A child node. The driver copies the graph that it is given, so the nodes are looked up in the copy."""
        inner, before = self.driver.graph(), len(self._nodes)
        try:
            self._fill(inner, template, parts)
            node = self.driver.add(graph, Child(inner))
            original, copied = walk(self.driver, inner), walk(self.driver, self.driver.child(node))
        finally:
            self.driver.destroy_graph(inner)
        if (original.template, original.row) != (copied.template, copied.row):
            raise Refused("mismatch", f"template {self.key}: the driver's copy of a child graph has another order")
        kinds = [kind for kind, _, _ in self._nodes[before:]]
        self._nodes[before:] = [(kind, leaf, True) for kind, leaf in zip(kinds, copied.handles, strict=True)]
        return node

    def _node(self, kind: str, words: Sequence[int]) -> Node:
        if kind == "empty":
            return Empty()
        return node_of(kind, words, self.capture.functions, self.handles)

    def hold(self, parts: Parts, way: Way = "nodes") -> int:
        """Take another size's parameters; returns how many nodes differed. DriverError when nothing works."""
        if parts is self._in_executable and self.executable:
            return 0
        if not self.executable:  # an earlier attempt was left without one
            self._into_graph(parts)
            self.executable, self._in_executable = self.driver.instantiate(self.graph), parts
            return len(parts)
        changed = [i for i, (a, b) in enumerate(zip(self._in_executable, parts, strict=True)) if a != b]
        if not changed:
            return 0
        inside = any(self._nodes[i][2] for i in changed)
        try:
            if way == "graph" or inside:
                self._into_graph(parts)
                self.driver.update(self.executable, self.graph)
            else:
                for i in changed:
                    kind, node, _ = self._nodes[i]
                    self.driver.set_executable(self.executable, node, self._node(kind, parts[i]))
        except DriverError as error:
            self._again(parts, error)
        self._in_executable = parts
        return len(changed)

    def _into_graph(self, parts: Parts) -> None:
        for i, (a, b) in enumerate(zip(self._in_graph, parts, strict=True)):
            if a != b:
                kind, node, _ = self._nodes[i]
                self.driver.set_node(node, self._node(kind, b))
        self._in_graph = parts

    def _again(self, parts: Parts, why: DriverError) -> None:
        """Instantiate once more, because an update was refused; what the executable holds by now is not known."""
        self.notes.append(f"template {self.key[:8]} was instantiated again: {why}")
        self._into_graph(parts)
        old, self.executable = self.executable, 0
        self.driver.destroy_executable(old)
        self.executable = self.driver.instantiate(self.graph)

    def launch(self, stream: Handle) -> None:
        """Run what it holds."""
        self.driver.launch(self.executable, stream)

    def close(self) -> None:
        """Free both. Twice is once."""
        if self.executable:
            self.driver.destroy_executable(self.executable)
        if self.graph:
            self.driver.destroy_graph(self.graph)
        self.executable = self.graph = 0


class Cancelled(RuntimeError):
    """The background build was cancelled; templates that are missing are built when they are asked for."""


class Build:
    """Jobs in a thread of their own, one after the other: (what it is called, the call). Starts at once.

    Cancel is looked at between jobs: a call of the driver cannot be interrupted. Use as a context manager or call
    `cancel` or `wait`; the thread ends with its last job.
    """

    def __init__(self, jobs: Sequence[tuple[str, Callable[[], object]]], enter: Callable[[], None]) -> None:
        self.total, self.done, self.now = len(jobs), 0, ""
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(list(jobs), enter), name="foundry-build", daemon=True)
        self._thread.start()

    def _run(self, jobs: list[tuple[str, Callable[[], object]]], enter: Callable[[], None]) -> None:
        try:
            enter()
            for name, job in jobs:
                if self._stop.is_set():
                    return
                self.now = name
                job()
                self.done += 1
        except BaseException as error:  # noqa: BLE001 handed to whoever waits
            self.error = error

    @property
    def running(self) -> bool:
        """Whether the thread is still at it."""
        return self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Until all is built. TimeoutError names what it hangs at; Cancelled, or the job's own error, is raised."""
        self._join(timeout_s, "the background build of templates")
        if self.error is not None:
            raise self.error
        if self.done < self.total:
            raise Cancelled(f"the build was cancelled after {self.done} of {self.total}")

    def cancel(self, timeout_s: float = 30.0) -> None:
        """Stop after the job at hand. TimeoutError when the driver does not come back from it."""
        self._stop.set()
        self._join(timeout_s, "cancelling the background build")

    def _join(self, timeout_s: float, what: str) -> None:
        start = time.monotonic()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(
                f"{what}: {self.done} of {self.total} done after {time.monotonic() - start:.1f} s, still at "
                f"{self.now}; wait longer, or build in the foreground (background=False)"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

"""The part of the CUDA driver that Foundry needs, in plain data: handles and addresses are ints, parameters are bytes.

`driver_cuda.Cuda` is the real one, over cuda-bindings. The tests have a double in software that checks its arguments as
the driver does and runs its kernels on real memory. Whoever captures and rebuilds graphs talks to a `Driver` and knows
neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Handle = int
Dim = tuple[int, int, int]
Attributes = tuple[tuple[str, tuple[int, ...]], ...]  # names of ATTRIBUTES, rising, none at its default
# Launch attributes of a kernel node that are kept, and how many 32-bit fields each has. No update of an executable
# carries them, so they are part of a template's key.
ATTRIBUTES = {
    "cluster": 3, "cluster_policy": 1, "cooperative": 1, "memory_domain": 1, "memory_domain_map": 2,
    "nvlink_scheduling": 1, "preferred_cluster": 3, "priority": 1,
}  # fmt: skip
# Settings of a function that a library makes before it launches, and that a fresh load has not.
SETTINGS = ("dynamic_shared", "non_portable_cluster", "shared_carveout")
PORTS = {0: "default", 1: "programmatic", 2: "launch order"}  # of a kernel node, where an edge leaves


class NoDriver(RuntimeError):
    """There is no CUDA driver, no device or no cuda-bindings here; the message says which, and the way out."""


class DriverError(RuntimeError):
    """A call of the driver failed. `call` and `code` are the driver's own names, as "CUDA_ERROR_INVALID_VALUE"."""

    def __init__(self, call: str, code: str, message: str = "") -> None:
        super().__init__(f"{call}: {code}{f' ({message})' if message else ''}")
        self.call, self.code = call, code


class UpdateRefused(DriverError):
    """cuGraphExecUpdate would not; `result` is its CUgraphExecUpdateResult, as "..._ERROR_TOPOLOGY_CHANGED"."""

    def __init__(self, result: str, message: str = "") -> None:
        super().__init__("cuGraphExecUpdate", "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", f"{result} {message}".strip())
        self.result = result


class Unsupported(RuntimeError):
    """A captured graph holds something that no archive can carry; the message names the node and what it is."""


@dataclass(frozen=True)
class Kernel:
    """A kernel launch. `values` are the bytes of each parameter, in the order of the function's layout."""

    function: Handle
    grid: Dim
    block: Dim
    shared_bytes: int  # dynamic, of a block
    values: tuple[bytes, ...]


@dataclass(frozen=True)
class Memcpy:
    """A copy inside device memory: depth x height rows of `width` bytes. Pitches in bytes, heights in rows."""

    dst: int
    src: int
    width: int
    height: int = 1
    depth: int = 1
    dst_pitch: int = 0
    dst_height: int = 0
    src_pitch: int = 0
    src_height: int = 0


@dataclass(frozen=True)
class Memset:
    """`height` rows of `width` elements of 1, 2 or 4 bytes become `value`. Pitch in bytes, unused for one row."""

    dst: int
    pitch: int
    value: int
    element: int
    width: int
    height: int


@dataclass(frozen=True)
class Empty:
    """A node that only orders others."""


@dataclass(frozen=True)
class Child:
    """A node that runs a graph of its own; the driver copies `graph` when the node is added."""

    graph: Handle


Node = Kernel | Memcpy | Memset | Empty | Child


@dataclass(frozen=True)
class Edge:
    """`after` waits for `before`, wholly when ports and type are zero (CUgraphEdgeData)."""

    before: Handle
    after: Handle
    from_port: int = 0
    to_port: int = 0
    type: int = 0


class Driver(Protocol):
    """One device and its context. Every call may raise DriverError.

    Device memory is only reached through `read` and `write` (both wait for what the device still does) and by graphs.
    """

    def about(self) -> dict[str, Any]:
        """What a capture depends on: name, capability, multiprocessors, driver version, allocation granularity."""
        ...

    def enter(self) -> None:
        """Make the context current in the calling thread; a thread's first call."""
        ...

    # memory
    def granularity(self) -> int:
        """Bytes that sizes of memory are multiples of."""
        ...

    def reserve(self, size: int, address: int) -> int:
        """Reserve addresses, at `address` if that is free; returns where."""
        ...

    def unreserve(self, address: int, size: int) -> None:
        """Give a whole reservation back; nothing may be mapped in it."""
        ...

    def create(self, size: int) -> Handle:
        """Physical memory of the device."""
        ...

    def release(self, memory: Handle) -> None:
        """Give it back, once it is no longer mapped."""
        ...

    def map(self, address: int, size: int, memory: Handle) -> None:
        """Put memory at reserved addresses, readable and writable by the device."""
        ...

    def unmap(self, address: int, size: int) -> None:
        """Take a whole mapping away."""
        ...

    def write(self, address: int, raw: bytes | memoryview) -> None:
        """Host to device."""
        ...

    def read(self, address: int, size: int) -> bytes:
        """Device to host."""
        ...

    def owner(self, address: int) -> tuple[int, int] | None:
        """(start, bytes) of the allocation that an address lies in; None when it is no address of the device."""
        ...

    # code
    def symbols(self, image: bytes) -> set[str]:
        """Names of the kernels in a binary, without loading it."""
        ...

    def load(self, image: bytes) -> Handle:
        """A library from a cubin."""
        ...

    def unload(self, library: Handle) -> None:
        """Its functions are gone after this."""
        ...

    def function(self, library: Handle, symbol: str) -> Handle:
        """A kernel of a library."""
        ...

    def name(self, function: Handle) -> str:
        """Its symbol."""
        ...

    def module(self, function: Handle) -> Handle:
        """The module that it came with."""
        ...

    def layout(self, function: Handle) -> tuple[tuple[int, int], ...]:
        """(offset, bytes) of each parameter on the device."""
        ...

    def traits(self, function: Handle) -> dict[str, int]:
        """Registers, static shared, constant and local bytes, most threads: they tell builds of one name apart."""
        ...

    def settings(self, function: Handle) -> dict[str, int]:
        """SETTINGS: most dynamic shared bytes, whether clusters may be large, the share of L1 that is shared memory."""
        ...

    def set_setting(self, function: Handle, name: str, value: int) -> None:
        """Change one of them."""
        ...

    # graphs, taken apart
    def nodes(self, graph: Handle) -> list[Handle]:
        """Nodes, in the order of the driver."""
        ...

    def edges(self, graph: Handle) -> list[Edge]:
        """Edges with their ports."""
        ...

    def node(self, node: Handle) -> Node:
        """What a node does. Unsupported names a kind that no archive carries."""
        ...

    def attributes(self, node: Handle) -> Attributes:
        """Launch attributes of a kernel node that are not at their defaults. Unsupported names one not carried."""
        ...

    # graphs, built
    def graph(self) -> Handle:
        """An empty graph."""
        ...

    def add(self, graph: Handle, node: Node) -> Handle:
        """A node that waits for nothing yet."""
        ...

    def connect(self, graph: Handle, edges: Sequence[Edge]) -> None:
        """Add edges."""
        ...

    def set_attributes(self, node: Handle, attributes: Attributes) -> None:
        """Set launch attributes of a kernel node."""
        ...

    def child(self, node: Handle) -> Handle:
        """The graph inside a child node, which stays the node's; changes of it are changes of the node."""
        ...

    def set_node(self, node: Handle, to: Node) -> None:
        """Other parameters for a node of a graph. Executables made from the graph do not change."""
        ...

    def destroy_graph(self, graph: Handle) -> None:
        """The graph and its nodes; executables made from it stay."""
        ...

    # executables
    def instantiate(self, graph: Handle) -> Handle:
        """An executable."""
        ...

    def update(self, executable: Handle, graph: Handle) -> None:
        """All parameters of `graph`, which must be of the same topology. UpdateRefused says why not."""
        ...

    def set_executable(self, executable: Handle, node: Handle, to: Node) -> None:
        """Other parameters for one node, named by the node of the graph that the executable was made from."""
        ...

    def upload(self, executable: Handle, stream: Handle) -> None:
        """Put it on the device, so that the first launch need not."""
        ...

    def launch(self, executable: Handle, stream: Handle) -> None:
        """Run it once, in the order of the stream."""
        ...

    def synchronize(self, stream: Handle) -> None:
        """Wait for a stream. DriverError when something in it failed."""
        ...

    def destroy_executable(self, executable: Handle) -> None:
        """Free it."""
        ...


def pack(values: Sequence[bytes], layout: Iterable[tuple[int, int]]) -> bytes:
    """Parameters as they lie on the device, padded with zeros to whole 8-byte words."""
    places = list(layout)
    end = max((offset + size for offset, size in places), default=0)
    made = bytearray(end + -end % 8)
    for value, (offset, size) in zip(values, places, strict=True):
        if len(value) != size:
            raise ValueError(f"a parameter of {size} bytes was given {len(value)}")
        made[offset : offset + size] = value
    return bytes(made)


def unpack(raw: bytes, layout: Iterable[tuple[int, int]]) -> tuple[bytes, ...]:
    """The inverse of `pack`."""
    return tuple(raw[offset : offset + size] for offset, size in layout)


def plain(attributes: Mapping[str, Sequence[int]]) -> Attributes:
    """In order, those at their default (zero) left out. ValueError for one that no archive carries."""
    for name, fields in attributes.items():
        if ATTRIBUTES.get(name) != len(fields):
            raise ValueError(f"no launch attribute {name!r} of {len(fields)} fields is carried")
    return tuple((name, tuple(attributes[name])) for name in sorted(attributes) if any(attributes[name]))

"""The real driver, over cuda-bindings: what `driver.Driver` says, in calls of the CUDA driver API.

    missing()      "" or why there is none here
    Cuda()         device 0, its primary context: the one that torch uses too

Needs cuda-bindings 13 (`pip install cuda-bindings`) and a driver for CUDA 12.4 or newer; both are looked for when a
`Cuda` is made and not before. Written to the API's documentation and checked against a stand-in for libcuda.so.1; it
has never run on a GPU (`cuda.NEVER_RAN`).
"""

from __future__ import annotations

import ctypes
import importlib
import struct
from collections.abc import Sequence
from typing import Any

from workbench.foundry.cuda_binaries import elf_kernels
from workbench.foundry.driver import (
    Attributes,
    Child,
    DriverError,
    Edge,
    Empty,
    Handle,
    Kernel,
    Memcpy,
    Memset,
    Node,
    NoDriver,
    Unsupported,
    UpdateRefused,
    plain,
    unpack,
)
from workbench.foundry.driver_params import copied, copy_struct, fill_struct, kernel_struct, packed

OLDEST = 13  # cuda-bindings: from here on edges come with their ports
# Launch attributes: number (CUlaunchAttributeID) and how the fields lie in the value.
_ATTRIBUTES = {
    "cooperative": (2, "<i"), "cluster": (4, "<3I"), "cluster_policy": (5, "<I"), "priority": (8, "<i"),
    "memory_domain_map": (9, "<2B"), "memory_domain": (10, "<I"), "preferred_cluster": (11, "<3I"),
    "nvlink_scheduling": (16, "<I"),
}  # fmt: skip
# Attributes that an archive does not carry: number, and the bytes that are zero when one is not used.
_REFUSED = {"access policy window": (1, slice(8, 16)), "device-updatable node": (13, slice(0, 4))}
_KINDS = {
    3: "host function", 6: "wait for an event", 7: "record of an event", 8: "signal of a semaphore",
    9: "wait for a semaphore", 10: "allocation", 11: "free", 12: "batch of memory operations", 13: "conditional",
}  # fmt: skip
_TRAITS = {
    "registers": "NUM_REGS", "static_shared": "SHARED_SIZE_BYTES", "constants": "CONST_SIZE_BYTES",
    "local": "LOCAL_SIZE_BYTES", "threads": "MAX_THREADS_PER_BLOCK", "binary": "BINARY_VERSION",
}  # fmt: skip
_SETTINGS = {
    "dynamic_shared": "MAX_DYNAMIC_SHARED_SIZE_BYTES", "non_portable_cluster": "NON_PORTABLE_CLUSTER_SIZE_ALLOWED",
    "shared_carveout": "PREFERRED_SHARED_MEMORY_CARVEOUT",
}  # fmt: skip


def missing() -> str:
    """Why there is no CUDA driver for this, in one line; "" when there is."""
    try:
        Cuda().leave()
    except (NoDriver, DriverError) as error:
        return str(error)
    return ""


def _bindings() -> Any:
    try:
        found = importlib.import_module("cuda.bindings")
        driver = importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise NoDriver(f"cuda-bindings is not here ({error}): pip install 'cuda-bindings>={OLDEST}'") from error
    if int(found.__version__.split(".", maxsplit=1)[0]) < OLDEST:
        raise NoDriver(f"cuda-bindings is {found.__version__}: pip install 'cuda-bindings>={OLDEST}'")
    return driver


class Cuda:
    """driver.Driver on one GPU. NoDriver says what is not here."""

    def __init__(self, device: int = 0) -> None:
        self._d = _bindings()
        try:
            self._d.cuInit(0)
        except RuntimeError as error:  # libcuda.so.1 cannot be found
            raise NoDriver(f"no NVIDIA driver here: {error}") from error
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self.enter()

    def leave(self) -> None:
        """Give the context back: who only asked whether there is a driver holds no memory of the GPU."""
        self._call("cuCtxSetCurrent", 0)
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _call(self, name: str, *args: Any) -> Any:
        """What the driver gives besides CUDA_SUCCESS: nothing, one thing, or a tuple."""
        try:
            code, *found = getattr(self._d, name)(*args)
        except (AttributeError, RuntimeError) as error:
            raise NoDriver(f"the driver has no {name} ({error}): it must be one for CUDA 12.4 or newer") from error
        if int(code):
            raise DriverError(name, code.name)
        return found[0] if len(found) == 1 else tuple(found) or None

    # device
    def about(self) -> dict[str, Any]:
        a = self._d.CUdevice_attribute
        major, minor, count = (
            self._call("cuDeviceGetAttribute", attribute, self._device)
            for attribute in (
                a.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                a.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                a.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            )
        )
        name = self._call("cuDeviceGetName", 256, self._device)
        return {
            "device": name.split(b"\0", maxsplit=1)[0].decode(),
            "capability": f"{major}.{minor}",
            "multiprocessors": count,
            "driver": self._call("cuDriverGetVersion"),
            "granularity": self.granularity(),
        }

    def enter(self) -> None:
        self._call("cuCtxSetCurrent", self._context)

    # memory
    def _property(self) -> Any:
        d, made = self._d, self._d.CUmemAllocationProp()
        made.type = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        made.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        made.location.id = int(self._device)
        return made

    def granularity(self) -> int:
        option = self._d.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
        return int(self._call("cuMemGetAllocationGranularity", self._property(), option))

    def reserve(self, size: int, address: int) -> int:
        return int(self._call("cuMemAddressReserve", size, 0, address, 0))

    def unreserve(self, address: int, size: int) -> None:
        self._call("cuMemAddressFree", address, size)

    def create(self, size: int) -> Handle:
        return int(self._call("cuMemCreate", size, self._property(), 0))

    def release(self, memory: Handle) -> None:
        self._call("cuMemRelease", memory)

    def map(self, address: int, size: int, memory: Handle) -> None:
        d, access = self._d, self._d.CUmemAccessDesc()
        access.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = int(self._device)
        access.flags = d.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self._call("cuMemMap", address, size, 0, memory, 0)
        self._call("cuMemSetAccess", address, size, [access], 1)

    def unmap(self, address: int, size: int) -> None:
        self._call("cuMemUnmap", address, size)

    def write(self, address: int, raw: bytes | memoryview) -> None:
        if len(raw):
            self._call("cuCtxSynchronize")
            self._call("cuMemcpyHtoD", address, raw if isinstance(raw, bytes) else bytes(raw), len(raw))

    def read(self, address: int, size: int) -> bytes:
        into = bytearray(size)
        if size:
            self._call("cuCtxSynchronize")
            self._call("cuMemcpyDtoH", into, address, size)
        return bytes(into)

    def owner(self, address: int) -> tuple[int, int] | None:
        a = self._d.CUpointer_attribute
        try:
            start = self._call("cuPointerGetAttribute", a.CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address)
            size = self._call("cuPointerGetAttribute", a.CU_POINTER_ATTRIBUTE_RANGE_SIZE, address)
        except DriverError:
            return None
        return (int(start), int(size)) if int(start) else None

    # code
    def symbols(self, image: bytes) -> set[str]:
        try:
            return elf_kernels(image)
        except ValueError:
            return set()

    def load(self, image: bytes) -> Handle:
        return int(self._call("cuLibraryLoadData", image, [], [], 0, [], [], 0))

    def unload(self, library: Handle) -> None:
        self._call("cuLibraryUnload", library)

    def function(self, library: Handle, symbol: str) -> Handle:
        return int(self._call("cuKernelGetFunction", self._call("cuLibraryGetKernel", library, symbol.encode())))

    def name(self, function: Handle) -> str:
        return bytes(self._call("cuFuncGetName", function)).decode()

    def module(self, function: Handle) -> Handle:
        return int(self._call("cuFuncGetModule", function))

    def layout(self, function: Handle) -> tuple[tuple[int, int], ...]:
        found: list[tuple[int, int]] = []
        while True:
            try:
                offset, size = self._call("cuFuncGetParamInfo", function, len(found))
            except DriverError as error:
                if error.code == "CUDA_ERROR_INVALID_VALUE":  # there is no such parameter: that was all
                    return tuple(found)
                raise
            found.append((int(offset), int(size)))

    def _attribute(self, name: str) -> Any:
        return getattr(self._d.CUfunction_attribute, f"CU_FUNC_ATTRIBUTE_{name}")

    def traits(self, function: Handle) -> dict[str, int]:
        return {
            name: int(self._call("cuFuncGetAttribute", self._attribute(theirs), function))
            for name, theirs in _TRAITS.items()
        }

    def settings(self, function: Handle) -> dict[str, int]:
        return {
            name: int(self._call("cuFuncGetAttribute", self._attribute(theirs), function))
            for name, theirs in _SETTINGS.items()
        }

    def set_setting(self, function: Handle, name: str, value: int) -> None:
        self._call("cuFuncSetAttribute", function, self._attribute(_SETTINGS[name]), value)

    # graphs, taken apart
    def nodes(self, graph: Handle) -> list[Handle]:
        _, count = self._call("cuGraphGetNodes", graph, 0)
        found, _ = self._call("cuGraphGetNodes", graph, count) if count else ([], 0)
        return [int(each) for each in found]

    def edges(self, graph: Handle) -> list[Edge]:
        *_, count = self._call("cuGraphGetEdges", graph, 0)
        if not count:
            return []
        before, after, data, _ = self._call("cuGraphGetEdges", graph, count)
        return [
            Edge(int(a), int(b), int(e.from_port), int(e.to_port), int(e.type))
            for a, b, e in zip(before, after, data, strict=True)
        ]

    def node(self, node: Handle) -> Node:
        kind = int(self._call("cuGraphNodeGetType", node))
        if kind == 0:
            return self._kernel(node)
        if kind == 1:
            return copied(self._call("cuGraphMemcpyNodeGetParams", node))
        if kind == 2:
            p = self._call("cuGraphMemsetNodeGetParams", node)
            return Memset(int(p.dst), p.pitch if p.height > 1 else 0, p.value, p.elementSize, p.width, p.height)
        if kind == 4:
            return Child(self.child(node))
        if kind == 5:
            return Empty()
        raise Unsupported(f"a node of kind {_KINDS.get(kind, kind)} cannot be carried by an archive")

    def _kernel(self, node: Handle) -> Kernel:
        p = self._call("cuGraphKernelNodeGetParams", node)
        function = int(p.func) or int(self._call("cuKernelGetFunction", p.kern))
        layout = self.layout(function)
        if not layout:
            values: tuple[bytes, ...] = ()
        elif p.kernelParams:
            places = (ctypes.c_void_p * len(layout)).from_address(int(p.kernelParams))
            values = tuple(ctypes.string_at(at or 0, size) for at, (_, size) in zip(places, layout))
        elif p.extra:
            values = unpack(packed(int(p.extra), layout), layout)
        else:
            raise Unsupported(f"kernel {self.name(function)} has parameters that the driver does not show")
        grid, block = (p.gridDimX, p.gridDimY, p.gridDimZ), (p.blockDimX, p.blockDimY, p.blockDimZ)
        return Kernel(function, grid, block, p.sharedMemBytes, values)

    def attributes(self, node: Handle) -> Attributes:
        for name, (number, used) in _REFUSED.items():
            if any(self._get(node, number)[used]):
                raise Unsupported(f"launch attribute {name} is not carried by an archive")
        found = {}
        for name, (number, form) in _ATTRIBUTES.items():
            found[name] = struct.unpack_from(form, self._get(node, number))
        return plain(found)

    def _get(self, node: Handle, number: int) -> bytes:
        """The 64 bytes of an attribute; zeros where the driver does not know it."""
        try:
            value = self._call("cuGraphKernelNodeGetAttribute", node, self._d.CUkernelNodeAttrID(number))
        except DriverError as error:
            if error.code in ("CUDA_ERROR_INVALID_VALUE", "CUDA_ERROR_NOT_SUPPORTED"):
                return bytes(64)
            raise
        return bytes(value.pad)

    # graphs, built
    def graph(self) -> Handle:
        return int(self._call("cuGraphCreate", 0))

    def add(self, graph: Handle, node: Node) -> Handle:
        if isinstance(node, Kernel):
            params, _kept = kernel_struct(self._d, node)
            return int(self._call("cuGraphAddKernelNode", graph, None, 0, params))
        if isinstance(node, Memcpy):
            return int(self._call("cuGraphAddMemcpyNode", graph, None, 0, copy_struct(self._d, node), self._context))
        if isinstance(node, Memset):
            return int(self._call("cuGraphAddMemsetNode", graph, None, 0, fill_struct(self._d, node), self._context))
        if isinstance(node, Child):
            return int(self._call("cuGraphAddChildGraphNode", graph, None, 0, node.graph))
        return int(self._call("cuGraphAddEmptyNode", graph, None, 0))

    def connect(self, graph: Handle, edges: Sequence[Edge]) -> None:
        data = []
        for e in edges:
            data.append(self._d.CUgraphEdgeData())
            data[-1].from_port, data[-1].to_port, data[-1].type = e.from_port, e.to_port, e.type
        before, after = ([self._d.CUgraphNode(getattr(e, side)) for e in edges] for side in ("before", "after"))
        self._call("cuGraphAddDependencies", graph, before, after, data, len(edges))

    def set_attributes(self, node: Handle, attributes: Attributes) -> None:
        for name, fields in attributes:
            number, form = _ATTRIBUTES[name]
            value = self._d.CUkernelNodeAttrValue()
            value.pad = struct.pack(form, *fields).ljust(64, b"\0")
            self._call("cuGraphKernelNodeSetAttribute", node, self._d.CUkernelNodeAttrID(number), value)

    def child(self, node: Handle) -> Handle:
        return int(self._call("cuGraphChildGraphNodeGetGraph", node))

    def set_node(self, node: Handle, to: Node) -> None:
        if isinstance(to, Kernel):
            params, _kept = kernel_struct(self._d, to)
            self._call("cuGraphKernelNodeSetParams", node, params)
        elif isinstance(to, Memcpy):
            self._call("cuGraphMemcpyNodeSetParams", node, copy_struct(self._d, to))
        elif isinstance(to, Memset):
            self._call("cuGraphMemsetNodeSetParams", node, fill_struct(self._d, to))

    def destroy_graph(self, graph: Handle) -> None:
        self._call("cuGraphDestroy", graph)

    # executables
    def instantiate(self, graph: Handle) -> Handle:
        return int(self._call("cuGraphInstantiate", graph, 0))

    def update(self, executable: Handle, graph: Handle) -> None:
        code, *info = self._d.cuGraphExecUpdate(executable, graph)
        if code.name == "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE":
            told = info[0].result.name if info and info[0] is not None else "for a reason that cuda-bindings keeps back"
            raise UpdateRefused(told)
        if int(code):
            raise DriverError("cuGraphExecUpdate", code.name)

    def set_executable(self, executable: Handle, node: Handle, to: Node) -> None:
        named = self._d.CUgraphNode(node)
        if isinstance(to, Kernel):
            params, _kept = kernel_struct(self._d, to)
            self._call("cuGraphExecKernelNodeSetParams", executable, named, params)
        elif isinstance(to, Memcpy):
            self._call("cuGraphExecMemcpyNodeSetParams", executable, named, copy_struct(self._d, to), self._context)
        elif isinstance(to, Memset):
            self._call("cuGraphExecMemsetNodeSetParams", executable, named, fill_struct(self._d, to), self._context)

    def upload(self, executable: Handle, stream: Handle) -> None:
        self._call("cuGraphUpload", executable, stream)

    def launch(self, executable: Handle, stream: Handle) -> None:
        self._call("cuGraphLaunch", executable, stream)

    def synchronize(self, stream: Handle) -> None:
        self._call("cuStreamSynchronize", stream)

    def destroy_executable(self, executable: Handle) -> None:
        self._call("cuGraphExecDestroy", executable)

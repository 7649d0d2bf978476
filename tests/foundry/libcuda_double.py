"""The driver double behind the C interface of libcuda.so.1, so that cuda-bindings calls it: structs as cuda.h has them.

Runs in a process of its own: whatever looks for a GPU after `serve` finds this one.
"""

import ctypes as ct
import os
import struct
import subprocess
from pathlib import Path

from driver_double import Double

from workbench.foundry.driver import Child, DriverError, Edge, Empty, Kernel, Memcpy, Memset, UpdateRefused

U64, I32, P = ct.c_uint64, ct.c_int, ct.c_void_p
CODES = {
    "CUDA_ERROR_INVALID_VALUE": 1, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_INVALID_IMAGE": 200,
    "CUDA_ERROR_INVALID_CONTEXT": 201, "CUDA_ERROR_INVALID_HANDLE": 400, "CUDA_ERROR_NOT_FOUND": 500,
    "CUDA_ERROR_ILLEGAL_ADDRESS": 700, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE": 910,
    "CUDA_ERROR_INVALID_CLUSTER_SIZE": 912,
}  # fmt: skip
RESULTS = {"TOPOLOGY_CHANGED": 2, "NODE_TYPE_CHANGED": 3, "PARAMETERS_CHANGED": 5, "ATTRIBUTES_CHANGED": 8}
ATTRIBUTES = {2: ("cooperative", "<i"), 4: ("cluster", "<3I"), 8: ("priority", "<i")}
TRAITS = {0: "threads", 1: "static_shared", 2: "constants", 3: "local", 4: "registers", 6: "binary"}
SETTINGS = {8: "dynamic_shared", 9: "shared_carveout", 14: "non_portable_cluster"}


def out(address, kind, value):
    kind.from_address(address).value = value


def image_at(address):
    """A binary is as long as its ELF header says."""
    head = ct.string_at(address, 64)
    return ct.string_at(address, int.from_bytes(head[40:48], "little") + 64 * int.from_bytes(head[60:62], "little"))


class Served:
    """The C functions. Each method is one, called as the driver's is; its annotations are its C types."""

    def __init__(self, double: Double):
        self.double, self.kept = double, {}
        self.held = 0  # how often the device's context is retained

    def cuInit(self, flags: I32): ...

    def cuDriverGetVersion(self, version: P):
        out(version, I32, 13000)

    def cuDeviceGet(self, device: P, ordinal: I32):
        out(device, I32, ordinal)

    def cuDeviceGetName(self, name: P, size: I32, device: I32):
        ct.memmove(name, b"Double of a GPU\0", 16)

    def cuDeviceGetAttribute(self, value: P, attribute: I32, device: I32):
        out(value, I32, {75: 9, 76: 0, 16: 1}[attribute])

    def cuDevicePrimaryCtxRetain(self, context: P, device: I32):
        self.held += 1
        out(context, U64, 0x7E1234560000)

    def cuDevicePrimaryCtxRelease(self, device: I32):
        self.held -= 1

    def cuCtxSetCurrent(self, context: U64):
        assert context in (0, 0x7E1234560000)
        if context:
            self.double.enter()

    def cuCtxSynchronize(self): ...

    def _device(self, at, kind):
        assert struct.unpack_from("<2i", ct.string_at(at, 8)) == kind

    def cuMemGetAllocationGranularity(self, size: P, prop: P, option: I32):
        self._device(prop + 8, (1, 0))
        out(size, U64, self.double.granularity())

    def cuMemAddressReserve(self, address: P, size: U64, align: U64, hint: U64, flags: U64):
        out(address, U64, self.double.reserve(size, hint))

    def cuMemAddressFree(self, address: U64, size: U64):
        self.double.unreserve(address, size)

    def cuMemCreate(self, memory: P, size: U64, prop: P, flags: U64):
        assert I32.from_address(prop).value == 1
        self._device(prop + 8, (1, 0))
        out(memory, U64, self.double.create(size))

    def cuMemRelease(self, memory: U64):
        self.double.release(memory)

    def cuMemMap(self, address: U64, size: U64, offset: U64, memory: U64, flags: U64):
        assert (offset, flags) == (0, 0)
        self.double.map(address, size, memory)

    def cuMemSetAccess(self, address: U64, size: U64, access: P, count: U64):
        self._device(access, (1, 0))
        assert (I32.from_address(access + 8).value, count) == (3, 1)

    def cuMemUnmap(self, address: U64, size: U64):
        self.double.unmap(address, size)

    def cuMemcpyHtoD(self, address: U64, raw: P, size: U64):
        self.double.write(address, ct.string_at(raw, size))

    def cuMemcpyDtoH(self, raw: P, address: U64, size: U64):
        ct.memmove(raw, self.double.read(address, size), size)

    def cuPointerGetAttribute(self, value: P, attribute: I32, address: U64):
        found = self.double.owner(address)
        if found is None:
            raise DriverError("", "CUDA_ERROR_INVALID_VALUE")
        out(value, U64, found[{11: 0, 12: 1}[attribute]])

    def cuLibraryLoadData(self, library: P, code: P, a: P, b: P, c: I32, d: P, e: P, f: I32):
        assert (c, f) == (0, 0)
        out(library, U64, self.double.load(image_at(code)))

    def cuLibraryUnload(self, library: U64):
        self.double.unload(library)

    def cuLibraryGetKernel(self, kernel: P, library: U64, name: ct.c_char_p):
        out(kernel, U64, self.double.function(library, name.decode()) + 1)  # a CUkernel is no CUfunction

    def cuKernelGetFunction(self, function: P, kernel: U64):
        assert kernel % 8 == 1
        out(function, U64, kernel - 1)

    def cuFuncGetName(self, name: P, function: U64):
        kept = self.kept.setdefault(("name", function), ct.create_string_buffer(self.double.name(function).encode()))
        out(name, U64, ct.addressof(kept))

    def cuFuncGetModule(self, module: P, function: U64):
        out(module, U64, self.double.module(function))

    def cuFuncGetParamInfo(self, function: U64, index: U64, offset: P, size: P):
        layout = self.double.layout(function)
        if index >= len(layout):
            raise DriverError("", "CUDA_ERROR_INVALID_VALUE")
        for where, value in zip((offset, size), layout[index]):
            out(where, U64, value)

    def cuFuncGetAttribute(self, value: P, attribute: I32, function: U64):
        if attribute in SETTINGS:
            out(value, I32, self.double.settings(function)[SETTINGS[attribute]])
        else:
            out(value, I32, self.double.traits(function).get(TRAITS[attribute], 0))

    def cuFuncSetAttribute(self, function: U64, attribute: I32, value: I32):
        self.double.set_setting(function, SETTINGS[attribute], value)

    # graphs, taken apart
    def cuGraphGetNodes(self, graph: U64, nodes: P, count: P):
        found = self.double.nodes(graph)
        if nodes:
            (U64 * len(found)).from_address(nodes)[:] = found
        out(count, U64, len(found))

    def cuGraphGetEdges(self, graph: U64, before: P, after: P, data: P, count: P):
        for i, e in enumerate(found := self.double.edges(graph)):
            if before:
                out(before + 8 * i, U64, e.before)
                out(after + 8 * i, U64, e.after)
                ct.memmove(data + 8 * i, bytes([e.from_port, e.to_port, e.type, 0, 0, 0, 0, 0]), 8)
        out(count, U64, len(found))

    def cuGraphNodeGetType(self, node: U64, kind: P):
        what = self.double._live[node].what
        kinds = {Kernel: 0, Memcpy: 1, Memset: 2, Child: 4, Empty: 5, str: 3}
        out(kind, I32, kinds[type(what)])

    def cuGraphKernelNodeGetParams(self, node: U64, params: P):
        what, by_buffer = self.double.node(node), node in self.kept
        values = [ct.create_string_buffer(v, len(v)) for v in what.values]
        places = (P * len(values))(*map(ct.addressof, values))
        extra = 0
        if by_buffer:  # as some libraries launch: one buffer and its size
            raw = b"".join(what.values)
            buffer, size = ct.create_string_buffer(raw, len(raw)), U64(len(raw))
            extra = (P * 5)(1, ct.addressof(buffer), 2, ct.addressof(size), 0)
            self.kept[node] = (buffer, size, extra)
        else:
            self.kept[("params", node)] = (values, places)
        args = [0, ct.addressof(extra)] if by_buffer else [ct.addressof(places), 0]
        func = (0, what.function + 1) if what.shared_bytes else (what.function, 0)  # some nodes tell the kernel instead
        packed = struct.pack(
            "<Q7I4xQQQQ", func[0], *what.grid, *what.block, what.shared_bytes, *args, func[1], 0
        )  # fmt: skip
        ct.memmove(params, packed, 72)

    def cuGraphMemcpyNodeGetParams(self, node: U64, params: P):
        m = self.double.node(node)
        ends = [(4, 0, 0, 0, 2, 0, at - 4, 0, 0, pitch, h) for at, pitch, h in (
            (m.src, m.src_pitch, m.src_height), (m.dst, m.dst_pitch, m.dst_height),
        )]  # fmt: skip
        ct.memmove(params, struct.pack("<25Q", *ends[0], *ends[1], m.width, m.height, m.depth), 200)

    def cuGraphMemsetNodeGetParams(self, node: U64, params: P):
        m = self.double.node(node)
        ct.memmove(params, struct.pack("<QQIIQQ", m.dst, m.pitch, m.value, m.element, m.width, m.height), 40)

    def cuGraphChildGraphNodeGetGraph(self, node: U64, graph: P):
        out(graph, U64, self.double.child(node))

    def cuGraphKernelNodeGetAttribute(self, node: U64, attribute: I32, value: P):
        ct.memset(value, 0, 64)
        if attribute not in (1, 2, 4, 5, 8, 9, 10, 13):
            raise DriverError("", "CUDA_ERROR_INVALID_VALUE")  # as a driver that does not know it
        if attribute in ATTRIBUTES:
            name, form = ATTRIBUTES[attribute]
            fields = dict(self.double.attributes(node)).get(name)
            ct.memmove(value, struct.pack(form, *fields) if fields else b"", struct.calcsize(form) if fields else 0)

    # graphs, built
    def cuGraphCreate(self, graph: P, flags: I32):
        out(graph, U64, self.double.graph())

    def _kernel(self, params):
        raw = ct.string_at(params, 72)
        function, *dims, places, extra, kern, _ = struct.unpack("<Q7I4xQQQQ", raw)
        assert (extra, kern) == (0, 0)
        layout = self.double.layout(function)
        at = (P * len(layout)).from_address(places)
        values = tuple(ct.string_at(where, size) for where, (_, size) in zip(at, layout))
        return Kernel(function, tuple(dims[:3]), tuple(dims[3:6]), dims[6], values)

    def _memcpy(self, params):
        words = struct.unpack("<25Q", ct.string_at(params, 200))
        (src, dst), (width, height, depth) = (words[:11], words[11:22]), words[22:]
        assert all(end[:4] == (0, 0, 0, 0) and end[4] == 2 for end in (src, dst))
        return Memcpy(dst[6], src[6], width, height, depth, dst[9], dst[10], src[9], src[10])

    def _memset(self, params):
        return Memset(*struct.unpack("<QQIIQQ", ct.string_at(params, 40)))

    def cuGraphAddKernelNode(self, node: P, graph: U64, on: P, n: U64, params: P):
        out(node, U64, self.double.add(graph, self._kernel(params)))

    def cuGraphAddMemcpyNode(self, node: P, graph: U64, on: P, n: U64, params: P, context: U64):
        out(node, U64, self.double.add(graph, self._memcpy(params)))

    def cuGraphAddMemsetNode(self, node: P, graph: U64, on: P, n: U64, params: P, context: U64):
        out(node, U64, self.double.add(graph, self._memset(params)))

    def cuGraphAddChildGraphNode(self, node: P, graph: U64, on: P, n: U64, child: U64):
        out(node, U64, self.double.add(graph, Child(child)))

    def cuGraphAddEmptyNode(self, node: P, graph: U64, on: P, n: U64):
        out(node, U64, self.double.add(graph, Empty()))

    def cuGraphAddDependencies(self, graph: U64, before: P, after: P, data: P, count: U64):
        ends = [(U64 * count).from_address(side) for side in (before, after)]
        ports = [ct.string_at(data + 8 * i, 3) for i in range(count)]
        self.double.connect(graph, [Edge(a, b, *p) for a, b, p in zip(*ends, ports)])

    def cuGraphKernelNodeSetAttribute(self, node: U64, attribute: I32, value: P):
        name, form = ATTRIBUTES[attribute]
        fields = struct.unpack_from(form, ct.string_at(value, 64))
        self.double.set_attributes(node, ((name, fields),))

    def cuGraphKernelNodeSetParams(self, node: U64, params: P):
        self.double.set_node(node, self._kernel(params))

    def cuGraphMemcpyNodeSetParams(self, node: U64, params: P):
        self.double.set_node(node, self._memcpy(params))

    def cuGraphMemsetNodeSetParams(self, node: U64, params: P):
        self.double.set_node(node, self._memset(params))

    def cuGraphDestroy(self, graph: U64):
        self.double.destroy_graph(graph)

    # executables
    def cuGraphInstantiateWithFlags(self, executable: P, graph: U64, flags: U64):
        out(executable, U64, self.double.instantiate(graph))

    def cuGraphExecUpdate(self, executable: U64, graph: U64, info: P):
        try:
            self.double.update(executable, graph)
        except UpdateRefused as error:
            out(info, I32, RESULTS[error.result.partition("_ERROR_")[2]])
            raise

    def cuGraphExecKernelNodeSetParams(self, executable: U64, node: U64, params: P):
        self.double.set_executable(executable, node, self._kernel(params))

    def cuGraphExecMemcpyNodeSetParams(self, executable: U64, node: U64, params: P, context: U64):
        self.double.set_executable(executable, node, self._memcpy(params))

    def cuGraphExecMemsetNodeSetParams(self, executable: U64, node: U64, params: P, context: U64):
        self.double.set_executable(executable, node, self._memset(params))

    def cuGraphUpload(self, executable: U64, stream: U64):
        self.double.upload(executable, stream)

    def cuGraphLaunch(self, executable: U64, stream: U64):
        self.double.launch(executable, stream)

    def cuStreamSynchronize(self, stream: U64):
        self.double.synchronize(stream)

    def cuGraphExecDestroy(self, executable: U64):
        self.double.destroy_executable(executable)


def serve(double, folder):
    """Make `double` this process's CUDA driver; what is returned must be kept."""
    library = Path(folder, "libcuda.so.1")
    source = Path(__file__).with_suffix(".c")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", source, "-o", library], check=True, timeout=60
    )
    loaded, served, kept = ct.CDLL(str(library)), Served(double), []

    def guarded(call):
        def run(*args):
            try:
                call(*args)
            except DriverError as error:
                return CODES[error.code]
            except BaseException as error:  # a wrong struct: shown, and answered as an error no test expects
                served.kept.setdefault("wrong", []).append(f"{call.__name__}: {error!r}")
                return 999
            return 0

        return run

    for name in (n for n in dir(Served) if n.startswith("cu")):
        call = getattr(served, name)
        kinds = [t for key, t in call.__annotations__.items() if key != "return"]
        kept.append(ct.CFUNCTYPE(I32, *kinds)(guarded(call)))
        assert loaded.double_serve(name.encode(), kept[-1]) == 0
    served.kept["served"] = kept, loaded
    return served

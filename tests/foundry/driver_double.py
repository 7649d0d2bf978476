"""A software double of the CUDA driver: real bytes behind its addresses, kernels in Python, arguments checked as there.

What the real driver answers with an error it answers with the same one; what there would be undefined (a handle used
after its destruction, say) is an error here. A kernel that touches what is not mapped ends the context, as there. Nodes
run in a random order that the edges allow, so that a missing edge shows.
"""

import itertools
import random
import threading

from double_code import parsed
from double_graphs import Function, Graphs

from workbench.foundry.cuda_binaries import elf_kernels
from workbench.foundry.driver import DriverError

GRAIN = 2 << 20
MOST_SHARED = 227 << 10


class Double(Graphs):
    """workbench.foundry.driver.Driver in software. `seed` draws the order of nodes."""

    def __init__(self, seed=0, name="Double of a GPU", memory=1 << 30):
        self.draw, self._name, self._left = random.Random(seed), name, memory
        self._handles = itertools.count(0x7F4000000040, 0x40)
        self._live = {}  # handle -> object
        self._reserved, self._mapped = {}, {}  # base -> size, base -> (size, bytearray, memory handle or None)
        self._thread, self._dead = threading.local(), ""
        self._thread.entered = True
        self.loaded = []  # (library handle, image), in order
        self.calls = []

    # ---- checks
    def _call(self, name):
        self.calls.append(name)
        if not getattr(self._thread, "entered", False):
            raise DriverError(name, "CUDA_ERROR_INVALID_CONTEXT")
        if self._dead:
            raise DriverError(name, self._dead)

    def _is(self, handle, kind, call):
        found = self._live.get(handle)
        if not isinstance(found, kind):
            raise DriverError(call, "CUDA_ERROR_INVALID_HANDLE", f"{handle:#x} is no live {kind.__name__}")
        return found

    def _new(self, made):
        handle = next(self._handles)
        self._live[handle] = made
        return handle

    def _need(self, call, fits, code="CUDA_ERROR_INVALID_VALUE", message=""):
        if not fits:
            raise DriverError(call, code, message)

    # ---- device
    def about(self):
        self._call("cuDeviceGetAttribute")
        return {"device": self._name, "capability": "9.0", "multiprocessors": 1, "driver": 13000, "granularity": GRAIN}

    def enter(self):
        self._thread.entered = True
        self._call("cuCtxSetCurrent")

    def granularity(self):
        self._call("cuMemGetAllocationGranularity")
        return GRAIN

    # ---- memory
    def reserve(self, size, address):
        self._call("cuMemAddressReserve")
        self._need("cuMemAddressReserve", size > 0 and size % GRAIN == 0 and address % GRAIN == 0)
        self._need("cuMemAddressReserve", size < 1 << 46, "CUDA_ERROR_OUT_OF_MEMORY")
        while any(address < b + s and b < address + size for b, s in self._reserved.items()):
            address += 1 << 36  # a hint is only a hint
        self._reserved[address] = size
        return address

    def unreserve(self, address, size):
        self._call("cuMemAddressFree")
        inside = any(address <= b < address + size for b in self._mapped)
        self._need("cuMemAddressFree", self._reserved.get(address) == size and not inside)
        del self._reserved[address]

    def create(self, size):
        self._call("cuMemCreate")
        self._need("cuMemCreate", size > 0 and size % GRAIN == 0)
        self._need("cuMemCreate", size <= self._left, "CUDA_ERROR_OUT_OF_MEMORY")
        self._left -= size
        return self._new(bytearray(size))

    def release(self, memory):
        self._call("cuMemRelease")
        self._left += len(self._is(memory, bytearray, "cuMemRelease"))
        del self._live[memory]

    def map(self, address, size, memory):
        self._call("cuMemMap")
        raw = self._is(memory, bytearray, "cuMemMap")
        inside = any(b <= address and address + size <= b + s for b, s in self._reserved.items())
        taken = any(address < b + s and b < address + size for b, (s, _, _) in self._mapped.items())
        self._need("cuMemMap", inside and not taken and size == len(raw) and size % GRAIN == 0)
        self._mapped[address] = (size, raw, memory)

    def unmap(self, address, size):
        self._call("cuMemUnmap")
        self._need("cuMemUnmap", self._mapped.get(address, (0,))[0] == size)
        del self._mapped[address]

    def malloc(self, size, address=0x7E0000000000):
        """Memory that is in no arena, as cudaMalloc gives it."""
        while any(address < b + s and b < address + size for b, (s, _, _) in self._mapped.items()):
            address += GRAIN
        self._mapped[address] = (size, bytearray(size), None)
        return address

    def _bytes(self, address, size):
        for base, (n, raw, _) in self._mapped.items():
            if base <= address and address + size <= base + n:
                return raw, address - base
        return None, 0

    def get(self, address, size):
        raw, at = self._bytes(address, size)
        if raw is None:
            raise MemoryError(f"{size} bytes at {address:#x} are not mapped")
        return bytes(raw[at : at + size])

    def put(self, address, content):
        raw, at = self._bytes(address, len(content))
        if raw is None:
            raise MemoryError(f"{len(content)} bytes at {address:#x} are not mapped")
        raw[at : at + len(content)] = content

    def write(self, address, raw):
        self._call("cuMemcpyHtoD")
        self._need("cuMemcpyHtoD", self._bytes(address, len(raw))[0] is not None)
        self.put(address, bytes(raw))

    def read(self, address, size):
        self._call("cuMemcpyDtoH")
        self._need("cuMemcpyDtoH", self._bytes(address, size)[0] is not None)
        return self.get(address, size)

    def owner(self, address):
        self._call("cuMemGetAddressRange")
        return next(((b, s) for b, (s, _, _) in self._mapped.items() if b <= address < b + s), None)

    # ---- code
    def symbols(self, raw):
        return elf_kernels(raw)

    def load(self, raw):
        self._call("cuLibraryLoadData")
        said = parsed(raw)
        self._need("cuLibraryLoadData", said is not None, "CUDA_ERROR_INVALID_IMAGE")
        handle = self._new(said)
        self.loaded.append((handle, raw))
        return handle

    def unload(self, library):
        self._call("cuLibraryUnload")
        self._is(library, dict, "cuLibraryUnload")
        gone = [h for h, f in self._live.items() if isinstance(f, Function) and f.library == library]
        for each in [library, *gone]:
            del self._live[each]

    def function(self, library, symbol):
        self._call("cuLibraryGetKernel")
        said = self._is(library, dict, "cuLibraryGetKernel").get(symbol)
        self._need("cuLibraryGetKernel", said is not None, "CUDA_ERROR_NOT_FOUND")
        for handle, f in self._live.items():
            if isinstance(f, Function) and (f.library, f.symbol) == (library, symbol):
                return handle
        return self._new(Function(symbol, said["code"], tuple(map(tuple, said["layout"])), library))

    def name(self, function):
        self._call("cuFuncGetName")
        return self._is(function, Function, "cuFuncGetName").symbol

    def module(self, function):
        self._call("cuFuncGetModule")
        return self._is(function, Function, "cuFuncGetModule").library

    def layout(self, function):
        self._call("cuFuncGetParamInfo")
        return self._is(function, Function, "cuFuncGetParamInfo").layout

    def traits(self, function):
        self._call("cuFuncGetAttribute")
        f = self._is(function, Function, "cuFuncGetAttribute")
        return {"registers": len(f.code), "static_shared": 0}

    def settings(self, function):
        self._call("cuFuncGetAttribute")
        return dict(self._is(function, Function, "cuFuncGetAttribute").settings)

    def set_setting(self, function, name, value):
        self._call("cuFuncSetAttribute")
        f = self._is(function, Function, "cuFuncSetAttribute")
        most = {"dynamic_shared": MOST_SHARED, "non_portable_cluster": 1, "shared_carveout": 100}[name]
        self._need("cuFuncSetAttribute", -(name == "shared_carveout") <= value <= most)
        f.settings[name] = value

    def left(self):
        """What is still alive, by kind: {} when all was given back."""
        kinds = [type(each).__name__ for each in self._live.values()]
        kinds += ["mapping"] * sum(m is not None for _, _, m in self._mapped.values()) + ["range"] * len(self._reserved)
        return {k: kinds.count(k) for k in sorted(set(kinds))}

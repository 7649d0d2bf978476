"""As much of torch.cuda and of Triton's load hook as cuda_capture uses, over the driver double; not beside real torch.

A graph is captured when the step, run inside `torch.cuda.graph`, leaves its handle with `captured`. Memory comes from
the pluggable allocator that the pool was made with, through its C functions.
"""

import contextlib
import ctypes
import importlib.util
import sys
import types

NOW = types.SimpleNamespace(driver=None, pool=None, graph=None, cleared=0, spoil=lambda graph: None)


class OutOfMemoryError(RuntimeError):
    pass


class Pluggable:
    def __init__(self, path, alloc, free):
        self.alloc = getattr(ctypes.CDLL(path), alloc)
        self.alloc.argtypes, self.alloc.restype = [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p], ctypes.c_uint64
        assert getattr(ctypes.CDLL(path), free)

    def allocator(self):
        return self


class Own:
    """torch's own allocator."""

    def alloc(self, nbytes, device, stream):
        return NOW.driver.malloc(nbytes)


class MemPool:
    def __init__(self, allocator=None):
        self.allocator, self.id = allocator or Own(), (0, id(self))


class Stream:
    def synchronize(self): ...


class CUDAGraph:
    def __init__(self, keep_graph=False):
        self.handle = self.executable = 0

    def raw_cuda_graph(self):
        return self.handle

    def replay(self):
        self.executable = self.executable or NOW.driver.instantiate(self.handle)
        NOW.driver.launch(self.executable, 0)
        NOW.spoil(self)


@contextlib.contextmanager
def use_mem_pool(pool):
    before, NOW.pool = NOW.pool, pool
    yield
    NOW.pool = before


@contextlib.contextmanager
def graph(made, pool, stream):
    assert pool == NOW.last.id
    assert isinstance(stream, Stream)
    NOW.graph = made
    with use_mem_pool(NOW.last):
        yield
    NOW.graph = None
    assert made.handle


def captured(handle):
    """The step has run: what it launched, if it is being captured."""
    if NOW.graph is not None:
        NOW.graph.handle = handle


class Tensor:
    """Contiguous memory of the device."""

    def __init__(self, address, shape, dtype="float32"):
        self.address, self.shape, self.dtype = address, shape, f"torch.{dtype}"

    def data_ptr(self):
        return self.address

    def is_contiguous(self):
        return True


def empty(*shape):
    """From the pool in use, as torch.empty(device="cuda")."""
    nbytes = 4
    for n in shape:
        nbytes *= n
    address = NOW.pool.allocator.alloc(nbytes, 0, None)
    if not address:
        raise OutOfMemoryError(f"tried to allocate {nbytes} bytes")
    return Tensor(address, shape)


def zeros(shape, dtype, device):
    """Of torch's own memory."""
    nbytes = 8 if dtype == "int64" else 4
    for n in shape:
        nbytes *= n
    return Tensor(NOW.driver.malloc(nbytes), shape, dtype)


class Hook:
    """Triton's HookChain."""

    def __init__(self):
        self.calls = []

    def add(self, call):
        self.calls.append(call)

    def remove(self, call):
        self.calls.remove(call)


HOOK = Hook()


def pool(allocator=None):
    NOW.last = MemPool(allocator)
    return NOW.last


def install(driver):
    """Put the doubles where `import torch` and `import triton` find them."""
    NOW.driver = driver
    name = types.SimpleNamespace
    null = lambda *_, **__: contextlib.nullcontext()  # noqa: E731

    def clear():
        NOW.cleared += 1

    cuda = name(
        CUDAGraph=CUDAGraph, MemPool=pool, Stream=Stream, graph=graph, use_mem_pool=use_mem_pool, stream=null,
        synchronize=lambda: driver.synchronize(0), memory=name(CUDAPluggableAllocator=Pluggable),
    )  # fmt: skip
    torch, inductor, triton = (types.ModuleType(n) for n in ("torch", "torch._inductor", "triton"))
    torch.__dict__.update(
        cuda=cuda, Tensor=Tensor, OutOfMemoryError=OutOfMemoryError, device=null, inference_mode=null,
        _C=name(_cuda_clearCublasWorkspaces=clear), _inductor=inductor, zeros=zeros, float32="float32", int64="int64",
    )  # fmt: skip
    inductor.config = name(patch=null)
    triton.__spec__ = importlib.util.find_spec("triton")  # where CUPTI's headers are
    triton.knobs = name(runtime=name(kernel_load_end_hook=HOOK))
    sys.modules |= {"torch": torch, "torch._inductor": inductor, "triton": triton}

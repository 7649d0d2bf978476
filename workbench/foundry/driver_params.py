"""Parameters of graph nodes, between plain data and the structs of cuda-bindings (`d` is cuda.bindings.driver)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from workbench.foundry.driver import Kernel, Memcpy, Memset, Unsupported

_HOST, _DEVICE, _ARRAY, _UNIFIED = 1, 2, 3, 4  # CUmemorytype


def kernel_struct(d: Any, node: Kernel) -> tuple[Any, Any]:
    """The driver's struct, and what must live as long as the call that takes it."""
    p = d.CUDA_KERNEL_NODE_PARAMS()
    p.func = d.CUfunction(node.function)
    p.gridDimX, p.gridDimY, p.gridDimZ = node.grid
    p.blockDimX, p.blockDimY, p.blockDimZ = node.block
    p.sharedMemBytes = node.shared_bytes
    values = [ctypes.create_string_buffer(v, len(v)) for v in node.values]
    array = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(v) for v in values))
    p.kernelParams = ctypes.addressof(array)
    return p, (values, array)


def copy_struct(d: Any, node: Memcpy) -> Any:
    """A CUDA_MEMCPY3D between device memory."""
    p = d.CUDA_MEMCPY3D()
    p.srcMemoryType = p.dstMemoryType = d.CUmemorytype.CU_MEMORYTYPE_DEVICE
    p.srcDevice, p.srcPitch, p.srcHeight = d.CUdeviceptr(node.src), node.src_pitch, node.src_height
    p.dstDevice, p.dstPitch, p.dstHeight = d.CUdeviceptr(node.dst), node.dst_pitch, node.dst_height
    p.WidthInBytes, p.Height, p.Depth = node.width, node.height, node.depth
    return p


def fill_struct(d: Any, node: Memset) -> Any:
    """A CUDA_MEMSET_NODE_PARAMS."""
    p = d.CUDA_MEMSET_NODE_PARAMS()
    p.dst, p.pitch, p.value = d.CUdeviceptr(node.dst), node.pitch, node.value
    p.elementSize, p.width, p.height = node.element, node.width, node.height
    return p


def copied(p: Any) -> Memcpy:
    """A copy with its offsets counted into the addresses. Unsupported where one side is no device memory."""
    ends = []
    for side in ("src", "dst"):
        kind = int(getattr(p, f"{side}MemoryType"))
        if kind not in (_DEVICE, _UNIFIED):
            told = {_HOST: "host memory, whose content is not captured", _ARRAY: "an array"}.get(kind, f"type {kind}")
            raise Unsupported(f"a memcpy node whose {side} is {told}")
        x, y, z, pitch, height, start = (
            int(getattr(p, f"{side}{name}")) for name in ("XInBytes", "Y", "Z", "Pitch", "Height", "Device")
        )
        flat = p.Height <= 1 and p.Depth <= 1
        ends.append((start + x + pitch * (y + z * height), 0 if flat else pitch, 0 if flat else height))
    (src, src_pitch, src_height), (dst, dst_pitch, dst_height) = ends
    return Memcpy(dst, src, p.WidthInBytes, p.Height, p.Depth, dst_pitch, dst_height, src_pitch, src_height)


def packed(extra: int, layout: Sequence[tuple[int, int]]) -> bytes:
    """Parameters given as one buffer: names and values by turns, 1 the buffer, 2 where its size stands, 0 the end."""
    words, buffer, size, i = (ctypes.c_void_p * 5).from_address(extra), 0, 0, 0
    while i < 4 and words[i]:
        if words[i] == 1:
            buffer = words[i + 1] or 0
        elif words[i] == 2:
            size = ctypes.c_size_t.from_address(words[i + 1] or 0).value
        i += 2
    needed = max(offset + n for offset, n in layout)
    if not buffer or size < needed:
        raise Unsupported(f"a kernel's packed parameters have {size} of {needed} bytes")
    return ctypes.string_at(buffer, size)

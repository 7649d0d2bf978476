"""The sparse MLP on a GPU, in Triton: what is compiled here for GPUs and run only by Triton's interpreter.

`compact` turns the mask into a list of the experts that any row uses, on the device: nobody waits for a count, so the
call can be part of a CUDA graph. `gate_up` gives an expert of the list to each program, with the activation; `down`
gives each program some output columns and a share of the list, and adds shares in one order: no atomics, the same bits
every time. Rows 1 to 16; a row's inactive experts are multiplied where another row uses them, and count as zero.

Compiled for sm_90, gfx90a and gfx942 (triton_build.py); never run on a GPU here, nothing is claimed for its speed.
Source: LTE (arXiv 2402.06126), section 4.3, for gathering columns of up and rows of down.
"""

from __future__ import annotations

# Triton gives its kernels types of its own.
# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from workbench.kernels.sparse_mlp import NEURONS, Packed

ROWS = 16  # of a matrix instruction; one row goes without
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def compact(
    active, used, count, rows, experts, union: tl.constexpr, keep, ROW_BLOCK: tl.constexpr, BLOCK: tl.constexpr
):
    """From active [rows, experts]: used [count], what any row uses, in order; keep [ROW_BLOCK, experts], 0 or 1."""
    row, expert = tl.arange(0, ROW_BLOCK), tl.arange(0, BLOCK)
    inside = (row[:, None] < rows) & (expert[None, :] < experts)
    chosen = tl.load(active + row[:, None] * experts + expert[None, :], mask=inside, other=0).to(tl.int32)
    chosen = (chosen != 0).to(tl.int32)
    every = tl.max(chosen, axis=0)
    place = tl.cumsum(every, axis=0) - 1
    tl.store(used + place, expert, mask=every > 0)
    tl.store(count, tl.sum(every, axis=0))
    if union:
        chosen = every[None, :] + tl.zeros([ROW_BLOCK, BLOCK], tl.int32)
    tl.store(keep + row[:, None] * experts + expert[None, :], chosen.to(tl.int8), mask=expert[None, :] < experts)


@triton.jit
def product(a, b, wide: tl.constexpr):
    """Give a [M, K] @ b [K, N] in float32: by the matrix unit, or for one row by multiplying and adding."""
    if a.shape[0] == 1:
        sums = tl.sum(tl.trans(a.to(tl.float32)) * b.to(tl.float32), axis=0)[None, :]
    elif wide:  # the interpreter's bfloat16 products are wrong
        sums = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        sums = tl.dot(a, b, input_precision="ieee")
    return sums


@triton.jit
def gate_up(
    x, gate, up, used, count, keep, h, rows, hidden, experts,
    ROW_BLOCK: tl.constexpr, NEURON: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill h [slot, ROW_BLOCK, NEURON]: silu(x @ gate) * (x @ up) of the slot's expert, 0 for rows without it."""
    slot = tl.program_id(0)
    if slot < tl.load(count):
        expert = tl.load(used + slot).to(tl.int64)
        row, neuron = tl.arange(0, ROW_BLOCK), tl.arange(0, NEURON)
        g, u = tl.zeros([ROW_BLOCK, NEURON], tl.float32), tl.zeros([ROW_BLOCK, NEURON], tl.float32)
        at = expert * NEURON * hidden + neuron[None, :] * hidden  # [1, NEURON]
        for start in range(0, hidden, BLOCK):
            column = start + tl.arange(0, BLOCK)
            own = tl.load(
                x + row[:, None] * hidden + column[None, :],
                mask=(row[:, None] < rows) & (column[None, :] < hidden), other=0.0,
            )  # fmt: skip
            inside = (column[:, None] < hidden) & (neuron[None, :] < NEURON)
            g += product(own, tl.load(gate + at + column[:, None], mask=inside, other=0.0), WIDE)
            u += product(own, tl.load(up + at + column[:, None], mask=inside, other=0.0), WIDE)
        on = tl.load(keep + row * experts + expert) != 0
        value = tl.where(on[:, None], g / (1.0 + tl.exp(-g)) * u, 0.0)
        if WIDE and h.dtype.element_ty == tl.bfloat16:  # the interpreter cuts off where a GPU rounds to nearest
            bits = value.to(tl.int32, bitcast=True)
            value = ((bits + 32767 + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        place = h + slot * ROW_BLOCK * NEURON + row[:, None] * NEURON + neuron[None, :]
        tl.store(place, value.to(h.dtype.element_ty))


@triton.jit
def down(
    h, weights, used, count, partial, rows, hidden, shares,
    ROW_BLOCK: tl.constexpr, NEURON: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill partial [share, rows, hidden]: the sum of h @ down over every shares-th expert of the list."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    share, total = tl.program_id(1), tl.load(count)
    row, neuron = tl.arange(0, ROW_BLOCK), tl.arange(0, NEURON)
    sums = tl.zeros([ROW_BLOCK, BLOCK], tl.float32)
    for slot in range(share, total, shares):
        expert = tl.load(used + slot).to(tl.int64)
        own = tl.load(h + slot * ROW_BLOCK * NEURON + row[:, None] * NEURON + neuron[None, :])
        at = weights + (expert * NEURON + neuron[:, None]) * hidden + column[None, :]
        sums += product(own, tl.load(at, mask=(column[None, :] < hidden) & (neuron[:, None] < NEURON), other=0.0), WIDE)
    place = partial + (share * rows + row[:, None]) * hidden + column[None, :]
    tl.store(place, sums, mask=(row[:, None] < rows) & (column[None, :] < hidden))


def sparse_mlp(x: Tensor, packed: Packed, active: Tensor, *, union: bool = False) -> Tensor:
    """The MLP of x [n, hidden] by active [n, experts], n 1 to 16, on x's device; [n, hidden] float32.

    Nothing waits for the device. ValueError for other numbers of rows, or for the CPU without TRITON_INTERPRET=1.
    """
    rows, hidden = x.shape
    if not 1 <= rows <= ROWS:
        raise ValueError(f"the Triton kernels take 1 to {ROWS} rows, not {rows}")
    if x.device.type == "cpu" and not INTERPRETED:
        raise ValueError("backend='triton' needs x on a GPU; on a CPU only Triton's interpreter: TRITON_INTERPRET=1")
    if active.device != x.device:
        raise ValueError(f"active is on {active.device}, x on {x.device}")
    gate, up, back = _gathered(packed, x.device)
    x, active = x.to(gate.dtype).contiguous(), active.contiguous()
    row_block, experts = (1 if rows == 1 else ROWS), packed.experts

    def room(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    used, count = room(experts, dtype=torch.int32), room(1, dtype=torch.int32)
    keep, h = room(row_block, experts, dtype=torch.int8), room(experts, row_block, NEURONS, dtype=gate.dtype)
    step = block(hidden, gate.dtype)
    columns = triton.cdiv(hidden, step)
    shares = max(1, min(8, 256 // columns))  # some 256 programs: two for each multiprocessor of a large GPU
    partial = room(shares, rows, hidden, dtype=torch.float32)
    mask = active.view(torch.int8)
    compact[1,](
        mask, used, count, rows, experts, union, keep, ROW_BLOCK=row_block, BLOCK=triton.next_power_of_2(experts)
    )
    common = {"ROW_BLOCK": row_block, "NEURON": NEURONS, "WIDE": INTERPRETED, "BLOCK": step}
    gate_up[experts,](x, gate, up, used, count, keep, h, rows, hidden, experts, **common)
    down[columns, shares](h, back, used, count, partial, rows, hidden, shares, **common)
    return partial.sum(dim=0) if shares > 1 else partial[0]


def block(hidden: int, dtype: torch.dtype) -> int:
    """Columns that a program takes at once: 128 bytes, no more than the layer has. More spill on sm_90."""
    return int(max(16, min(128 // dtype.itemsize, triton.next_power_of_2(hidden))))


def _gathered(packed: Packed, device: torch.device) -> tuple[Tensor, ...]:
    """gate, up and down [experts, 32, hidden], expert by expert, copied to the device once."""
    if str(device) not in packed.gathered:
        order = packed.grouping.reshape(-1).long()
        shape = (packed.experts, NEURONS, packed.hidden)
        packed.gathered[str(device)] = tuple(
            t.cpu()[order].contiguous().view(shape).to(device) for t in (packed.gate, packed.up, packed.down.T)
        )
    return packed.gathered[str(device)]

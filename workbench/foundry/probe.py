"""Known inputs for one step, and a digest of what it left: how a rebuilt graph is held against the captured one.

The same bytes everywhere: floats are tiles of one seeded block, each tensor from another place of it, so that filling
takes no torch and about as long as a copy.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Sequence

import xxhash

from workbench.foundry.graph import Tensor

BLOCK = 4099  # floats: a prime, so that no row of a tensor is the row of another
View = Callable[[int, int], memoryview]  # offset, bytes of the arena


def ids_and_positions(size: int, vocab: int, capacity: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """`size` tokens and where they stand."""
    draw = random.Random(f"{seed} {size}")
    return [draw.randrange(vocab) for _ in range(size)], [draw.randrange(capacity) for _ in range(size)]


def fill(view: View, tensors: Iterable[Tensor], size: int, ids: Sequence[int], positions: Sequence[int]) -> None:
    """Write probe inputs: KV of the first `size` sequences, their tokens and positions."""
    draw = random.Random(f"block {size}")
    block = array("f", [draw.uniform(-1.0, 1.0) for _ in range(BLOCK)]).tobytes()
    for i, each in enumerate(tensors):
        if each.role == "state":
            start = 4 * (i * 37 % BLOCK)
            _tile(view(each.offset, used(each, size)), block[start:] + block[:start])
        elif each.role == "input":
            values = array("q", ids if each.name == "ids" else positions).tobytes()
            view(each.offset, len(values))[:] = values


def clear(view: View, tensors: Iterable[Tensor], size: int) -> None:
    """Zero the KV of the first `size` sequences again."""
    for each in tensors:
        if each.role == "state":
            into = view(each.offset, used(each, size))
            into[:] = bytes(len(into))


def outcome(view: View, tensors: Iterable[Tensor], outputs: Iterable[Tensor], size: int) -> str:
    """Digest of the outputs and of the KV of the first `size` sequences."""
    sums = xxhash.xxh3_128()
    for each in tensors:
        if each.role == "state":
            sums.update(view(each.offset, used(each, size)))
    for each in outputs:
        sums.update(view(each.offset, each.nbytes))
    return sums.hexdigest()


def used(state: Tensor, size: int) -> int:
    """Bytes of a state tensor, [slots, ...], that `size` sequences use."""
    return state.nbytes // state.shape[0] * size


def _tile(into: memoryview, block: bytes) -> None:
    whole = len(into) // len(block)
    into[: whole * len(block)] = block * whole
    into[whole * len(block) :] = block[: len(into) - whole * len(block)]

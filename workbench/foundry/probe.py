"""Known inputs for one step, and a digest of what it left: how a rebuilt graph is held against the captured one.

The same bytes everywhere, put down without torch and about as fast as a copy: KV is cut from one seeded block of
floats, each piece from another place of it. The first sequence stands at the last position, the others among the first
WINDOW: only their KV up to there is touched, so that a probe of many sequences takes little memory and may be undone.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import xxhash

from workbench.foundry.graph import Tensor

BLOCK = 4099  # floats: a prime, so that no row of a tensor is the row of another
WINDOW = 16  # positions
View = Callable[[int, int], memoryview]  # offset, bytes of the arena


def ids_and_positions(size: int, vocab: int, capacity: int) -> tuple[list[int], list[int]]:
    """`size` tokens and where they stand."""
    draw = random.Random(f"step {size}")
    positions = [draw.randrange(min(WINDOW, capacity)) for _ in range(size)]
    return [draw.randrange(vocab) for _ in range(size)], [capacity - 1, *positions[1:]]


def drawn(seed: int, size: int, step: int, vocab: int, capacity: int) -> tuple[list[int], list[int]]:
    """Other inputs than the probe's, by a seed: tokens and positions of the `step`-th step of `size` sequences."""
    draw = random.Random(f"{seed} {size} {step}")
    return [draw.randrange(vocab) for _ in range(size)], [draw.randrange(capacity) for _ in range(size)]


def spans(tensors: Iterable[Tensor], size: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the KV that a probe of `size` sequences uses; state is [slots, heads, capacity, head_dim]."""
    for t in tensors:
        if t.role == "state":
            heads, capacity = t.shape[1:3]
            head = t.nbytes // (t.shape[0] * heads)
            yield t.offset, head * heads
            for i in range(heads, size * heads):
                yield t.offset + i * head, head // capacity * min(WINDOW, capacity)


def fill(view: View, tensors: Sequence[Tensor], size: int, ids: Sequence[int], positions: Sequence[int]) -> None:
    """Write probe inputs: KV of the first `size` sequences, their tokens and positions."""
    draw = random.Random("block")
    block = array("f", [draw.uniform(-1.0, 1.0) for _ in range(BLOCK)]).tobytes()
    longest = max((n for _, n in spans(tensors, size)), default=0)
    tiles, at = block * (longest // len(block) + 2), 0
    for offset, nbytes in spans(tensors, size):
        view(offset, nbytes)[:] = tiles[at : at + nbytes]
        at = (at + nbytes) % len(block)
    for each in tensors:
        if each.role == "input":
            values = array("q", ids if each.name == "ids" else positions).tobytes()
            view(each.offset, len(values))[:] = values


def keep(view: View, tensors: Sequence[Tensor], size: int) -> list[tuple[int, bytes]]:
    """What `fill` overwrites, to be put back: (offset, bytes)."""
    inputs = [(t.offset, t.nbytes) for t in tensors if t.role == "input"]
    return [(offset, bytes(view(offset, n))) for offset, n in [*spans(tensors, size), *inputs]]


def put_back(view: View, kept: Iterable[tuple[int, bytes]]) -> None:
    """Undo a probe."""
    for offset, raw in kept:
        view(offset, len(raw))[:] = raw


def outcome(view: View, tensors: Sequence[Tensor], outputs: Iterable[memoryview], size: int) -> str:
    """Digest of the KV that the probe uses, as the step left it, and of the step's outputs."""
    sums = xxhash.xxh3_128()
    for offset, nbytes in spans(tensors, size):
        sums.update(view(offset, nbytes))
    for each in outputs:
        sums.update(each)
    return sums.hexdigest()

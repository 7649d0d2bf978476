"""Microseconds to replay a graph of calls that do almost nothing: the loop here, and the same calls through ctypes."""

from __future__ import annotations

import statistics
import struct
import time
from collections.abc import Callable
from typing import Any

from workbench.kernels import replay
from workbench.kernels.replay import KERNEL, READ, WRITE, reference

NODES, ROUNDS, INNER = 400, 7, 50


def main() -> list[dict[str, Any]]:
    """Medians of interleaved rounds; both must leave the same bytes."""
    arena = replay.Arena(0x620000000000, 1 << 20)
    function = replay.Library("libc.so.6").address("memmove")
    nodes = [(KERNEL, 3 * i, 3, function) for i in range(NODES)]
    pointers = [(3 * i + j, WRITE if j == 0 else READ) for i in range(NODES) for j in range(2)]
    words = [w for i in range(NODES) for w in (arena.base + 64 * (i + 1), arena.base + 64 * i, 8)]
    slots = struct.pack(f"<{len(words)}Q", *words)
    program = replay.Program(arena, nodes, pointers)
    index = program.add(slots, struct.pack(f"<{2 * NODES}Q", *[8] * (2 * NODES)))
    ways: dict[str, Callable[[], None]] = {
        "native": lambda: program.replay(index),
        "ctypes": lambda: reference.replay(nodes, slots),
    }
    left: dict[str, bytes] = {}
    for name, run in ways.items():
        view = arena.view(0, arena.size)
        view[:] = bytes(arena.size)
        view[:8] = b"replayed"
        run()
        left[name] = bytes(view)
    if left["native"] != left["ctypes"]:
        raise RuntimeError("the two leave different bytes")
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.perf_counter()
            for _ in range(INNER):
                run()
            took[name].append((time.perf_counter() - start) / INNER * 1e6)
    case = f"{NODES} calls of memmove, 8 bytes"
    return [
        {"case": case, "number": f"{name} us", "value": round(statistics.median(each), 2), "badge": "measured"}
        for name, each in took.items()
    ]

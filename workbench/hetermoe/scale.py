"""What planning costs as a group grows: measured seconds of the search, on this machine.

    for row in scaling(): ...        8 to 1,024 devices

Ranks that do the same are simulated once, so that the step of a search depends on layers and micro-batches, not on the
number of devices; what grows with it is the plan itself, a row of owners for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from workbench.hetermoe.gpus import MODELS, Shape, modelled
from workbench.hetermoe.plan import zebra
from workbench.hetermoe.profile import Load
from workbench.hetermoe.search import search
from workbench.hetermoe.sim import simulate

WORLDS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class ScaleRow:
    """search_s: measured. step_s, plain_s: modelled, with and without the offload found. full_s: measured, one
    simulation of every rank by itself; it gives the same step.
    """

    devices: int
    experts: int
    tried: int
    search_s: float
    full_s: float
    step_s: float
    plain_s: float


def scaling(
    worlds: Sequence[int] = WORLDS, layers: int = 32, length: int = 8192, experts_per_rank: int = 4,
    tick: Callable[[], None] | None = None,
) -> Iterator[ScaleRow]:  # fmt: skip
    """Half A40, half V100, D1's width, so many experts for each expert rank. `tick()` may raise to end it."""
    for world in worlds:
        half = world // 2
        shape = Shape("scaled", layers, MODELS["D1"].hidden, experts_per_rank * half)
        profile, load = modelled(shape, ("A40", "V100"), 12.5), Load(8192, length, "A40", "V100")
        plan = zebra(half, world - half, 2, layers, shape.experts, shape.top_k, shape.key)
        began = perf_counter()
        found = search(plan, profile, load, tick)
        ended = perf_counter()
        line = simulate(found.plan, profile, load, collapse=False)
        full_s = perf_counter() - ended
        plain = simulate(plan, profile, load).step_s
        yield ScaleRow(world, shape.experts, found.tried, ended - began, full_s, line.step_s, plain)

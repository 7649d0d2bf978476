"""A rank that is slowed down on purpose, never passed off as a slow device: it is called paced wherever it is shown.

    Spans(Pace(2.0))        after each stage its work is paid once more: the rank takes twice as long
    paced("old", 2.0)       "old, paced x2": the name of such a kind, in lanes, roles, plans, profiles and errors

Nothing sleeps. After a stage that took c seconds of the processor, products of matrices, as experts are made of, go on
until they have taken (factor - 1) c more, measured on the same thread; what they give is thrown away. They are spans of
their own, "pace", that count as no work: a rank's utilisation is that of its stages. Unlike a limit by the kernel
(quota.py) the core stays busy, as that of a slower processor would be, so that messages have to ask for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Curve, Device, Profile, Surface

MOST = 100.0
SIZE = 160  # of the products' matrices: a fifth of a millisecond each


class Pace:
    """factor: how many times as long a rank's stages take, 1 or more. PlanError for others."""

    def __init__(self, factor: float) -> None:
        self.factor = checked(factor)
        self.owed_s = 0.0  # processor time; a product too many is taken off the next stage's
        self.products = 0

    def pay(self, used_s: float) -> float:
        """Repeat products for a stage that took so long; processor seconds that it took."""
        import torch

        self.owed_s += (self.factor - 1) * used_s
        start = now = time.thread_time()
        a = torch.ones(SIZE, SIZE)
        while self.owed_s > 0:
            a @ a
            self.products += 1
            before, now = now, time.thread_time()
            self.owed_s -= now - before
        return now - start


def checked(factor: float) -> float:
    """PlanError for a pace that cannot be."""
    if not 1 <= factor <= MOST:
        raise PlanError(f"a pace is a factor from 1 to {MOST:.0f}, not {factor}: nothing is made faster")
    return float(factor)


def paced(name: str, factor: float) -> str:
    """What a paced kind or role is called; the name itself where the factor is 1."""
    return name if factor == 1 else f"{name}, paced x{factor:g}"


def paced_profile(profile: Profile, kind: str, factor: float) -> Profile:
    """With that kind as it will run: called paced, and every stage of it longer. One that has it already stays."""
    name = paced(kind, factor)
    if factor == 1 or any(device.name == name for device in profile.devices):
        return profile
    profile.device(kind)
    slow = tuple(replace(longer(d, factor), name=name) if d.name == kind else d for d in profile.devices)
    return replace(profile, devices=slow)


def longer(device: Device, factor: float) -> Device:
    """Every stage so many times as long."""

    def curve(of: Curve) -> Curve:
        return Curve(tuple((amount, seconds * factor) for amount, seconds in of.points))

    def surface(of: Surface) -> Surface:
        return Surface(of.lengths, tuple(curve(c) for c in of.curves))

    back = device.attention_back
    return replace(
        device, attention=surface(device.attention), attention_back=back and surface(back), expert=curve(device.expert),
        head=curve(device.head), update_s_byte=device.update_s_byte * factor,
    )  # fmt: skip


def worked(used: Sequence[float], factors: Sequence[float]) -> tuple[float, ...]:
    """Utilisation by real work alone, of ranks whose simulated stages are as long as their pace makes them."""
    return tuple(share / factor for share, factor in zip(used, factors, strict=True))


def factors(pace: Mapping[int, float], world: int) -> tuple[float, ...]:
    """One for each rank, 1 where none is named; empty where none is paced. PlanError for ranks that are not there."""
    for rank in pace:
        if not 0 <= rank < world:
            raise PlanError(f"a pace is by rank, from 0 to {world - 1}, not {rank}")
    found = tuple(checked(pace.get(rank, 1.0)) for rank in range(world))
    return found if any(factor != 1 for factor in found) else ()

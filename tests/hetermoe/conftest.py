"""Profiles and plans by hand for the planner's tests: two kinds of device with round numbers. Imports no torch."""

import numpy as np
import pytest

from workbench.hetermoe.plan import expert_parallel, zebra
from workbench.hetermoe.profile import Curve, Device, Load, Memory, Profile, Surface

KEY = "by hand"
TOKENS = 96


def profile(
    attention=1.0, expert_new=0.8, expert_old=1.0, message=0.0, head=0.0, back=2.0, memory=None, new_gib=None,
    old_gib=None, joined=False,
):  # fmt: skip
    """Seconds a token: of attention on a new device (the old takes three times as long), of experts and of the head.

    message: seconds of a token's copy in or out of a rank. With TOKENS tokens top-1 and M = N, attention's stage is
    96 x attention, an expert rank's 96 x expert_old.
    """

    def line(rate):
        return Curve(((1.0, rate),)) if rate else Curve(((1.0, 0.0),))

    def device(name, factor, expert, gib):
        capacity = {} if gib is None else {"capacity_bytes": gib * 2**30}
        surface = Surface((64,), (line(factor * attention),))
        return Device(name, surface, line(expert), line(head * factor), **capacity,
                      attention_backward=back, expert_backward=back, head_backward=back)  # fmt: skip

    devices = (device("new", 1.0, expert_new, new_gib), device("old", 3.0, expert_old, old_gib))
    return Profile(KEY, devices, line(message), 1.0, memory or Memory(0, 0), joined=joined)


def load(**changes):
    return Load(**({"tokens": TOKENS, "length": 64, "attention": "new", "expert": "old"} | changes))


@pytest.fixture(scope="session")
def hand():
    """Both makers."""
    return profile, load


@pytest.fixture(scope="session")
def plans():
    """Of three layers, each with the load it is run on: even and skewed, experts without a token, mixed kinds."""
    shares = np.random.default_rng(3).dirichlet(np.ones(12), 3)
    empty = np.array([[0.5, 0.5] + [0.0] * 10] * 3)
    even, found = zebra(4, 3, 2, 3, 12, 2, KEY), []
    for plan in (even, even.with_offload((0, 5, 12)), zebra(2, 4, 3, 3, 12, 2, KEY).with_offload((4, 1, 0))):
        found += [(plan, load()), (plan, load().with_shares(shares)), (plan, load().with_shares(empty))]
    mixed = load(kinds=("new", "old", "old", "new", "new"))
    found.append((expert_parallel(5, 3, 12, 2, 2, KEY), mixed))
    return [*found, (expert_parallel(5, 3, 12, 2, 1, KEY), mixed.with_shares(shares))]

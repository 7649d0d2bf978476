"""The search: never behind Algorithm 1, as good as trying everything, any ratio, within memory, at any size."""

import itertools
import random

import numpy as np
import pytest

from workbench.hetermoe.costs import balanced, resolve
from workbench.hetermoe.gpus import Shape, modelled
from workbench.hetermoe.place import placed
from workbench.hetermoe.plan import PlanError, expert_parallel, zebra
from workbench.hetermoe.profile import Load, Memory, check_memory
from workbench.hetermoe.scale import scaling
from workbench.hetermoe.search import counts, search
from workbench.hetermoe.sim import simulate, step

KEY = "by hand"
RNG = random.Random(11)


def test_never_longer_than_greedy_or_plain(hand):
    profile, load = hand
    ahead = 0
    for attention, expert in ((1, 1), (2, 2), (1, 3), (4, 2), (2, 4)):
        for _ in range(3):
            given = profile(*(RNG.uniform(0.1, 1.2) for _ in range(3)), RNG.uniform(0, 0.1), RNG.uniform(0, 0.5))
            plan = zebra(attention, expert, 2, 4, 12, 2, KEY)
            found = search(plan, given, load())
            assert found.greedy_s is not None
            assert found.step_s <= min(found.greedy_s, found.plain_s)
            assert simulate(found.plan, given, load()).step_s == pytest.approx(found.step_s)
            ahead += found.step_s < found.greedy_s * 0.99
    assert ahead >= 3  # and it is worth it


def test_as_good_as_trying_every_vector(hand):
    profile, load = hand
    for attention, expert, experts in ((1, 1, 4), (2, 3, 5), (3, 2, 4)):
        for _ in range(3):
            given = profile(*(RNG.uniform(0.1, 1.2) for _ in range(3)), RNG.uniform(0, 0.1), RNG.uniform(0, 0.3))
            plan = zebra(attention, expert, 2, 3, experts, 1, KEY)
            vectors = itertools.product(range(experts + 1), repeat=3)
            best = min(step(balanced(plan, given, load(), v)) for v in vectors)
            assert search(plan, given, load()).step_s <= best * 1.01


def test_four_to_three_has_no_hole(hand):
    """Algorithm 1 cannot divide there; the search is between its neighbours, and far ahead of no offload."""
    profile, load = hand
    given, step_s = profile(0.3, 0.8, 1.0, 0.02), {}
    for expert in (2, 3, 4):
        found = search(zebra(4, expert, 2, 8, 24, 2, KEY), given, load())
        step_s[expert] = found.step_s
        if expert == 3:
            assert found.greedy_s is None
            assert found.plain_s > 1.2 * found.step_s
            assert all(found.plan.offload)
    assert step_s[4] < step_s[3] < step_s[2]


def test_counts_are_those_at_which_the_fullest_rank_holds_less():
    assert counts(3, 24) == list(range(0, 25, 3))
    assert counts(3, 5) == [0, 2, 5]
    assert counts(2, 5) == [0, 1, 3, 5]
    assert counts(8, 3) == [0, 3]


def test_memory_is_kept_on_either_side(hand):
    profile, load = hand
    memory = Memory(expert_weights=2**30, shared_weights=2**29, states=1)
    plan = zebra(2, 3, 2, 4, 12, 1, KEY)
    free = search(plan, profile(0.3, 0.8, 1.0), load()).plan.offload
    for new_gib, old_gib, least, most in ((4.6, 64, 0, 8), (64, 11, 15, 48), (8.6, 11, 15, 16)):
        tight = profile(0.3, 0.8, 1.0, memory=memory, new_gib=new_gib, old_gib=old_gib)
        found = search(plan, tight, load())
        assert least <= sum(found.plan.offload) <= most
        assert sum(free) > 8  # the control: it would take more
        check_memory(tight, found.plan, load())
        assert (found.plain_s is None) == (least > 0)
    with pytest.raises(PlanError, match="too few"):
        search(plan, profile(0.3, 0.8, 1.0, memory=memory, new_gib=2, old_gib=11), load())


def test_skewed_routing_is_placed_by_load(hand):
    """The even placement puts the two hot experts on one rank; placed by load they are apart."""
    profile, load = hand
    given, plan = profile(1.0, 0.8, 1.0, 0.02), zebra(2, 2, 2, 3, 6, 1, KEY)
    skewed = load().with_shares([[0.4, 0.4, 0.05, 0.05, 0.05, 0.05]] * 3)
    found = search(plan, given, skewed)
    assert found.step_s < 0.75 * simulate(plan, given, skewed).step_s
    assert all(len({row[0], row[1]}) == 2 for row in found.plan.owner)
    ranks = expert_parallel(2, 3, 6, 1, 1, KEY)
    best = min(step(resolve(p, given, skewed)) for p in placed(ranks, given, skewed))
    assert best < simulate(ranks, given, skewed).step_s
    two = load().with_shares([[0.4, 0.4, 0.05, 0.05, 0.05, 0.05], [1 / 6] * 6, [0.02] * 5 + [0.9]])
    found = search(plan, given, two)  # each layer by its own load: no head start for all of them is as good
    alike = min(step(resolve(p, given, two)) for p in placed(plan, given, two))
    assert found.step_s <= alike
    empty = load().with_shares([[0.5, 0.5, 0, 0, 0, 0]] * 3)
    assert search(plan, given, empty).step_s <= simulate(plan, given, empty).step_s


def test_it_can_be_ended_and_refuses_what_it_cannot_search(hand):
    profile, load = hand

    def end():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        search(zebra(1, 1, 1, 2, 4, 1, KEY), profile(), load(), end)
    with pytest.raises(PlanError, match="under zebra, not ep"):
        search(expert_parallel(2, 2, 4, 1, 1, KEY), profile(), load())


def test_a_large_group_costs_what_a_small_one_does():
    """In simulated steps, which are what a search consists of; the step found is that of every rank simulated."""
    rows = list(scaling((8, 256), layers=6))
    assert rows[0].tried == rows[1].tried
    assert all(row.step_s < row.plain_s for row in rows)
    shape = Shape("large", 2, 64, 2048)
    given, what = modelled(shape, ("A40", "V100"), 12.5), Load(512, 4096, "A40", "V100")
    plan = zebra(512, 512, 2, 2, 2048, 2, shape.key).with_offload((3, 700))
    assert simulate(plan, given, what).step_s == pytest.approx(simulate(plan, given, what, collapse=False).step_s)
    assert len(resolve(plan, given, what).parts) <= 6
    shares = np.random.default_rng(0).dirichlet(np.ones(24), 2)
    assert search(zebra(8, 8, 2, 2, 24, 2, shape.key), given, what.with_shares(shares)).plan.world == 16

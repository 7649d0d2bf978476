"""Routing that drifts: noticed once, and acted on only where moving experts is earned back."""

import math
from dataclasses import replace

import numpy as np
import pytest

from workbench.hetermoe.drift import Watch, move_seconds, moves, relabelled, replan
from workbench.hetermoe.plan import PlanError, expert_parallel, zebra
from workbench.hetermoe.profile import Curve, Memory, used_bytes
from workbench.hetermoe.sim import simulate

KEY = "by hand"
EVEN = [[0.25] * 4] * 2
HOT = [[0.7, 0.1, 0.1, 0.1]] * 2


def test_the_watch_fires_once_and_is_armed_again_lower():
    watch = Watch(EVEN, above=0.2, below=0.1, memory=0.0)
    fired = []
    for off in (0.0, 0.15, 0.25, 0.22, 0.18, 0.25, 0.05, 0.15, 0.25):  # total variation
        distance = watch.saw([[100 * (0.25 + off), 100 * (0.25 - off), 25, 25], [25] * 4])
        assert distance == pytest.approx(off)
        fired.append(watch.fired())
    assert fired == [False, False, True, False, False, False, False, False, True]
    watch.renew(watch.shares)
    assert watch.distance == pytest.approx(0.0)
    assert not watch.fired()


def test_one_odd_step_is_not_drift():
    watch = Watch(EVEN, above=0.2, below=0.1, memory=0.9)
    for counts in ([[25] * 4] * 2, [[97, 1, 1, 1]] * 2, [[25] * 4] * 2):
        watch.saw(counts)
    assert not watch.fired()
    for _ in range(8):
        watch.saw([[97, 1, 1, 1]] * 2)
    assert watch.fired()
    assert np.allclose(np.sum(watch.shares, 1), 1)
    watch.saw([[0] * 4] * 2)  # a step without tokens says nothing
    with pytest.raises(PlanError, match=r"shape \(2, 4\)"):
        watch.saw([[1, 2]])
    for made in (lambda: Watch(EVEN, above=0.1, below=0.2), lambda: Watch([[0.5, 0.6]]), lambda: Watch(EVEN, memory=1)):
        with pytest.raises(PlanError):
            made()


@pytest.fixture
def hot(hand):
    """A plan made for even routing, a hot expert on its first expert rank, and moves that cost 1,000 s an expert."""
    profile, load = hand
    memory = Memory(expert_weights=1000, shared_weights=0, states=2)
    given = profile(0.7, 0.8, 1.0, 0.0, memory=memory)
    given = replace(given, message=Curve(((1.0, 1.0),)))
    return zebra(2, 2, 2, 2, 4, 1, KEY), given, load()


def test_it_moves_only_what_is_earned_back(hot):
    plan, given, load = hot
    drifted = load.with_shares(HOT)
    old_s = simulate(plan, given, drifted).step_s
    never = replan(plan, given, load, HOT, 0)
    assert (never.move, never.plan, never.moves, never.pays_after) == (False, plan, (), math.inf)
    assert "stays" in never.why
    found = replan(plan, given, load, HOT, 10_000)
    assert found.move
    assert found.step_s == pytest.approx(old_s)
    assert found.new_s == pytest.approx(simulate(found.plan, given, drifted).step_s)
    assert found.new_s < old_s
    assert found.moves == moves(plan, found.plan)
    assert found.move_s == pytest.approx(move_seconds(plan, found.plan, given))
    assert found.pays_after == pytest.approx(found.move_s / (old_s - found.new_s))
    for steps in (0.5, 2):  # on either side of where the cheapest change is earned
        again = replan(plan, given, load, HOT, int(steps * found.pays_after))
        assert again.move or steps < 1
        if again.move:
            assert again.pays_after <= steps * found.pays_after
    calm = replan(found.plan, given, load, HOT, 10_000)  # the control: what was just planned is not planned again
    assert not calm.move


def test_a_move_costs_the_busiest_rank(hot):
    plan, given, _ = hot
    assert moves(plan, plan) == ()
    assert move_seconds(plan, plan, given) == 0
    new = plan.with_offload((1, 0))
    (one,) = moves(plan, new)
    assert (one.layer, one.source, one.target) == (0, plan.owner[0][one.expert], 0)
    assert move_seconds(plan, new, given) == pytest.approx(given.message(1000))  # weights and state, not gradients
    assert move_seconds(plan, plan.with_offload((2, 0)), given) == pytest.approx(given.message(1000))
    assert move_seconds(plan, plan.with_offload((2, 2)), given) == pytest.approx(given.message(2000))


def test_ranks_of_one_kind_are_exchanged_to_move_less(hot):
    plan, given, load = hot
    swapped = tuple({2: 3, 3: 2}[rank] for rank in plan.owner[0])
    new = replace(plan, owner=(swapped, plan.owner[1]))
    assert len(moves(plan, new)) == 4
    assert relabelled(plan, new, load) == plan
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.ones(12), 3)
    wide = zebra(3, 4, 2, 3, 12, 1, KEY)
    owner = tuple(tuple(int(r) for r in rng.integers(0, 7, 12)) for _ in range(3))
    other = replace(wide, owner=owner)
    alike = relabelled(wide, other, load)
    assert len(moves(wide, alike)) <= len(moves(wide, other))
    what = load.with_shares(shares)
    assert simulate(alike, given, what).step_s == pytest.approx(simulate(other, given, what).step_s)


def test_memory_and_ep(hand):
    """Where the old rank cannot hold more, experts go elsewhere or stay; EP's ranks are balanced too."""
    profile, load = hand
    memory = Memory(expert_weights=2**30, shared_weights=0, states=1)
    tight = profile(0.7, 0.8, 1.0, memory=memory, new_gib=2.5, old_gib=4.5)
    plan = zebra(2, 2, 2, 2, 4, 1, KEY)
    found = replan(plan, tight, load(), HOT, 10_000)
    assert max(used_bytes(tight, found.plan, load())[2:]) <= 4.5 * 2**30
    shared = expert_parallel(2, 2, 4, 1, 1, KEY)
    both = [[0.45, 0.45, 0.05, 0.05]] * 2
    assert replan(shared, profile(0.7), load(), both, 10_000).move
    with pytest.raises(PlanError, match="2 rows of 4 experts"):
        replan(plan, tight, load(), [[1.0]], 1)
    with pytest.raises(PlanError, match="0 steps are left or more"):
        replan(plan, tight, load(), HOT, -1)

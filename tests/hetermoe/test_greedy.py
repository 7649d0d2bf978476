"""Algorithm 1 by hand, both readings of its formula, and its bounds by memory."""

import pytest

from workbench.hetermoe.greedy import Chunk, Stages, chunk, gather_and_squeeze, greedy, squeeze_s, stages_of
from workbench.hetermoe.plan import PlanError, expert_parallel, zebra
from workbench.hetermoe.profile import Memory, offload_bounds

KEY = "by hand"


def test_chunks_move_whole_experts_between_all_ranks():
    for (attention, expert), want in {
        (1, 1): Chunk(1, 1), (6, 6): Chunk(1, 1), (4, 8): Chunk(2, 1), (6, 3): Chunk(1, 2), (1, 5): Chunk(5, 1),
    }.items():  # fmt: skip
        found = chunk(attention, expert)
        assert found == want
        assert found.gained * attention == found.shed * expert
    for attention, expert in ((4, 3), (2, 5), (6, 4)):
        with pytest.raises(PlanError, match=rf"one of {attention} attention and {expert} expert ranks to divide"):
            chunk(attention, expert)


def test_bubbles_add_up_until_a_chunk_fits():
    """T_A 0.62, T_Ee 1, T_Ea 0.8, 6 : 6, 24 experts: a bubble of 0.38 a layer, a chunk of six fills 0.45."""
    stages = Stages(0.62, 1.0, 0.8)
    assert squeeze_s(stages, 6, 6, 24) == pytest.approx(0.45)
    # bubbles 0.38, 0.76 - 0.45, 0.69 - 0.45, 0.62 - 0.45, 0.55 - 0.45, 0.48 - 0.45, 0.41, 0.79 - 0.45
    assert gather_and_squeeze(stages, 6, 6, 8, 24) == (0, 6, 6, 6, 6, 6, 0, 6)
    assert gather_and_squeeze(Stages(0.1, 1.0, 0.8), 6, 6, 8, 24) == (12,) * 8  # two chunks fill 0.9 exactly
    assert gather_and_squeeze(Stages(1.0, 1.0, 0.8), 6, 6, 8, 24) == (0,) * 8
    assert gather_and_squeeze(Stages(1.7, 1.0, 0.8), 6, 6, 8, 24) == (0,) * 8


def test_the_printed_formula_is_another_one_where_ranks_differ():
    """4 : 8, 24 experts: a chunk takes one expert from each expert rank and gives each attention rank two.

    Filled: 8/24 of T_Ee once and of T_Ea twice. As printed it is the other way round, and moves other layers' experts.
    """
    stages = Stages(0.3, 1.0, 0.8)
    assert squeeze_s(stages, 4, 8, 24) == pytest.approx(1 / 3 + 2 * 0.8 / 3)
    assert squeeze_s(stages, 4, 8, 24, printed=True) == pytest.approx(2 / 3 + 0.8 / 3)
    right, printed = (gather_and_squeeze(stages, 4, 8, 8, 24, printed=how) for how in (False, True))
    assert (right, printed) == ((0, 8, 8, 8, 8, 0, 8, 8), (0, 8, 8, 8, 0, 8, 8, 8))
    for ranks in (1, 6):  # the control: with as many of either they are one
        both = [gather_and_squeeze(stages, ranks, ranks, 8, 24, printed=how) for how in (False, True)]
        assert both[0] == both[1] != (0,) * 8


def test_memory_bounds_scale_the_bubbles():
    stages = Stages(0.62, 1.0, 0.8)
    free = sum(gather_and_squeeze(stages, 6, 6, 8, 24))
    assert free == 36
    for most in (0, 1, 3):
        assert sum(gather_and_squeeze(stages, 6, 6, 8, 24, 0, most)) == 6 * most
    assert sum(gather_and_squeeze(stages, 6, 6, 8, 24, 0, 99)) == free
    for least in (7, 12, 32):
        assert sum(gather_and_squeeze(stages, 6, 6, 8, 24, least)) == 6 * least
    assert sum(gather_and_squeeze(stages, 6, 6, 8, 24, 2)) == free
    crowded = gather_and_squeeze(Stages(2.0, 1.0, 0.8), 6, 6, 8, 24, 4)  # no bubble, and yet too little memory
    assert crowded == (0, 6, 0, 6, 0, 6, 0, 6)
    with pytest.raises(PlanError, match="must give up 5 experts and may give up 4"):
        gather_and_squeeze(stages, 6, 6, 8, 24, 5, 4)


def test_it_measures_and_keeps_to_the_memory_of_a_profile(hand):
    profile, load = hand
    plan = zebra(2, 2, 4, 4, 8, 1, KEY)
    given = profile(0.3, 0.8, 1.0)
    found = stages_of(plan, given, load())
    assert (found.attention, found.expert, found.expert_on_attention) == pytest.approx((28.8, 96.0, 76.8))
    free = greedy(plan, given, load())
    assert free.offload == (2, 4, 2, 4)  # a bubble of 67.2 a layer, and a chunk of two fills 43.2
    memory = Memory(expert_weights=2**30, shared_weights=0, states=1)
    for new_gib, old_gib, bounds in ((4, 16, (0, 8)), (32, 9, (14, 32)), (32, 16, (0, 32)), (3, 13, (6, 6))):
        tight = profile(0.3, 0.8, 1.0, memory=memory, new_gib=new_gib, old_gib=old_gib)
        assert offload_bounds(tight, plan, load()) == bounds
        assert bounds[0] <= sum(greedy(plan, tight, load()).offload) <= bounds[1]
    with pytest.raises(PlanError, match="32 experts: expert ranks hold 20, attention ranks 6: too few"):
        greedy(plan, profile(0.3, 0.8, 1.0, memory=memory, new_gib=3, old_gib=10), load())
    with pytest.raises(PlanError, match="under zebra, not ep"):
        greedy(expert_parallel(2, 4, 8, 1, 1, KEY), given, load())

"""The virtual clock: by hand, against a second implementation, against every other order, collapsed against full."""

import itertools
import random
from dataclasses import replace

import pytest

from workbench.hetermoe.costs import balanced, resolve
from workbench.hetermoe.order import Case, all_forward_first, in_order, one_by_one, optimum, theorem
from workbench.hetermoe.plan import PlanError, distep, expert_parallel, zebra
from workbench.hetermoe.profile import Curve, Load, Memory, Profile, Surface, check_memory, used_bytes
from workbench.hetermoe.sim import simulate, step

KEY = "by hand"
RNG = random.Random(7)
LIKE = [  # cases of the theorem's premise: the last attention stage takes as long as the others
    Case(layers, micro_batches, 1.0, expert, message, head=1.0, back=back)
    for (layers, micro_batches), expert, message, back in (
        ((1, 3), 0.6, 0.1, 2.0), ((1, 3), 1.7, 0.1, 2.0), ((2, 2), 1.0, 0.3, 3.0), ((2, 2), 1.3, 0.0, 2.0),
        ((3, 2), 0.4, 0.2, 2.0), ((3, 2), 1.6, 0.9, 1.0), ((2, 3), 0.9, 0.15, 2.0), ((2, 3), 1.3, 0.0, 2.0),
    )
]  # fmt: skip


def test_one_micro_batch_by_hand(hand):
    """A, dispatch, E, combine for two layers, head there and back, and all of it back again; 96 tokens."""
    profile, load = hand
    found = simulate(zebra(1, 1, 1, 2, 4, 1, KEY), profile(0.5, 0.8, 1.0, 0.25, 0.125), load(), spans=True)
    there = 2 * (48 + 24 + 96 + 24)
    back = 2 * (96 + 24 + 192 + 24)
    assert found.step_s == pytest.approx(there + 12 + 24 + back)
    assert found.tokens_per_s == pytest.approx(96 / found.step_s)
    assert found.utilisation == pytest.approx(((2 * 48 * 3 + 36) / found.step_s, 2 * 96 * 3 / found.step_s))
    alone = simulate(distep(1, 1, 2, 4, 1, KEY), profile(0.5, 0.8, 1.0, 0.25, 0.125), load())
    assert alone.step_s == found.step_s


def test_two_implementations_agree(hand):
    """One rank a side: the simulator against placements in Theorem 1's order, which share no code."""
    profile, load = hand
    for _ in range(30):
        layers, micro = RNG.randint(1, 5), RNG.choice([1, 2, 3, 4])
        a, e, c, h = (round(RNG.uniform(0.1, 2.0), 2) for _ in range(4))
        given = profile(a, e, e, c, h)
        case = Case(layers, micro, a * 96 / micro, e * 96 / micro, c * 96 / micro, h * 96 / micro)
        ours = simulate(zebra(1, 1, micro, layers, 6, 1, KEY), given, load()).step_s
        assert ours == pytest.approx(in_order(case, theorem(case)))


@pytest.mark.parametrize("case", LIKE, ids=str)
def test_no_order_beats_theorem_1(case):
    """Exhaustive. The controls: two other orders are longer, and against a longer bound the search finds its way."""
    least = in_order(case, theorem(case))
    assert optimum(case).order == ()
    for worse in (one_by_one, all_forward_first):
        assert in_order(case, worse(case)) >= least
    assert in_order(case, one_by_one(case)) > least * 1.2
    found = optimum(case, bound=least * 1.0001)
    assert found.seconds == pytest.approx(least)
    assert in_order(case, found.order) == pytest.approx(found.seconds)


def test_the_search_is_exhaustive():
    """Against all 924 interleavings of two chains of six stages."""
    for head in (0.05, 1.0):
        case = Case(1, 2, 1.2, 0.7, 0.0, head)
        chains = set(itertools.combinations(range(12), 6))
        least = min(in_order(case, [int(at in first) for at in range(12)]) for first in chains)
        assert optimum(case, bound=1e9).seconds == pytest.approx(least)


@pytest.mark.parametrize(
    ("case", "gain"),
    [
        (Case(1, 3, 1.52, 0.94, 0.11, head=0.01, back=2.5), 1.10),  # the last stage is far shorter than the others
        (Case(2, 2, 0.37, 1.21, 0.0, head=2.52, back=1.0), 1.05),  # or far longer
        (Case(2, 3, 1.0, 1.4, 0.0, head=1.0), 1.007),  # alike, and still a little
    ],
)
def test_where_the_theorem_is_beaten(case, gain):
    """Found by the search, kept because the paper's claim is wider: by how much, and that the better order is one."""
    found = optimum(case)
    assert in_order(case, found.order) == pytest.approx(found.seconds)
    assert in_order(case, theorem(case)) / found.seconds == pytest.approx(gain, abs=0.006)
    assert found.seconds >= max(sum(s for stream, s in case.chain if stream == n) for n in range(4))


def test_a_search_that_is_too_large_says_so():
    case = LIKE[0]
    with pytest.raises(ValueError, match="more than 10 states"):
        optimum(case, bound=1e9, most=10)
    with pytest.raises(ValueError, match="places each of"):
        in_order(case, (0, 1))


@pytest.mark.parametrize("joined", [False, True])
def test_collapsed_is_full_and_streams_do_one_thing_at_a_time(joined, hand, plans):
    profile, _ = hand
    given = profile(0.5, 0.8, 1.0, 0.05, 0.1, memory=Memory(8, 8), joined=joined)
    given = replace(given, devices=tuple(replace(d, update_s_byte=0.5) for d in given.devices))
    for plan, what in plans:
        full = simulate(plan, given, what, spans=True, collapse=False)
        short = simulate(plan, given, what, spans=True)
        assert short.step_s == pytest.approx(full.step_s)
        assert short.utilisation == pytest.approx(full.utilisation)
        assert len(resolve(plan, given, what).parts) <= len(resolve(plan, given, what, collapse=False).parts)
        assert sorted(map(str, short.spans)) == sorted(map(str, full.spans))
        assert max(s.end_s for s in full.spans) == pytest.approx(full.step_s)
        check_spans(plan, full)


def check_spans(plan, line):
    """No stream of a rank does two things at once, and busy compute is the utilisation, the update apart."""
    by_stream = {}
    for span in line.spans:
        by_stream.setdefault((span.rank, span.stream), []).append((span.start_s, span.end_s))
    for spans in by_stream.values():
        for (_, end), (start, _) in itertools.pairwise(sorted(spans)):
            assert start >= end - 1e-9
    for rank in range(plan.world):
        busy = sum(s.end_s - s.start_s for s in line.spans if s.rank == rank and s.stream == "compute"
                   and s.stage != "update")  # fmt: skip
        assert busy / line.step_s == pytest.approx(line.utilisation[rank])
    attention = [s for s in line.spans if s.rank == 0 and s.stage == "attention" and not s.backward]
    assert [(s.layer, s.micro_batch) for s in attention] == list(
        itertools.product(range(plan.layers), range(plan.micro_batches))
    )
    for span in line.spans:
        if span.stage == "expert" and not span.backward:
            before = [s.end_s for s in attention if (s.layer, s.micro_batch) == (span.layer, span.micro_batch)]
            assert span.start_s >= max(before) - 1e-9


def test_the_short_cut_for_balanced_routing_is_exact(hand):
    profile, load = hand
    for attention, expert, joined in ((1, 1, False), (4, 3, True), (3, 4, False), (1, 4, True), (6, 2, False)):
        given = profile(0.5, 0.7, 1.0, 0.04, 0.2, memory=Memory(8, 8), joined=joined)
        given = replace(given, devices=tuple(replace(d, update_s_byte=0.5) for d in given.devices))
        plan = zebra(attention, expert, 2, 4, 12, 2, KEY)
        for _ in range(12):
            vector = tuple(RNG.randint(0, 12) for _ in range(4))
            full = step(resolve(plan.with_offload(vector), given, load(), collapse=False))
            assert step(balanced(plan, given, load(), vector)) == pytest.approx(full)


def test_ep_is_capped_by_the_slower_kind(hand):
    profile, _ = hand
    given = profile(0.5, 0.8, 1.0, 0.05)
    plan = expert_parallel(4, 2, 8, 2, 1, KEY)
    mixed, old, new = (
        simulate(plan, given, Load(96, 64, "new", kinds=kinds)).step_s
        for kinds in (("new", "old", "new", "new"), ("old",) * 4, ("new",) * 4)
    )
    assert mixed == pytest.approx(old)
    assert new < old
    overlapped = replace(plan, micro_batches=2)
    assert simulate(overlapped, given, Load(96, 64, "old")).step_s < old


def test_skew_is_longer_and_overlap_is_shorter(hand):
    profile, load = hand
    given, plan = profile(0.5, 0.8, 1.0, 0.3), zebra(2, 2, 2, 2, 4, 1, KEY)
    even = simulate(plan, given, load()).step_s
    assert simulate(plan, given, load().with_shares([[0.25] * 4] * 2)).step_s == pytest.approx(even)
    assert simulate(plan, given, load().with_shares([[0.7, 0.1, 0.1, 0.1]] * 2)).step_s > even
    assert simulate(distep(2, 2, 2, 4, 1, KEY), given, load()).step_s > even
    together = replace(given, joined=True)
    assert simulate(plan, together, load()).step_s == pytest.approx(even)
    some = plan.with_offload((3, 3))  # attention ranks wait for rows of their own experts
    assert simulate(some, together, load()).step_s != pytest.approx(simulate(some, given, load()).step_s)


def test_curves_and_surfaces_go_through_their_points():
    curve = Curve(((10, 2.0), (20, 3.0), (40, 9.0)))
    assert [curve(x) for x in (0, 10, 15, 20, 30, 50)] == pytest.approx([0, 2, 2.5, 3, 6, 12])
    assert curve(5) == pytest.approx(1.5)
    assert Curve(((10, 2.0),))(25) == pytest.approx(5.0)
    surface = Surface((64, 128), (Curve(((10, 1.0),)), Curve(((10, 2.0),))))
    assert [surface(10, s) for s in (64, 96, 128, 256)] == pytest.approx([1, 1.5, 2, 4])
    for points in ((), ((0, 1),), ((1, 2), (1, 3)), ((1, -2),), ((1, float("nan")),)):
        with pytest.raises(PlanError):
            Curve(points)


def test_a_profile_is_stored_whole_and_only_for_its_model(hand):
    profile, load = hand
    given = profile(0.5, 0.8, 1.0, 0.25, 0.1, memory=Memory(3, 4, 8, 5, 6), old_gib=2, joined=True)
    assert Profile.from_json(given.to_json(), KEY) == given
    with pytest.raises(PlanError, match="this profile was made for model by hand, not for other"):
        Profile.from_json(given.to_json(), "other")
    with pytest.raises(PlanError, match="made for model by hand"):
        simulate(zebra(1, 1, 1, 1, 2, 1, "other"), given, load())
    with pytest.raises(PlanError, match="damaged"):
        Profile.from_json(given.to_json().replace('"lengths"', '"spans"'))
    with pytest.raises(PlanError, match="no device 'v9' in this profile, there are new, old"):
        given.device("v9")


def test_loads_that_do_not_fit_are_refused(hand):
    profile, load = hand
    plan, given = zebra(1, 1, 1, 2, 2, 1, KEY), profile()
    for what, says in (
        (load().with_shares([[0.5, 0.5]]), "2 rows of 2 experts"),
        (load().with_shares([[0.5, 0.6]] * 2), "sum to 1"),
        (load().with_shares([[1.5, -0.5]] * 2), "0 or more"),
        (load(kinds=("new",)), "1 kinds for 2 ranks"),
        (load(expert=""), "name the kind of device of the expert ranks"),
    ):
        with pytest.raises(PlanError, match=says):
            simulate(plan, given, what)
    with pytest.raises(PlanError, match="1 token or more"):
        load(tokens=0)


def test_memory_by_hand(hand):
    profile, load = hand
    memory = Memory(expert_weights=2**28, shared_weights=2**27, states=4, activation=2**20, expert_activation=2**10)
    given = profile(memory=memory, new_gib=16, old_gib=3)
    plan = zebra(1, 2, 1, 2, 4, 1, KEY).with_offload((1, 0))
    used = used_bytes(given, plan, load())
    # rank 0: an expert of four states, 0.5 GiB shared, 96 MiB kept, and a quarter of one layer's copies
    assert used[0] == pytest.approx(2**30 + 2**29 + 96 * 2**20 + 96 / 4 * 2**10)
    assert used[1] == pytest.approx(4 * 2**30 + 2 * 96 / 2 * 2**10)
    with pytest.raises(PlanError, match=r"rank 1 needs 4\.00 GiB, its device \(old\) has 3\.00"):
        check_memory(given, plan, load())
    check_memory(profile(memory=memory, new_gib=16, old_gib=5), plan, load())

"""The policy on the virtual clock: never worse than one resource, near the oracle, and no schedule that hangs."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cake import paper
from workbench.cake.costs import Costs
from workbench.cake.model_time import oracle_split, single_s
from workbench.cake.policy import NO_END, ORDERS, PROBE, Policy
from workbench.cake.sim import Request, World, choose_chunks, simulate, trace_rate, ttft

GRAIN = 128
BASE = Costs(step_s=0.01, token_s=0.0008, pair_s=1.5e-7, load_token_s=0.0012)

costs_of_all_kinds = st.builds(
    Costs,
    step_s=st.floats(0, 0.2),
    token_s=st.floats(1e-6, 2e-3),
    pair_s=st.floats(0, 1e-6),
    load_token_s=st.floats(1e-7, 0.05),
    load_request_s=st.floats(0, 0.1),
    contention=st.floats(1.0, 1.5),
)


@settings(max_examples=150, deadline=None)
@given(costs_of_all_kinds, st.integers(2 * GRAIN, 20_000), st.sampled_from([128, 512, 1024]), st.sampled_from([1, 4]))
def test_never_slower_than_the_better_single_resource_by_more_than_3_percent(costs, tokens, step, run):
    best = min(single_s(costs, tokens, GRAIN, step, run))
    assert ttft(Policy(costs, step, run), tokens, GRAIN) <= 1.03 * best + 1e-3


def over_best(model, run, guards=True):
    """TTFT over the better single resource's, of every length and bandwidth, on the paper's fastest machine."""
    ratios = []
    for tokens in (257, 300, 385, 641, 1001, 2001, 4001, 8001, 16_000, 32_000):
        step = min(512, (tokens - 1) // GRAIN // 2 * GRAIN)  # as a config cuts it
        for gbps in (0.01, 0.1, 0.5, 1, 3, 7, 25, 56, 100, 300, 3000):
            costs = paper.costs_at("H100", 100.0, gbps, model)
            best = min(single_s(costs, tokens, GRAIN, step, run))
            ratios.append(ttft(Policy(costs, step, run, guards=guards), tokens, GRAIN) / best)
    return ratios


@pytest.mark.parametrize("run", [1, 2, 8])
@pytest.mark.parametrize("model", paper.KV_BYTES)
def test_the_whole_grid_is_within_3_percent_of_the_better_single_resource(model, run):
    """Models, lengths from two grains to 32k, bandwidths over five decades, reads of one to eight grains."""
    ratios = over_best(model, run)
    assert max(ratios) <= 1.03
    assert min(ratios) < 0.6  # and far below it where both are alike


@pytest.mark.parametrize("model", paper.KV_BYTES)
def test_without_the_guards_the_grid_is_not(model):
    """Control: the paper's rule, which claims whatever is left, loses in a good part of the same grid."""
    ratios = over_best(model, 1, guards=False)
    assert max(ratios) > 2 and sum(r > 1.03 for r in ratios) > len(ratios) / 4


def test_hedging_is_not_what_keeps_the_bound():
    slow = replace(BASE, load_token_s=1.0)
    single = min(single_s(slow, 2000, GRAIN, 512, 1))
    assert ttft(Policy(slow, hedge=False, guards=False), 2000, GRAIN) > 1.03 * single
    assert ttft(Policy(slow, hedge=False), 2000, GRAIN) <= 1.03 * single


@pytest.mark.parametrize("factor", [0.1, 0.3, 1, 3, 10])
def test_within_a_tenth_of_the_oracle(factor):
    costs = BASE.scaled(load=1 / factor)
    assert ttft(Policy(costs), 8001, GRAIN) <= 1.1 * oracle_split(costs, 8001, GRAIN, 512, 1).ttft_s


def test_a_static_even_split_is_further_from_the_oracle():
    """Control for the above: the midpoint is not good enough, so closeness is the policy's doing."""
    costs = BASE.scaled(load=1 / 0.3)
    half = 4000 // GRAIN * GRAIN
    even = max(costs.compute_range_s(0, half, 512), costs.load_s(8000 - half, 1))
    assert even > 1.1 * oracle_split(costs, 8001, GRAIN, 512, 1).ttft_s


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100), st.floats(1.05, 4))
def test_more_bandwidth_never_moves_the_meeting_point_back(factor, more):
    def met(f):
        return simulate(Policy(BASE.scaled(load=1 / f)), [Request(8001)], GRAIN).met_at[0]

    assert met(factor * more) <= met(factor) + GRAIN


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0.05, 20), st.sampled_from(["cake", "load", "compute"])
)
def test_any_pattern_of_stored_grains_ends(stored, factor, mode):
    tokens = len(stored) * GRAIN + 17
    done = simulate(Policy(BASE.scaled(load=1 / factor), mode=mode), [Request(tokens, stored=stored)], GRAIN)
    assert done.ttft_s[0] > 0


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 61)), st.floats(0.1, 10), st.sampled_from(["cake", "load"]))
def test_failed_loads_are_computed(failing, factor, mode):
    world = World(BASE.scaled(load=1 / factor), fails=lambda _job, grain: grain in failing)
    done = simulate(Policy(world.true, mode=mode), [Request(8001)], GRAIN, world, trace=True)
    computed = positions(done, "compute")
    read = {grain for grain in range(62) if grain * GRAIN in positions(done, "load")}
    for grain in read & failing:
        assert set(range(grain * GRAIN, (grain + 1) * GRAIN)) <= computed
    assert computed | positions(done, "load") == set(range(8001))


def positions(done, lane):
    spans = [s.label.strip("[]").split(":") for s in done.spans if s.lane == lane]
    return {i for a, b in spans for i in range(int(a), int(b))}


def test_every_position_has_exactly_one_writer():
    done = simulate(Policy(BASE), [Request(8001)], GRAIN, trace=True)
    seen = [0] * 8001
    for span in done.spans:
        a, b = (int(v) for v in span.label.strip("[]").split(":"))
        for i in range(a, b):
            seen[i] += 1
    assert set(seen) == {1}


def test_hedging_rescues_a_link_that_dies():
    """From 1 virtual second on the link is 1,000 times slower: with hedging the prompt is ready by computing."""
    world = World(BASE, bandwidth=trace_rate([0.0, 1.0], [1.0, 0.001]))
    done = simulate(Policy(BASE), [Request(8001)], GRAIN, world, trace=True)
    hedged, reasons = done.ttft_s[0], [s.why for s in done.spans]
    assert any(why.get("load_rest_s") == NO_END for why in reasons)  # and JSON, which has no infinity, holds it all
    assert json.loads(json.dumps(reasons, allow_nan=False)) == reasons
    unhedged = simulate(Policy(BASE, hedge=False), [Request(8001)], GRAIN, world).ttft_s[0]
    compute_only = single_s(BASE, 8001, GRAIN, 512, 1)[0]
    assert hedged <= 1.05 * compute_only < unhedged


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_wrong_belief_of_the_link_is_corrected_by_its_reads(factor):
    """Control: with measurements ignored the same belief ends further from the oracle of the true link."""

    class Stubborn(Policy):
        def now_costs(self, job, now_s=None):
            return self.costs

    true, world = BASE.scaled(load=1 / factor), World(BASE, bandwidth=lambda _t: factor)
    best = oracle_split(true, 8001, GRAIN, 512, 1).ttft_s
    learned = simulate(Policy(BASE), [Request(8001)], GRAIN, world).ttft_s[0]
    assert learned <= 1.1 * best
    assert simulate(Stubborn(BASE), [Request(8001)], GRAIN, world).ttft_s[0] > learned


def test_long_reads_do_not_pass_the_best_split():
    """Eight grains a read: the last one is cut where compute would be sooner."""
    for factor in (0.1, 0.3, 1.0):
        costs = BASE.scaled(load=1 / factor)
        assert ttft(Policy(costs, run=8), 8001, GRAIN) <= 1.1 * oracle_split(costs, 8001, GRAIN, 512, 8).ttft_s


def test_a_slower_gpu_moves_the_meeting_point_to_the_front():
    world = World(BASE, compute=lambda _t: 3.0)
    slow = simulate(Policy(BASE), [Request(8001)], GRAIN, world).met_at[0]
    assert slow < simulate(Policy(BASE), [Request(8001)], GRAIN).met_at[0]


class Unforgetting(Policy):
    """Control: what was measured of a link stands until the next read of it."""

    def now_costs(self, job, now_s=None):
        return super().now_costs(job)


def stalled(policy, slow_reads, factor, tokens=8001):
    """(TTFT, reasons of the reads) where the reads of these numbers take `factor` times as long."""
    count = 0

    def bandwidth(_t):
        nonlocal count
        count += 1
        return 1 / factor if count in slow_reads else 1.0

    done = simulate(policy, [Request(tokens)], GRAIN, World(policy.costs, bandwidth), trace=True)
    return done.ttft_s[0], [s.why["reason"] for s in done.spans if s.lane == "load"]


@pytest.mark.parametrize("factor", [36, 40, 45])
def test_a_link_that_stalled_once_is_tried_again(factor):
    """The first read takes half the prompt's time; then the link is as fast as ever. One probe finds that out."""
    probed, reads = stalled(Policy(BASE), {1}, factor)
    assert reads.count(PROBE) == 1 and len(reads) >= 10
    given_up, once = stalled(Unforgetting(BASE), {1}, factor)
    assert len(once) == 1 and given_up > 1.2 * probed


def test_one_slow_read_among_many_is_not_the_last_word():
    """The fifth read is 33 times as slow: averaged with those before it, the loader goes on at once."""
    seconds, reads = stalled(Policy(BASE), {5}, 33)
    assert len(reads) == 16 and seconds < 7.6


@pytest.mark.parametrize("run", [1, 4])
@pytest.mark.parametrize("tokens", [1001, 8001])
def test_probes_cost_nothing_on_a_link_that_stays_slow(tokens, run):
    """A late probe is taken over by compute: no slower than never looking again, however slow the link is."""
    for belief in (0.2, 1.0, 5.0):
        costs = BASE.scaled(load=belief)
        for factor in (1.5, 3, 10, 33, 100, 1000):
            world = World(costs, bandwidth=lambda _t, f=factor: 1 / f)
            times = [simulate(p(costs, run=run), [Request(tokens)], GRAIN, world) for p in (Policy, Unforgetting)]
            assert times[0].ttft_s[0] <= 1.001 * times[1].ttft_s[0]


def test_no_probe_without_hedging():
    """Nobody would take a late probe over."""
    _, reads = stalled(Policy(BASE, hedge=False), {1}, 60)
    assert PROBE not in reads and PROBE in stalled(Policy(BASE), {1}, 60)[1]


def test_the_simulator_learns_both_sides():
    """Compute is three times and the link twice as slow as believed: the ledger says so at the end."""
    jobs = []

    class Watching(Policy):
        def load_step(self, job, now_s):
            jobs.append(job)
            return super().load_step(job, now_s)

    world = World(BASE, bandwidth=lambda _t: 0.5, compute=lambda _t: 3.0)
    simulate(Watching(BASE), [Request(8001)], GRAIN, world)
    ledger = jobs[-1].ledger
    assert ledger.load_scale() == pytest.approx(2.0)
    assert 1.5 < ledger.compute_scale <= 3.0
    jobs.clear()
    simulate(Watching(BASE), [Request(8001)], GRAIN)  # control: as believed, nothing is learned
    assert jobs[-1].ledger.load_scale() == jobs[-1].ledger.compute_scale == 1.0


MIXES = {
    "six short and a long one": [1001] * 6 + [8001],
    "equal steps": [8001, 6001, 4001, 2001],
    "unordered": [8001, 2001, 6001, 1001],
    "long": [16_000, 12_000, 8000, 4000],
    "alike": [4001] * 4,
    "odd tails": [3000, 9000, 500],
}
FACTORS = (0.1, 0.3, 1, 3, 10, 30)


def aims(lengths, factor, **how):
    """{aim: (mean TTFT, makespan)} of a mix on a link `factor` times as fast as BASE's."""
    found = {}
    for batch in ("fifo", "mean", "makespan"):
        policy = Policy(BASE.scaled(load=1 / factor), batch=batch, **how)
        done = simulate(policy, [Request(n) for n in lengths], GRAIN)
        found[batch] = sum(done.ttft_s) / len(lengths), done.makespan_s
    return found


@pytest.mark.parametrize("lengths", MIXES.values(), ids=MIXES)
def test_each_aim_is_served_at_least_as_well_as_by_order_of_arrival(lengths):
    for factor in FACTORS:
        found = aims(lengths, factor)
        assert found["mean"][0] <= found["fifo"][0] * (1 + 1e-9)
        assert found["makespan"][1] <= 1.01 * found["fifo"][1]


@pytest.mark.parametrize("lengths", MIXES.values(), ids=MIXES)
def test_several_requests_are_never_slower_than_by_one_resource(lengths):
    for factor in FACTORS:
        cake = aims(lengths, factor)
        for mode in ("compute", "load"):
            single = aims(lengths, factor, mode=mode)
            assert cake["mean"][0] <= 1.03 * single["mean"][0]
            assert cake["makespan"][1] <= 1.03 * single["makespan"][1]


def test_no_single_order_does_that():
    """Control: each order alone misses an aim somewhere in the same mixes."""
    mixes = [MIXES[name] for name in ("equal steps", "unordered", "odd tails")]
    best = {(i, factor): aims(mix, factor) for i, mix in enumerate(mixes) for factor in (0.1, 1, 30)}
    for order in ORDERS["makespan"]:
        worse = []
        for (i, factor), found in best.items():
            one = aims(mixes[i], factor, order=order)
            worse += [one["mean"][0] / found["mean"][0], one["makespan"][1] / found["makespan"][1]]
        assert max(worse) > 1.02, order


def test_batch_aware_lowers_the_mean():
    found = aims(MIXES["unordered"], 1)
    assert found["mean"][0] < 0.8 * found["fifo"][0]


def test_chunks_follow_the_tier():
    """A dear request (object store) asks for longer reads than a cheap one (memory)."""
    near = choose_chunks(replace(BASE, load_request_s=0.0), 8001, GRAIN)
    far = choose_chunks(replace(BASE, load_request_s=0.3), 8001, GRAIN)
    assert far[1] > near[1]


def test_a_policy_that_never_acts_is_reported():
    class Idle(Policy):
        def compute_step(self, job, now_s):
            from workbench.cake.policy import Wait

            return Wait(10.0)

        def load_step(self, job, now_s):
            from workbench.cake.policy import Ready

            return Ready(0)

    with pytest.raises(RuntimeError, match="waits for nothing"):
        simulate(Idle(BASE), [Request(1000)], GRAIN, until_s=100)

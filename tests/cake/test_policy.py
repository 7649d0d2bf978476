"""The policy on the virtual clock: never worse than one resource, near the oracle, and no schedule that hangs."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cake.costs import Costs
from workbench.cake.model_time import oracle_split, single_s
from workbench.cake.policy import NO_END, Policy
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


def test_without_the_guards_it_would_be_slower():
    """Control: the plain two-pointer rule loses at extreme ratios, so the property above can fail."""

    class Greedy(Policy):
        def load_step(self, job, now_s):  # loads whatever the front has not claimed, however slow the link
            return Policy(self.costs, mode="load").load_step(job, now_s)

    slow = replace(BASE, load_token_s=1.0)
    tokens = 2000
    single = min(single_s(slow, tokens, GRAIN, 512, 1))
    assert simulate(Greedy(slow, hedge=False), [Request(tokens)], GRAIN).ttft_s[0] > 1.03 * single
    assert ttft(Policy(slow, hedge=False), tokens, GRAIN) <= 1.03 * single


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
        def now_costs(self, job):
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


def test_batch_aware_lowers_the_mean_and_never_starves():
    requests = [Request(8001), Request(2001), Request(6001), Request(1001)]
    times = {b: simulate(Policy(BASE, batch=b), requests, GRAIN) for b in ("fifo", "mean", "makespan")}
    means = {b: sum(t.ttft_s) / 4 for b, t in times.items()}
    assert means["mean"] < 0.8 * means["fifo"]
    assert times["makespan"].makespan_s <= 1.01 * times["fifo"].makespan_s
    assert times["mean"].makespan_s <= 1.05 * times["fifo"].makespan_s


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

"""The cost model: fits what it is given, splits as well as exhaustive search."""

from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cake.bounds import (
    Restore,
    batch_bound,
    bounds,
    contention,
    grain_costs,
    measured_oracle,
    oracle_with_gaps,
)
from workbench.cake.bounds import lower_bound_s as whole_bound_s
from workbench.cake.costs import Costs, balanced_split, fit_compute, lower_bound_s, oracle, overlapped_s
from workbench.cake.model_time import oracle_split
from workbench.cake.policy import Policy
from workbench.cake.sim import Request, simulate


def test_fit_recovers_a_known_curve_through_noise():
    true = Costs(0.02, 0.0009, 2e-7, 0.001)
    rng = np.random.default_rng(0)
    passes = [(s, n, true.compute_s(s, n) * rng.normal(1, 0.01)) for s in range(0, 8000, 512) for n in (64, 256, 512)]
    step_s, token_s, pair_s = fit_compute(passes)
    fitted = Costs(step_s, token_s, pair_s, 0.001)
    for start in (0, 2000, 7000):
        assert fitted.compute_s(start, 512) == pytest.approx(true.compute_s(start, 512), rel=0.03)


def test_fit_refuses_too_little():
    with pytest.raises(ValueError, match="at least two"):
        fit_compute([(0, 512, 0.4)])


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0, 0.1), st.floats(1e-6, 1e-2), st.floats(0, 1e-6), st.floats(1e-7, 1e-1), st.floats(0, 0.1),
    st.floats(1.0, 1.5), st.integers(0, 30), st.integers(1, 60), st.sampled_from([128, 512]), st.sampled_from([1, 4]),
)  # fmt: skip
def test_balanced_split_is_what_trying_all_finds(
    step_s, token_s, pair_s, load_s, request_s, contention, at, grains, step, run
):
    costs = Costs(step_s, token_s, pair_s, load_s, request_s, contention)
    start, tokens = at * 128, grains * 128

    def end_s(front):
        return overlapped_s(costs, costs.compute_range_s(start, front, step), costs.load_s(tokens - front, run * 128))

    found = balanced_split(costs, start, tokens, 128, step, run)
    best = min(end_s(m * 128) for m in range(grains + 1))
    assert found % 128 == 0 and end_s(found) <= max(
        best * 1.1, best + costs.load_s(128 * run, 128) + costs.compute_s(start + tokens, 128)
    )


def test_measured_oracle_is_the_modelled_one_for_times_that_follow_the_model():
    costs = Costs(0.01, 0.0008, 1.5e-7, 0.0012)
    ends = [*range(0, 8064, 512), 8001]
    passes = [(a, b - a, costs.compute_s(a, b - a)) for a, b in pairwise(ends)]
    found = measured_oracle(costs, [passes, passes], [(128, costs.load_s(128, 128))], 8001, 128)
    modelled = oracle_split(costs, 8001, 128, 512, 1)
    assert found.ttft_s == pytest.approx(modelled.ttft_s, rel=0.02)
    slower = [(a, n, 2 * s) for a, n, s in passes]
    assert measured_oracle(costs, [slower], [(128, 0.15)], 8001, 128).token < found.token


def test_oracle_tries_every_split():
    split = oracle([1.0, 2.0, 3.0, 4.0], [2.5] * 4, 128, 0.5)
    assert (split.token, split.ttft_s) == (256, 5.5)  # 1 + 2 against 2.5 + 2.5
    assert oracle([9.0, 9.0], [0.1, 0.1], 128, 0.0).token == 0
    assert oracle([0.1, 0.1], [9.0, 9.0], 128, 0.0).token == 256


def test_contention_is_how_much_slower_passes_ran_beside_a_load():
    costs = Costs(0.01, 0.0008, 1.5e-7, 0.0012)

    def beside(*factors):
        return [(at * 128, 128, factor * costs.compute_s(at * 128, 128)) for at, factor in enumerate(factors)]

    assert contention(costs, beside(1.1, 9.0, 1.3)) == pytest.approx(1.3)  # the one that was held up does not count
    assert contention(costs, beside(0.5, 0.9, 1.2)) == 1.0
    assert contention(costs, []) == 1.0


def test_lower_bound_is_the_harmonic_one_for_flat_costs_and_below_it_for_rising_ones():
    flat = Costs(0.0, 0.001, 0.0, 0.003)
    assert lower_bound_s(flat, 8000, 512) == pytest.approx(8 * 24 / 32)
    rising = Costs(0.0, 0.0005, 1.25e-7, 0.003)  # computing all takes the same 8 s
    assert lower_bound_s(rising, 8000, 512) < 0.97 * 8 * 24 / 32


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-5, 1e-2), st.floats(0, 1e-6), st.floats(1e-6, 1e-2), st.sampled_from([128, 512]))
def test_no_split_beats_the_lower_bound(token_s, pair_s, load_s, step):
    costs = Costs(0.01, token_s, pair_s, load_s)
    best = min(max(costs.compute_range_s(0, m * 128, step), costs.load_s(8064 - m * 128, 128)) for m in range(64))
    assert lower_bound_s(costs, 8064, step) <= best * (1 + 1e-9)


def best_by_trying_all(compute_s, load_s, stored, tail_s):
    """Every choice of loaded grains, in every order of reads; compute goes through the prompt and waits for loads."""
    best = np.inf
    for chosen in product(*[(False, True) if there else (False,) for there in stored]):
        loaded = [i for i, load in enumerate(chosen) if load]
        for order in permutations(loaded):
            there_s = {grain: (n + 1) * load_s for n, grain in enumerate(order)}
            now_s = 0.0
            for i, seconds in enumerate(compute_s):
                if not chosen[i]:
                    now_s = max([now_s, *(there_s[j] for j in loaded if j < i)]) + seconds
            best = min(best, max([now_s, *there_s.values()]) + tail_s)
    return best


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 3), st.booleans()), min_size=1, max_size=6), st.floats(0.05, 3))
def test_oracle_with_gaps_is_what_trying_all_finds(grains, load_s):
    compute_s, stored = sorted(seconds for seconds, _ in grains), [there for _, there in grains]
    found = oracle_with_gaps(compute_s, load_s, stored, 128, 0.25)
    assert found.ttft_s == pytest.approx(best_by_trying_all(compute_s, load_s, stored, 0.25))


def test_oracle_with_gaps_knows_what_it_cannot_load():
    whole = oracle_with_gaps([1.0, 2.0, 3.0, 4.0], 2.5, [True] * 4, 128, 0.5)
    assert whole == oracle([1.0, 2.0, 3.0, 4.0], [2.5] * 4, 128, 0.5)
    gap = oracle_with_gaps([1.0, 2.0, 3.0, 4.0], 2.5, [True, True, True, False], 128, 0.5)
    assert gap.ttft_s == pytest.approx(3.0 + 4.0 + 0.5)  # 1 + 2 beside the load of the third, then the missing one
    assert gap.token == 256
    nothing = oracle_with_gaps([1.0, 2.0], 0.1, [False, False], 128, 0.5)
    assert (nothing.token, nothing.ttft_s) == (256, 3.5)


STORED = {
    "head": [True] * 31 + [False] * 31, "tail": [False] * 31 + [True] * 31,
    "every third missing": [i % 3 != 0 for i in range(62)], "one in ten missing": [i % 10 != 5 for i in range(62)],
}  # fmt: skip


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
@pytest.mark.parametrize("factor", [0.1, 0.3, 1, 3, 10])
def test_no_run_beats_the_oracle_and_it_no_bound(stored, factor):
    costs = Costs(0.01, 0.0008, 1.5e-7, 0.0012 / factor)
    compute_s, tail_s = grain_costs(costs, 8001, 128, 512, stored)
    best = oracle_with_gaps(compute_s, costs.load_s(128, 128), stored, 128, tail_s).ttft_s
    assert batch_bound(costs, [Restore(8001, stored)], 128, 512).makespan_s <= best * (1 + 1e-9)
    assert best <= simulate(Policy(costs), [Request(8001, stored=stored)]).ttft_s[0] * (1 + 1e-9)


def schedules(costs, lengths, grain):
    """(mean TTFT, makespan) of every split and order of two whole requests whose grains run in prompt order."""
    parts = [grain_costs(costs, n, grain, grain) for n in lengths]
    splits = [range(len(compute_s) + 1) for compute_s, _ in parts]
    for cut in product(*splits):
        for computes in sorted({*permutations([i for i, m in enumerate(cut) for _ in range(m + 1)])}):
            for loads in sorted({*permutations([i for i, m in enumerate(cut) for _ in range(splits[i][-1] - m)])}):
                arrived, now_s, done, ready = [0.0, 0.0], 0.0, [0, 0], [0.0, 0.0]
                for n, i in enumerate(loads):
                    arrived[i] = (n + 1) * costs.load_s(grain, grain)
                for i in computes:
                    if done[i] == cut[i]:  # the tail, when everything before it is there
                        now_s = ready[i] = max(now_s, arrived[i]) + parts[i][1]
                    else:
                        now_s += parts[i][0][done[i]]
                    done[i] += 1
                yield sum(ready) / 2, max(ready)


@pytest.mark.parametrize("load_token_s", [1e-4, 5e-4, 1e-3, 4e-3])
@pytest.mark.parametrize("lengths", [(300, 400), (200, 500), (400, 400)])
def test_no_schedule_of_two_requests_beats_the_batch_bound(lengths, load_token_s):
    costs = Costs(0.002, 0.0008, 1e-6, load_token_s)
    found = list(schedules(costs, lengths, 128))
    bound = batch_bound(costs, [Restore(n) for n in lengths], 128, 128)
    mean_s, makespan_s = (min(f[i] for f in found) for i in (0, 1))
    assert bound.mean_ttft_s <= mean_s * (1 + 1e-9) and bound.makespan_s <= makespan_s * (1 + 1e-9)
    assert bound.makespan_s > 0.75 * makespan_s and bound.mean_ttft_s > 0.6 * mean_s  # control: it says something


def test_the_batch_bound_of_one_is_the_bound_of_one():
    costs = Costs(0.01, 0.0008, 1.5e-7, 0.0012)
    one = batch_bound(costs, [Restore(8001)], 128, 512)
    assert one.mean_ttft_s == one.makespan_s == pytest.approx(whole_bound_s(costs, 8001, 128, 512), rel=1e-4)


@pytest.mark.parametrize("factor", [0.1, 1, 10])
def test_several_requests_come_near_the_bound_on_the_makespan(factor):
    costs, lengths = Costs(0.01, 0.0008, 1.5e-7, 0.0012 / factor), (8001, 6001, 4001, 2001)
    bound = batch_bound(costs, [Restore(n) for n in lengths], 128, 512)
    for batch in ("mean", "makespan"):
        done = simulate(Policy(costs, batch=batch), [Request(n) for n in lengths])
        assert done.makespan_s >= bound.makespan_s and sum(done.ttft_s) / 4 >= bound.mean_ttft_s
    assert done.makespan_s <= 1.05 * bound.makespan_s


def test_too_many_requests_have_no_bound():
    with pytest.raises(ValueError, match="1 to 12, not 13"):
        batch_bound(Costs(0.01, 0.0008, 1.5e-7, 0.0012), [Restore(1001)] * 13, 128, 512)


@pytest.mark.parametrize("stored", [None, [True] * 62, STORED["every third missing"]], ids=["None", "whole", "gaps"])
def test_bounds_of_measured_times_are_in_order(stored):
    """The bound is never above the oracle, also where the fitted costs are too slow for the times they come with."""
    costs = Costs(0.01, 0.0008, 1.5e-7, 0.0012)
    ends = [*range(0, 8064, 512), 8001]
    for slower in (1.0, 3.0):
        passes = [[(a, b - a, costs.compute_s(a, b - a) / slower) for a, b in pairwise(ends)]]
        best, bound_s = bounds(costs, passes, [(128, costs.load_s(128, 128) / slower)], 8001, 128, 512, stored)
        assert 0 < bound_s <= best.ttft_s
        if stored is not None and not all(stored):
            whole, _ = bounds(costs, passes, [(128, costs.load_s(128, 128) / slower)], 8001, 128, 512)
            assert best.ttft_s > whole.ttft_s

"""The cost model: fits what it is given, splits as well as exhaustive search."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cake.costs import Costs, balanced_split, fit_compute, lower_bound_s, oracle, overlapped_s
from workbench.cake.model_time import measured_oracle, oracle_split


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

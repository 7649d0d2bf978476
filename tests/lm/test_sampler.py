"""Replayable sampling: a pick depends on its key and its logits, never on the picks before it."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench import lm

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])


def test_temperature_zero_takes_the_largest():
    sampler = lm.Sampler(temperature=0.0)
    assert {sampler.pick(LOGITS, r, p) for r in range(3) for p in range(3)} == {0}


def test_picks_replay_in_any_order():
    keys = [(request, position) for request in ("a", "b", 3) for position in range(40)]
    picks = {key: lm.Sampler(1.0, seed=5).pick(LOGITS, *key) for key in keys}
    shuffled = keys.copy()
    random.Random(0).shuffle(shuffled)
    sampler = lm.Sampler(1.0, seed=5)
    assert {key: sampler.pick(LOGITS, *key) for key in shuffled} == picks
    assert {key: lm.Sampler(1.0, seed=6).pick(LOGITS, *key) for key in keys} != picks


def test_each_part_of_the_key_counts():
    sampler, other = lm.Sampler(seed=0), lm.Sampler(seed=1)
    points = {sampler.uniform(1, 2), sampler.uniform("1", 2), sampler.uniform(2, 1), sampler.uniform(1, 3)}
    assert len({*points, other.uniform(1, 2), sampler.uniform("1|2", 3), sampler.uniform("1", 23)}) == 7


def test_frequencies_follow_the_probabilities():
    n = 20_000
    sampler = lm.Sampler(temperature=1.0, seed=1)
    counted = Counter(sampler.pick(LOGITS, 0, position) for position in range(n))
    expected = torch.softmax(LOGITS, 0) * n
    observed = torch.tensor([float(counted[i]) for i in range(4)])
    chi_square = ((observed - expected[:4]) ** 2 / expected[:4]).sum()
    assert chi_square < 21.1  # 4 degrees of freedom: one seed in 3,000 lies above
    flat = torch.full((4,), n / 4)
    assert ((observed - flat) ** 2 / flat).sum() > 1000  # the check would see the wrong distribution


@given(st.integers(0, 2**31), st.integers(1, 5), st.floats(0.05, 1.0), st.floats(0.2, 3.0))
def test_filters_keep_the_likeliest(seed, top_k, top_p, temperature):
    probability, token = lm.Sampler(temperature, top_k, top_p, seed).distribution(LOGITS)
    plain = torch.softmax(LOGITS.double() / temperature, 0)[:top_k]
    plain = plain / plain.sum()
    kept = len(token)
    assert token.tolist() == list(range(kept))  # LOGITS falls
    assert torch.allclose(probability.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert plain[:kept].sum() >= top_p - 1e-9
    assert kept == 1 or plain[: kept - 1].sum() < top_p
    assert lm.Sampler(temperature, top_k, top_p, seed).pick(LOGITS, "r", 0) < kept


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        lm.Sampler(**bad)


def test_nan_logits_are_refused():
    with pytest.raises(ValueError, match="without NaN"):
        lm.Sampler().pick(torch.tensor([0.0, float("nan")]), 0, 0)

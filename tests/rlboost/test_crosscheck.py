"""A profile from passes whose cost is known, and steps that it predicts; what must move a prediction does."""

from dataclasses import replace

import pytest

from workbench.rlboost.crosscheck import Seen, crosschecked, measured, predicted_s
from workbench.rlboost.manager import LOCAL, Pass
from workbench.rlboost.plan import LiveStep

FIXED_S, TOKEN_S, PROMPT_S, TRAIN_S = 0.02, 0.005, 0.001, 0.3
SLOTS, RESPONSES, TOKENS, PROMPT = 4, 8, 30, 10


def step(number, slow=1.0, batch=SLOTS):
    """Batches on the reserved machine one after the other, token by token, then training: as in a quiet run."""
    passes, at = [], 0.0
    for _ in range(RESPONSES // batch):
        for token in range(TOKENS):
            prompts = batch * PROMPT if token == 0 else 0
            seconds = slow * (FIXED_S + TOKEN_S * batch + PROMPT_S * prompts)
            at += seconds
            passes.append(Pass(at, LOCAL, batch, batch + prompts, seconds))
    row = LiveStep(
        step=number, seconds=at + TRAIN_S, t_seed_s=1e9, n_prem=0.0, instances=0.0, tokens=RESPONSES * TOKENS,
        reward=0.0, migrations=0, recomputed_tokens=0, discarded_tokens=0, lost_instances=0, refused_pieces=0,
        wait_train_s=0.0, train_s=TRAIN_S, lost_tokens=0, duplicated_tokens=0, tokens_digest="", weights_digest="",
    )  # fmt: skip
    return Seen(row, (TOKENS,) * RESPONSES, (PROMPT,) * RESPONSES, tuple(passes), (), ())


def test_the_profile_is_the_cost_that_the_passes_had():
    curve = measured([step(0), step(1, batch=2)], SLOTS).measured_curve
    assert curve.fixed_s == pytest.approx(FIXED_S, rel=0.05)
    assert curve.each_s == pytest.approx(TOKEN_S, rel=0.05)


def test_a_later_step_is_predicted_and_a_slower_machine_is_not():
    seen = [step(n) for n in range(4)]
    found = crosschecked(seen, SLOTS, RESPONSES)
    assert found[:2] == [None, None]
    assert found[2:] == pytest.approx([seen[2].row.seconds] * 2, rel=0.1)
    slow = [step(n, slow=2.0) for n in range(2)]
    missed = crosschecked([*seen[:2], *slow], SLOTS, RESPONSES)
    assert missed[2:] == pytest.approx(found[2:])  # the profile knows nothing of it, and the error shows
    assert missed[2] < 0.7 * slow[0].row.seconds


def test_longer_responses_take_longer_and_an_instance_helps():
    seen = [step(n) for n in range(2)]
    profile = measured(seen, SLOTS)
    usual = predicted_s(seen[1], profile, RESPONSES)
    longer = replace(seen[1], lengths=(2 * TOKENS,) * RESPONSES)
    assert predicted_s(longer, profile, RESPONSES) > 1.5 * usual
    row = replace(seen[1].row, t_seed_s=0.05)
    helped = replace(seen[1], row=row, there=((0.0, "add", "spot-1"), (0.0, "add", "spot-2")))
    assert predicted_s(helped, profile, RESPONSES) < usual


def test_too_few_passes_are_no_profile():
    one = step(0)
    with pytest.raises(ValueError, match="2 passes are too few for a profile: give steps more tokens"):
        measured([replace(one, passes=one.passes[:3])], SLOTS)

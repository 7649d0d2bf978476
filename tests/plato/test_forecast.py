"""The judge: wide graphs are decoded, chains refused, and the shortcut agrees with the conductor on a virtual clock."""

from __future__ import annotations

import pytest

from workbench.plato.cost import KNOTS, StepCost
from workbench.plato.forecast import MARGIN, judge, plain_left, predict, prior, remaining
from workbench.plato.graph import Plan, plan_of
from workbench.plato.happen import Settings, Standing
from workbench.plato.planner import Given
from workbench.plato.simulate import Words

FREE = StepCost(tuple([0.02] * len(KNOTS)), 0.0, 0.0)  # branches cost nothing
DEAR = StepCost(tuple(0.02 * k for k in KNOTS), 0.0, 0.0)  # and here as much as decoding them one by one
WIDE = plan_of([(f"question {i}?", ()) for i in range(4)], 50)
CHAIN = WIDE.chain()
JOIN = plan_of([("a?", ()), ("b?", ()), ("c?", ()), ("d?", (1, 2, 3))], 40)


def standing(plan: Plan, plain_done: int = 0, done: dict[int, int] | None = None) -> Standing:
    return Standing(plan, done or {}, frozenset(), plain_done, plan.tokens, Settings("plato", whole=True))


def test_a_wide_graph_is_decoded_and_a_chain_refused() -> None:
    assert judge(FREE)(standing(WIDE)).branch
    assert judge(FREE)(standing(JOIN)).branch
    assert not judge(FREE)(standing(CHAIN)).branch


def test_where_branches_cost_their_full_price_nothing_is_decoded_in_parallel() -> None:
    assert not judge(DEAR)(standing(WIDE)).branch


def test_a_plain_answer_that_is_nearly_done_goes_on() -> None:
    assert judge(FREE)(standing(WIDE, plain_done=100)).branch
    assert not judge(FREE)(standing(WIDE, plain_done=160)).branch  # 40 tokens left, where each part has 50


def test_work_on_the_graph_counts() -> None:
    late = standing(WIDE, plain_done=160, done={1: 45, 2: 45, 3: 45, 4: 45})
    assert judge(FREE)(late).branch


def test_the_verdict_says_its_numbers() -> None:
    said = judge(FREE)(standing(WIDE))
    assert "4 parts, 4 wide, 1 deep" in said.why
    assert said.graph_s * MARGIN < said.plain_s


def test_an_ended_node_lets_those_start_that_need_it() -> None:
    after = remaining(FREE, JOIN, {1: 40, 2: 40, 3: 40}, frozenset({1, 2, 3}))
    assert after == pytest.approx(41 * 0.02)
    assert remaining(FREE, JOIN, {}, frozenset()) == pytest.approx(82 * 0.02)


def test_nothing_left_takes_no_time() -> None:
    assert remaining(FREE, JOIN, {}, frozenset({1, 2, 3, 4})) == 0
    assert plain_left(FREE, 0, 100) == 0


@pytest.mark.parametrize("plan", [WIDE, CHAIN, JOIN], ids=["wide", "chain", "join"])
def test_the_shortcut_agrees_with_the_conductor(plan: Plan) -> None:
    whole = Settings("plato", whole=True)
    outcome = predict(FREE, Words(), "Tell me of four things.", Given(plan), whole)  # type: ignore[arg-type]
    short = remaining(FREE, plan, {}, frozenset(), front=20, header=8)
    assert outcome.total_s == pytest.approx(short, rel=0.1)


def test_a_forecast_pads_as_its_engine_does() -> None:
    dip = StepCost((0.03, 0.06, 0.07, 0.04, *[0.05] * (len(KNOTS) - 4)), 0.0, 0.0)  # four are faster than two

    class Padding(Words):
        pad = staticmethod(dip.padded)

    two = plan_of([("a or b?", ()), ("c or d?", ())], 50)
    whole = Settings("plato", whole=True)
    took = [predict(dip, like, "Tell me.", Given(two), whole).total_s for like in (Words(), Padding())]  # type: ignore[arg-type]
    assert took[1] < 0.75 * took[0]


def test_before_there_is_a_plan() -> None:
    assert prior(FREE).hedge
    middle = prior(StepCost((0.02, 0.032, 0.036, 0.04, *[0.05] * (len(KNOTS) - 4)), 0.0, 0.0))
    assert middle.plan
    assert not middle.hedge
    assert not prior(DEAR).plan
    assert "cannot pay" in prior(DEAR).why

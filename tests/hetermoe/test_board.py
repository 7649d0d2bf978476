"""Experts placed by hand: what is dragged is what is simulated, run and held against the planner's."""

import re

import pytest

from workbench import lanes, runner
from workbench.hetermoe import SYSTEM
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.setting import placed, simulated
from workbench.system import ConfigError

BAD = "0-2: 2x6"  # all of them on one old device


def board(**changes):
    return SYSTEM.board(SYSTEM.make("tiny", **changes))


def test_the_board_is_the_plan_and_its_simulated_step():
    config = SYSTEM.make("tiny")
    arm = placed(config, simulated(config))
    seen = SYSTEM.board(config)
    assert seen.rows == arm.plan.owner
    assert [lane.share for lane in seen.lanes] == pytest.approx(list(arm.line.utilisation))
    assert [lane.group for lane in seen.lanes] == ["attention ranks, A100 40 GB"] * 2 + ["expert ranks, V100"] * 2
    assert f"<b>{1e3 * arm.line.step_s:.4g} ms</b>" in seen.told
    assert f"<b>{arm.tokens_per_s:,.0f} tokens per second</b> (modelled)" in seen.told
    assert re.search(r"; \$\d.* per million tokens\.", seen.told)
    assert not seen.given
    assert [sum(row) for row in seen.weights] == pytest.approx([1, 1, 1])
    assert board(skew=0.0).weights == ()  # all alike
    assert "per million" not in board(new="A40").told  # no price is known


def test_a_placement_by_hand_is_held_against_the_planners():
    worse = board(placed=BAD)
    assert worse.given
    assert worse.rows == lanes.read(BAD)
    own = board()
    step, best = (float(re.search(r"A step takes <b>([\d.]+) ms", one.told)[1]) for one in (worse, own))
    less = re.search(r"The planner's step is <b>([\d.]+)% shorter</b>", worse.told)
    assert step > 1.5 * best
    assert float(less[1]) == pytest.approx(100 * (1 - best / step), abs=0.1)
    assert "planner" not in own.told
    assert "The planner's step takes as long." in board(placed=lanes.write(own.rows)).told
    assert board(placed=BAD, moved_pct=50).rows == worse.rows  # what is by hand goes before


def test_a_run_carries_out_what_was_placed():
    text = "0, 2: 0 1 2x2 3x2; 1: 2x3 3x3"
    run = runner.Run(SYSTEM, SYSTEM.make("tiny", hand_s=0.0, placed=text), record=False).start().wait(60)
    assert run.error is None
    assert Plan.from_json(run.result.plan).owner == lanes.read(text)
    assert run.result.offload == [2, 0, 2]
    without = {name for name, changes in SYSTEM.baselines.items() if changes.get("placed", text) is None}
    assert without == {"no experts moved", "gather and squeeze"}  # they place for themselves


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0-2: 2x3 4x3", "placed: an expert is on rank 4, and ranks go from 0 to 3"),
        ("0-2: 2x3, 3x3", "placed: '0-2: 2x3, 3x3' is not a part like"),
        ("", "placed: there is nothing in it"),
    ],
)
def test_what_no_ranks_can_have_is_said_in_the_form(text, said):
    with pytest.raises(ConfigError, match=said):
        SYSTEM.make("tiny", placed=text)


def test_what_the_model_or_the_memory_cannot_have_is_said_by_the_planner():
    with pytest.raises(PlanError, match="placed: 2 layers of 6 experts, and the model has 3 of 6"):
        board(placed="0-1: 2x6")
    with pytest.raises(PlanError, match=r"rank 0 needs .* GiB, its device \(A40\) has 48.00"):
        SYSTEM.board(SYSTEM.make("paper", model="W2", placed="0-3: 0x24"))

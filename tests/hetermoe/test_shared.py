"""Messages that are work of the cores: by hand, against the other clock, and against what was measured on two cores."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from workbench.hetermoe.costs import balanced, resolve
from workbench.hetermoe.plan import Plan, PlanError, distep, expert_parallel, zebra
from workbench.hetermoe.profile import Load, Memory, Profile
from workbench.hetermoe.rows import row_of
from workbench.hetermoe.shared import Shared
from workbench.hetermoe.sim import simulate, step

KEY = "by hand"
RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())


@pytest.mark.parametrize("joined", [False, True])
def test_with_no_share_of_a_core_it_is_the_other_clock(joined, hand, plans):
    """Two programs, a recurrence and events, of the same order; with a share the step is longer, more with more."""
    profile, _ = hand
    given = profile(0.5, 0.8, 1.0, 0.05, 0.1, memory=Memory(8, 8), joined=joined)
    given = replace(given, devices=tuple(replace(d, update_s_byte=0.5) for d in given.devices))
    for plan, what in plans:
        costs = resolve(plan, given, what)
        assert Shared(costs).run()[0] == pytest.approx(step(costs))
        half, whole = (step(replace(costs, core_share=share)) for share in (0.5, 1.0))
        if plan.micro_batches > 1:
            assert step(costs) < half < whole
        else:  # nobody computes beside a message
            assert half == whole == pytest.approx(step(costs))


def test_a_message_slows_down_who_computes_meanwhile_by_hand(hand):
    """One layer, two micro-batches, top-1: A 4, D 1, E 6, C 1, no head; backward as long as forward; share 1, then 1/2.

    Share 1. Rank 0: A0 0-4; D0 4-5 takes the core, A1 is 4-9. Rank 1: E0 would be 5-11, D1 9-10 takes its core: 5-12.
    C0 12-13 takes it again, and so does D'0 13-14, as the head takes no time: E1 is 12-20.
    """
    profile, load = hand
    given = profile(4 / 48, 1.0, 6 / 48, 1 / 48, back=1.0)
    plan = zebra(1, 1, 2, 1, 4, 1, KEY)
    line = simulate(plan, replace(given, core_share=1.0), load(), spans=True)
    at = {
        (s.stage, s.micro_batch, s.backward): (s.start_s, s.end_s)
        for s in line.spans
        if s.rank == 1 or s.stage == "attention"
    }
    assert at["attention", 0, False] == pytest.approx((0, 4))
    assert at["dispatch", 0, False] == pytest.approx((4, 5))
    assert at["attention", 1, False] == pytest.approx((4, 9))
    assert at["dispatch", 1, False] == pytest.approx((9, 10))
    assert at["expert", 0, False] == pytest.approx((5, 12))
    assert at["combine", 0, False] == pytest.approx((12, 13))
    assert at["dispatch", 0, True] == pytest.approx((13, 14))
    assert at["expert", 1, False] == pytest.approx((12, 20))  # held up by the combine before it and the next dispatch
    half = simulate(plan, replace(given, core_share=0.5), load(), spans=True)
    found = {
        (s.stage, s.micro_batch): (s.start_s, s.end_s)
        for s in half.spans
        if not s.backward and (s.rank == 1 or s.stage == "attention")
    }
    assert found["attention", 1] == pytest.approx((4, 8.5))
    assert found["expert", 0] == pytest.approx((5, 11.5))
    beside = simulate(plan, given, load())
    assert beside.step_s < half.step_s < line.step_s
    busy = sum(s.end_s - s.start_s for s in line.spans if s.rank == 1 and s.stream == "compute")
    assert line.utilisation[1] == pytest.approx(busy / line.step_s)


def test_two_messages_share_a_core(hand):
    """A dispatch and a combine at once take twice as long each, not half of a core for nothing."""
    profile, load = hand
    given = replace(profile(1.0, 1.0, 1.0, 0.5, back=1.0), core_share=1.0)
    line = simulate(zebra(1, 1, 4, 3, 4, 1, KEY), given, load(), spans=True)
    alone = 0.5 * 96 / 4
    took = [s.end_s - s.start_s for s in line.spans if s.rank == 0 and s.stream != "compute"]
    assert min(took) == pytest.approx(alone)
    assert max(took) > 1.5 * alone
    for rank, busy in enumerate(resolve(zebra(1, 1, 4, 3, 4, 1, KEY), given, load()).work_s):
        assert line.step_s >= busy + len(took) * alone - 1e-9, rank  # nothing was carried for nothing


def test_where_nothing_overlaps_nothing_changes(hand):
    """DistEP: one computes, one sends, never at once."""
    profile, load = hand
    given, plan = profile(0.5, 0.8, 1.0, 0.3, 0.1), distep(1, 1, 3, 4, 2, KEY)
    assert simulate(plan, replace(given, core_share=1.0), load()).step_s == pytest.approx(
        simulate(plan, given, load()).step_s
    )


def test_the_short_cut_of_the_search_knows_of_it(hand):
    profile, load = hand
    given, plan = replace(profile(0.5, 0.7, 1.0, 0.2, 0.2), core_share=0.7), zebra(3, 2, 2, 4, 12, 2, KEY)
    for vector in ((0, 0, 0, 0), (3, 0, 12, 1), (2, 2, 2, 2)):
        full = step(resolve(plan.with_offload(vector), given, load(), collapse=False))
        assert step(balanced(plan, given, load(), vector)) == pytest.approx(full)


def test_older_profiles_have_messages_beside_compute(hand):
    profile, _ = hand
    given = profile()
    values = json.loads(given.to_json())
    del values["core_share"]
    assert Profile.from_json(json.dumps(values)) == given
    assert Profile.from_json(replace(given, core_share=0.5).to_json()).core_share == 0.5
    with pytest.raises(PlanError, match=r"a share of a core from 0 to 1, not 1\.5"):
        replace(given, core_share=1.5)
    with pytest.raises(PlanError, match="misses joined"):
        Profile.from_json(json.dumps({n: v for n, v in values.items() if n != "joined"}))


def predicted(row, share):
    """Tokens a second of each way that a recorded row measured, by its profile and the routing of its first batch."""
    profile = replace(Profile.from_json(json.dumps(row["profile"])), core_share=share)
    plan = Plan.from_json(json.dumps(row["plan"]))
    sizes = (plan.layers, plan.experts, plan.top_k)
    load = Load(row["tokens"], row["length"], "new", "old").with_shares(row["shares"])
    halves = replace(load, tokens=row["tokens"] // 2, kinds=("new", "old"))
    ways = {
        "zebra": (plan, load), "plain": (zebra(1, 1, plan.micro_batches, *sizes), load),
        "distep": (distep(1, 1, *sizes), load), "ep": (expert_parallel(2, *sizes, row["ep_micro_batches"]), halves),
    }  # fmt: skip
    return {way: simulate(ways[way][0], profile, ways[way][1]).tokens_per_s for way in row["measured"]}


def steps(row, way):
    """Seconds of each round's step. overlap_s: what zebra's steps were too long, from their timelines: an expert rank's
    began while attention ranks still ended the step before. Plain's, with as many micro-batches, is taken to be alike.
    """
    over = row["overlap_s"] if way in {"zebra", "plain"} else 0.0
    return [row["tokens"] / rate - over for rate in row["measured"][way]]


def within_rounds(row, way, other):
    """Median over rounds of how many times as fast one is: ways take turns, and the machine drifts meanwhile."""
    return median(b / a for a, b in zip(steps(row, way), steps(row, other), strict=True))


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: f"{row['length']} of {row['tokens']}")
def test_recorded_steps_are_predicted_better_with_it(row):
    """Two cores of a shared EPYC: zebra, whose messages overlap most, was predicted up to a fifth too fast.

    A first row of 1,024 tokens is left out, whose profile had no single sequence with the naive kernel.
    """
    charged, beside = predicted(row, row["core_share"]), predicted(row, 0.0)
    measured_s = median(steps(row, "zebra"))
    error, without = (row["tokens"] / found["zebra"] / measured_s - 1 for found in (charged, beside))
    assert abs(error) < min(0.15, abs(without))
    assert charged["distep"] == pytest.approx(beside["distep"])  # nothing overlaps
    assert all(charged[way] <= beside[way] * (1 + 1e-9) for way in charged)


def test_the_planner_would_have_run_the_winner():
    """At every length, or a way within 3 %. 1,024 of 2,048 tokens was two rounds, in which plain led by a tenth."""
    right = {}
    for row in RECORDED:
        rates = predicted(row, row["core_share"])
        chosen = max(rates, key=rates.__getitem__)
        right[row["length"], row["tokens"]] = all(within_rounds(row, chosen, other) > 0.97 for other in rates)
    assert right.pop((1024, 2048)) is False
    assert right == dict.fromkeys([(256, 4096), (512, 4096), (1024, 4096), (2048, 4096), (4096, 8192)], True)


def told(step, starts, ends):
    """What two ranks say of a step: when they began and ended; the second computes nothing."""
    spans = [[["attention", "forward", 0, 0, starts[0], ends[0], 0.0]], []]
    loss = [1.0, None]
    return {
        rank: {"step": step, "loss": loss[rank], "start_s": starts[rank], "end_s": ends[rank], "spans": spans[rank]}
        for rank in range(2)
    }


def test_steps_that_follow_one_another_add_up_to_their_time():
    """An expert rank begins to wait while the attention rank is not done; that time is not the next step's."""
    first = row_of(told(0, (10.0, 10.0), (14.0, 12.5)), 100)
    second = row_of(told(1, (14.0, 12.5), (18.0, 16.5)), 100, first)
    assert (first.seconds, second.seconds) == (4.0, 4.0)
    assert second.busy[0] == 1.0
    assert row_of(told(1, (14.0, 12.5), (18.0, 16.5)), 100).seconds == 5.5  # by itself it would have the wait as well
    later = row_of(told(2, (20.0, 19.0), (24.0, 23.0)), 100, second)
    assert later.seconds == 5.0  # what lies between two steps is neither's

"""Plans: every expert has one owner, nothing that could not run is accepted, and JSON gives the same plan back."""

import json
from dataclasses import replace

import pytest

from workbench.hetermoe.plan import Plan, PlanError, distep, expert_parallel, fingerprint, zebra

KEY = fingerprint(layers=8, hidden=64)


def test_experts_are_shared_out_evenly_and_once():
    for attention, expert, experts in ((1, 1, 4), (2, 1, 5), (1, 2, 7), (4, 3, 24), (2, 5, 3)):
        plan = zebra(attention, expert, 2, 3, experts, 1)
        for layer in range(3):
            held = [plan.experts_of(rank, layer) for rank in range(plan.world)]
            assert sorted(e for own in held for e in own) == list(range(experts))
            assert not any(held[:attention])
            counts = plan.counts(layer)[attention:]
            assert max(counts) - min(counts) <= 1
    plan = expert_parallel(3, 2, 8, 2)
    assert plan.counts(0) == (3, 3, 2)
    assert (plan.offload, list(plan.expert_ranks), plan.world) == ((0, 0), [], 3)


@pytest.mark.parametrize(("attention", "expert"), [(1, 1), (4, 3), (3, 4), (6, 3), (2, 8)])
def test_any_number_of_experts_can_be_offloaded(attention, expert):
    vector = (0, 1, 5, 12, 23, 24)
    plan = zebra(attention, expert, 2, len(vector), 24, 2).with_offload(vector)
    assert plan.offload == vector
    for layer, count in enumerate(vector):
        held = plan.counts(layer)
        assert sum(held[:attention]) == count
        for side in (held[:attention], held[attention:]):
            assert max(side) - min(side) <= 1
        assert held[0] == max(held[:attention])  # the simulator's short cut: first ranks hold the most
        assert held[attention] == max(held[attention:])
    assert plan.with_offload((0,) * 6) == zebra(attention, expert, 2, 6, 24, 2)


def test_json_gives_the_same_plan():
    for plan in (
        zebra(4, 3, 2, 8, 24, 2, KEY).with_offload((0, 1, 2, 3, 4, 5, 6, 24)),
        distep(2, 2, 4, 6, 2),
        expert_parallel(3, 2, 7, 1, 2),
    ):
        again = Plan.from_json(plan.to_json())
        assert again == plan
        assert hash(again) == hash(plan)


def test_a_plan_of_another_model_is_refused():
    plan = zebra(1, 1, 1, 2, 4, 1, KEY)
    plan.require(KEY)
    plan.require("")
    other = fingerprint(layers=8, hidden=128)
    for ask in (lambda: plan.require(other), lambda: Plan.from_json(plan.to_json(), other)):
        with pytest.raises(PlanError, match=f"made for model {KEY}, not for {other}"):
            ask()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: zebra(1, 0, 1, 1, 2, 1), "needs an expert rank, there are 0"),
        (lambda: zebra(0, 1, 1, 1, 2, 1), "attention is a whole number from 1"),
        (lambda: zebra(1, 1, 0, 1, 2, 1), "micro_batches is a whole number from 1"),
        (lambda: zebra(1, 1, 1, 1, 2, 3), "top-3 of 2 experts"),
        (lambda: zebra(1, 1, 1, 1, 0, 1), "experts is a whole number from 1"),
        (lambda: zebra(True, 1, 1, 1, 2, 1), "not True"),
        (lambda: replace(zebra(1, 1, 1, 2, 2, 1), owner=((1, 1),)), "owner has 1 layers, the plan 2"),
        (lambda: replace(zebra(1, 1, 1, 1, 2, 1), owner=((1,),)), "names 1 ranks for 2 experts"),
        (lambda: replace(zebra(1, 1, 1, 1, 2, 1), owner=((1, 2),)), "expert 1 of layer 0 is on rank 2, ranks go"),
        (lambda: replace(zebra(1, 1, 1, 1, 2, 1), owner=((1, -1),)), "on rank -1"),
        (lambda: replace(zebra(1, 1, 1, 1, 2, 1), kind="tensor"), "of kind zebra, distep, ep"),
        (lambda: replace(distep(1, 1, 1, 2, 1), micro_batches=2), "distep has 1 micro-batch"),
        (lambda: replace(distep(1, 1, 1, 2, 1), owner=((0, 1),)), "leaves attention ranks no experts"),
        (lambda: replace(zebra(1, 1, 1, 1, 2, 1), kind="ep"), "ep has no expert ranks"),
        (lambda: zebra(1, 1, 1, 2, 4, 1).with_offload((1,)), "1 offload counts for 2 layers"),
        (lambda: zebra(1, 1, 1, 2, 4, 1).with_offload((1, 5)), "layer 1 offloads 5 experts, it may be 0 to 4"),
        (lambda: expert_parallel(2, 2, 4, 1).with_offload((1, 1)), "under zebra, not ep"),
        (lambda: zebra(1, 1, 1, 1, 2, 1).experts_of(2, 0), "rank 2 is not in this plan"),
        (lambda: Plan.from_json("{"), "not JSON"),
        (lambda: Plan.from_json("[]"), "no workbench-hetermoe-plan"),
        (lambda: fingerprint(), "needs the dimensions"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_its_cause(make, says):
    with pytest.raises(PlanError, match=says):
        make()


def test_damaged_json_is_refused():
    good = json.loads(zebra(1, 1, 1, 1, 2, 1).to_json())
    for change, says in (
        ({"version": 2}, "of version 2, this program reads 1"),
        ({"format": "x"}, "no workbench-hetermoe-plan"),
        ({"colour": 1}, "does not know colour"),
        ({"owner": "11"}, "list of lists"),
        ({"owner": [[1, 9]]}, "on rank 9"),
        ({"top_k": "1"}, "top_k is a whole number"),
    ):
        with pytest.raises(PlanError, match=says):
            Plan.from_json(json.dumps(good | change))
    with pytest.raises(PlanError, match="misses top_k"):
        Plan.from_json(json.dumps({k: v for k, v in good.items() if k != "top_k"}))

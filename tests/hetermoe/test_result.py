"""Simulated runs as a user has them: numbers, pictures and what is moved by hand say the same."""

import json
import math
import queue
import re
import threading
from dataclasses import replace

import pytest

from workbench import runner, theme
from workbench.hetermoe import SYSTEM, gantt, hand
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.profile import Load, Profile, used_bytes
from workbench.hetermoe.result import ARMS, BADGES, SHORT, Drawn, Proof
from workbench.hetermoe.setting import arm_of, placed, simulated
from workbench.hetermoe.sim import simulate
from workbench.system import Act, Note, Offer, Point, Span
from workbench.ui.show import figure_json

SUMMARY = {
    "tokens_per_s", "ep_tokens_per_s", "deepspeed_tokens_per_s", "speedup_vs_ep", "predicted_speedup",
    "utilisation_attention", "utilisation_expert", "max_rel_param_error", "offloaded_experts",
}  # fmt: skip
BYTES = 150_000


def ran(**changes):
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", hand_s=0.0, **changes), record=False).start().wait(60)
    if done.error is not None:
        raise done.error
    return done


@pytest.fixture(scope="module")
def result():
    return ran().result


@pytest.fixture(scope="module")
def live(result):
    """The shape of a measured result; its numbers are made up, only what is made of them is looked at."""
    rows = []
    for number in range(3):
        for arm, rate in (("zebra", 300.0), ("plain", 250.0), ("ep", 200.0), ("deepspeed", 150.0), ("distep", 120.0)):
            base = result.rows[0].model_copy(update={"way": arm, "round": number, "badge": "measured", "loss": 4.0})
            rate = rate * (1 + 0.1 * (number - 1))
            rows.append(base.model_copy(update={"tokens_per_s": rate, "predicted_tokens_per_s": 1.1 * rate}))
    measured = result.drawn[0].model_copy(
        update={"badge": "measured", "used": [0.5] * 2 + [0.9] * 2, "sides": (0.5, 0.9)}
    )
    proof = Proof(max_rel_param_error=0.0, control=0.2, bits=True, steps=3, parameters=1000, told="2:2")
    drawn = [result.drawn[0], measured]
    here = {"provenance": result.provenance.model_copy(update={"backend": "cpu"}), "notes": ["a note"]}
    return result.model_copy(update={"rows": rows, "drawn": drawn, "proof": proof, **here})


def test_the_numbers_of_a_simulated_run_are_the_simulators(result):
    s = result.summary()
    assert set(s) == SUMMARY - {"deepspeed_tokens_per_s", "max_rel_param_error"}
    plan, profile = Plan.from_json(result.plan), Profile.from_json(result.profile)
    shares = simulated(result.config).load.shares
    load = Load(16_384, 4096, "A100 40 GB", "V100").with_shares(shares)
    line = simulate(plan, profile, load)
    assert s["tokens_per_s"] == pytest.approx(line.tokens_per_s)
    assert s["utilisation_attention"] == pytest.approx(sum(line.utilisation[:2]) / 2)
    assert s["utilisation_expert"] == pytest.approx(sum(line.utilisation[2:]) / 2)
    assert s["offloaded_experts"] == sum(plan.offload) == sum(result.offload) > 0
    assert s["speedup_vs_ep"] == s["predicted_speedup"] == result.speed("zebra") / result.speed("ep")
    assert set(result.provenance.badges.values()) == {"modelled"}
    assert result.chosen == result.winner == "zebra"


def test_a_measured_run_has_every_number_of_the_summary(live):
    s = live.summary()
    assert set(s) == SUMMARY
    assert (s["tokens_per_s"], s["ep_tokens_per_s"], s["deepspeed_tokens_per_s"]) == (300, 200, 150)
    assert s["speedup_vs_ep"] == 1.5
    assert s["predicted_speedup"] == pytest.approx(1.5)
    assert (s["utilisation_attention"], s["utilisation_expert"]) == (0.5, 0.9)
    badges = live.badged(True, BADGES).provenance.badges
    assert set(badges) == SUMMARY
    assert {n for n, badge in badges.items() if badge == "modelled"} == {"predicted_speedup", "offloaded_experts"}
    assert "2.00 times DeepSpeed-MoE" in live.sentence()
    assert "bit for bit those of one process" in live.sentence()
    other = live.model_copy(
        update={"proof": live.proof.model_copy(update={"bits": False, "max_rel_param_error": 1e-3})}
    )
    assert "within 1.0e-03 of those" in other.sentence()


def keys(fig):
    return " ".join(note.text for note in fig.layout.annotations if note.text)


def test_all_ranks_count_also_where_there_are_more_than_lanes():
    """Eight attention ranks, each with experts of its own, leave expert ranks no lane."""
    wide = ran(attention=8, expert=8, experts=36, moved_pct=31).result
    assert not [lane for lane in wide.drawn[0].lanes if lane.endswith("experts")]
    plan, profile = Plan.from_json(wide.plan), Profile.from_json(wide.profile)
    used = simulate(plan, profile, simulated(wide.config).load).utilisation
    assert wide.used() == pytest.approx((sum(used[:8]) / 8, sum(used[8:]) / 8))
    assert wide.used()[1] > 0
    assert theme.problems(wide.figure()) == []


def test_a_record_from_before_is_read(result):
    """What was drawn then has no sides: the means of its lanes, each of which was a rank."""
    told = json.loads(result.to_json())
    for drawn in told["drawn"]:
        assert drawn.pop("sides") is not None
    before = type(result).model_validate(told)
    assert before.drawn[0].sides is None
    assert before.used() == pytest.approx(result.used())
    assert before.summary() == pytest.approx(result.summary())


def test_a_preview_says_where_expert_parallelism_does_not_fit(tmp_path):
    """Under it old devices hold attention's side too, for which these have no room."""
    config = SYSTEM.make("tiny", moved_pct=50)
    setting = simulated(config)
    arm = placed(config, setting)
    least = max(used_bytes(setting.profile, arm.plan, arm.load)[arm.plan.attention :])
    devices = [replace(d, capacity_bytes=1.001 * least) if d.name == config.old else d for d in setting.profile.devices]
    file = tmp_path / "profile.json"
    file.write_text(replace(setting.profile, devices=tuple(devices)).to_json())
    said = SYSTEM.preview(config.model_copy(update={"profile_file": str(file)})).layout.title.text
    assert "tokens per second, expert parallelism does not fit" in said
    assert "x expert parallelism" in SYSTEM.preview(config).layout.title.text  # the control


@pytest.mark.parametrize("which", ["result", "live"])
def test_a_result_is_a_figure_that_stands_alone(request, which):
    one = request.getfixturevalue(which)
    fig = one.figure()
    assert theme.problems(fig) == []
    assert len(fig.to_json()) < BYTES
    assert fig.layout.meta["text"] == one.sentence()
    assert fig.layout.title.text.count("$") >= 2  # prices,
    assert figure_json(fig)["config"]["typesetMath"] is False  # and what lies between two is no formula
    for trace in fig.data:
        if trace.name and trace.showlegend is not False and trace.x:
            assert trace.name in keys(fig), "it is drawn and not named"
    titles = " ".join(axis.title.text or "" for axis in fig.select_xaxes())
    assert ("one step, measured" in titles) == (which == "live")
    assert "one step, predicted" in titles


def test_boxes_are_the_step_and_the_rest_is_bubble(result):
    """What is drawn of a rank is what it computes; each box has the length of its stage."""
    fig, drawn = result.figure(), result.drawn[0]
    scale = gantt.unit(drawn.step_s).per_s
    stages = [said for said, _, _ in gantt.STAGES.values()]
    for lane, share in zip(drawn.lanes, drawn.used, strict=False):
        boxes = [t for t in fig.data if t.type == "bar" and t.name in stages]
        seen = sum(x for t in boxes for x, y in zip(t.x, t.y, strict=True) if y == lane)
        assert seen / scale == pytest.approx(share * drawn.step_s, rel=0.02)
    (bubble,) = (t for t in fig.data if t.name == gantt.BUBBLE)
    assert list(bubble.x) == pytest.approx([drawn.step_s * scale] * len(drawn.used))


def test_the_prediction_stands_beside_what_was_measured(live):
    fig = live.figure()
    diamonds = [t for t in fig.data if t.name == "predicted"]
    assert len(diamonds) == 2
    busy, speed = diamonds
    assert list(busy.x) == pytest.approx([100 * u for u in live.drawn[0].used], abs=0.01)
    assert dict(zip(speed.y, speed.x, strict=True))["DeepSpeed-MoE"] == pytest.approx(0.9 * 150 * 1.1, abs=0.1)
    assert list(speed.y) == [SHORT[arm] for arm in live.ways()]


def test_what_was_measured_lies_within_its_axis(live):
    """However far it is from what the model has."""
    slow = [r.model_copy(update={"tokens_per_s": 20.0}) if r.way == "distep" else r for r in live.rows]
    fig = live.model_copy(update={"rows": slow}).figure()
    (over,) = (t for t in fig.data if t.name == "over DistEP")
    mark = max(y for t in fig.data if (t.hovertemplate or "").startswith("measured:") for y in t.y)
    assert mark == 15.0 > max(over.y)
    assert fig.layout[f"yaxis{over.yaxis[1:]}"].range[1] > mark


def test_lengths_ratios_and_crossovers_are_drawn_as_they_are(result):
    fig = result.figure()
    (over,) = (t for t in fig.data if t.name == "over expert parallelism")
    assert list(over.y) == pytest.approx([at["zebra"] / at["ep"] for _, at in result.lengths], abs=1e-3)
    (cost,) = (t for t in fig.data if t.name == "cost by ratio")
    assert list(cost.y) == pytest.approx([r.usd_per_million for r in result.ratios], rel=1e-3)
    crossed = result.model_copy(update={"crossings": {"ep": [3000.0]}})
    more = [s.x0 for s in crossed.figure().layout.shapes]
    assert 3000.0 in more
    assert 3000.0 not in [s.x0 for s in result.model_copy(update={"crossings": {}}).figure().layout.shapes]
    free = ran(new="A40").result  # without a price there is no cost
    assert not [t for t in free.figure().data if t.name == "cost by ratio"]
    assert all(r.usd_per_million is None for r in free.ratios if r.attention)


def test_spans_say_why(result, live):
    spans = live.spans()
    assert {s.lane.split(":")[0] for s in spans} == {"predicted", "measured"}
    for kind in {s.kind for s in spans}:
        said = SYSTEM.detail(next(s for s in spans if s.kind == kind))
        assert len(said.split()) > 8
    moved = next(s for s in result.spans() if s.kind == "offload")
    assert "attention ranks (Asym-EA)" in SYSTEM.detail(moved)


def test_moving_experts_in_the_form_moves_the_bubbles():
    """The preview follows the slider at once: other boxes, another step, the same tokens."""
    found = {n: SYSTEM.preview(SYSTEM.make("tiny", moved_pct=n)) for n in (0, 50)}
    moved = [t for t in found[50].data if t.name == "experts moved here"]
    assert len(moved) == 1
    assert not [t for t in found[0].data if t.name == "experts moved here"]
    assert re.search(r"9 of 18 experts on attention ranks \(3, 3, 3 by layer\)", found[50].layout.meta["text"])
    steps = [next(t for t in fig.data if t.name == gantt.BUBBLE).x[0] for fig in found.values()]
    assert steps[1] < steps[0]
    longer = SYSTEM.preview(SYSTEM.make("tiny", moved_pct=50, length=8192.0))
    assert next(t for t in longer.data if t.name == gantt.BUBBLE).x[0] > steps[1]
    assert "assumed rates of a core" in SYSTEM.preview(SYSTEM.make("small")).layout.title.text


@pytest.fixture
def held():
    config = SYSTEM.make("tiny", hand_s=60.0)
    setting = simulated(config)
    return hand.Hand(config, setting, placed(config, setting))


def test_an_expert_is_moved_by_a_press_and_the_step_simulated_anew(held):
    before = held.arm
    said = hand.act(held, "to experts 1", tick)
    assert re.fullmatch(r"expert \d of layer 1 to rank [23]", said)
    assert [a - b for a, b in zip(held.arm.plan.offload, before.plan.offload, strict=True)] == [0, -1, 0]
    assert held.arm.line.step_s == pytest.approx(arm_of("x", held.arm.plan, held.setting).line.step_s)
    assert held.arm.line.step_s != before.line.step_s
    hand.act(held, "to attention 1", tick)
    assert held.arm.plan.offload == before.plan.offload
    for _ in range(before.plan.offload[0]):
        hand.act(held, "to experts 0", tick)
    with pytest.raises(PlanError, match="no expert of layer 0 is on attention ranks: there is none to move"):
        hand.act(held, "to experts 0", tick)


def tick():
    pass


def test_lengths_routing_and_the_planner_by_hand(held):
    first = held.arm.line.step_s
    assert hand.act(held, "longer", tick) == "sequences of 8,192 tokens"
    assert held.arm.line.step_s > first
    hand.act(held, "shorter", tick)
    assert held.arm.line.step_s == pytest.approx(first)
    hand.act(held, "drift", tick)
    drifted = held.arm.line.step_s
    assert drifted > first
    said = hand.act(held, "replan", tick)
    assert said.startswith("moves ")
    assert held.arm.line.step_s < drifted
    hand.act(held, "search", tick)
    assert held.arm.line.step_s <= drifted
    for _ in range(4):
        hand.act(held, "longer", tick)
    with pytest.raises(PlanError, match="sequences of 131,072 tokens"):
        hand.act(held, "longer", tick)


def test_deep_models_move_layers_together():
    assert hand.groups(3) == [(0, 0), (1, 1), (2, 2)]
    found = hand.groups(30)
    assert len(found) == hand.GROUPS
    assert [n for a, b in found for n in range(a, b + 1)] == list(range(30))
    names = [offer.name for offer in hand.offered(30)]
    assert len(names) == len(set(names)) <= 32


def test_what_is_done_by_hand_is_in_the_stream_and_the_result(held):
    """Chosen as by a panel: an offer, its act, its answer, the step behind the one before, and 'done' ends it."""
    asked, said = queue.SimpleQueue(), []
    for name in ("to experts 0", "longer", "done"):
        asked.put(name)
    shown = (1.0, ["2 x new, attention", "2 x old, experts", "dispatch, messages", "combine, messages"])
    done = hand.by_hand(held.config, held.setting, held.arm, said.append, tick, asked, shown)
    assert [one.what for one, _ in done][1:] == ["sequences of 8,192 tokens"]
    answered = [e.name for e in said if isinstance(e, Offer)]
    assert {n for n in answered if answered.count(n) == 2} == {"to experts 0", "longer", "done"}
    assert [e for e in said if isinstance(e, Offer)][-1].open is False
    spans = [e for e in said if isinstance(e, Span)]
    assert min(s.start_s for s in spans) == pytest.approx(1.0)
    assert max(s.end_s for s in spans) == pytest.approx(1.0 + sum(one.step_s for one, _ in done), rel=1e-3)
    assert {s.lane for s in spans} == {f"predicted: {lane}" for lane in shown[1]}  # ranks may differ now, lanes do not
    steps = [e.y for e in said if isinstance(e, Point) and e.series == "zebra: a step (ms)"]
    assert steps[1:] == pytest.approx([1e3 * one.step_s for one, _ in done])
    assert any("a step takes" in e.text for e in said if isinstance(e, Note))


def test_a_run_acted_in_ends_with_what_was_placed():
    run, stop = runner.Run(SYSTEM, SYSTEM.make("tiny", hand_s=20.0), record=False), threading.Event()
    hear = run._hear

    def press(event):
        hear(event)
        if not stop.is_set() and "to experts 2" in {o.name for o in run.offers}:
            stop.set()
            run.act("to experts 2")
        if any(isinstance(e, Note) and "a step takes" in e.text for _, e in run.events[-3:]) and "done" in {
            o.name for o in run.offers
        }:
            run.act("done")

    run._hear = press
    run.start().wait(60)
    assert run.error is None
    assert [e.name for _, e in run.events if isinstance(e, Act)] == ["to experts 2", "done"]
    (moved,) = run.result.hand
    assert moved.offload[2] == run.result.offload[2] - 1
    assert run.result.of("hand")[0].seconds == moved.step_s
    assert "1 thing was done by hand" in run.result.sentence()
    assert theme.problems(run.result.figure()) == []
    assert "by hand" in keys(run.result.figure())


def test_published_numbers_stand_beside(result):
    claims = result.claims()
    assert all(claim.ours is None for claim in claims)  # other devices
    c = SYSTEM.make("paper", published=False)
    rates = [(4096, {"zebra": 2.5, "ep": 2.0, "distep": 1.0}), (8192, {"zebra": 2.0, "ideal": 1.6, "distep": 1.0})]
    paper = result.model_copy(update={"config": c, "lengths": rates})
    by = {claim.what: claim.ours for claim in paper.claims()}
    assert by["over EP, 4K, mean"] == 1.25
    assert by["over EP (Ideal), mean"] == 1.25
    assert by["DistEP of HeterMoE, mean"] == 50.0
    assert by["over EP, 16K, mean"] is None


def test_results_are_json_and_words(result):
    again = type(result).model_validate(json.loads(result.to_json()))
    assert again == result
    assert set(result.ways()) <= set(ARMS)
    assert not math.isnan(result.speed("zebra"))
    assert math.isnan(result.speed("deepspeed"))
    assert isinstance(result.drawn[0], Drawn)

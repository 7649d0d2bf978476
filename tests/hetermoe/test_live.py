"""A measured run on real processes, small: every way in turns on the same batches, the proof, and what ends it."""

import itertools
import socket
import time
from types import SimpleNamespace

import psutil
import pytest

from workbench import backends, runner
from workbench.hetermoe import SYSTEM
from workbench.hetermoe.launch import PortTaken, RankFailed
from workbench.hetermoe.live import Heard
from workbench.hetermoe.live_child import order, points
from workbench.hetermoe.live_rows import Told
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.profile import Profile
from workbench.pump import Clock
from workbench.system import Note, Progress, Span

pytestmark = [pytest.mark.timeout(300)]
SMALL = {
    "hidden": 16, "heads": 2, "ffn": 16, "layers": 2, "experts": 4, "length": 64.0, "tokens": 256, "rounds": 2,
    "moved_pct": 38, "seed": 5,
}  # fmt: skip


def left():
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "hetermoe" in " ".join(p.cmdline())]


@pytest.fixture(scope="module")
def run():
    done = runner.Run(SYSTEM, SYSTEM.make("small", **SMALL), record=False).start().wait(250)
    if done.error is not None:
        raise done.error
    assert not left()
    return done


def test_every_way_takes_the_same_steps_from_the_same_weights(run):
    """Losses of all ways are alike in each round, DeepSpeed's too; another round has another batch."""
    result = run.result
    assert result.ways() == ["zebra", "plain", "ep", "deepspeed", "distep"]
    by = {arm: [row.loss for row in result.of(arm)] for arm in result.ways()}
    for arm, losses in by.items():
        assert losses == pytest.approx(by["zebra"], rel=1e-4), arm
    assert by["zebra"][0] != pytest.approx(by["zebra"][1], rel=1e-4)
    assert result.offload == [1, 2]
    assert sum(Plan.from_json(result.plan).offload) == 3
    assert all(row.seconds > 0 and row.predicted_tokens_per_s > 0 for row in result.rows)


def test_ways_take_turns_and_never_overlap(run):
    turns = sorted((e for _, e in run.events if isinstance(e, Span) and e.lane == "turns"), key=lambda s: s.start_s)
    assert len(turns) == 10
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in itertools.pairwise(turns))
    assert {s.kind for s in turns[:5]} == {s.kind for s in turns[5:]} == set(run.result.ways())
    assert turns[0].kind != turns[5].kind  # another one first
    assert 0 <= turns[0].start_s < turns[-1].end_s <= run.seconds


def test_the_plan_that_was_timed_is_proved(run):
    proof = run.result.proof
    assert proof.bits
    assert proof.max_rel_param_error == 0.0
    assert proof.control > 1e-4
    assert "experts moved [1, 2]" in proof.told
    assert run.result.summary()["max_rel_param_error"] == 0.0
    assert any("with the gate's path cut" in e.text for _, e in run.events if isinstance(e, Note))


def test_the_profile_can_be_used_again_and_the_picture_is_of_both(run):
    result = run.result
    profile = Profile.from_json(result.profile)
    assert {d.name for d in profile.devices} == {"new", "old"}
    predicted, measured = result.drawn
    assert (predicted.badge, measured.badge) == ("modelled", "measured")
    assert predicted.lanes == measured.lanes
    kinds = {badge.badge: sorted((b[0], b[1], b[2], b[3], b[4]) for b in badge.boxes) for badge in result.drawn}
    stages = {k: [b for b in boxes if b[1] in {"attention", "expert", "offload"}] for k, boxes in kinds.items()}
    assert stages["modelled"] == stages["measured"]  # the same work in the same lanes
    assert result.summary().keys() == {
        "tokens_per_s", "ep_tokens_per_s", "deepspeed_tokens_per_s", "speedup_vs_ep", "predicted_speedup",
        "utilisation_attention", "utilisation_expert", "max_rel_param_error", "offloaded_experts",
    }  # fmt: skip


def test_cancel_ends_all_processes():
    run = runner.Run(SYSTEM, SYSTEM.make("small", **SMALL), record=False).start()
    deadline = time.monotonic() + 30
    while not left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left()
    run.cancel()
    run.wait(20)
    assert run.state == "cancelled"
    assert not left()


def test_a_taken_port_is_named_before_anything_dear():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = runner.Run(SYSTEM, SYSTEM.make("small", port=port), record=False).start().wait(60)
    assert isinstance(run.error, PortTaken)
    assert f"port {port} cannot be taken" in str(run.error)


def test_errors_of_the_child_keep_their_kind():
    said = []
    heard = Heard(SYSTEM.make("small"), said.append, Clock())
    assert not heard.take({"is": "doing", "text": "timing", "share": 0.2})
    assert said == [Progress(0.2, 1, "timing")]
    with pytest.raises(PlanError, match="too few"):
        heard.take({"is": "failed", "kind": "PlanError", "text": "too few"})
    with pytest.raises(RankFailed, match="rank 1"):
        heard.take({"is": "failed", "kind": "PeerLost", "text": "rank 1 died"})
    heard.take({"is": "note", "text": "without DeepSpeed-MoE", "level": "warning"})
    assert heard.notes == ["without DeepSpeed-MoE"]


def test_turns_begin_with_another_way_each_round():
    assert order(["a", "b", "c"], 2) == ["a", "b", "c", "b", "c", "a"]
    timed = points(SYSTEM.make("small", length=1024.0, tokens=4096))
    assert timed["lengths"] == [256, 1024]
    assert {1024, 2048} <= set(timed["tokens"])  # one sequence, and a micro-batch
    assert backends.backend("sim").available


def test_a_rank_that_has_nothing_to_do_runs_ahead():
    """All experts on attention ranks: both of the expert rank's steps are told before the other's first."""

    def told(rank, step, start, end):
        loss = None if rank else 1.0
        return {"is": "step", "way": "plain", "rank": rank, "step": step, "loss": loss, "start_s": start, "end_s": end,
                "spans": []}  # fmt: skip

    plan = SimpleNamespace(attention=1, expert=1, micro_batches=2, offload=(4, 4))
    arm = SimpleNamespace(plan=plan, load=SimpleNamespace(length=64), tokens_per_s=5.0)
    turns = SimpleNamespace(sequence=["plain"], world=2, jobs={"plain": None}, wait=[1, 2])
    rows = Told({"plain": arm}, turns, 100, 1, lambda _: None)
    ahead = [told(1, 0, 0.0, 0.1), told(1, 1, 0.1, 0.2), told(0, 0, 0.0, 2.0), told(0, 1, 2.0, 5.0)]
    rows.follow([{"is": "connected"}] * 2 + ahead, lambda rank: None)
    assert [(way, row.step, row.seconds) for way, _, row in rows.kept] == [("plain", 1, 3.0)]

"""Parts of the runtime by themselves: routing, data, model, what a run measured, and the profiler's process."""

import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from endings import drained

from workbench.hetermoe import routing
from workbench.hetermoe.costs import resolve
from workbench.hetermoe.data import Given, Markov
from workbench.hetermoe.measure import Kind, ProbeFailed, measured, profiling
from workbench.hetermoe.model import MoE, MoEConfig, attention_side, part
from workbench.hetermoe.plan import PlanError, zebra
from workbench.hetermoe.profile import Load, Profile
from workbench.hetermoe.quota import Quota, denied
from workbench.hetermoe.rows import Row
from workbench.hetermoe.spans import Span, Spans, busy
from workbench.hetermoe.update import Adam, State, Update, adamw

pytestmark = [pytest.mark.timeout(300)]

CONFIG = MoEConfig(vocab=16, hidden=16, layers=2, heads=2, experts=5, top_k=2, ffn=8)


def test_kernels_agree_and_are_causal():
    fused, naive = MoE(CONFIG, "fused"), MoE(CONFIG, "naive")
    x = torch.randn(2, 9, 16)
    a, b = fused.blocks[0].attention(x), naive.blocks[0].attention(x)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    later = x.clone()
    later[:, 5:] += 1
    moved = naive.blocks[0].attention(later)
    assert torch.equal(moved[:, :5], b[:, :5])
    assert not torch.equal(moved[:, 5:], b[:, 5:])


def test_parts_of_a_plan_are_the_whole_model():
    plan = zebra(1, 2, 2, 2, 5, 2, CONFIG.key).with_offload((1, 2))
    whole = MoE(CONFIG).parameters_by_name()
    parts = [part(CONFIG, plan, rank, "fused").parameters_by_name() for rank in range(3)]
    assert sum(len(p) for p in parts) == len(whole)
    assert all(torch.equal(p, whole[n]) for named in parts for n, p in named.items())
    assert [n for n, _ in attention_side(part(CONFIG, plan, 1, "fused"))] == []
    other = MoE(MoEConfig(**{**vars(CONFIG), "seed": 1})).parameters_by_name()
    assert not torch.equal(whole["embed.weight"], other["embed.weight"])
    assert CONFIG.key == MoEConfig(**{**vars(CONFIG), "seed": 1}).key
    assert CONFIG.key != MoEConfig(**{**vars(CONFIG), "ffn": 12}).key


def test_a_tied_head_is_the_embedding_again_after_a_move():
    """A move copies each parameter; what is not tied stays apart."""
    for tied in (True, False):
        model = MoE(replace(CONFIG, tied=tied)).to(torch.float64)
        assert model.head.weight.data_ptr() != model.embed.weight.data_ptr()
        model.tie()
        assert (model.head.weight.data_ptr() == model.embed.weight.data_ptr()) is tied
        model.embed.weight.data.add_(1.0)
        assert torch.equal(model.head.weight, model.embed.weight) is tied


def test_moments_go_on_as_copies_where_the_parameters_are():
    """Of a checkpoint, which is read into main memory; another device's stand-in is torch's meta."""
    layout, kept = SimpleNamespace(attends=False), MoE(CONFIG).parameters_by_name()
    moments = {name: (torch.ones_like(p.data), torch.full_like(p.data, 2.0)) for name, p in kept.items()}
    for device in ("cpu", "meta"):
        update = Update(layout, MoE(CONFIG).to(device), SimpleNamespace(), Spans(), Adam())
        update.restore(3, moments)
        found = update.moments()
        assert {t.device.type for pair in found.values() for t in pair} == {device}
        if device == "cpu":
            assert all(torch.equal(t, g) for n, pair in found.items() for t, g in zip(pair, moments[n]))
            assert all(t.data_ptr() != g.data_ptr() for n, pair in found.items() for t, g in zip(pair, moments[n]))


def test_copies_go_to_their_experts_and_come_back():
    logits = torch.randn(7, 5)
    experts = routing.choose(logits, 2)
    order = routing.Order.of(experts, places=[3, 0, 4, 1, 2])
    rows = order.sort(routing.copies(torch.arange(7.0)[:, None], 2))
    at = 0
    for place, expert in enumerate([3, 0, 4, 1, 2]):
        tokens = [t for t in range(7) if expert in experts[t]]
        assert rows[at : at + len(tokens), 0].tolist() == tokens
        assert order.counts[place] == len(tokens)
        at += len(tokens)
    assert order.unsort(rows)[:, 0].tolist() == [t for t in range(7) for _ in range(2)]
    weights = routing.weigh(logits, experts)
    torch.testing.assert_close(weights.sum(-1), torch.ones(7))
    assert (weights[:, 0] >= weights[:, 1]).all()
    alone = routing.weigh(logits, routing.choose(logits, 1))
    assert (alone < 1).all()  # or the gate would learn nothing
    assert torch.equal(routing.mixed(order.unsort(rows), weights)[:, 0].round(), torch.arange(7.0))


def test_adamw_is_torch_s():
    gradients = [torch.randn(33) for _ in range(3)]
    p = torch.nn.Parameter(torch.randn(33))
    state, adam = State.of(p.detach().clone()), Adam(lr=0.01, weight_decay=0.1)
    theirs = torch.optim.AdamW([p], 0.01, (0.9, 0.95), 1e-8, weight_decay=0.1, foreach=False)
    for number, gradient in enumerate(gradients, 1):
        p.grad = gradient
        theirs.step()
        adamw(state, gradient, number, adam)
    assert torch.equal(state.value, p)
    with pytest.raises(ValueError, match="lr must be above 0"):
        Adam(lr=0.0)


def test_batches_are_functions_of_their_step():
    data = Markov(16, seed=3)
    assert torch.equal(data.batch(5, 4, 20), Markov(16, seed=3).batch(5, 4, 20))
    assert not torch.equal(data.batch(5, 4, 20), data.batch(6, 4, 20))
    pairs = data.batch(0, 64, 50)
    followed = torch.tensor(
        [(data.table[a] == b).any() for a, b in zip(pairs[:, :-1].flatten(), pairs[:, 1:].flatten())]
    )
    assert 0.9 < followed.float().mean() < 0.99  # a rule, and noise
    given = Given(torch.arange(15).view(3, 5), 15)
    assert given.batch(1, 2, 4)[:, 0].tolist() == [10, 0]  # in turn, and over again
    with pytest.raises(PlanError, match="int64"):
        Given(torch.zeros(3, 5), 15)


def row(step, seconds):
    spans = [
        Span("attention", "forward", 0, 0, 0.0, seconds / 2, 0.0),
        Span("dispatch", "forward", 0, 0, 0.0, 9.0, 0.0),
    ]
    return Row(step, 1.0, 100, 0.0, seconds, {0: spans})


def test_a_measured_run_is_its_middle_step():
    found = measured([row(0, 50.0), row(1, 4.0), row(2, 2.0), row(3, 3.0)])
    assert (found.step_s, found.row.step, found.busy) == (3.0, 3, {0: 0.5})
    assert found.tokens_per_s == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="1 steps, of which 1 warm up"):
        measured([row(0, 1.0)])
    spans = Spans()
    with spans.at("head", layer=2):
        sum(range(1000))
    (taken,) = spans.take()
    assert (taken.kind, taken.layer) == ("head", 2)
    assert taken.end_s >= taken.start_s
    assert not spans.take()
    assert busy([], 0.0) == 0.0


def test_the_profiler_gives_what_the_planner_wants():
    """Every stage on both kinds, messages and memory; the planner takes it, and another model's is refused."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    kinds = {"new": Kind("fused", (cores[0],)), "old": Kind("naive", (cores[-1],), capacity_bytes=2**30)}
    going = profiling(CONFIG, kinds, lengths=(16, 768), tokens=(32, 768), rounds=3, message_bytes=(1 << 10, 1 << 20))
    shares, profile = drained(going)
    told = [share for share in shares if share is not None]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert Profile.from_json(profile.to_json(), CONFIG.key) == profile
    new, old = profile.device("new"), profile.device("old")
    assert new.attention.lengths == old.attention.lengths == (16, 768)
    assert [x for x, _ in new.attention.curves[0].points] == [32, 768]  # tokens; of the longer length one sequence
    assert [x for x, _ in new.attention.curves[1].points] == [768]
    assert (new.capacity_bytes, old.capacity_bytes) == (math.inf, 2**30)
    assert all(d.attention_backward > 0 and d.expert_backward > 0 and d.update_s_byte > 0 for d in profile.devices)
    assert profile.message(1 << 20) > 0
    assert profile.token_bytes == 16 * 4
    assert profile.memory.expert_weights == 3 * 16 * 8 * 4
    assert profile.memory.shared_weights == 4 * sum(p.numel() for _, p in attention_side(MoE(CONFIG)))
    assert profile.memory.activation > 2 * 16 * 4
    plan = zebra(1, 1, 2, 2, 5, 2, CONFIG.key)
    assert all(s > 0 for s in resolve(plan, profile, Load(768, 768, "new", "old")).work_s)
    with pytest.raises(PlanError, match="this profile was made for model"):
        Profile.from_json(profile.to_json(), MoEConfig().key)


def test_what_cannot_be_profiled_is_said():
    with pytest.raises(PlanError, match="64 tokens are less than one sequence of 128"):
        next(profiling(CONFIG, {"new": Kind("fused")}, lengths=(128,), tokens=(64,)))
    with pytest.raises(PlanError, match="clock is cpu or wall"):
        next(profiling(CONFIG, {"new": Kind("fused")}, lengths=(64,), clock="sun"))
    with pytest.raises(PlanError, match="needs a kind of device"):
        next(profiling(CONFIG, {}, lengths=(64,)))
    assert issubclass(ProbeFailed, RuntimeError)


def test_a_quota_holds_a_process_to_its_share():
    """Where it is allowed: by the kernel's own count of what was throttled; nothing is left."""
    if reason := denied():
        assert "no processor quota here" in reason
        pytest.skip(reason)
    with Quota(0.2) as quota, subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy_one:
        quota.take(busy_one.pid)
        stat, deadline = quota.path / "cpu.stat", time.monotonic() + 20
        while "nr_throttled 0\n" in stat.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "nr_throttled 0\n" not in stat.read_text()
        busy_one.kill()
        busy_one.wait()
    assert not quota.path.exists()


def test_a_machine_without_control_groups_says_so(tmp_path):
    assert "no processor quota here" in denied(tmp_path)
    with pytest.raises(ValueError, match=r"a share of one core above 0 and at most 1, not 1.5"):
        Quota(1.5)

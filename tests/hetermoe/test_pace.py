"""Ranks that are slowed down on purpose: what it costs, that it changes no number, and that it is never left unsaid."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from workbench.hetermoe import SYSTEM, rank
from workbench.hetermoe.arms import arms
from workbench.hetermoe.baselines import Model
from workbench.hetermoe.cores import assumed
from workbench.hetermoe.data import Markov
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.job import Job
from workbench.hetermoe.live_child import pace_of, told_of_pace
from workbench.hetermoe.measure import slots
from workbench.hetermoe.model import MoE, MoEConfig
from workbench.hetermoe.pace import Pace, factors, paced, paced_profile, worked
from workbench.hetermoe.plan import PlanError, expert_parallel, zebra
from workbench.hetermoe.profile import Profile
from workbench.hetermoe.setting import arm_of, of_profile
from workbench.hetermoe.single import Single
from workbench.hetermoe.spans import Spans
from workbench.hetermoe.training import train
from workbench.hetermoe.transport import Transport, choose

pytestmark = [pytest.mark.timeout(200)]
CONFIG = MoEConfig(vocab=24, hidden=32, layers=2, experts=4, ffn=16)


def test_what_is_paid_is_the_stages_own_processor_time_and_no_work():
    """To within one product; messages pay nothing. The control: a rank that is not paced has no such spans."""
    pace = Pace(3.0)
    spans, plain, a = Spans(pace), Spans(), torch.ones(400, 400)
    for kind in ("attention", "dispatch", "expert", "update"):
        for kept in (spans, plain):
            with kept.at(kind, "forward", 1, 0):
                for _ in range(5):
                    a @ a
    found = spans.take()
    assert [s.kind for s in found] == ["attention", "pace", "dispatch", "expert", "pace", "update", "pace"]
    used = sum(s.cpu_s for s in found if s.kind in {"attention", "expert", "update"})
    paid = sum(s.cpu_s for s in found if s.kind == "pace")
    assert pace.owed_s <= 0 < pace.products
    assert paid + pace.owed_s == pytest.approx(2 * used, rel=0.02)
    assert [s.kind for s in plain.take()] == ["attention", "dispatch", "expert", "update"]
    assert Pace(1.0).pay(5.0) < 1.0


@pytest.fixture(scope="module")
def run():
    """The expert rank of two takes three times as long."""
    plan = zebra(1, 1, 2, 2, 4, 2, CONFIG.key).with_offload((1, 0))
    run = train(CONFIG, plan, steps=2, rows=4, tokens=16, pace={1: 3.0}, transport="gloo")
    rows = list(run)
    return SimpleNamespace(rows=rows, plan=plan, roles=run.roles, result=run.result)


def test_a_paced_rank_computes_the_same_bits(run):
    torch.set_num_threads(1)
    single, data = Single(MoE(CONFIG), micro_batches=2), Markov(24, 0)
    losses = [single.step(data.batch(step, 4, 16)) for step in range(2)]
    assert [row.loss for row in run.rows] == losses
    assert all(torch.equal(run.result.parameters[n], p) for n, p in single.parameters.items())


def test_it_is_called_paced_and_accounted_as_that(run):
    assert run.roles == ("attention", "expert, paced x3")
    row = run.rows[-1]
    assert set(row.paced_s) == {1}
    stages = [s for s in row.spans[1] if s.kind in {"expert", "update"}]
    paid = [s for s in row.spans[1] if s.kind == "pace"]
    assert [(s.end_s, s.way, s.layer, s.micro_batch) for s in stages] == [
        (p.start_s, p.way, p.layer, p.micro_batch) for p in paid
    ]
    assert row.busy[1] == pytest.approx(sum(s.end_s - s.start_s for s in stages) / row.seconds)
    boxes = [s for s in slots(row) if s.rank == 1 and s.stream == "compute"]
    assert [b.end_s + row.start_s for b in boxes] == pytest.approx([p.end_s for p in paid])


def test_the_planner_plans_for_it_and_its_name_goes_everywhere():
    """Kinds, lanes, roles and notes of a measured run; a profile that is paced already is not paced again."""
    config = SYSTEM.make("small", old_pace=2.0)
    profile = assumed(config.layers, config.hidden, config.ffn, config.experts, config.top_k)
    model = Model(config.layers, config.experts, config.top_k)
    setting, plain = of_profile(config, profile, model), of_profile(SYSTEM.make("small"), profile, model)
    assert (setting.fleet.new, setting.fleet.old) == ("new", "old, paced x2")
    slow, was = setting.profile.device("old, paced x2"), profile.device("old")
    assert slow.expert(512) == pytest.approx(2 * was.expert(512))
    assert slow.attention(1024, 1024) == pytest.approx(2 * was.attention(1024, 1024))
    assert setting.profile.device("new") == profile.device("new")
    assert of_profile(config, setting.profile, model).profile == setting.profile
    with pytest.raises(PlanError, match="no device 'old' in this profile, there are new, old, paced x2"):
        paced_profile(setting.profile, "old", 3.0)
    zebra_arm = arm_of("zebra", setting.plain, setting)
    assert zebra_arm.line.step_s > arm_of("zebra", plain.plain, plain).line.step_s
    assert pace_of(config, zebra_arm) == (1.0, 2.0)
    ep = arms(setting.model, setting.profile, setting.fleet, setting.load, 2, own=setting.plain)["ep"]
    assert pace_of(config, ep) == (1.0, 2.0)
    assert pace_of(SYSTEM.make("small"), arm_of("zebra", plain.plain, plain)) == ()
    used = worked(zebra_arm.line.utilisation, (1.0, 2.0))
    assert used == pytest.approx((zebra_arm.line.utilisation[0], zebra_arm.line.utilisation[1] / 2))
    picture = drawn(zebra_arm, "modelled", zebra_arm.line.spans, zebra_arm.line.step_s, used)
    assert picture.lanes[1] == "rank 1 (old, paced x2), experts"
    assert "paced, not slow" in told_of_pace(2.0)
    job = Job(CONFIG, zebra(1, 1, 2, 2, 4, 2), 1, 4, 8, ("fused",), pace=(1.0, 2.5))
    assert [job.role(at) for at in range(2)] == ["attention", "expert, paced x2.5"]
    assert Job.from_json(job.to_json()) == job
    assert paced("old", 1.0) == "old"
    assert isinstance(Profile.from_json(setting.profile.to_json()), Profile)


def test_what_cannot_be_paced_is_said():
    plan = zebra(1, 1, 2, 2, 4, 2)
    asked = {"steps": 1, "rows": 4, "tokens": 8}
    with pytest.raises(PlanError, match="a pace is by rank, from 0 to 1, not 2"):
        train(CONFIG, plan, pace={2: 2.0}, **asked)
    with pytest.raises(PlanError, match=r"a factor from 1 to 100, not 0\.5: nothing is made faster"):
        train(CONFIG, plan, pace={0: 0.5}, **asked)
    with pytest.raises(PlanError, match="paces are named for 1 of 2 ranks"):
        Job(CONFIG, plan, 1, 4, 8, ("fused",), pace=(2.0,))
    assert factors({0: 1.0}, 2) == ()
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make setup")
    with pytest.raises(PlanError, match="DeepSpeed-MoE's stages are its own and cannot be paced"):
        train(CONFIG, expert_parallel(2, 2, 4, 2), engine="deepspeed", pace={1: 2.0}, **asked)


class Cuda:
    """torch.cuda and torch.distributed of a machine with so many devices."""

    def __init__(self, devices, nccl=True):
        self.devices, self.nccl = devices, nccl

    def is_available(self):
        return self.devices > 0

    def device_count(self):
        if not self.devices:
            raise AssertionError("asked of a machine without CUDA")
        return self.devices

    def is_nccl_available(self):
        return self.nccl


@pytest.mark.parametrize(
    ("devices", "nccl", "backend", "why"),
    [
        (0, True, "gloo", "0 CUDA devices for 4 ranks"), (3, True, "gloo", "3 CUDA devices for 4 ranks"),
        (4, True, "nccl", "4 CUDA devices for 4 ranks"), (8, True, "nccl", "8 CUDA devices for 4 ranks"),
        (8, False, "gloo", "this torch has no NCCL"),
    ],
)  # fmt: skip
def test_nccl_where_cuda_suffices(devices, nccl, backend, why):
    """On a double; it never ran on GPUs."""
    double = Cuda(devices, nccl)
    found = choose(4, "auto", double, double)
    assert (found.backend, found.why) == (backend, why)
    assert found.device(2) == ("cuda:2" if backend == "nccl" else "cpu")
    assert choose(4, "gloo", double, double).device(2) == "cpu"
    if backend == "gloo":
        with pytest.raises(PlanError, match=f"no NCCL: {why}"):
            choose(4, "nccl", double, double)
    else:
        assert choose(4, "nccl", double, double) == found


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_a_rank_meets_the_others_over_what_was_chosen(backend, monkeypatch):
    """The process group's backend, and the device that its tensors are to be on."""
    called = []
    monkeypatch.setattr(rank, "choose", lambda world, asked: Transport(backend, f"{world} {asked}"))
    monkeypatch.setattr(rank.torch.cuda, "set_device", lambda number: called.append(("device", number)))
    monkeypatch.setattr(rank.dist, "init_process_group", lambda name, **asked: called.append((name, asked["rank"])))
    monkeypatch.setattr(rank.dist, "destroy_process_group", lambda: called.append("end"))
    job = Job(CONFIG, zebra(1, 1, 2, 2, 4, 2), 1, 4, 8, ("fused",))
    with rank.process(replace(job, transport="auto"), 1, "file:///nowhere") as layout:
        assert layout.rank == 1
    assert called == [*([("device", 1)] if backend == "nccl" else []), (backend, 1), "end"]
    with pytest.raises(PlanError, match="transport is auto, nccl, gloo, not 'mpi'"):
        replace(job, transport="mpi")

"""Training reaches its target, resumes to the same weights after a kill, stops on numbers that are none."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lte_toys import tiny_sparse, toy

from workbench.lte import checkpoint
from workbench.lte.controller import ControllerOptions
from workbench.lte.evaluate import measure
from workbench.lte.losses import PUBLISHED
from workbench.lte.schedule import TrainConfig
from workbench.lte.train import Diverged, train

SHORT = TrainConfig(warm_steps=40, soft_steps=120, hard_steps=60, model_lr=1e-2, validate_every=20, checkpoint_every=5)
FAST = replace(SHORT, warm_steps=4, soft_steps=12, hard_steps=8, validate_every=4)


def fingerprint(sparse):
    digest = hashlib.sha256()
    own = sparse.model_parameters("lora") | sparse.router_parameters() | sparse.stand_ins()
    for name, p in sorted(own.items()):
        digest.update(name.encode() + p.detach().numpy().tobytes())
    return digest.hexdigest()


def trained(config, folder=None, seed=0, stand_in=0):
    sparse = tiny_sparse(seed, stand_in=stand_in)
    steps = list(train(sparse, toy(), config, folder))
    return sparse, steps


def test_the_learning_rate_rises_stays_and_falls():
    at_once, later = replace(FAST, warmup=0.25), replace(FAST, warmup=0.25, decay_from=0.5)  # 24 steps, 6 rise
    for config, falls in ((at_once, 6), (later, 12)):
        rates = [config.rate(step) for step in range(config.steps + 1)]
        assert rates[:6] == pytest.approx([(i + 1) / 6 for i in range(6)])
        assert rates[5 : falls + 1] == pytest.approx([1.0] * (falls - 4))
        assert all(a > b for a, b in zip(rates[falls:], rates[falls + 1 :]))
        assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_target_is_reached_and_something_learnt(scope, task):
    config = replace(SHORT, target=0.5, controller=ControllerOptions(scope=scope))
    sparse, steps = trained(config)
    assert [s.step for s in steps] == list(range(1, config.steps + 1))
    assert [s.stage for s in steps if s.step in (1, 41, 161)] == ["warm", "stage 1", "stage 2"]
    found = measure(sparse, task, task.examples("test"))
    assert found.mean_sparsity == pytest.approx(0.5, abs=0.02)
    assert sum(found.right) / len(found.right) > 0.8
    untrained = measure(tiny_sparse(), task, task.examples("test"))
    assert sum(untrained.right) / len(untrained.right) < 0.7


def test_the_dense_arm_leaves_routers_alone_and_sees_the_same_batches():
    lte, dense = trained(FAST), trained(replace(FAST, arm="dense"))
    assert [s.task_loss for s in lte[1][:4]] == [s.task_loss for s in dense[1][:4]]
    assert lte[1][8].task_loss != dense[1][8].task_loss
    fresh = tiny_sparse().router_parameters()
    assert all(torch.equal(p, fresh[n]) for n, p in dense[0].router_parameters().items())
    assert not all(torch.equal(p, fresh[n]) for n, p in lte[0].router_parameters().items())


def test_routers_are_frozen_in_stage_2_and_unheld_the_sparsity_drifts(task):
    sparse = tiny_sparse()
    before = {}
    config = replace(SHORT, target=0.5, controller=ControllerOptions(hold=0.0))
    for step in train(sparse, toy(), config):
        if step.step == config.warm_steps + config.soft_steps + 1:  # after the shift onto the target
            before = {n: p.detach().clone() for n, p in sparse.router_parameters().items()}
            own = {n: p.detach().clone() for n, p in sparse.model_parameters("lora").items()}
    assert all(torch.equal(p, before[n]) for n, p in sparse.router_parameters().items())
    assert not all(torch.equal(p, own[n]) for n, p in sparse.model_parameters("lora").items())
    assert abs(measure(sparse, task, task.examples("test")).mean_sparsity - 0.5) > 0.05


def test_stand_ins_wait_for_stage_1_are_solved_for_and_learn():
    zeros, seen = tiny_sparse(stand_in=4).stand_ins(), {}
    sparse = tiny_sparse(stand_in=4)
    config = replace(FAST, router_start="activations", controller=ControllerOptions(steer="bias", start=0.5))
    for step in train(sparse, toy(), config):
        seen[step.step] = {n: p.detach().clone() for n, p in sparse.stand_ins().items()}
    assert all(torch.equal(seen[FAST.warm_steps][n], p) for n, p in zeros.items())
    first, last = seen[FAST.warm_steps + 1], seen[FAST.steps]
    assert all(first[n].any() for n in zeros)
    assert not any(torch.equal(last[n], first[n]) for n in zeros)
    dense = tiny_sparse(stand_in=4)
    list(train(dense, toy(), replace(FAST, arm="dense")))
    assert all(not p.any() for p in dense.stand_ins().values())


def test_same_seed_same_weights():
    assert fingerprint(trained(FAST)[0]) == fingerprint(trained(FAST)[0])
    assert fingerprint(trained(FAST)[0]) != fingerprint(trained(replace(FAST, seed=1))[0])


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path):
    whole = fingerprint(trained(FAST, stand_in=4)[0])
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from test_train import *\n"
        "for s in train(tiny_sparse(stand_in=4), toy(), FAST, Path(sys.argv[1])):\n"
        "    print(s.step, flush=True); time.sleep(0.2 if s.step > 11 else 0)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        for line in child.stdout:  # ends with the child; the test's own timeout bounds it
            if int(line) == 13:
                break
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=60)
    assert (tmp_path / checkpoint.FILE).is_file(), "killed in stage 1, after the checkpoint of step 10"
    begun = time.monotonic()
    sparse = tiny_sparse(stand_in=4)
    shown = [s.step for s in train(sparse, toy(), FAST, tmp_path)]
    assert shown[0] == 11
    assert fingerprint(sparse) == whole
    assert time.monotonic() - begun < 120
    fresh = tiny_sparse(
        stand_in=4
    )  # whatever the adapters were before: all that is trained comes out of the checkpoint
    for parameter in (fresh.model_parameters("lora") | fresh.stand_ins()).values():
        parameter.data.normal_()
    assert list(train(fresh, toy(), FAST, tmp_path)) == []
    assert fingerprint(fresh) == whole


def test_a_cancelled_run_goes_on_where_it_was(tmp_path):
    run = train(tiny_sparse(), toy(), FAST, tmp_path)
    for _ in range(10):
        next(run)
    run.close()
    sparse, steps = trained(FAST, tmp_path)
    assert fingerprint(sparse) == fingerprint(trained(FAST)[0])
    assert [s.step for s in steps] == list(range(11, FAST.steps + 1))


def test_checkpoints_that_do_not_fit(tmp_path):
    trained(replace(FAST, hard_steps=0), tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="another config"):
        trained(FAST, tmp_path)
    file = tmp_path / checkpoint.FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        trained(FAST, tmp_path)


def test_no_number_stops_before_it_does_harm(tmp_path):
    """The published separability loss at the threshold is infinite: the step is named, the weights are those before."""
    sparse = tiny_sparse()
    for layer in sparse.layers:
        layer.router.weight.data.zero_()
        layer.router.bias.data.zero_()
    steps = []
    run = train(sparse, toy(), replace(FAST, separability=PUBLISHED, checkpoint_every=4), tmp_path)
    with pytest.raises(Diverged, match=r"the loss of step 5 \(stage 1\) is inf.*The weights are those of step 4"):
        steps.extend(run)
    assert len(steps) == 4
    assert all(torch.isfinite(p).all() for p in sparse.model_parameters("lora").values())
    state, kept = checkpoint.read(tmp_path, replace(FAST, separability=PUBLISHED, checkpoint_every=4))
    assert len(kept) == 4
    assert all(torch.isfinite(p).all() for p in state["parameters"].values())


def test_early_stop_keeps_the_best():
    config = replace(FAST, hard_steps=160, patience=2, validate_every=4, validate_on=64, model_lr=0.3)
    sparse, steps = trained(config)
    scores = [s.score for s in steps if s.stage == "stage 2" and s.score is not None]
    assert len(steps) < config.steps
    task = toy()
    assert task.score(sparse, task.examples("valid")) == pytest.approx(max(scores))


def test_full_fine_tuning():
    sparse = tiny_sparse(rank=0)
    before = sparse.model.lm_head.weight.detach().clone()
    list(train(sparse, toy(), replace(FAST, tune="full", model_lr=1e-3)))
    assert not torch.equal(sparse.model.lm_head.weight, before)
    with pytest.raises(ValueError, match="nothing to train: add adapters first"):
        list(train(tiny_sparse(rank=0), toy(), FAST))

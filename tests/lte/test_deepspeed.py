"""ZeRO on two real processes with gloo: the steps of one process, checkpoints, a rank that dies, what is refused."""

import os
import signal
from dataclasses import replace

import psutil
import pytest
import torch

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make setup")

from lte_toys import tiny_sparse, toy

from workbench import backends
from workbench.lte import SYSTEM, arms, zero_run
from workbench.lte import deepspeed as zero
from workbench.lte.schedule import TrainConfig
from workbench.lte.train import Trainer, train
from workbench.system import ConfigError

pytestmark = [pytest.mark.timeout(580)]

SHORT = {"warm_steps": 2, "soft_steps": 4, "hard_steps": 2, "clip": 1e6, "batch": 8}


def config(**changes):
    return SYSTEM.make("tiny", **{"zero": "2", "ranks": 2, **SHORT, **changes})


def drained(going):
    steps = []
    try:
        while True:
            if (step := next(going)) is not None:
                steps.append(step)
    except StopIteration as done:
        return steps, done.value


def alone(asked, rows=None):
    """The same run in this process; `rows`: which rows of each batch it sees."""
    sparse, task, settings, _ = arms.untrained(asked, "LTE")
    if rows is not None:
        whole = type(task).batch

        def part(self, *args):
            batch = whole(self, *args)
            return replace(batch, ids=batch.ids[rows], keep=batch.keep[rows], labels=batch.labels[rows])

        task = type("Part", (type(task),), {"batch": part})(task.parts, task.words)
    steps = list(train(sparse, task, settings))
    return steps, sparse.model_parameters(asked.tune) | sparse.router_parameters() | sparse.stand_ins()


def apart(found, own):
    """The largest difference of a parameter, as a share of its largest value."""
    wanted = {name: p.detach() for name, p in own.items()}
    return max(float((found[k] - v).abs().max() / v.abs().max().clamp_min(1e-6)) for k, v in wanted.items())


@pytest.fixture(scope="module")
def two_ranks():
    return {stage: drained(zero_run.run(config(zero=stage), "LTE")) for stage in ("1", "2")}


@pytest.fixture(scope="module")
def one():
    """One process with whole batches, and the control: with half of each."""
    return alone(config()), alone(config(), rows=slice(0, None, 2))


@pytest.mark.parametrize("stage", ["1", "2"])
def test_two_processes_do_the_steps_of_one(two_ranks, one, stage):
    """All three stages, routers started and moved from outside; the control is one process with half of each batch."""
    steps, found = two_ranks[stage]
    (wanted, own), (_, half) = one
    assert [s.stage for s in steps] == [s.stage for s in wanted]
    for mine, theirs in zip(steps, wanted, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-4), mine
        assert mine.sparsity == pytest.approx(theirs.sparsity, abs=1e-4), mine
    assert set(found) == set(own)
    assert apart(found, own) < 1e-3
    assert apart(found, half) > 0.02


class Half(zero.ZeroTrainer):
    """One of two processes without DeepSpeed: the gradients of a step stay where they are."""

    def __init__(self, config, rank, ranks=2):
        sparse, draw = tiny_sparse(stand_in=4), torch.Generator().manual_seed(1)
        for layer in sparse.layers:
            layer.router.weight.data.normal_(generator=draw)
            layer.router.bias.data.zero_()
        Trainer.__init__(self, sparse, toy(), config)
        self.rank, self.ranks = rank, ranks

    def _descend(self, losses, number):
        found = losses()
        found[1].backward()
        return found

    def gradients(self):
        self.step(0)
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}


def test_every_loss_is_weighed_by_what_it_is_a_mean_over(monkeypatch):
    """Means over tokens by tokens, those over texts by texts: the mean of both halves' gradients is the whole's."""
    config = TrainConfig(
        warm_steps=0,
        soft_steps=4,
        hard_steps=0,
        batch=8,
        straight_from=0.0,
        teach=1.0,
        distil=30.0,
        router_start="bias",
    )
    counted = [[], []]
    found = {}
    for known in (False, True):  # first what each has, then with the other's
        for rank in (0, 1):
            others = iter(counted[1 - rank])

            def all_reduce(value, known=known, rank=rank, others=others):
                if known:
                    value += next(others)
                else:
                    counted[rank].append(float(value))

            monkeypatch.setattr(zero.dist, "all_reduce", all_reduce)
            found[rank] = Half(config, rank).gradients()
    assert counted[0] != counted[1]  # one has more tokens
    assert all(4.0 in own for own in counted)  # and both have as many texts
    monkeypatch.setattr(zero.dist, "all_reduce", lambda _: None)
    whole = Half(config, 0, ranks=1).gradients()
    assert set(whole) == set(found[0]) == set(found[1])
    for name, wanted in whole.items():
        torch.testing.assert_close((found[0][name] + found[1][name]) / 2, wanted, rtol=1e-3, atol=1e-5)


def test_goes_on_from_its_checkpoint_after_a_rank_was_killed(tmp_path, two_ranks):
    """Killed in step 5 of 8, named; started again it ends with the parameters of the run that was not."""
    asked = config(checkpoint_every=2)
    going = zero_run.run(asked, "LTE", tmp_path)
    with pytest.raises(zero_run.RankFailed, match=r"rank [01]"):  # noqa: PT012
        while (step := next(going)) is None or step.step < 5:
            pass
        ranks = [p for p in psutil.Process().children(recursive=True) if "zero_rank" in " ".join(p.cmdline())]
        assert len(ranks) == 2
        os.kill(ranks[-1].pid, signal.SIGKILL)
        while True:
            next(going)
    assert not [p for p in psutil.Process().children(recursive=True) if "zero_rank" in " ".join(p.cmdline())]
    steps, found = drained(zero_run.run(asked, "LTE", tmp_path))
    assert steps[0].step in (5, 7)  # after the last checkpoint that was whole
    assert apart(found, two_ranks["2"][1]) < 1e-5
    with pytest.raises(zero_run.RankFailed, match="belongs to a run with another config"):
        drained(zero_run.run(asked.model_copy(update={"batch": 4}), "LTE", tmp_path))


def test_what_cannot_be_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="batch: 7 texts are not shared evenly by 2 processes"):
        config(batch=7)
    assert config(batch=7, zero="off").batch == 7
    missing = backends.Backend("deepspeed", False, "deepspeed is not installed", "pip install it")
    monkeypatch.setattr(backends, "backend", lambda _: missing)
    with pytest.raises(backends.BackendUnavailable, match="zero='2' needs DeepSpeed"):
        next(zero_run.run(config(), "dense"))


def test_closing_leaves_nothing():
    going = zero_run.run(config(), "dense")
    next(going)
    assert any("zero_rank" in " ".join(p.cmdline()) for p in psutil.Process().children(recursive=True))
    going.close()
    assert not [p for p in psutil.Process().children(recursive=True) if "zero_rank" in " ".join(p.cmdline())]
    assert torch.get_num_threads() >= 1

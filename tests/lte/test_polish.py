"""The polish: what comes before is as without it, routers choose by what the model has become, weights end as means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lte_toys import tiny_sparse, toy

from workbench.lte.controller import ControllerOptions
from workbench.lte.data import in_batches
from workbench.lte.evaluate import measure
from workbench.lte.polish import Mean
from workbench.lte.schedule import TrainConfig
from workbench.lte.start import start_routers
from workbench.lte.train import Trainer, drive, train

PLAIN = TrainConfig(
    warm_steps=20, soft_steps=40, hard_steps=20, target=0.5, model_lr=1e-2, teach=1.0, distil=1.0, decay_from=0.5,
    router_start="fisher", controller=ControllerOptions(steer="bias", start=0.5), checkpoint_every=7,
)  # fmt: skip
POLISHED = replace(PLAIN, polish_steps=20, round_steps=10, settle_steps=4, renew_batches=4)


def test_what_comes_before_it_is_as_without():
    for step in range(PLAIN.steps):
        assert (PLAIN.stage(step), PLAIN.mode(step)) == (POLISHED.stage(step), POLISHED.mode(step))
        assert PLAIN.rate(step) == POLISHED.rate(step)
    rest = range(PLAIN.steps, POLISHED.steps)
    assert {(POLISHED.stage(n), POLISHED.mode(n), POLISHED.rate(n)) for n in rest} == {("polish", "hard", 0.5)}
    assert {replace(POLISHED, arm="dense").mode(n) for n in rest} == {"dense"}
    assert [POLISHED.place(n) for n in rest] == [*range(10), *range(10)]


def test_it_trains_on_from_the_same_steps_and_keeps_the_target():
    task = toy()
    plain, polished = (list(train(tiny_sparse(stand_in=2), task, c)) for c in (PLAIN, POLISHED))
    assert [replace(s, seconds=0) for s in polished[: len(plain) - 1]] == [replace(s, seconds=0) for s in plain[:-1]]
    assert [s.stage for s in polished[len(plain) :]] == ["polish"] * 20
    sparse = tiny_sparse(stand_in=2)
    list(train(sparse, task, POLISHED))
    found = measure(sparse, task, task.examples("test"))
    assert found.mean_sparsity == pytest.approx(0.5, abs=0.02)
    assert sum(found.right) / len(found.right) > 0.8


def test_later_rounds_may_leave_out_more(tmp_path):
    more = replace(POLISHED, round_targets=(0.5, 0.75))
    steps = [0, PLAIN.steps, PLAIN.steps + 9, PLAIN.steps + 10, PLAIN.steps + 19, PLAIN.steps + 40]
    assert [more.wanted(n) for n in steps] == [0.5, 0.5, 0.5, 0.75, 0.75, 0.75]
    assert {POLISHED.wanted(n) for n in steps} == {0.5}
    sparse, task = tiny_sparse(), toy()
    run = train(sparse, task, more, tmp_path)
    while next(run).step < PLAIN.steps + 15:
        pass
    run.close()
    again = tiny_sparse()  # killed in the sparser round, it goes on there
    seen = list(train(again, task, more, tmp_path))
    assert [s.stage for s in seen] == ["polish"] * len(seen)
    assert measure(again, task, task.examples("test")).mean_sparsity == pytest.approx(0.75, abs=0.02)
    assert sum(measure(again, task, task.examples("test")).right) > 150  # of 200
    for wrong in (0.0, 1.0, 1.2):
        with pytest.raises(ValueError, match=f"of a round lies between 0 and 1, not {wrong}"):
            Trainer(tiny_sparse(), task, replace(POLISHED, round_targets=(0.5, wrong)))


@pytest.mark.parametrize("arm", ["lte", "dense"])
def test_a_round_ends_with_the_mean_of_its_weights(arm):
    """Of its steps from the fourth on; the last step's own weights are the control."""
    config = replace(POLISHED, arm=arm, polish_steps=10)
    trainer, seen = Trainer(tiny_sparse(), toy(), config), []
    average = trainer._average

    def look(number):
        if config.place(number) >= config.settle_steps:
            seen.append({n: p.detach().clone() for n, p in trainer.mine.items()})
        average(number)

    trainer._average = look
    list(drive(trainer))
    assert len(seen) == 6
    for name, p in trainer.mine.items():
        torch.testing.assert_close(p.detach(), torch.stack([s[name] for s in seen]).mean(0), atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(p, seen[-1][n], atol=1e-4) for n, p in trainer.mine.items())


@pytest.mark.parametrize("at", [84, 93])  # before a round has a mean, and with one begun
def test_gone_on_with_in_its_middle_it_is_the_same_to_the_bit(tmp_path, at):
    task, config = toy(), replace(POLISHED, checkpoint_every=1)
    whole = tiny_sparse()
    list(train(whole, task, config))
    steps = train(tiny_sparse(), task, config, tmp_path)
    while next(steps).step < at:
        pass
    steps.close()
    again = tiny_sparse()
    assert len(list(train(again, task, config, tmp_path))) == config.steps - at
    one, other = (m.model_parameters("lora") | m.router_parameters() for m in (whole, again))
    assert all(torch.equal(p, other[n]) for n, p in one.items())


def lost(sparse, batches):
    """The share of |h|^2 that is left out on the model's own sparse states, at the share of experts it leaves out."""
    inputs = [[] for _ in sparse.layers]
    hooks = [
        layer.register_forward_pre_hook(lambda m, given, rows=rows: rows.append(given[0].flatten(0, 1)))
        for layer, rows in zip(sparse.layers, inputs)
    ]
    with sparse.as_mode("hard"):
        for batch in batches:
            sparse.hidden(batch.ids)
    for hook in hooks:
        hook.remove()
    out, whole = [], []
    with torch.no_grad():
        for layer, rows in zip(sparse.layers, inputs):
            x, mlp = torch.cat(rows), layer.mlp
            h = (mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)).square() * mlp.down_proj.weight.square().sum(0)
            each = h[:, torch.from_numpy(layer.grouping).flatten()].view(len(x), *layer.grouping.shape).sum(-1)
            out.append(float((each * (layer.router(x) <= 0.5)).sum()))
            whole.append(float(each.sum()))
    return sum(out) / sum(whole)


def test_renewed_routers_know_what_the_model_has_become():
    """The layers are moved after the routers were fitted: those leave out more of it than routers fitted anew."""
    sparse, task = tiny_sparse(rank=0), toy()
    batches = in_batches(task.examples("train")[:200], 50)
    start_routers(sparse, batches, 0.5)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in sparse.layers:
            for weight in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
                weight += 0.3 * torch.randn(weight.shape, generator=draw)
    before = lost(sparse, batches)
    start_routers(sparse, batches, 0.5, mode="hard")
    assert lost(sparse, batches) < 0.8 * before
    runs = np.mean([float((g > 0.5).float().mean()) for g in sparse.gates()])
    assert runs == pytest.approx(0.5, abs=0.1)


def test_a_mean_of_nothing_changes_nothing_and_one_of_some_is_begun_anew():
    p, mean = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)), Mean()
    written = []
    mean.take({"p": p}, lambda q, value: written.append(value))
    assert written == []
    for value in (1.0, 2.0, 6.0):
        p.data.fill_(value)
        mean.add({"p": p})
    kept = Mean()
    kept.restore(mean.state())
    for each in (mean, kept):
        each.take({"p": p}, lambda q, value: written.append(value))
        assert (each.values, each.count) == ({}, 0)
    assert [(v.tolist(), v.dtype) for v in written] == [([3.0, 3.0], torch.bfloat16)] * 2


def test_it_is_not_taken_with_patience():
    with pytest.raises(ValueError, match="take one of them"):
        Trainer(tiny_sparse(), toy(), replace(POLISHED, patience=2))

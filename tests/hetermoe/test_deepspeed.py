"""DeepSpeed-MoE on gloo beside ours: the same steps from the same weights, and what it cannot run."""

import pytest
import torch

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make setup")

from workbench import backends
from workbench.hetermoe.data import Markov
from workbench.hetermoe.model import MoE, MoEConfig
from workbench.hetermoe.plan import PlanError, expert_parallel, zebra
from workbench.hetermoe.single import Single
from workbench.hetermoe.training import train
from workbench.hetermoe.update import Adam

pytestmark = [pytest.mark.timeout(400)]

CONFIG = MoEConfig(vocab=24, hidden=16, layers=2, experts=4, ffn=16)
EVEN = expert_parallel(2, 2, 4, 2, 2, CONFIG.key)
ADAM = Adam(lr=1e-2, eps=1e-3)  # with a small eps, the last bits of a gradient near 0 become a whole step
JOB = {"rows": 8, "tokens": 8, "timeout_s": 60.0, "adam": ADAM}


def alone(steps, seed=0):
    torch.set_num_threads(1)
    single, data = Single(MoE(CONFIG), micro_batches=2, ranks=2, adam=ADAM), Markov(24, seed)
    losses = [single.step(data.batch(step, 8, 8)) for step in range(steps)]
    return losses, {n: p.detach() for n, p in single.parameters.items()}


def apart(found, wanted):
    assert set(found) == set(wanted)
    return max(float((found[n] - w).abs().max() / w.abs().max().clamp_min(1e-30)) for n, w in wanted.items())


def test_deepspeed_does_the_steps_of_ours():
    """Top-2 gates, experts' and attention's gradients, accumulation; the control has other batches."""
    model = MoE(CONFIG)
    run = train(model, EVEN, steps=3, engine="deepspeed", **JOB)
    rows = list(run)
    losses, wanted = alone(4)
    assert [row.loss for row in rows] == pytest.approx(losses[:3], rel=1e-5)
    again = Single(model, micro_batches=2)  # the model has gone to DeepSpeed and come back
    again.gradient(Markov(24).batch(3, 8, 8))
    assert again.loss == pytest.approx(losses[3], rel=1e-5)
    _, wanted = alone(3)
    assert apart(run.result.parameters, wanted) < 1e-4
    assert apart(run.result.parameters, alone(3, seed=1)[1]) > 1e-2
    assert {span.way for span in rows[0].spans[1]} == {"forward", "backward", "update"}
    assert apart(run.result.parameters, {n: p.detach() for n, p in model.parameters_by_name().items()}) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": zebra(1, 1, 2, 2, 4, 2)}, "DeepSpeed-MoE is expert parallelism: give it a plan of kind ep"),
        ({"plan": expert_parallel(3, 2, 4, 2)}, "4 experts do not divide by 3 ranks"),
        ({"rows": 6}, "6 rows do not divide by 2 ranks times 2 micro-batches"),
        ({"zero": True}, "has no groups, zero, recompute or checkpoints here"),
    ],
)
def test_what_deepspeed_moe_cannot_run_is_said(changes, said):
    with pytest.raises(PlanError, match=said):
        train(CONFIG, **{"plan": EVEN, "steps": 1, "engine": "deepspeed", **JOB, **changes})


def test_without_deepspeed(monkeypatch):
    missing = backends.Backend("deepspeed", False, "deepspeed is not installed", "pip install it")
    monkeypatch.setattr(backends, "backend", lambda _: missing)
    with pytest.raises(backends.BackendUnavailable, match=r"DeepSpeed-MoE needs DeepSpeed: .*pip install it"):
        train(CONFIG, EVEN, steps=1, engine="deepspeed", **JOB)

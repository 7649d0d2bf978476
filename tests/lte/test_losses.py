"""Losses by hand, what the fixes fix, padding, and a controller that finds its target."""

import pytest
import torch

from workbench.lte.controller import Controller, ControllerOptions, shift
from workbench.lte.losses import PUBLISHED, SeparabilityOptions, efficiency, hard_sparsity, separability
from workbench.lte.routers import Router, StraightThrough, hard, warm_start

ONES = torch.ones(1, 2, dtype=torch.bool)


def test_losses_by_hand():
    gates = [torch.tensor([[[0.0, 1.0], [0.5, 0.9]]]), torch.tensor([[[0.2, 0.2], [0.2, 0.2]]])]
    assert efficiency(gates, ONES).tolist() == pytest.approx([(1 + 0.25 + 0.81) / 4, 0.04])
    by_hand = ((1 / 0.26) * 2 + 100 + 1 / 0.17) / 4
    assert float(separability(gates[:1], ONES, 0.01)) == pytest.approx(by_hand, rel=1e-5)
    assert hard_sparsity(gates, ONES).tolist() == [0.5, 1.0]  # the threshold itself does not run


def test_published_separability_is_unbounded_where_a_fresh_router_starts():
    fresh = [torch.full((1, 2, 4), 0.5)]
    assert torch.isinf(separability(fresh, ONES, PUBLISHED.eps))
    assert float(separability(fresh, ONES, SeparabilityOptions().eps)) == pytest.approx(100.0)


@pytest.mark.parametrize("filler", [0.5, 0.9, float("nan"), float("inf")])
def test_padding_counts_for_nothing(filler):
    real = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([real, torch.full((1, 2, 4), filler)], dim=1).requires_grad_(True)
    keep = torch.tensor([[True, True, True, False, False]])
    whole = torch.ones(1, 3, dtype=torch.bool)
    assert torch.equal(efficiency([padded], keep), efficiency([real], whole))
    assert torch.equal(separability([padded], keep, 0.01), separability([real], whole, 0.01))
    assert torch.equal(hard_sparsity([padded], keep), hard_sparsity([real], whole))
    efficiency([padded], keep).sum().backward()
    assert padded.grad[:, :3].all()
    assert not padded.grad[:, 3:].any()
    counted = torch.ones(1, 5, dtype=torch.bool)  # the control: without the mask it would show
    assert not torch.equal(efficiency([padded], counted), efficiency([real], whole))


def test_delay_and_ramp():
    options = SeparabilityOptions(weight=0.1, delay=0.5, ramp=0.2)
    assert [options.at(x) for x in (0, 0.49, 0.6, 0.7, 1)] == pytest.approx([0, 0, 0.05, 0.1, 0.1])
    assert PUBLISHED.at(0.0) == 0.5


def barrier(options):
    """Share of experts that come down from above the threshold under L_eff and L_sep alone."""
    logits = torch.full((64,), 2.0) + 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for step in range(200):
        gates = [torch.sigmoid(logits)[None, None]]
        keep = torch.ones(1, 1, dtype=torch.bool)
        loss = efficiency(gates, keep).mean() + options.at(step / 200) * separability(gates, keep, options.eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float((torch.sigmoid(logits) <= 0.5).float().mean())


def test_separability_from_the_start_is_a_barrier_and_delayed_it_is_not():
    assert barrier(PUBLISHED) < 0.05
    assert barrier(SeparabilityOptions(weight=0.5, delay=0.5)) > 0.95


def test_straight_through_is_hard_forward_and_soft_backward():
    gates = torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
    out = StraightThrough.apply(gates, 0.5)
    assert out.tolist() == [0.0, 0.0, 1.0] == hard(gates).tolist()
    out.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert gates.grad.tolist() == [1.0, 2.0, 3.0]


def test_a_warm_started_router_finds_the_experts_that_matter():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 16, generator=draw)
    importance = (x @ torch.randn(16, 8, generator=draw)).exp()
    router = Router(16, 8)
    warm_start([(router, x, importance)], keep=0.25)
    runs = router(x) > 0.5
    assert float(runs.float().mean()) == pytest.approx(0.25, abs=0.01)
    matters = importance > importance.flatten().quantile(0.75)
    assert float((runs & matters).float().sum() / runs.float().sum()) > 0.9
    assert float((Router(16, 8, bias=0.0)(x) > 0.5).float().mean()) > 0.4  # a fresh one runs by chance


def plant(controller, steps=400, slope=1.0):
    """A stand-in for training: sparsity follows eta with delay, differently in each layer."""
    sparsity, ease = torch.zeros(3), torch.tensor([0.5, 1.0, 2.0]) * slope
    for step in range(steps):
        pull = controller.eta * ease / (1 + controller.eta * ease)
        sparsity = 0.9 * sparsity + 0.1 * pull
        controller.update(sparsity, step / steps)
    return sparsity


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 0.9])
def test_the_controller_reaches_its_target_and_a_fixed_eta_does_not(target):
    assert float(plant(Controller(target, 3)).mean()) == pytest.approx(target, abs=0.02)
    assert plant(Controller(target, 3, ControllerOptions(scope="layer"))).tolist() == pytest.approx(
        [target] * 3, abs=0.02
    )
    fixed = plant(Controller(target, 3, ControllerOptions(gain=0.0, eta=30.0)))
    assert abs(float(fixed.mean()) - target) > 0.04


def test_shift_is_exact_on_what_it_was_given():
    logits = [torch.randn(50, 8, generator=torch.Generator().manual_seed(i)) + i for i in range(3)]
    for scope in ("global", "layer"):
        moved = [rows + move for rows, move in zip(logits, shift(logits, 0.8, scope))]
        share = [float((rows <= 0).float().mean()) for rows in moved]
        assert sum(share) / 3 == pytest.approx(0.8, abs=1e-3)
        assert (max(share) - min(share) < 1e-3) is (scope == "layer")


def test_bad_targets():
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        Controller(1.0, 2)

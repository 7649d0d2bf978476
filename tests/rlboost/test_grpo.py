"""GRPO by its formulas: hand-worked values, and any cut into micro-batches gives the whole step's gradient."""

import pytest
import torch

from workbench.rlboost.grpo import Clip, advantages, shares, step_loss, token_loss


def step(rows=6, tokens=5, vocab=7, seed=0):
    """(weights [tokens, vocab] that make log-probabilities, ids, advantages, mask, lengths)."""
    draw = torch.Generator().manual_seed(seed)
    lengths = [int(n) for n in torch.randint(1, tokens + 1, (rows,), generator=draw)]
    mask = torch.tensor([[float(t < n) for t in range(tokens)] for n in lengths])
    logits = torch.randn(rows, tokens, vocab, generator=draw, dtype=torch.float64)
    ids = torch.randint(0, vocab, (rows, tokens), generator=draw)
    return logits, ids, torch.randn(rows, generator=draw), mask, lengths


def logprobs(logits, ids, weight):
    return torch.log_softmax(logits * weight, -1).gather(-1, ids[..., None])[..., 0]


def test_advantages_by_hand():
    found = advantages(torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0]), group=4)
    deviation = (4 * 0.25 / 3) ** 0.5
    assert torch.allclose(found[:4], torch.tensor([0.5, -0.5, -0.5, 0.5]) / (deviation + 1e-4))
    assert torch.equal(found[4:], torch.zeros(4))  # all the same: nothing to learn
    assert torch.equal(advantages(torch.tensor([3.0, 1.0]), 2, scale=False), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize(
    ("rewards", "group", "says"),
    [([1.0, 2.0], 1, "2 responses or more"), ([1.0] * 5, 2, "do not fill"), ([], 2, "do not fill"),
     ([1.0, float("nan")], 2, "finite")],
)  # fmt: skip
def test_rewards_that_cannot_be(rewards, group, says):
    with pytest.raises(ValueError, match=says):
        advantages(torch.tensor(rewards), group)


def test_token_loss_by_hand():
    """Ratios 1.5 and 0.5 with both signs of the advantage: clipped where it would pull further away."""
    old = torch.zeros(2, 2)
    new = torch.log(torch.tensor([[1.5, 0.5], [1.5, 0.5]]))
    found = token_loss(new, old, torch.tensor([1.0, -1.0]), Clip(0.2, 0.2))
    assert torch.allclose(found, torch.tensor([[-1.2, -0.5], [1.5, 0.8]]))
    wide = token_loss(new, old, torch.tensor([1.0, -1.0]), Clip(0.2, 0.28))
    assert wide[0, 0] == pytest.approx(-1.28)
    reference = torch.log(torch.tensor([[3.0, 0.5], [1.5, 0.5]]))
    with_kl = token_loss(new, old, torch.tensor([1.0, -1.0]), Clip(kl=0.1), reference)
    d = torch.tensor(2.0).log()  # of 3.0 to 1.5
    assert torch.allclose(with_kl - found, torch.tensor([[0.1 * (2 - float(d) - 1), 0.0], [0.0, 0.0]]), atol=1e-6)
    with pytest.raises(ValueError, match="needs the reference"):
        token_loss(new, old, torch.tensor([1.0, -1.0]), Clip(kl=0.1))
    with pytest.raises(ValueError, match="advantages"):
        token_loss(new, old, torch.ones(3), Clip())
    with pytest.raises(ValueError, match="clip"):
        Clip(low=1.0)


def test_shares_by_hand():
    assert torch.allclose(shares("grpo", [4, 2]), torch.tensor([0.125, 0.25]))
    assert torch.allclose(shares("dapo", [4, 2]), torch.tensor([1 / 6, 1 / 6]))
    assert torch.allclose(shares("dr_grpo", [4, 2], longest=8), torch.tensor([1 / 16, 1 / 16]))
    with pytest.raises(ValueError, match="needs longest"):
        shares("dr_grpo", [4, 2], longest=3)
    with pytest.raises(ValueError, match="one response or more"):
        shares("grpo", [])
    assert torch.isfinite(shares("grpo", [0, 2])).all()


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("cut", [[[0, 1, 2, 3, 4, 5]], [[5], [3, 1], [0, 2, 4]], [[2], [1], [0], [5], [4], [3]]])
def test_any_cut_and_order_gives_the_gradient_of_the_step(kind, cut):
    logits, ids, advantage, mask, lengths = step()
    share = shares(kind, lengths, longest=5).double()

    def gradient(parts, share):
        weight = torch.ones(7, dtype=torch.float64, requires_grad=True)
        for rows in parts:
            new = logprobs(logits[rows], ids[rows], weight)
            step_loss(new, new.detach() - 0.1, advantage[rows], mask[rows], share[rows]).backward()
        return weight.grad

    whole = gradient([list(range(6))], share)
    assert torch.allclose(gradient(cut, share), whole, rtol=1e-12)
    if len(cut) > 1:  # the control: micro-batches normalised by themselves are another step
        own = torch.cat([shares(kind, [lengths[r] for r in rows], longest=5).double() for rows in cut])
        at = [r for rows in cut for r in rows]
        assert not torch.allclose(gradient(cut, own[torch.argsort(torch.tensor(at))]), whole, rtol=1e-3)


def test_what_is_masked_does_not_count():
    logits, ids, advantage, mask, lengths = step()
    share = shares("grpo", lengths).double()
    weight = torch.ones(7, dtype=torch.float64)
    new = logprobs(logits, ids, weight)
    ids[mask == 0] = 0
    assert torch.equal(
        step_loss(new, new, advantage, mask, share),
        step_loss(logprobs(logits, ids, weight), new, advantage, mask, share),
    )


def test_on_policy_the_gradient_is_that_of_the_policy():
    """old = new: the ratio is 1 and its gradient that of advantage times log-probability."""
    logits, ids, advantage, mask, lengths = step()
    share = shares("grpo", lengths).double()
    grads = []
    for loss_of in (
        lambda new: step_loss(new, new.detach(), advantage, mask, share),
        lambda new: -(advantage[:, None] * new * mask * share[:, None]).sum(),
    ):
        weight = torch.ones(7, dtype=torch.float64, requires_grad=True)
        loss_of(logprobs(logits, ids, weight)).backward()
        grads.append(weight.grad)
    assert torch.allclose(*grads, rtol=1e-12)

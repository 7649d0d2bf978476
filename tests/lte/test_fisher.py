"""What the loss feels: the gradients' second moment by another route, and a start that leaves out what nobody reads."""

import numpy as np
import pytest
import torch
from lte_toys import HIDDEN, VOCAB, cut, tiny_llama, tiny_sparse

from workbench.lte.data import Batch, Example, collate
from workbench.lte.fisher import felt, fisher
from workbench.lte.grouping import NEURONS, check_grouping
from workbench.lte.sparse_model import SparseModel
from workbench.lte.sparsify import group
from workbench.lte.start import start_routers

UNREAD = 8  # states that nothing looks at


def texts(n=16, seed=0):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(4, 12, size=n)
    return collate([Example(tuple(draw.integers(10, VOCAB, size=length).tolist())) for length in lengths])


def test_it_is_the_second_moment_of_the_gradients():
    """By hand: the slope at a zero that a hook adds behind a block, text by text, without padding."""
    model, batch = tiny_llama(), texts(5)
    found = fisher(model, model.model.layers, [batch])
    for at, block in enumerate(model.model.layers):
        rows = []
        for ids, keep in zip(batch.ids, batch.keep):
            ids = ids[keep][None]
            nudge = torch.zeros(1, ids.shape[1], HIDDEN, requires_grad=True)
            hook = block.register_forward_hook(
                lambda m, given, out, nudge=nudge: out + nudge if torch.is_tensor(out) else (out[0] + nudge, *out[1:])
            )
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").backward()
            hook.remove()
            rows.append(nudge.grad[0, :-1])
        rows = torch.cat(rows)
        torch.testing.assert_close(found[at], rows.T @ rows / len(rows), atol=1e-5, rtol=1e-3)


def test_no_gradient_is_left_and_who_learns_learns_on():
    sparse = tiny_sparse()
    adapters = list(sparse.model_parameters("lora").values())
    before = [p.requires_grad for p in sparse.model.parameters()]
    fisher(sparse.model, sparse.blocks, [texts()])
    assert all(p.grad is None for p in sparse.model.parameters())
    assert [p.requires_grad for p in sparse.model.parameters()] == before
    assert all(p.requires_grad for p in adapters)
    assert torch.is_grad_enabled()


def test_without_text_it_says_so():
    model = tiny_llama()
    one = Batch(torch.tensor([[11]]), torch.tensor([[True]]), torch.zeros(1))
    for batches in ([], [one]):
        with pytest.raises(ValueError, match="one batch of two tokens or more"):
            fisher(model, model.model.layers, batches)


def test_what_a_column_costs_by_hand():
    weight, information = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 2.0]]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    assert felt(weight, information).tolist() == [2.0, 9.0, 16.0]


@pytest.mark.parametrize(("by", "share"), [("fisher", (0.0, 0.1)), ("activations", (0.9, 1.0))])
def test_an_expert_that_writes_where_nobody_reads_is_left_out_first(by, share):
    """Its output is long. The other start, which looks at lengths, is the control: it keeps it."""
    model = tiny_llama()
    groups, last = cut(model), model.model.layers[-1]
    with torch.no_grad():
        model.model.norm.weight[:UNREAD] = 0
        column = last.mlp.down_proj.weight[:, groups[-1][0]]
        column[:] = 0
        column[:UNREAD] = 0.6 * torch.randn(UNREAD, NEURONS, generator=torch.Generator().manual_seed(2))
        last.mlp.down_proj.weight[:, groups[-1][0]] = column
    sparse, batch = SparseModel(model, groups), texts(64)
    start_routers(sparse, [batch], 0.7, by)
    with sparse.as_mode("hard"):
        sparse.hidden(batch.ids)
        runs = [gates[batch.keep] > 0.5 for gates in sparse.gates()]
    assert share[0] <= float(runs[-1][:, 0].float().mean()) <= share[1]
    assert float(torch.stack(runs).float().mean()) == pytest.approx(0.7, abs=0.1)


def test_grouping_by_it_puts_what_is_not_felt_together():
    """Half of the last layer's neurons write where nobody reads: no expert has some of both."""
    model = tiny_llama()
    blind = torch.randperm(128, generator=torch.Generator().manual_seed(1))[:64]
    with torch.no_grad():
        model.model.norm.weight[:UNREAD] = 0
        down = model.model.layers[-1].mlp.down_proj.weight
        down[UNREAD:, blind] = 0
    mixed = {}
    for method in ("fisher", "kmeans"):
        found = group(model, method, 0, [texts(64).ids])[-1]
        check_grouping(found, 128)
        inside = np.isin(found, blind.numpy()).sum(axis=1)
        mixed[method] = int(((inside > 0) & (inside < NEURONS)).sum())
    assert mixed == {"fisher": 0, "kmeans": 4}

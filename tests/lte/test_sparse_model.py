"""A wrapped model: the dense one to the bit with every expert on, undone without a trace, refused where it must be."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lte_toys import INNER, LAYERS, cut, tiny_llama, tiny_sparse

from workbench.lte import lora
from workbench.lte.grouping import NEURONS, random_groups
from workbench.lte.sparse_model import NotGated, SparseModel, gated_blocks

IDS = torch.randint(0, 64, (3, 9), generator=torch.Generator().manual_seed(5))


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def biased(sparse, bias):
    """Routers that say the same of every token."""
    for layer in sparse.layers:
        layer.router.weight.data.zero_()
        layer.router.bias.data.copy_(torch.as_tensor(bias))
    return sparse


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_expert_on_is_the_dense_model_to_the_bit(dtype):
    model = tiny_llama().to(dtype)
    dense = logits(model)
    sparse = biased(SparseModel(model, cut(tiny_llama())), 4.0)
    for mode, same in [("dense", True), ("hard", True), ("straight", True), ("soft", False)]:
        sparse.set_mode(mode)
        assert torch.equal(logits(model), dense) is same, mode
    sparse.set_mode("hard")
    biased(sparse, [4.0, 4.0, 4.0, -4.0])  # the control: one expert off
    assert not torch.equal(logits(model), dense)


def test_all_off_leaves_attention_alone_and_crashes_nothing():
    sparse = biased(tiny_sparse(), -4.0)
    sparse.set_mode("hard")
    with torch.no_grad():
        assert not sparse.layers[0](torch.randn(2, 32)).any()
    none = logits(sparse.model)
    assert torch.isfinite(none).all()
    for layer in sparse.layers:
        layer.mlp.down_proj.base.weight.data.zero_()
    sparse.set_mode("dense")
    torch.testing.assert_close(logits(sparse.model), none)


def test_hard_mode_by_hand():
    """Expert by expert, as the paper writes it: the sum of those that run, not scaled by their gates."""
    sparse = tiny_sparse(rank=0)
    layer = sparse.layers[0]
    layer.router.bias.data.zero_()
    layer.router.weight.data.mul_(20)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    sparse.set_mode("hard")
    with torch.no_grad():
        got, runs = layer(x), layer.router(x) > 0.5
        assert 0 < int(runs.sum()) < runs.numel()
        want = torch.zeros(5, 32)
        for e, own in enumerate(torch.from_numpy(layer.grouping)):
            h = torch.nn.functional.silu(x @ layer.mlp.gate_proj.weight[own].T) * (x @ layer.mlp.up_proj.weight[own].T)
            want += runs[:, e : e + 1] * (h @ layer.mlp.down_proj.weight[:, own].T)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_the_order_of_the_neurons_changes_nothing(mode):
    model = tiny_llama()
    shuffled = copy.deepcopy(model)
    groups, others, wrong = cut(model), [], []
    for block, group in zip(shuffled.model.layers, groups):
        order = np.random.default_rng(0).permutation(INNER)  # new neuron i is old neuron order[i]
        for part in ("gate_proj", "up_proj"):
            getattr(block.mlp, part).weight.data = getattr(block.mlp, part).weight.data[order]
        block.mlp.down_proj.weight.data = block.mlp.down_proj.weight.data[:, order]
        others.append(np.argsort(order)[group])
        wrong.append(group)
    results = []
    for which, cuts in [(model, groups), (shuffled, others), (copy.deepcopy(shuffled), wrong)]:
        sparse = biased(SparseModel(which, cuts), [4.0, -4.0, 1.0, -1.0])
        sparse.set_mode(mode)
        results.append(logits(which))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    assert (results[0] - results[2]).abs().max() > 1e-2  # the control: the grouping did not go along


def test_and_back_to_dense():
    model = tiny_llama()
    before = logits(model)
    names = [name for name, _ in model.named_modules()]
    lora.add(model, 4, 8.0)
    sparse = SparseModel(model, cut(tiny_llama()))
    with pytest.raises(ValueError, match="sparse already"):
        SparseModel(model, cut(tiny_llama()))
    for parameter in sparse.model_parameters("lora").values():
        parameter.data.normal_(std=0.1)
    tuned = logits(model)
    again = sparse.to_dense()
    assert [name for name, _ in again.named_modules()] == names
    torch.testing.assert_close(logits(again), tuned, atol=1e-4, rtol=1e-4)
    assert (tuned - before).abs().max() > 1e-2


def test_fresh_adapters_change_nothing_and_go_without_a_trace():
    model = tiny_llama()
    before = logits(model)
    assert lora.add(model, 4, 8.0) == 7 * LAYERS
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="has adapters already"):
        lora.add(model, 4, 8.0)
    assert lora.remove(model) == 7 * LAYERS
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="no linear layer of this model is called c_fc"):
        lora.add(model, 4, 8.0, ["c_fc"])


def test_the_threshold_is_a_knob(sparse):
    sparse.set_mode("hard")
    for layer in sparse.layers:
        layer.router.weight.data.mul_(30)
        layer.router.bias.data.zero_()
    shares = []
    for tau in (0.0, 0.3, 0.5, 0.8, 1.0):
        sparse.set_tau(tau)
        logits(sparse.model)
        shares.append(float(torch.stack([(layer.gates > tau).float().mean() for layer in sparse.layers]).mean()))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        sparse.set_tau(2)


def test_models_that_do_not_fit():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(NotGated, match=r"GPT2LMHeadModel has no model\.layers"):
        gated_blocks(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64)))
    with pytest.raises(NotGated, match="layer 0 has 100 FFN neurons: experts of 32 need a multiple of 32"):
        gated_blocks(tiny_llama(inner=100))
    with pytest.raises(NotGated, match="biases in its MLP"):
        gated_blocks(tiny_llama(mlp_bias=True))
    plain = torch.nn.Module()
    plain.mlp = torch.nn.Linear(4, 4)
    with pytest.raises(NotGated, match="layer 0 of SimpleNamespace has no gated MLP: its Linear lacks gate_proj"):
        gated_blocks(SimpleNamespace(model=SimpleNamespace(layers=[plain])))
    with pytest.raises(ValueError, match="1 groupings for the 2 layers"):
        SparseModel(tiny_llama(), [random_groups(INNER, 0)])
    assert INNER % NEURONS == 0


def test_no_gates_before_a_sparse_forward(sparse):
    with pytest.raises(RuntimeError, match="run the model in soft or hard mode first"):
        sparse.gates()

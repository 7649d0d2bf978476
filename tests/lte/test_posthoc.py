"""Post-hoc sparsity: each method leaves out what it says, at its best where it may look ahead, and is undone."""

import copy

import pytest
import torch
from lte_toys import cut, tiny_llama

from workbench.lte.grouping import random_groups
from workbench.lte.posthoc import METHODS, Thinned, measured_sparsity, thinned, unread
from workbench.lte.sparse_model import SparseModel

IDS = torch.randint(0, 64, (16, 24), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model():
    made = tiny_llama()
    return SparseModel(made, cut(copy.deepcopy(made)))


def error(model, method, sparsity):
    """Squared distance of the last hidden states from the dense model's, and the share left out."""
    with torch.no_grad():
        dense = model.hidden(IDS)
    with thinned(model, method, sparsity, [IDS]) as layers:
        got = model.hidden(IDS)
    return float((got - dense).square().mean()), measured_sparsity(layers)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_it_leaves_out_what_it_says(model, method, sparsity):
    off, measured = error(model, method, sparsity)
    assert off > 0
    assert measured == pytest.approx(sparsity, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_left_out_is_dense_and_it_is_undone(model, method):
    parts = [layer.mlp for layer in model.layers]
    if method not in ("cats", "teal"):  # a threshold at the smallest value cuts that value
        assert error(model, method, 0.0)[0] == 0.0
    else:
        assert error(model, method, 0.0)[0] < 1e-6
    assert error(model, method, 0.5)[0] > 0
    assert [layer.mlp for layer in model.layers] == parts


def test_looking_ahead_beats_lots_and_neurons_beat_blocks(model):
    off = {method: error(model, method, 0.5)[0] for method in METHODS}
    assert off["neurons"] < off["blocks"] < off["random"]
    assert off["cats"] < off["random"]


def test_kmeans_blocks_lose_less_than_random_blocks():
    """Planted: the gate's rows of a block are copies of one row, shuffled among the neurons."""
    model = tiny_llama()
    for i, block in enumerate(model.model.layers):
        rows = block.mlp.gate_proj.weight.data[:4].repeat_interleave(32, dim=0)
        order = torch.from_numpy(random_groups(128, i).ravel())
        block.mlp.gate_proj.weight.data = (3 * rows + 0.02 * block.mlp.gate_proj.weight.data)[order]
    good = error(SparseModel(copy.deepcopy(model), cut(model)), "blocks", 0.5)[0]
    bad = error(SparseModel(copy.deepcopy(model), [random_groups(128, 9), random_groups(128, 8)]), "blocks", 0.5)[0]
    assert good < 0.8 * bad


def one_token(method):
    """A thinned MLP, calibrated on texts, then run on one token: (mlp, its input, output, what is not read)."""
    mlp = copy.deepcopy(tiny_llama().model.layers[0].mlp)
    thin = Thinned(mlp, method, 0.5, random_groups(128, 1), 0)
    draw = torch.Generator().manual_seed(2)
    hidden = mlp.gate_proj.weight.shape[1]
    with torch.no_grad():
        thin(torch.randn(64, hidden, generator=draw))
        thin.calibrated()
        x = torch.randn(1, hidden, generator=draw)
        return thin, x, thin(x), unread([thin])


@pytest.mark.parametrize("method", ["cats", "teal"])
def test_what_counts_as_unread_can_hold_anything(method):
    """Weights that are not read are replaced and change nothing; they are as many as said, and no more can be."""
    thin, x, before, said = one_token(method)
    mlp = thin.mlp
    entered = x * (x.abs() > thin.cuts[0]) if method == "teal" else x
    opened = mlp.act_fn(mlp.gate_proj(entered))
    h = opened if method == "cats" else opened * mlp.up_proj(entered)
    shut = h[0].abs() <= thin.cuts[1]
    with torch.no_grad():
        mlp.down_proj.weight[:, shut] = 77.0
        count = mlp.down_proj.weight[:, shut].numel()
        if method == "cats":
            mlp.up_proj.weight[shut] = 77.0
            count += mlp.up_proj.weight[shut].numel()
        else:
            for part in (mlp.gate_proj, mlp.up_proj):
                part.weight[:, entered[0] == 0] = 77.0
                count += part.weight[:, entered[0] == 0].numel()
        assert torch.allclose(thin(x), before, atol=1e-5)
        assert said == pytest.approx(count / (3 * mlp.down_proj.weight.numel()))
        # control: the rest is read. CATS looks at the gate of the very neurons it leaves out
        mlp.gate_proj.weight[shut] = 77.0
        assert not torch.allclose(thin(x), before, atol=1e-2)


def test_half_of_the_neurons_is_not_half_of_the_weights(model):
    found = {}
    for method in METHODS:
        with thinned(model, method, 0.5, [IDS]) as layers:
            model.hidden(IDS)
        found[method] = (measured_sparsity(layers), unread(layers))
    for method in ("blocks", "neurons", "random"):
        assert found[method] == pytest.approx((0.5, 0.5))
    assert found["cats"][1] == pytest.approx(2 * found["cats"][0] / 3)
    assert found["teal"][1] == pytest.approx(found["teal"][0], abs=0.03)


def test_bad_calls(model):
    with pytest.raises(ValueError, match="sets its thresholds on text"):
        thinned(model, "cats", 0.5, []).__enter__()
    with pytest.raises(ValueError, match=r"lies in \[0, 1\), not 1"):
        thinned(model, "blocks", 1.0, []).__enter__()
    with pytest.raises(ValueError, match="no method is called 'wanda'"):
        thinned(model, "wanda", 0.5, []).__enter__()

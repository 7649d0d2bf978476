"""Post-hoc sparsity: each method leaves out what it says, at its best where it may look ahead, and is undone."""

import copy

import pytest
import torch
from lte_toys import cut, tiny_llama

from workbench.lte.grouping import random_groups
from workbench.lte.posthoc import METHODS, measured_sparsity, thinned
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


def test_bad_calls(model):
    with pytest.raises(ValueError, match="sets its thresholds on text"):
        thinned(model, "cats", 0.5, []).__enter__()
    with pytest.raises(ValueError, match=r"lies in \[0, 1\), not 1"):
        thinned(model, "blocks", 1.0, []).__enter__()
    with pytest.raises(ValueError, match="no method is called 'wanda'"):
        thinned(model, "wanda", 0.5, []).__enter__()

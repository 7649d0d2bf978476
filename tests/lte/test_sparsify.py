"""One call makes a model sparse, whichever way its neurons are grouped, and refuses what it cannot do first."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lte_toys import tiny_llama, toy

from workbench.lte.evaluate import measure
from workbench.lte.grouping import check_grouping, random_groups
from workbench.lte.schedule import TrainConfig
from workbench.lte.sparse_model import NotGated
from workbench.lte.sparsify import activations, agreement, group, sparsify

SHORT = TrainConfig(warm_steps=20, soft_steps=80, hard_steps=40, model_lr=1e-2)


@pytest.mark.parametrize("grouping", ["kmeans", "coactivation", "sized", "fisher", "random"])
def test_one_call_reaches_the_target(grouping):
    task, seen = toy(), []
    sparse = sparsify(tiny_llama(), task, 0.4, grouping=grouping, config=SHORT, on_step=seen.append)
    found = measure(sparse, task, task.examples("test")).mean_sparsity
    room = 0.025 if grouping in ("sized", "fisher") else 0.02  # 64 texts, and four unequal experts are coarse
    assert found == pytest.approx(0.4, abs=room)
    assert len(seen) == SHORT.steps
    assert sparse.layers[0].mode == "hard"


def test_a_model_that_does_not_fit_is_left_alone():
    model = tiny_llama(inner=96 + 4)
    with pytest.raises(NotGated, match="100 FFN neurons"):
        sparsify(model, toy())
    assert not any("router" in name for name, _ in model.named_parameters())


def test_a_raise_in_on_step_ends_it():
    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sparsify(tiny_llama(), toy(), 0.4, config=replace(SHORT, tune="full"), on_step=stop)


def test_groupings_of_a_model():
    model, ids = tiny_llama(), torch.randint(0, 64, (8, 16))
    for method in ("kmeans", "coactivation", "sized", "fisher", "random"):
        found = group(model, method, 0, [ids])
        assert len(found) == 2
        for one in found:
            check_grouping(one, 128)
    with pytest.raises(ValueError, match="give at least one batch"):
        group(model, "sized", 0)
    with pytest.raises(ValueError, match="give at least one batch"):
        group(model, "fisher", 0)


def test_activations_by_hand():
    model, ids = tiny_llama(), torch.randint(0, 64, (2, 5))
    found = activations(model, [ids, ids])
    block = model.model.layers[0]
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[0]
        position = model.model.rotary_emb(states, torch.arange(5)[None])
        mask = torch.full((5, 5), float("-inf")).triu(1)[None, None]
        attended = block.self_attn(block.input_layernorm(states), position_embeddings=position, attention_mask=mask)[0]
        x = block.post_attention_layernorm(states + attended)
        h = torch.nn.functional.silu(block.mlp.gate_proj(x)) * block.mlp.up_proj(x)
    torch.testing.assert_close(found[0][:10], h.flatten(0, 1), atol=1e-5, rtol=1e-4)
    assert len(found[0]) == 20


def test_agreement():
    groups = [random_groups(1536, i) for i in range(3)]
    moved = [np.random.default_rng(0).permuted(g, axis=1)[::-1] for g in groups]
    assert agreement(groups, moved) == 1.0
    assert agreement(groups, [random_groups(1536, 9)] * 3) == pytest.approx(31 / 1535, abs=0.005)

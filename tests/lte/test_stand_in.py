"""Stand-ins: solved for what they can carry, kept with the artifact, part of every pass that leaves experts out."""

import pytest
import torch
from lte_toys import LAYERS, cut, tiny_llama, tiny_sparse

from workbench.lte import lora, toy
from workbench.lte.data import joined
from workbench.lte.losses import hard_sparsity
from workbench.lte.save import ArtifactError, load, save
from workbench.lte.sparse_model import SparseModel
from workbench.lte.stand_in import StandIn, cost, fit_stand_ins, solve
from workbench.lte.teacher import carried, teaching

DRAW = torch.Generator().manual_seed(4)


def made(rank=4):
    sparse = SparseModel(tiny_llama(), cut(tiny_llama()), seed=0, stand_in=rank)
    for layer in sparse.layers:
        layer.router.weight.data.normal_(generator=DRAW)
        layer.router.bias.data.zero_()
    return sparse


def texts(count=24):
    return joined([toy.toy_task(0).batch(i, 16, 0) for i in range(count)])


def off_by(sparse, batch):
    """The mean relative squared error of hard states against dense ones."""
    with sparse.as_mode("dense"), carried(sparse, batch) as wanted:
        sparse.hidden(batch.ids)
    with sparse.as_mode("hard"), carried(sparse, batch) as states:
        sparse.hidden(batch.ids)
    return float(teaching(states, wanted))


def test_a_map_of_its_rank_is_found_again_and_one_beyond_is_not():
    x = torch.randn(600, 32, generator=DRAW)
    low = torch.randn(32, 3, generator=DRAW) @ torch.randn(3, 32, generator=DRAW) * 0.1
    missing = x @ low + 0.5
    left = {}
    for rank in (2, 3):
        layer = made(rank).layers[0]
        with torch.no_grad():
            solve(layer, x, missing, torch.ones(600, 1))
            left[rank] = float((missing - layer.stand_in(x)).square().mean() / missing.square().mean())
    assert left[3] < 1e-4 < 0.02 < left[2]


def test_solved_for_it_mends_held_out_states_and_moves_no_sparsity():
    sparse, fit, held_out = made(16), texts(), joined([toy.toy_task(1).batch(i, 16, 1) for i in range(4)])
    before = off_by(sparse, held_out)
    with sparse.as_mode("hard"):
        sparse.hidden(fit.ids)
    sparsity = hard_sparsity(sparse.gates(), fit.keep)
    fit_stand_ins(sparse, fit)
    assert off_by(sparse, held_out) < 0.85 * before
    with sparse.as_mode("hard"):
        sparse.hidden(fit.ids)
    torch.testing.assert_close(hard_sparsity(sparse.gates(), fit.keep)[:1], sparsity[:1], atol=0.01, rtol=0)
    first, last = sparse.layers[0], sparse.layers[-1]  # the control: maps of other layers
    first.stand_in, last.stand_in = last.stand_in, first.stand_in
    assert off_by(sparse, held_out) > before


def test_the_dense_mode_has_none():
    sparse, batch = made(), texts(2)
    with sparse.as_mode("dense"):
        before = sparse.hidden(batch.ids)
    for parameter in sparse.stand_ins().values():
        parameter.data.fill_(0.3)
    with sparse.as_mode("dense"):
        assert torch.equal(sparse.hidden(batch.ids), before)
    with sparse.as_mode("hard"):
        assert not torch.allclose(sparse.hidden(batch.ids), before)


def test_an_artifact_keeps_them(tmp_path):
    model = tiny_llama()
    lora.add(model, 4, 8.0)
    sparse = SparseModel(model, cut(tiny_llama()), stand_in=3)
    for parameter in sparse.stand_ins().values():
        parameter.data = (torch.randn(parameter.shape, generator=DRAW) * 0.3).bfloat16().float()
    for layer in sparse.layers:
        layer.router.weight.data.copy_(layer.router.weight.data.bfloat16())
    for p in sparse.model_parameters("lora").values():
        p.data.copy_(p.data.bfloat16())
    save(tmp_path, sparse, {"arm": "lte", "base": "b" * 64})
    back, ids = load(tmp_path, tiny_llama()), texts(1).ids
    with sparse.as_mode("hard"), back.as_mode("hard"):
        assert torch.equal(back.hidden(ids), sparse.hidden(ids))
    assert len(back.stand_ins()) == 3 * LAYERS
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"stand_in": 3', '"stand_in": 5'))
    with pytest.raises(ArtifactError, match=r"stand_in\.0\.a of shape \[5, 32\]"):
        load(tmp_path, tiny_llama())


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="rank lies between 1 and the 32"):
        StandIn(32, 33)
    with pytest.raises(ValueError, match="no stand-ins"):
        fit_stand_ins(tiny_sparse(), texts(1))
    with pytest.raises(ValueError, match="give 64 or more"):
        fit_stand_ins(made(), joined([toy.toy_task(0).batch(0, 2, 0)]))


def test_texts_are_joined_whole_or_cut():
    parts = [toy.toy_task(0).batch(i, 16, 0) for i in range(3)]
    every, cut_short = joined(parts), joined(parts, whole=0.5)
    lengths = torch.cat([b.keep.sum(dim=1) for b in parts])
    assert torch.equal(every.keep.sum(dim=1), lengths)
    assert int((cut_short.keep.sum(dim=1) == lengths).sum()) >= 24
    assert cut_short.ids.shape[1] == int(lengths.sort().values[23]) < every.ids.shape[1]
    assert torch.equal(cut_short.ids, every.ids[:, : cut_short.ids.shape[1]])


def test_what_it_costs():
    assert cost(16, 576, 1536) == pytest.approx(0.00694, rel=0.01)

"""Union sparsity: what it is of masks that are known, and that rows are run as they would be alone."""

import numpy as np
import pytest
import torch

from workbench import theme
from workbench.combine import union
from workbench.lm.threads import compute_threads


def masks(rows=4, tokens=40, layers=2, experts=48, share=0.25, seed=0):
    return np.random.default_rng(seed).random((rows, tokens, layers, experts)) < share


def mean(rows, width):
    return next(row for row in rows if (row.width, row.layer) == (width, -1))


def test_known_masks():
    """Two rows with one expert each: 1 of 4 needed together where they agree, 2 where they do not."""
    both = np.zeros((2, 1, 2, 4), dtype=bool)
    both[:, 0, 0, 0] = True  # layer 0: the same expert
    both[0, 0, 1, 1] = both[1, 0, 1, 2] = True
    rows = union.spread("siblings", both, (1, 2, 4))
    assert [(r.width, r.layer, r.sparsity) for r in rows] == [
        (1, 0, 0.75), (1, 1, 0.75), (1, -1, 0.75), (2, 0, 0.75), (2, 1, 0.5), (2, -1, 0.625),
    ]  # fmt: skip
    assert mean(rows, 2).by_layer == 0.75**2
    assert union.pairwise(both) == [0.625]


def test_rows_by_chance_are_what_is_expected_and_copies_are_one():
    own = masks(rows=8)
    lots = union.spread("lots", union.lots(own, 1), (1, 2, 4, 8))
    for width in (2, 4, 8):
        assert mean(lots, width).sparsity == pytest.approx(mean(lots, width).by_layer, abs=0.01)
    copies = union.spread("copies", np.repeat(own[:1], 8, axis=0), (1, 8))
    assert mean(copies, 8).sparsity == mean(copies, 1).sparsity
    assert mean(copies, 8).by_layer < 0.2 < mean(copies, 8).sparsity  # the control: chance would leave next to nothing


def test_popular_experts_are_told_from_agreement():
    """Rows that are independent but all like the first experts: beyond chance, and no more than their popularity."""
    draw = np.random.default_rng(3)
    popular = draw.random((8, 200, 2, 48)) < np.linspace(0.6, 0.0, 48)
    row = mean(union.spread("strangers", popular, (4,)), 4)
    assert row.sparsity > row.by_layer + 0.05
    assert row.sparsity == pytest.approx(row.by_expert, abs=0.01)
    agreeing = np.repeat(popular[:1], 8, axis=0)
    row = mean(union.spread("siblings", agreeing, (4,)), 4)
    assert row.sparsity > row.by_expert + 0.05


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_result_is_told_and_drawn_and_looks_at_its_controls(spoilt):
    own = masks(rows=8, experts=480)
    sets = {"siblings": own, "strangers": masks(rows=8, seed=1), "copies": np.repeat(own[:1], 8, axis=0)}
    sets["lots"] = union.lots(own, 2)
    if spoilt:  # one copy says something else
        sets["copies"] = np.concatenate([sets["copies"][:7], own[1:2]])
    table = tuple(row for name, each in sets.items() for row in union.spread(name, each, union.WIDTHS))
    found = union.Union(table, {}, {}, {}, "eight", 40)
    assert found.controls_hold is not spoilt
    assert found.of_chance("lots", 8) == pytest.approx(1, abs=0.01)
    assert found.of_chance("copies", 8) < 0.5
    assert theme.problems(found.figure()) == []
    assert "points" in found.sentence() and len(found.to_frame()) == len(table)


@pytest.fixture(scope="module")
def toy():
    """A writer and a sparse model of random weights; their vocabularies are 64 and the bytes."""
    from workbench import lm
    from workbench.lte.grouping import kmeans_groups
    from workbench.lte.sparse_model import SparseModel
    from workbench.lte.toy import toy_model

    model = toy_model(0)
    groups = [kmeans_groups(block.mlp.gate_proj.weight.detach().numpy(), 0) for block in model.model.layers]
    return union.Trained(lm.load("tiny"), SparseModel(model, groups, bias=0.0))


def test_a_row_needs_the_same_experts_alone_and_in_company(toy):
    rows, said = [[1, 2, 3], [5, 6], [9, 8, 7]], [[10, 11], [12, 13], [14, 15]]
    together = union.run(toy.sparse, rows, said)
    assert together.shape == (3, 2, 2, 4)
    assert 0 < together.mean() < 1
    alone = [union.run(toy.sparse, [ids], [own])[0] for ids, own in zip(rows, said)]
    assert (together == np.stack(alone)).all()
    assert (union.run(toy.sparse, rows, said[::-1]) != together).any()  # the control: other tokens, other experts


def test_prompts_are_platos_and_equally_long(toy):
    siblings, strangers = union.prompts(toy.writer, "eight")
    assert [len(ids) for ids in siblings] == [len(ids) for ids in strangers]
    texts = [toy.writer.tokenizer.decode(ids) for ids in (*siblings, *strangers)]
    assert len(texts) == len(set(texts)) == 16
    assert all("solar system" in text for text in texts[:8]) and not any("solar system" in text for text in texts[8:])
    assert all(text.startswith("system: You are a careful assistant") and "assistant: Part " in text for text in texts)
    long, other = union.prompts(toy.writer, "wide")  # strangers are shorter: all siblings lose as much
    assert [len(ids) for ids in long] == [len(ids) for ids in other]
    assert len({tuple(ids[:120]) for ids in long}) == 1 < len({tuple(ids[:120]) for ids in other})
    with pytest.raises(ValueError, match="chain has 1 parts side by side"):
        union.prompts(toy.writer, "chain")


def test_measuring_leaves_the_callers_threads(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(union, "prompts", lambda *_: seen.append(torch.get_num_threads()) or ([[1]] * 2, [[2]] * 2))
    monkeypatch.setattr(union, "write", lambda *_: [[3]] * 2)
    monkeypatch.setattr(union, "run", lambda *_: masks(rows=2))
    with compute_threads(2):
        union.measure(toy, tokens=1)
        assert torch.get_num_threads() == 2
    assert seen == [1]


def test_writing_together_says_what_each_would_alone(toy):
    asked = [toy.writer.tokenizer.encode(text) for text in ("one", "and another", "the third")]
    together = union.write(toy.writer, asked, 6)
    assert together == [union.write(toy.writer, [ids], 6)[0] for ids in asked]
    assert together[0] != together[1]

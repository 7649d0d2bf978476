"""A killed engine's responses go on elsewhere with the same tokens; damaged KV is refused, or seen where it is not."""

import plotly.graph_objects as go
import pytest
import torch

from workbench import theme
from workbench.combine import migrate
from workbench.lm.threads import compute_threads

WAYS = {"recompute", "compute", "load", "cake"}


@pytest.fixture(scope="module")
def died():
    with migrate.killed("tiny", prompts=(90, 150), tokens=20, grain=16) as left:
        yield left


@pytest.fixture(scope="module")
def found(died):
    return migrate.measure(died, links=(1.0, 8.0), rounds=1)


def test_the_dead_engine_left_its_tokens_and_whole_grains(died):
    for ask in died.asks:
        assert len(ask.done) >= 20
        ids = [*ask.prompt, *ask.done]
        stored = died.store.prompt(ids).stored
        assert sum(stored) >= (len(ids) - 1) // 16 - 1  # the last one may have been under way
        assert not any(died.store.prompt([ids[0] + 1, *ids[1:]]).stored)  # the control: another prompt's are not there
    assert any(p.keep_s > 0 and not p.prompts for p in died.passes)  # it wrote while it decoded


def test_measuring_leaves_the_callers_threads(died, monkeypatch):
    """Two before, one while it measures, two after; also where it ends by an error."""
    seen = []

    def survivor(*_):
        seen.append(torch.get_num_threads())
        raise KeyError("enough")

    monkeypatch.setattr(migrate, "_Survivor", survivor)
    with compute_threads(2):
        with pytest.raises(KeyError, match="enough"):
            migrate.measure(died)
        assert torch.get_num_threads() == 2
    assert seen == [1]


def test_every_way_goes_on_with_the_same_tokens(found):
    assert {row.way for row in found.rows} == WAYS
    assert all(row.same_tokens for row in found.rows)
    assert all(row.kv_max_abs_diff < 1e-4 for row in found.rows)
    for row in found.rows:
        assert row.equal_tokens >= row.loaded_tokens  # loaded KV is the dead engine's to the bit
        assert (row.loaded_tokens > 0) == (row.way in ("load", "cake")) or row.way == "cake"
        assert row.refused == 0


def test_a_damaged_checkpoint_is_refused_and_without_checks_it_shows(found):
    flipped, whole, damaged = found.controls
    assert (flipped.refused, flipped.same_tokens) == (1, True)
    assert (whole.refused, whole.same_tokens) == (0, True)
    assert (damaged.refused, damaged.same_tokens) == (0, False)
    assert damaged.kv_max_abs_diff > 0.1 > whole.kv_max_abs_diff
    assert found.exact


def test_it_is_told_and_drawn(found):
    frame = found.to_frame()
    assert len(frame) == len(found.rows) == 12
    fig = found.figure()
    assert isinstance(fig, go.Figure)
    assert theme.problems(fig) == []
    assert "the undisturbed engine's" in found.sentence()
    assert 0 < found.keeping < 1


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no model is called"):
        migrate.killed("nobody")

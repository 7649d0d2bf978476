"""Experts are a permutation of the neurons; k-means puts alike ones together, and that helps; lots do not."""

import numpy as np
import pytest
import torch

from workbench.lte.grouping import (
    NEURONS,
    check_grouping,
    coactivation_groups,
    kmeans_groups,
    random_groups,
    sized_groups,
    spread_within,
)


@pytest.fixture(scope="module")
def planted():
    """256 neurons of 8 kinds, shuffled: their features and their kinds."""
    draw = np.random.default_rng(1)
    kinds = draw.permutation(np.repeat(np.arange(8), NEURONS))
    return draw.standard_normal((8, 24))[kinds] + 0.3 * draw.standard_normal((256, 24)), kinds


def purity(grouping, kinds):
    return np.mean([np.bincount(kinds[row]).max() / NEURONS for row in grouping])


def test_kmeans_finds_planted_kinds_and_lots_do_not(planted):
    features, kinds = planted
    found = kmeans_groups(features, seed=0)
    check_grouping(found, 256)
    assert purity(found, kinds) > 0.95
    assert purity(random_groups(256, 0), kinds) < 0.5


def test_coactivation_finds_neurons_that_fire_together(planted):
    _, kinds = planted
    draw = np.random.default_rng(2)
    fires = draw.random((600, 8)) < 0.2
    activations = fires[:, kinds] * draw.standard_normal((600, 256)) + 0.05 * draw.standard_normal((600, 256))
    found = coactivation_groups(activations, seed=0)
    check_grouping(found, 256)
    assert purity(found, kinds) > 0.9


def test_sized_groups_hold_more_in_the_best_half():
    """Neurons of unequal size: the greater half of the experts holds more than where sizes are mixed."""
    draw = np.random.default_rng(2)
    contributions = np.abs(draw.standard_normal((600, 256))) * np.exp(draw.standard_normal(256))

    def held(grouping):
        share = np.square(contributions)[:, grouping].sum(axis=2)  # [tokens, experts]
        return np.sort(share, axis=1)[:, 4:].sum() / share.sum()

    found = sized_groups(contributions, seed=0)
    check_grouping(found, 256)
    assert held(found) > held(coactivation_groups(contributions, seed=0)) + 0.1
    assert held(found) > held(random_groups(256, 0)) + 0.1
    with pytest.raises(ValueError, match="multiple of 32"):
        sized_groups(np.ones((4, 100)), 0)
    check_grouping(sized_groups(np.ones((4, 32)), 0), 32)


def test_kmeans_reconstructs_better_than_lots(planted):
    features, _ = planted
    assert spread_within(features, kmeans_groups(features, 0)) < 0.5 * spread_within(features, random_groups(256, 0))


def test_dropping_blocks_hurts_less_when_alike_neurons_share_one(planted):
    """The use of it: the oracle's best half of the blocks gives back more of the FFN's output."""
    features, _ = planted
    draw = torch.Generator().manual_seed(0)
    gate = torch.from_numpy(features).float()
    up, down = torch.randn(256, 24, generator=draw), torch.randn(24, 256, generator=draw)
    x = torch.randn(64, 24, generator=draw)
    h = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)

    def error(grouping):
        blocks = torch.from_numpy(grouping)
        size = (h.abs() * down.norm(dim=0))[:, blocks].square().sum(-1)
        keep = torch.zeros_like(size).scatter_(1, size.topk(4).indices, 1.0)
        mask = torch.zeros_like(h).index_copy_(1, blocks.flatten(), keep.repeat_interleave(NEURONS, dim=1))
        return float(((h * mask) @ down.T - h @ down.T).square().sum())

    assert error(kmeans_groups(features, 0)) < 0.9 * error(random_groups(256, 0))


def test_same_seed_same_groups(planted):
    features, _ = planted
    assert np.array_equal(kmeans_groups(features, 3), kmeans_groups(features, 3))
    assert not np.array_equal(random_groups(256, 3), random_groups(256, 4))


def test_bad_widths_and_groupings():
    with pytest.raises(ValueError, match="100 neurons: experts of 32 need a multiple of 32"):
        kmeans_groups(np.ones((100, 4)), 0)
    with pytest.raises(ValueError, match="each of the 64 neurons exactly once"):
        check_grouping(np.zeros((2, 32), dtype=np.int64), 64)
    with pytest.raises(ValueError, match=r"is \[2, 32\], not \[1, 64\]"):
        check_grouping(np.arange(64).reshape(1, 64), 64)
    alike = kmeans_groups(np.ones((64, 4)), 0)  # nothing to tell apart: still a permutation
    check_grouping(alike, 64)

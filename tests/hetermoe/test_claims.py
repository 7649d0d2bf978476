"""The paper's numbers beside ours: each has its row, fitted ones are told apart, and the errors stay where they are.

The bounds are those that were set before the simulator was written; rows that miss theirs are named here, so that a
change which makes one better or worse is seen.
"""

import math
from dataclasses import replace

import pytest

from workbench.hetermoe import claims
from workbench.hetermoe.calibrated import CALIBRATED
from workbench.hetermoe.gpus import MODELS
from workbench.hetermoe.published import CELLS, CLOUD, CLOUD_CELLS, CLUSTERS, Cell, speeds

MISSED = {
    "utilisation of V100, 16K, Asym-EA": 84.0,  # Algorithm 1's whole chunks cost more at two micro-batches
    "over DistEP, D1, 16K, Asym-EA": 2.0,
    "V100 for 4 A40, best over Ideal, 4K, Asym-EA": 7.0,  # here Asym-EA makes 4:4 the best
    "V100 for 4 A40, best over Ideal, 12K, Asym-EA": 5.0,
    "4:2 over EP (Ideal), 4K": 1.03,
    "over the pipeline, at most": 1.47,  # a pipeline that is worse than the paper's
    "over EP, L40S and T4, mean": 2.89,
    "over DistEP, L40S and T4, mean": 1.96,
}


@pytest.fixture(scope="module")
def rows():
    shares = []
    found = {row.what: row for row in claims.published(shares.append)}
    assert (shares, shares[0], shares[-1]) == (sorted(shares), 0.0, 1.0)
    return found


def test_every_claim_has_its_row_and_none_was_fitted(rows):
    assert len(rows) == 48
    assert not any(row.fitted for row in rows.values())
    assert all(math.isfinite(row.value) and row.source for row in rows.values())
    assert {row.unit for row in rows.values()} == {"x", "%", "K", "ranks"}
    fitted = {row.what for row in claims.fitted()}
    assert not fitted & set(rows)
    assert len(fitted) == 10


def test_the_targets_are_met(rows):
    """Table 3 within 8 points, DistEP 55 +- 8 %, Ideal 1.18 +- 0.08, ratios 4:7 and 4:5, 20K and 28K."""
    table3 = [row for what, row in rows.items() if what.startswith("utilisation") and what not in MISSED]
    assert len(table3) == 7
    assert all(abs(row.error) <= 0.08 for row in table3)
    assert abs(rows["utilisation of V100, 16K, Asym-EA"].error) == pytest.approx(0.083, abs=0.003)
    assert rows["DistEP of HeterMoE, mean"].value == pytest.approx(55, abs=8)
    assert rows["over EP (Ideal), mean"].value == pytest.approx(1.18, abs=0.08)
    assert rows["V100 for 4 A40, best over Ideal, 4K, no Asym-EA"].value == 7
    assert rows["V100 for 4 A40, best over Ideal, 12K, no Asym-EA"].value == 5
    assert rows["longest with Asym-EA, D1"].value == 20
    assert claims.last_offload("W1") == 28 * 1024


def test_all_others_are_near_and_misses_are_known(rows):
    far = {what: row.paper for what, row in rows.items() if abs(row.error) > 0.1}
    assert far.items() <= MISSED.items()
    assert {what: rows[what].paper for what in MISSED} == MISSED


def test_signs_and_orders_are_the_papers(rows):
    value = {what: row.value for what, row in rows.items()}
    assert 1 < value["over EP, 4K, mean"] < value["over EP, 16K, mean"] < value["over EP, 32K, mean"]
    assert value["over EP (Ideal), at least"] < 1 < value["over EP (Ideal), mean"]
    assert value["4:3 over EP (Ideal), 4K"] < 1 < value["4:2 over EP (Ideal), 4K"]  # the hole
    assert value["utilisation of A40, 8K, no Asym-EA"] < value["utilisation of A40, 8K, Asym-EA"]
    assert value["utilisation of V100, 8K, no Asym-EA"] > value["utilisation of V100, 8K, Asym-EA"]
    assert value["gain of Asym-EA, D1, 4K"] > 1.05 < value["gain of Asym-EA, W1, 4K"]


def test_an_error_is_of_what_the_number_stands_for():
    assert claims.Published("a", 2.0, 1.8, "x", "me").error == pytest.approx(-0.1)
    assert claims.Published("a", 55.0, 47.0, "%", "me").error == pytest.approx(-0.08)
    assert claims.Published("a", 7.0, 4.0, "ranks", "me").error == pytest.approx(-3 / 7)


def test_what_was_fitted_fits_and_other_constants_fit_worse():
    assert all(row.fitted and abs(row.error) < 0.02 for row in claims.fitted())
    least = claims.misfit()
    flash = dict(CALIBRATED.flash)
    for changed in (
        {"gemm_share": 0.6}, {"narrow": 200.0}, {"elementwise": 190.0}, {"v100_experts": 0.9}, {"t4_experts": 0.2},
        {"t4_bandwidth": 0.4}, {"ep_messages": 2.0}, {"flash": flash | {"A40": 40.0}},
        {"flash": flash | {"V100": 17.0}}, {"flash": flash | {"T4": 12.0}},
    ):  # fmt: skip
        assert claims.misfit(replace(CALIBRATED, **changed)) > 2 * least, changed


def test_cells_are_those_whose_experts_divide():
    for cluster, model in (*CELLS, *CLOUD_CELLS):
        attention, expert = {**CLUSTERS, **CLOUD}[cluster]
        experts = MODELS[model].experts
        assert not any(experts % ranks for ranks in (attention, expert, attention + expert))
    found = speeds("O1", "D1", 8192)
    assert found is speeds("O1", "D1", 8192)  # kept
    assert found["zebra"] == Cell("D1", 6, 6, 8192).speed()
    assert found["ideal"] == pytest.approx(sum(Cell("D1", 6, 6, 8192).alone(k, 6) for k in ("A40", "V100")))


def test_the_search_goes_beyond_the_paper():
    """Where Algorithm 1 loses by two micro-batches, and where it cannot divide."""
    level, hole = claims.beyond()
    assert level.greedy < 1.0 < 1.03 < level.search
    assert hole.greedy is None
    assert hole.search > 1.3


def test_it_can_be_ended():
    def end(share):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        next(claims.published(end))

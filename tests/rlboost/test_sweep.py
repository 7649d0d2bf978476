"""Discount against instances: one simulation a number, and the rest is arithmetic that must agree with the bill."""

import math
from dataclasses import replace

import pytest

from workbench.rlboost import sweep as module
from workbench.rlboost.prices import PAPER, TABLE, rates
from workbench.rlboost.rates import Lengths
from workbench.rlboost.setting import Setting, constant, throughput, usd_per_million
from workbench.rlboost.sim import simulate
from workbench.rlboost.sweep import SweepRow, fixed, sweep

SMALL = Setting(responses=256, lengths=Lengths(mean=1500.0, most=4000))


@pytest.fixture
def counted(monkeypatch):
    """How many simulations were begun, with an empty cache."""
    begun = []
    monkeypatch.setattr(module, "simulate", lambda *args: begun.append(args) or simulate(*args))
    fixed.cache_clear()
    yield begun
    fixed.cache_clear()


def test_a_number_is_simulated_once_whatever_the_discounts(counted):
    first = sweep(SMALL, (0, 1, 3), (0.2, 0.5))
    assert [(r.instances, r.discount) for r in first] == [(n, d) for n in (0, 1, 3) for d in (0.2, 0.5)]
    assert len(counted) == 3
    again = sweep(SMALL, (3, 1, 1), (0.9, 0.1, 0.4), TABLE[3])
    assert len(counted) == 3
    assert [(r.instances, r.discount) for r in again] == [(n, d) for n in (1, 3) for d in (0.1, 0.4, 0.9)]
    assert TABLE[3].name in again[0].priced
    sweep(replace(SMALL, seed=1), (1,), (0.2,))  # the control: another setting is another simulation
    assert len(counted) == 5


def test_its_numbers_are_those_of_the_bill():
    rows = sweep(SMALL, (0, 2), (0.0, 0.746))
    steps, alone = list(fixed(SMALL, 2)), list(fixed(SMALL, 0))
    for row, share in zip(rows[2:], (0.0, 0.746), strict=True):
        paid = rates(PAPER.at_discount(share))
        whole_s = sum(s.seconds for s in steps)
        usd = (83.79 + 2 * (83.79 / 4) * (1 - share)) * whole_s / 3600  # two GPUs of eight each
        assert row.usd_per_million == pytest.approx(1e6 * usd / sum(s.tokens for s in steps), rel=1e-9)
        assert row.usd_per_million == pytest.approx(usd_per_million(steps, paid))
        assert row.throughput_ratio == pytest.approx(throughput(steps) / throughput(alone))
        assert row.cost_efficiency_ratio == pytest.approx(usd_per_million(alone, paid) / row.usd_per_million)
        assert row.instances == 2
    for row in rows[:2]:  # without instances it is co-located, and no discount matters
        assert (row.throughput_ratio, row.cost_efficiency_ratio) == (1.0, 1.0)
        assert math.isnan(row.break_even)
        assert math.isinf(row.t_seed_s)


def test_the_break_even_is_where_the_ratio_is_one():
    for number in (1, 4, 12):
        even = sweep(SMALL, (number,), (0.5,))[0].break_even
        if 0 < even < 1:
            assert sweep(SMALL, (number,), (even,))[0].cost_efficiency_ratio == pytest.approx(1.0, rel=1e-9)
        below, above = (sweep(SMALL, (number,), (d,))[0].cost_efficiency_ratio for d in (0.0, 1.0))
        assert (below < 1) == (even > 0)
        assert above > 1
    ratios = [r.cost_efficiency_ratio for r in sweep(SMALL, (4,))]
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[-1]


def test_its_short_simulation_is_near_the_settled_one():
    """Three steps from a window that is nearly right, against the last six of fourteen from the usual one."""
    from workbench.rlboost.claims import NO_CAP, settled

    alone = throughput(settled(Setting("co-located"), constant(0)))
    for row in sweep(Setting(), (1, 4), (0.7,)):
        long = throughput(settled(Setting(without=NO_CAP), constant(row.instances))) / alone
        assert row.throughput_ratio == pytest.approx(long, rel=0.05)


def test_it_can_be_ended_and_names_what_is_wrong(counted):
    def end(share):
        if share > 0:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sweep(SMALL, (1, 2, 3), (0.5,), tick=end)
    assert len(counted) == 2  # alone and one
    for wrong, says in (
        ({"setting": replace(SMALL, system="doubled")}, "doubled has none"),
        ({"instances": (-1,)}, "from 0 to 64, not -1"),
        ({"instances": (1.5,)}, "from 0 to 64, not 1.5"),
        ({"instances": (99,)}, "not 99"),
        ({"instances": ()}, "at least one"),
        ({"discounts": ()}, "at least one"),
        ({"discounts": (1.2,)}, "between 0 and 1"),
        ({"discounts": (math.nan,)}, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=says):
            sweep(**{"setting": SMALL, "instances": (1,), "discounts": (0.5,)} | wrong)
    assert len(counted) == 2  # refused before anything was simulated
    assert all(isinstance(row, SweepRow) for row in sweep(SMALL, (1,), (0.5,)))

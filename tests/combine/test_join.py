"""Starts of a Foundry run as what it takes to join: equal ones cost the same, endless ones are nobody."""

import math

import pytest

import workbench as wb
from workbench import theme
from workbench.combine import join
from workbench.foundry.config import FoundryConfig
from workbench.foundry.parts import Process, Row
from workbench.foundry.result import FoundryResult
from workbench.rlboost.prices import PAPER
from workbench.rlboost.rates import Lengths
from workbench.rlboost.setting import Setting, constant
from workbench.system import Provenance

SETTING = Setting(responses=64, lengths=Lengths(most=2_000))


@pytest.fixture(scope="module")
def modelled():
    return wb.run("foundry", backend="sim", sim_model="Qwen3-14B", sim_graphs=51)


@pytest.fixture(scope="module")
def found(modelled):
    return join.measure(modelled, hours=2.0, seeds=(0, 1), setting=SETTING)


def test_modelled_starts_leave_the_weights_to_rlboost(modelled):
    starts = {s.way: s for s in join.starts(modelled)}
    ours, captured = starts["Foundry"], starts["vLLM, graphs captured at every start"]
    phases = dict(modelled.phases["capture"])
    assert captured.seconds == pytest.approx(sum(phases.values()) - phases["weights"])
    assert {s.badge for s in starts.values()} == {"modelled"}
    seconds = [s.seconds for s in join.starts(modelled)]
    assert seconds == sorted(seconds) and ours.seconds < captured.seconds


def test_measured_starts_are_until_the_first_size_median_of_rounds(modelled):
    def row(round_, size, ready_s):
        return Row(way="foundry", round=round_, size=size, ready_s=ready_s)

    rows = [row(0, 2, 1.0), row(0, 4, 1.5), row(1, 2, 3.0), row(2, 2, 2.0)]
    process = Process(
        way="foundry", round=0, import_s=0, load_s=0, ready_s=1.5, cpu_s=1, peak_mb=1, disk_mb=1
    )  # fmt: skip
    own = FoundryResult(
        config=FoundryConfig(), provenance=modelled.provenance, rows=rows, processes=[process], held=[]
    )  # fmt: skip
    assert isinstance(own.provenance, Provenance)
    assert join.starts(own) == (join.Start("Foundry, CPU analogue", 2.0, "measured"),)


def test_controls_and_the_price_of_waiting(found):
    assert found.controls_hold
    twin = found.of(join.TWIN)[0]
    assert twin.tok_s == found.of(found.starts[0].way)[0].tok_s
    assert found.of("1800 s")[0].tok_s != twin.tok_s  # the control of the control: another start, other numbers
    assert found.ratio("1800 s") < found.ratio("600 s") < 1
    never = found.of(join.NEVER)[0]
    assert never.usd_per_million > found.of(join.ALONE)[0].usd_per_million  # it is paid all the same


def test_it_is_told_and_drawn(found):
    assert theme.problems(found.figure()) == []
    assert "measured" not in found.sentence() and "modelled" in found.sentence()
    assert set(found.to_frame()["start_badge"]) == {"assumed", "modelled"}
    assert all(math.isfinite(row.tok_s) for row in found.rows)


def test_a_trace_without_a_step_is_named():
    with pytest.raises(ValueError, match="not one step"):
        join.over(join.Start("x", 0.0, "assumed"), SETTING, constant(1, 0.001), 0, 60.0, PAPER)

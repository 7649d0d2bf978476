"""What can be asked: choices are the tables', batches divide, what cannot be names its field and the way out."""

from dataclasses import replace
from typing import get_args

import pytest

from workbench.hetermoe import SYSTEM
from workbench.hetermoe.config import GpuName, ModelName
from workbench.hetermoe.gpus import MODELS, TABLE
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Profile
from workbench.hetermoe.setting import limited, placed, simulated, skewed, spread
from workbench.system import ConfigError


def test_choices_are_what_the_tables_have():
    assert get_args(GpuName) == tuple(row.name for row in TABLE)
    assert set(get_args(ModelName)) - {"own"} == set(MODELS) - {"Mixtral layer"}


@pytest.mark.parametrize(("attention", "expert"), [(1, 1), (2, 1), (1, 3), (4, 3)])
def test_a_measured_batch_divides_among_all_ways(attention, expert):
    """Zebra's micro-batches have a sequence for each attention rank, EP's ranks have equal parts."""
    for length in (256.0, 1000.0, 1024.0):
        c = SYSTEM.make("tiny", backend="cpu", attention=attention, expert=expert, length=length, tokens=2048)
        assert c.sequences % attention == 0 == c.sequences % (attention + expert)
        assert c.sequences // attention >= c.micro_batches


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top_k": 9, "experts": 8}, "top_k: top-9 of 8 experts; lower it, or give more experts"),
        ({"hidden": 30, "heads": 4}, "heads: hidden 30 is not 4 heads of an even width"),
        ({"expert": 0}, "expert: Input should be greater than or equal to 1"),
        ({"attention": 4, "expert": 3, "planner": "greedy"}, "planner: gather and squeeze needs one of 4 .* 'search'"),
        ({"backend": "cpu", "attention": 12, "expert": 6}, "attention: a measured run has at most 16 ranks"),
        ({"backend": "cpu", "length": 65536.0}, "length: the old kind writes attention's scores out, 412 GB"),
        ({"backend": "cuda"}, "backend: Input should be"),
    ],
)
def test_what_cannot_be_is_said(changes, said):
    with pytest.raises(ConfigError, match=said):
        SYSTEM.make("tiny", **changes)


def test_settings_of_the_other_kind_of_run_are_named():
    assert SYSTEM.make("small", model="W2", spot=True).unused(simulated=False) == ["model", "spot"]
    assert SYSTEM.make("paper", rounds=9, layers=5).unused(simulated=True) == ["layers", "rounds"]
    assert SYSTEM.make("paper", model="own", layers=5).unused(simulated=True) == []


def test_experts_are_moved_evenly_over_layers():
    assert spread(0.39, 3, 6) == (2, 2, 3)
    assert (spread(0, 4, 6), spread(1, 4, 6)) == ((0,) * 4, (6,) * 4)
    config = SYSTEM.make("tiny", moved_pct=39)
    assert placed(config, simulated(config)).plan.offload == (2, 2, 3)
    greedy = placed(SYSTEM.make("tiny", planner="greedy"), simulated(config))
    assert sum(greedy.plan.offload) % 2 == 0  # whole chunks


def test_routing_is_drawn_by_the_seed_and_prices_are_dated():
    setting = simulated(SYSTEM.make("tiny", skew=1.0))
    shares = skewed(setting.model, 1.0, seed=0)
    assert shares == setting.load.shares != skewed(setting.model, 1.0, seed=1)
    assert all(sum(row) == pytest.approx(1) and max(row) == pytest.approx(6 * min(row)) for row in shares)
    assert "A100 40 GB $2.93/h (2023, GCP" in setting.told
    assert "A40: no on-demand price is known" in simulated(SYSTEM.make("paper")).told
    given = simulated(SYSTEM.make("paper", new_usd_h=1.5))
    assert given.fleet.usd_h == {"A40": 1.5, "V100": 2.48}
    assert "A40 $1.50/h (this run, given with it)" in given.told


def test_files_of_another_model_or_none_are_refused(tmp_path):
    """A profile that one run wrote is taken by the next, and refused by another model."""
    config = SYSTEM.make("tiny")
    mine, missing = tmp_path / "profile.json", tmp_path / "none.json"
    mine.write_text(simulated(config).profile.to_json())
    again = simulated(SYSTEM.make("tiny", profile_file=str(mine)))
    assert again.profile == simulated(config).profile
    with pytest.raises(PlanError, match=r"this profile was made for model .*: make one for this model"):
        simulated(SYSTEM.make("tiny", profile_file=str(mine), layers=4))
    with pytest.raises(PlanError, match=r"profile_file: .*none.json cannot be read"):
        simulated(SYSTEM.make("tiny", profile_file=str(missing)))
    mine.write_text("{")
    with pytest.raises(PlanError, match="this is not JSON"):
        simulated(SYSTEM.make("tiny", profile_file=str(mine)))


def test_a_limited_kind_takes_longer_and_the_other_as_long():
    profile = simulated(SYSTEM.make("tiny")).profile
    slow = limited(profile, "V100", 0.25)
    assert slow.device("V100").expert(100) == pytest.approx(4 * profile.device("V100").expert(100))
    assert slow.device("V100").attention(4096, 4096) == pytest.approx(4 * profile.device("V100").attention(4096, 4096))
    assert slow.device("A100 40 GB") == profile.device("A100 40 GB")


def test_a_profile_is_limited_once():
    """A run's profile that the next one is given; also behind a file, and never to another share."""
    profile = replace(simulated(SYSTEM.make("tiny")).profile, note="cores 0 and 1")
    slow = limited(profile, "V100", 0.25)
    assert limited(slow, "V100", 0.25) == slow != profile
    assert limited(Profile.from_json(slow.to_json()), "V100", 0.25) == slow
    assert slow.note == "cores 0 and 1; V100 limited to 0.25 of a core"
    for share in (0.5, 0.2, 0.025):
        with pytest.raises(
            PlanError, match=rf"has .*V100 limited to 0\.25 of a core, not {share}: give old_share that"
        ):
            limited(slow, "V100", share)
    both = limited(slow, "A100 40 GB", 0.5)  # another kind is none of it
    assert both.device("A100 40 GB").expert(100) == pytest.approx(2 * profile.device("A100 40 GB").expert(100))

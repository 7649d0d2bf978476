"""Zones: traces of several, made, merged and read from a folder; what an instance of each costs; wrong settings."""

import json
import math
import os
import statistics
from pathlib import Path

import pytest

from workbench.prices import Price
from workbench.rlboost import SYSTEM
from workbench.rlboost.events import Event, Trace, merged, zone_of
from workbench.rlboost.prices import PAPER, SPREAD, drawn, over, write
from workbench.rlboost.rates import Lengths
from workbench.rlboost.setting import Setting
from workbench.rlboost.sim import simulate
from workbench.rlboost.simulate import trace_of
from workbench.rlboost.traces import G4DN, TraceError, made, read

ZONED = Path(os.environ.get("WORKBENCH_DATA", "/nowhere")) / "spot/skypilot/availability/1-node/aws-02-15-2023"


# -- traces of zones -------------------------------------------------------------------------------------------------


def test_a_made_trace_of_zones():
    one = made(G4DN, 2, 5)
    assert (len(one.events), one.zones()) == (46, [""])
    assert sum(e.time_s for e in one.events) == pytest.approx(123131.25713434626)  # as before there were zones
    assert made(G4DN, 2, 5, zones=1) == one
    three = made(G4DN, 48, 5, zones=3)
    assert three.zones() == ["a", "b", "c"]
    assert "3 zones" in three.source
    assert [e.time_s for e in three.events] == sorted(e.time_s for e in three.events)
    assert statistics.mean(made(G4DN, 48, s, 3).mean() for s in range(4)) == pytest.approx(G4DN.mean, rel=0.15)
    alone = [[(e.time_s, e.kind) for e in three.events if zone_of(e.instance) == zone] for zone in "abc"]
    assert alone[0] != alone[1] != alone[2] != alone[0]  # weather of its own
    assert made(G4DN, 2, 5, 3) == made(G4DN, 2, 5, 3) != made(G4DN, 2, 6, 3)
    for zones in (0, 9):
        with pytest.raises(ValueError, match=f"zones of a made trace are 1 to 8, not {zones}"):
            made(G4DN, 2, 5, zones)


def test_a_folder_is_a_trace_of_its_zones(tmp_path):
    with pytest.raises(TraceError, match="no trace is in it; a folder has a file a zone"):
        read(tmp_path)
    (tmp_path / "README.md").write_text("which is no trace")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "us-east-1a_v100_1.json").write_text('{"metadata": {"gap_seconds": 60}, "data": [0, 0, 1, 0]}')
    (tmp_path / "mine_x.csv").write_text("time_s,event,instance\n0,add,n/1\n60,add,n2\n180,remove,n/1\n")
    trace = read(tmp_path)
    assert trace.zones() == ["mine", "us-east-1a"]
    assert trace.end_s == 180.0  # of the shorter
    assert trace.events == (
        Event(0.0, "add", "mine/n/1"), Event(0.0, "add", "us-east-1a/i1"), Event(60.0, "add", "mine/n2"),
        Event(120.0, "remove", "us-east-1a/i1"),
    )  # fmt: skip
    assert f"{tmp_path.name}, 2 zones" in trace.source
    (tmp_path / "mine_y.csv").write_text("0,1\n")
    with pytest.raises(TraceError, match=r"mine_x.csv and mine_y.csv are both of zone mine; .* move one away"):
        read(tmp_path)
    (tmp_path / "mine_y.csv").write_text("hello")
    (tmp_path / "mine_x.csv").unlink()
    with pytest.raises(TraceError, match=r"mine_y.csv, line 1: no trace that is known"):
        read(tmp_path)
    for zones in ({}, {"a/b": trace}, {"": trace}):
        with pytest.raises(ValueError, match="zones have names without"):
            merged(zones, "none")


@pytest.mark.skipif(not ZONED.is_dir(), reason="WORKBENCH_DATA has no spot traces")
def test_a_recorded_folder():
    whole = read(ZONED)
    files = {file.name.partition("_")[0]: json.loads(file.read_text()) for file in ZONED.glob("*.json")}
    assert whole.zones() == sorted(files)
    assert len(files) == 9
    assert whole.end_s == min(len(f["data"]) * f["metadata"]["gap_seconds"] for f in files.values())
    for zone, file in files.items():  # 0: it could be had
        known = file["data"][: int(whole.end_s / file["metadata"]["gap_seconds"])]
        own = Trace(tuple(e for e in whole.events if zone_of(e.instance) == zone), whole.end_s, zone)
        assert own.mean() == pytest.approx(known.count(0) / len(known), abs=1e-6)
    setting = Setting(responses=256, lengths=Lengths(mean=1500.0, most=4000), choice="worth")
    assert list(simulate(setting, whole.part(0.0, 3600.0)))


# -- prices of zones -------------------------------------------------------------------------------------------------


def test_made_prices_are_within_their_spread_and_by_the_seed():
    config = SYSTEM.make("small", zones=8, seed=3)
    zones = trace_of(config).zones()
    found, said = config.zone_prices(zones)
    assert list(found) == zones == list("abcdefgh")
    assert all(1 - SPREAD <= price <= 1 + SPREAD for price in found.values())
    assert len({round(price, 3) for price in found.values()}) > 4
    assert found == drawn(zones, 3) != drawn(zones, 4)
    assert "made by seed 3, within 30 %" in said
    assert SYSTEM.make("small").zone_prices([""]) == ({}, "")


def test_rows_called_as_zones_are_their_prices(tmp_path):
    file = tmp_path / "prices.csv"
    a, b = Price("a", 8, 80.0, 16.0, "2026-10", "bill"), Price("b", 1, 10.0, math.nan, "2026-10", "bill")
    write(file, [Price("mine", 1, 10.0, 4.0, "2026-10", "bill"), a])
    config = SYSTEM.make("small", zones=3, price_file=str(file), price="mine")
    assert config.zone_prices(list("abc"))[0] == {"a": 0.5, "b": 1.0, "c": 1.0}  # 2 $/h a GPU over 4
    half = config.model_copy(update={"discount": 0.5})
    assert half.zone_prices(list("abc"))[0] == {"a": 1.0, "b": 1.0, "c": 1.0}  # 5 $/h both
    assert "made by seed 0" in config.zone_prices(["x", "y"])[1]
    found, said = SYSTEM.make("small", trace="folder", price_file=str(file), price="mine").zone_prices(["x", "y"])
    assert found == {"x": 1.0, "y": 1.0}
    assert "every zone has the same price" in said
    with pytest.raises(ValueError, match="price_file: zone b has no price of a spot machine: say which discount"):
        over(PAPER, [a, b])
    with pytest.raises(ValueError, match=r"price: .* is free, and zone a is not"):
        over(PAPER.at_discount(1.0), [a])
    assert over(PAPER.at_discount(1.0), [a], 1.0) == {"a": 1.0}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"zones": 9}, "zones: "),
        ({"zones": 2, "weather": "steady"}, "zones: a steady trace has one; take weather g4dn or p3, or 1 zone"),
        ({"zones": 2, "trace": "mine.csv"}, "zones: a trace of a file has its own; leave zones at 1"),
        ({"zones": 2, "address": "auto", "kills": 0}, "zones: nodes of your own cluster have no zone"),
        ({"choice": "luck"}, "choice: "),
    ],
)
def test_bad_settings_name_their_field(changes, named):
    with pytest.raises(ValueError, match="rlboost: ") as caught:
        SYSTEM.make("tiny", **changes)
    assert named in str(caught.value)


def test_a_simulators_bad_choice_and_price_are_named():
    with pytest.raises(ValueError, match="choice is one of first, price, worth, not 'luck'"):
        Setting(choice="luck")
    for price in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="prices: zone a costs 0 or more of the run's price"):
            Setting(prices=(("a", price),))

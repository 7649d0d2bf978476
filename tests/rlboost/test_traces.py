"""Traces of five kinds, what is wrong in them, cutting and sampling, the generator; prices and their edits."""

import math
import os
import re
import statistics
from datetime import date
from pathlib import Path

import pytest

from workbench.rlboost import prices
from workbench.rlboost.traces import G4DN, P3, Event, Trace, TraceError, Weather, made, read

SPOT = Path(os.environ.get("WORKBENCH_DATA", "/nowhere")) / "spot"
data = pytest.mark.skipif(not SPOT.is_dir(), reason="WORKBENCH_DATA has no spot traces")
FILES = {
    "bamboo": "0,add,n1\n60000,add,n2\n120000,remove,n1\n",
    "parcae": '[0, "add", {"nodes": ["n1"]}]\n[60000, "add", {"nodes": ["n2"]}]\n[90000, "no-op", {"nodes": []}]\n'
    '[120000, "remove", {"nodes": ["n1"]}]\n',
    "own": "time_s,event,instance\n0,add,n1\n60,add,n2\n120,remove,n1\n",
    "counts": "0,1\n60,2\n120,1\n",
    "dated": "2021-12-11, 11:00:00, 1\n2021-12-11, 11:01:00, 2\n2021-12-11, 11:02:00, 1\n",
    "skypilot": '{"metadata": {"gap_seconds": 60}, "data": [1, 2, 1]}',
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_reads_to_the_same_counts(tmp_path, kind):
    file = tmp_path / f"{kind}.trace"
    file.write_text(FILES[kind])
    trace = read(file)
    assert trace.counts() == [(0.0, 1), (60.0, 2), (120.0, 1)]
    assert trace.source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: the file is empty"),
        ("0,add,n1\n5,vanish,n1\n", "line 2: not 'milliseconds,add"),
        ("0,add,n1\nx,add,n2\n", "line 2: 'x' is no number"),
        ("0,add,n1\n-5,add,n2\n", "line 2: '-5' is below 0"),
        ("0,add,n1\ninf,add,n2\n", "line 2: 'inf' is no finite number"),
        ("0,add,n1\nnan,add,n2\n", "line 2: 'nan' is no finite number"),
        ("0,add,n1\n5,add,\n", "line 2: not 'milliseconds"),
        ("0,add,n1\n\n5,add,n1\n", "line 3: n1 is there already at 0.005 s, since line 1; remove it"),
        ("9,add,n2\n0,remove,n1\n", "line 2: n1 is not there at 0 s; add it first"),
        ('[0, "add", {"nodes": ["a"]}]\n[0, "add"]\n', "line 2: not such an event"),
        ('[0, "add", {"nodes": ["a"]}]\n[0, "add", {"nodes": "ab"}]\n', "line 2: nodes are no list"),
        ('[0, "add", {"nodes": ["a"]}]\n[Infinity, "remove", {"nodes": ["a"]}]\n', "line 2: inf is no finite"),
        ('[0, "melt", {"nodes": ["a"]}]\n', "line 1: neither add nor remove but 'melt'"),
        ('[0, "no-op", {"nodes": []}]\n', "line 1: nobody comes or goes"),
        ("time_s,event,instance\n0,add,\n", "line 2: needs time_s"),
        ("time_s,event,instance\n0,add,a\ninf,add,b\n", "line 3: 'inf' is no finite"),
        ("time_s,event\n0,add\n", "line 1: needs a column instance"),
        ("time_s,event,instance\n", "line 1: nobody comes or goes"),
        ('{"metadata": {}, "data": []}', "line 1: no SkyPilot trace: KeyError at 'gap_seconds'"),
        ('{"metadata":\n {"gap_seconds": 60},\n "data": [1, 2,', "line 3: no JSON"),
        ('{"metadata":\n {"gap_seconds": 0},\n "data": [1]}', "line 2: gap_seconds is 0"),
        ('{"metadata":\n {"gap_seconds": NaN},\n "data": [1]}', "line 2: nan is no finite"),
        ('{"metadata": {"gap_seconds": 60},\n "data": []}', "line 2: data are empty"),
        ('{"metadata": {"gap_seconds": 60},\n "data": [1,\n 2,\n -3]}', r"line 4: data\[2\] -3 is below 0"),
        ('{"metadata": {"gap_seconds": 60},\n "data": [1,\n 1.5]}', r"line 3: data\[1\] 1.5 is no whole number"),
        ('{"metadata": {"gap_seconds": 60},\n "data": [1,\n null]}', r"line 3: data\[1\] None is no number"),
        ("0,1\n60,2.5\n", "line 2: '2.5' is no whole number"),
        ("0,1\n60,inf\n", "line 2: 'inf' is no finite"),
        ("0,1\n60,1639221090\n", "line 2: '1639221090' instances are more than"),
        ("2021-12-11, 11:00:00, 1\n2021-12-11, 10:00:00, 2\n", "line 2: 2021-12-11 10:00:00 is before the first"),
        ("2021-13-11, 11:00:00, 1\n", "line 1: no date"),
        ("hello\n", "line 1: no trace that is known"),
    ],
)
def test_a_malformed_trace_names_its_line(tmp_path, text, says):
    file = tmp_path / "bad.trace"
    file.write_text(text)
    with pytest.raises(TraceError, match=says) as caught:
        read(file)
    place, _, way_out = str(caught.value).partition("; ")
    assert re.match(rf"{re.escape(str(file))}, line \d+: ", place)
    assert way_out


def test_bytes_that_are_no_text_and_a_unit_that_is_none(tmp_path):
    file = tmp_path / "bad.trace"
    file.write_bytes(b"0,add,n1\n5,add,\xff\n")
    with pytest.raises(TraceError, match=r"line 2: no text .*; save the trace as UTF-8"):
        read(file)
    file.write_text("0,1\n5,2\n")
    for unit_s in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="a unit of time"):
            read(file, unit_s)
    assert read(file, 60.0).end_s == 300.0


@data
def test_real_traces_have_their_known_statistics():
    p3, g4dn = read(SPOT / "bamboo" / "p3-trace.csv"), read(SPOT / "bamboo" / "g4dn-trace.csv")
    assert sum(e.kind == "add" for e in p3.events) == 177
    assert sum(e.kind == "remove" for e in p3.events) == 167
    assert p3.mean() == pytest.approx(24.0, abs=0.1)
    assert statistics.median(p3.lifetimes_s()) == pytest.approx(59 * 60, abs=60)
    assert max(n for _, n in g4dn.counts()) == 24
    assert statistics.median(g4dn.lifetimes_s()) == pytest.approx(61 * 60, abs=60)
    for file in [*SPOT.glob("parcae/*.jsonl"), *SPOT.glob("bamboo/*.txt"), *SPOT.glob("skypilot/**/*.json")]:
        trace = read(file)
        assert trace.end_s > 0, file
        assert min(n for _, n in trace.counts()) >= 0, file
    hours = read(SPOT / "bamboo" / "aws-p2-xlarge-2020-11-20-to-23.csv", unit_s=3600.0)
    assert 24 < hours.end_s / 3600 < 100


def test_parts_and_samples():
    trace = made(P3, 6, seed=1)
    part = trace.part(3600, 7200)
    assert part.end_s == 3600
    at = max(n for n in range(len(trace.counts())) if trace.counts()[n][0] <= 3600)
    assert part.counts()[0][1] == trace.counts()[at][1]
    half = trace.sample(0.5, seed=3)
    assert {e.instance for e in half.events} < {e.instance for e in trace.events}
    assert 0.3 * trace.mean() < half.mean() < 0.7 * trace.mean()
    assert trace.sample(0.5, 3) == half != trace.sample(0.5, 4)
    drawn = made(P3, 2.0, seed=3)
    assert [drawn.sample(0.5, seed).source.count("seed") for seed in (3, 4)] == [1, 2]  # one seed is said once
    quick = trace.faster(60)
    assert quick.end_s == pytest.approx(360)
    assert quick.mean() == pytest.approx(trace.mean())
    for bad in (lambda: trace.part(5, 5), lambda: trace.sample(1.5, 0), lambda: trace.faster(0)):
        with pytest.raises(ValueError, match="not"):
            bad()


@pytest.mark.parametrize("weather", [P3, G4DN], ids=["p3", "g4dn"])
def test_made_traces_have_the_statistics_they_are_made_for(weather):
    traces = [made(weather, 48, seed) for seed in range(6)]
    assert statistics.mean(t.mean() for t in traces) == pytest.approx(weather.mean, rel=0.1)
    lives = [life for t in traces for life in t.lifetimes_s()]
    assert statistics.median(lives) == pytest.approx(weather.median_life_s, rel=0.15)
    for trace in traces:
        assert max(n for _, n in trace.counts()) <= weather.most
        assert [e.time_s for e in trace.events] == sorted(e.time_s for e in trace.events)
    at_once = [
        sum(e.kind == "remove" and e.time_s == t for e in traces[0].events)
        for t in {e.time_s for e in traces[0].events}
    ]
    assert max(at_once) > 1  # bulk removals
    assert made(weather, 2, 5) == made(weather, 2, 5) != made(weather, 2, 6)
    with pytest.raises(ValueError, match="mean number"):
        Weather(most=4, mean=5.0)


def test_a_trace_that_never_has_anybody():
    empty = Trace((), 3600.0, "nobody")
    assert empty.mean() == 0
    assert empty.counts() == [(0.0, 0)]
    assert Trace((Event(10.0, "add", "a"),), 20.0, "one").mean() == 0.5


# -- prices ----------------------------------------------------------------------------------------------------------


def test_the_papers_prices():
    assert prices.PAPER.discount == pytest.approx(0.746, abs=0.001)
    paid = prices.rates(prices.PAPER)
    assert paid.reserved_usd_h == pytest.approx(83.79)
    assert paid.instance_usd_h == pytest.approx(5.32)
    assert paid.cost_usd(3600, 2 * 3600) == pytest.approx(83.79 + 2 * 5.32)
    assert "2025-09" in paid.told
    assert prices.PAPER.at_discount(0.3).discount == pytest.approx(0.3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        prices.PAPER.at_discount(1.2)
    with pytest.raises(ValueError, match="no preemptible price"):
        prices.rates(prices.TABLE[1])
    assert all(p.on and p.source for p in prices.TABLE)
    assert prices.age_days(prices.PAPER, date(2026, 9, 1)) == 365
    assert math.isnan(prices.age_days(prices.TABLE[0].__class__("x", 1, 1, 1, "long ago", "me"), date(2026, 1, 1)))


def test_a_table_of_ones_own(tmp_path):
    file = tmp_path / "prices.csv"
    prices.write(file, prices.TABLE)
    again = prices.read(file)
    assert [p.name for p in again] == [p.name for p in prices.TABLE]
    assert math.isnan(again[1].spot_usd_h)
    lines = file.read_text().splitlines()
    for damage, says in (
        ([*lines[:2], "H100,1,-3,1,2026,me"], "line 3: H100: on_demand_usd_h is -3"),
        ([*lines[:2], "H100,1,3,1,,me"], "line 3: H100: a price needs its date"),
        ([*lines[:2], "H100,x,3,1,2026,me"], "line 3"),
        (["name,gpus"], "needs the columns"),
    ):
        file.write_text("\n".join(damage))
        with pytest.raises(ValueError, match=says):
            prices.read(file)
    with pytest.raises(ValueError, match="cannot be read"):
        prices.read(tmp_path / "none.csv")


def test_a_trace_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"mine\.csv cannot be read: No such file or directory; give a trace"):
        read(tmp_path / "mine.csv")

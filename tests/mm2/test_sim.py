"""The modelled schedule: bounds hold, each part of the design is worth what it should be, nothing gets lost."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from workbench.mm2 import plan, shape, sim
from workbench.mm2.config import BASELINES, Mm2Config

MI210 = sim.DEVICES["MI210"]
LOST = 1.01  # the full design may be this much behind an ablation: greedy orders are not the best ones
NEAR = 1.25  # and this much above a bound that counts each segment at its shortest and at its cheapest


def segments_of(sizes, rows=400, reads=1):
    """Segments of these numbers of anchors, each anchor with up to `rows` predecessors; as many reads."""
    parts = [shape.segments(np.minimum(np.arange(n), rows), read=k * reads // len(sizes)) for k, n in enumerate(sizes)]
    return shape.joined(parts)


@pytest.fixture(scope="module")
def real():
    """Segments of real seeding, with and without satellites, by name."""
    found = {}
    for name, changes in {
        "plain": {"satellite_kbp": 0.0},
        "satellites": {"satellite_kbp": 40.0, "length_kbp_min": 10.0},
        "few errors": {"satellite_kbp": 20.0, "error_pct": 1.0},
    }.items():
        config = Mm2Config(megabases=1.5, **changes)
        parts, lengths = plan.sample(config)
        found[name] = parts, np.array(lengths)
    return found


@pytest.mark.parametrize("device", sim.DEVICES.values(), ids=sim.DEVICES)
@pytest.mark.parametrize("megabases", [3, 20, 100])
@pytest.mark.parametrize("name", ["plain", "satellites", "few errors"])
def test_the_full_design_is_never_behind_on_real_segments(real, name, megabases, device):
    parts, lengths = real[name]
    batch = shape.drawn(parts, lengths, megabases * 1e6, seed=megabases)
    ends = sim.ablations(batch, device)
    full = ends["full design"]
    for other in ends.values():
        assert other.makespan_s >= other.bound_s - 1e-12  # critical path, and work over units
        assert full.makespan_s <= LOST * other.makespan_s
    assert full.makespan_s <= NEAR * full.bound_s


@pytest.mark.parametrize("lost", ["split", "longest_first", "persistent", "pooled", "segmented"])
def test_each_part_is_worth_something_somewhere(lost):
    """A batch made so that this part matters: without it the end comes at least a tenth later."""
    giant, many = [400_000], [15_000] * 208
    sizes = {
        "split": giant + [12_000] * 20,
        "longest_first": [12_000] * 300 + [200_000],
        "persistent": [60_000, *[12_000] * 103] * 3,  # every long one would be the first unit's
        "pooled": many,
        "segmented": [11_000] * 104,
    }[lost]
    base = sim.Design(split=lost == "split", longest_first=lost != "persistent")
    parts = segments_of(sizes, reads=4 if lost in ("pooled", "segmented") else 1)
    full = sim.schedule(parts, MI210, base)
    without = sim.schedule(parts, MI210, replace(base, **{lost: False}))
    assert without.makespan_s >= 1.1 * full.makespan_s


def test_an_ablation_takes_one_part_out():
    full = vars(sim.Design())
    lost = {name: [k for k, v in vars(design).items() if v != full[k]] for name, design in sim.ABLATIONS.items()}
    assert lost.pop("full design") == []
    assert sorted(lost.pop("none of these")) == ["longest_first", "persistent", "pooled", "split"]
    assert [len(parts) for parts in lost.values()] == [1] * 5
    changed = [changes for changes in BASELINES.values() if not {"mode", "kernel"} & changes.keys()]
    asked = [sim.design_of(Mm2Config(**changes)) for changes in changed]
    assert {name for name in lost if sim.ABLATIONS[name] in asked} == set(lost)  # a baseline is the same as its bar


def test_even_work_needs_no_design():
    """The control: with as many equal segments as units, in one launch, nothing but pooling is worth anything."""
    parts = segments_of([20_000] * 104)
    ends = {name: sim.schedule(parts, MI210, replace(design, split=False)) for name, design in sim.ABLATIONS.items()}
    same = {ends[name].makespan_s for name in ("full design", "not sorted", "not persistent")}
    assert max(same) - min(same) < 1e-12
    assert ends["full design"].makespan_s == pytest.approx(ends["full design"].bound_s)


def test_costs_by_hand():
    one = shape.segments(np.array([0, 1, 2, 3]))  # rows of 3, 2, 1 and 0 successors
    warp = MI210.instructions * 64 / MI210.lanes
    assert MI210.row_cycles(one, 1024)[0] == 3 * warp + 3 * MI210.latency + 4 * MI210.barrier
    assert MI210.row_cycles(one, 64)[0] == 3 * warp + 3 * MI210.latency + 4 * 4
    assert MI210.row_cycles(one, 64, sharing=1000)[0] == 3000 * warp  # a full unit is held up by what it issues
    long = segments_of([50_000])
    assert MI210.shared_s(50_000, long.pairs[0], 4) < MI210.shared_s(50_000, long.pairs[0], 2)


def test_every_segment_is_worked_on_once():
    parts = segments_of([20_000, 30_000, 11_000, 500, 4000, 90_000], reads=3)
    small = replace(MI210, units=sim.SPAN_LANES)  # so that the timeline shows all units
    for design in sim.ABLATIONS.values():
        done = sim.schedule(parts, small, design, trace=True)
        long = [s for s in done.spans if s.lane.startswith("unit")]
        whole = parts if design.segmented else shape.whole_reads(parts)
        want = sorted(int(n) for n in whole.anchors if n > shape.MID)
        seen = {(s.label, s.start_s, s.why["anchors"]) for s in long}
        on_units = sorted(anchors for _, _, anchors in seen)
        assert [n for n in on_units if n > shape.MID] == want
        assert all(n > shape.SHORT for n in on_units)  # mid ones may join the long ones
        small_ones = sum(s.why["segments"] for s in done.spans if s.lane.endswith("kernel"))
        assert small_ones + len(on_units) == len(whole)
        for unit in {s.lane for s in long}:
            own = sorted((s.start_s, s.end_s) for s in long if s.lane == unit)
            assert all(before[1] <= after[0] + 1e-12 for before, after in itertools.pairwise(own))
        assert max(s.end_s for s in done.spans) == pytest.approx(done.makespan_s)
        assert done.busy_units[-1][1] == 0
        assert max(level for _, level in done.busy_units) <= small.units


def test_longest_first_and_as_they_came():
    parts = segments_of([20_000, 90_000, 40_000])
    for design, order in (
        (sim.Design(split=False), [1, 2, 0]),
        (sim.Design(split=False, longest_first=False), [0, 1, 2]),
    ):
        spans = sim.schedule(parts, MI210, design, trace=True).spans
        tickets = sorted((s.why["ticket"], s.label) for s in spans if s.lane.startswith("unit"))
        assert [label for _, label in tickets] == [f"segment {k}" for k in order]


def test_nothing_to_do():
    done = sim.schedule(shape.joined([]), MI210, trace=True)
    assert (done.makespan_s, done.bound_s, done.spans, done.busy_units) == (0, 0, [], [])


def test_what_a_config_asks_for():
    config = Mm2Config(persistent=False, segmented=False)
    assert sim.design_of(config) == sim.Design(segmented=False, persistent=False)
    assert sim.design_of(Mm2Config()) == sim.Design()

"""Fleets through a burst: queues by hand, the same requests for all, who misses how many, and what spares cost."""

import math
import random
from dataclasses import replace

import pytest

from workbench.foundry import fleet as fleets
from workbench.foundry.fleet import Fleet, Traffic, compare, spares_for, sweep_ladder, sweep_starts
from workbench.foundry.sim import Setting
from workbench.foundry.sim_fleet import simulate

SETTING, TRAFFIC, FLEET = Setting("Qwen3-14B"), Traffic(), Fleet()


@pytest.fixture(scope="module")
def found():
    return compare(SETTING, TRAFFIC, FLEET)


class By(Traffic):
    """Arrivals by hand."""

    def arrivals(self):
        return [(0.0, 100.0), (0.0, 100.0), (0.5, 100.0), (3.0, 100.0)]


def test_a_queue_by_hand():
    """One slot, one second each: 0 to 1, 1 to 2, 2 to 3, 3 to 4; a second replica never comes."""
    fleet = Fleet(slots=1, token_ms=10.0, prefill_s=0.0, most=1, slo_s=1.2, patience_s=5.0)
    traffic = By(rate_s=0.1, burst=1.0, burst_at_s=0, burst_for_s=0, horizon_s=10, tokens=100)
    out = simulate(traffic, fleet, 0.0)
    assert out.first_token_s == pytest.approx((0.0, 0.0, 1.0, 1.5))
    assert (out.requests, out.late, out.lost) == (4, 1, 0)
    assert out.gpu_h == pytest.approx(10 / 3600)
    assert simulate(traffic, fleet, 0.0, gpus=8).gpu_h == pytest.approx(80 / 3600)
    short = simulate(traffic, replace(fleet, patience_s=1.2), 0.0)
    assert (short.requests, short.late, short.lost) == (4, 0, 1)  # the third has left after 1.2 s
    two = simulate(traffic, replace(fleet, most=2, load=1.0, look_s=0.1), 0.3)  # a second one from 0.4 s on
    assert two.first_token_s == pytest.approx((0.0, 0.0, 0.4, 0.5), abs=0.11)
    assert two.peak == 2


def test_arrivals_are_poisson_with_a_burst():
    traffic = Traffic(rate_s=20.0, burst=5.0, burst_at_s=100, burst_for_s=100, horizon_s=300, tokens=50.0)
    made = traffic.arrivals()
    times = [at for at, _ in made]
    assert times == sorted(times)
    inside = sum(100 <= at < 200 for at in times)
    for count, expected in ((inside, 10_000), (len(times) - inside, 4_000)):
        assert abs(count - expected) < 5 * math.sqrt(expected)
    assert sum(tokens for _, tokens in made) / len(made) == pytest.approx(50, rel=0.05)
    assert made == traffic.arrivals() != replace(traffic, seed=1).arrivals()
    calm = sum(100 <= at < 200 for at, _ in replace(traffic, burst=1.0).arrivals())
    assert abs(calm - 2_000) < 5 * math.sqrt(2_000)


def test_nobody_is_counted_twice_or_forgotten(found):
    arrived = len(TRAFFIC.arrivals())
    for out in found.values():
        assert out.requests == arrived == len(out.first_token_s) + out.lost
        assert sum(life.served for life in out.lives) == arrived - out.lost
        assert min(out.first_token_s) >= FLEET.prefill_s
        assert max(out.first_token_s) <= FLEET.patience_s + FLEET.prefill_s
        assert all(0 <= life.asked_s <= life.end_s <= TRAFFIC.horizon_s for life in out.lives)
        assert out.gpu_h == pytest.approx(sum(life.end_s - life.asked_s for life in out.lives) / 3600)
        assert max(ready + starting for _, ready, starting, _ in out.counts) <= FLEET.most


def test_the_faster_start_misses_fewer_and_costs_less(found):
    capture, eager, foundry = (found[arm] for arm in ("capture", "eager", "foundry"))
    assert foundry.start_s < eager.start_s < capture.start_s
    assert foundry.missed < eager.missed < capture.missed
    assert (foundry.lost, capture.lost > 0) == (0, True)
    assert foundry.gpu_h < capture.gpu_h  # a queue that grows while replicas start asks for more of them
    assert capture.peak > foundry.peak
    assert compare(SETTING, TRAFFIC, FLEET, ("capture",))["capture"] == capture  # the same seed, the same fleet


def test_without_a_burst_nobody_is_missed(found):
    """The control: the ways to start differ by the burst only."""
    calm = compare(SETTING, replace(TRAFFIC, burst=1.0), replace(FLEET, load=0.5), ("capture", "foundry"))
    assert [out.missed for out in calm.values()] == [0.0, 0.0]
    assert found["capture"].missed > 0.1


def test_more_seconds_to_start_miss_more():
    rows = sweep_starts(TRAFFIC, FLEET, (0, 10, 40, 160))
    missed = [row["missed (%)"] for row in rows]
    assert missed == sorted(missed)
    assert missed[0] == 0 < 40 < missed[-1]


def test_spares_buy_what_a_fast_start_gives(found):
    spares = spares_for(SETTING, TRAFFIC, FLEET)
    assert spares.spares > 0
    assert spares.outcome.missed <= found["foundry"].missed
    less = compare(SETTING, TRAFFIC, replace(FLEET, spare=spares.spares - 1), ("capture",))["capture"]
    assert less.missed > found["foundry"].missed  # one fewer does not do
    assert spares.gpu_h_day == 24 * spares.spares
    eight = spares_for(replace(SETTING, ranks=8), TRAFFIC, FLEET, target=spares.outcome.missed)
    assert eight.gpu_h_day == 24 * 8 * eight.spares
    assert spares_for(SETTING, TRAFFIC, FLEET, "foundry").spares == 0
    never = spares_for(SETTING, replace(TRAFFIC, burst=30.0, burst_for_s=20), replace(FLEET, most=3), target=0.0)
    assert never.spares is None
    assert math.isinf(never.gpu_h_day)


def test_switching_is_what_changes_of_the_batch_cost(found):
    assert 0 < found["foundry"].switching < 0.05
    assert found["capture"].switching == 0.0
    coarse = compare(replace(SETTING, sizes=8), TRAFFIC, FLEET, ("foundry",))["foundry"]
    assert coarse.switching == 0.0  # batches up to 64 run one graph, so 16 slots never change it
    twice = simulate(TRAFFIC, FLEET, 9.0, sizes=range(1, 513), update_s=0.002)
    once = simulate(TRAFFIC, FLEET, 9.0, sizes=range(1, 513), update_s=0.001)
    assert twice.switching == pytest.approx(2 * once.switching)


def test_a_ladder_is_worth_what_it_costs_to_capture():
    rows = {(row["sizes"], row["way"]): row for row in sweep_ladder(SETTING, TRAFFIC, FLEET)}
    assert rows[512, "capture"]["missed (%)"] > rows[51, "capture"]["missed (%)"]
    gap = {n: rows[n, "capture"]["missed (%)"] - rows[n, "foundry"]["missed (%)"] for n in (1, 512)}
    assert gap[512] > gap[1] > 0
    assert rows[1, "foundry"]["about"] == fleets.ARMS["foundry"]


def test_spans_are_replicas(found):
    spans = found["capture"].spans()
    starting = [span for span in spans if span.kind == "start"]
    assert starting[0].end_s - starting[0].start_s == pytest.approx(found["capture"].start_s)
    assert len({span.lane for span in spans}) == len(found["capture"].lives)
    assert all(0 <= span.start_s < span.end_s <= TRAFFIC.horizon_s for span in spans)


def test_any_small_fleet_ends_and_counts():
    """Random settings, extremes among them."""
    for seed in range(40):
        draw = random.Random(seed)
        traffic = Traffic(
            draw.choice((0.1, 3.0)), draw.choice((0.5, 8.0)), 5.0, draw.choice((0.0, 10.0)), 20.0,
            draw.choice((1.0, 300.0)), seed,
        )  # fmt: skip
        fleet = Fleet(
            draw.choice((1, 7)), 20.0, draw.choice((0.0, 0.5)), 1.0, 1.0, draw.choice((0.0, 2.0, 60.0)),
            draw.choice((0.1, 1.0)), draw.choice((0.3, 5.0)), draw.choice((0.0, 30.0)), draw.choice((1, 9)),
            draw.choice((0, 2)),
        )  # fmt: skip
        out = simulate(traffic, fleet, draw.choice((0.0, 3.0, 1e6)))
        assert out.requests == len(traffic.arrivals()) == len(out.first_token_s) + out.lost
        assert 0 <= out.missed <= 1
        assert out.row()["requests"] == out.requests


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Traffic(rate_s=0), "more than 0"),
        (lambda: Traffic(burst_at_s=350), r"within 0 and horizon_s \(360 s\)"),
        (lambda: Traffic(rate_s=10_000), "too many to simulate"),
        (lambda: Fleet(slots=0), "slots and most"),
        (lambda: Fleet(load=1.5), "at most 1"),
        (lambda: Fleet(look_s=0), "look_s"),
        (lambda: Fleet(patience_s=-1), "0 or more"),
        (lambda: simulate(TRAFFIC, FLEET, -1.0), "0 s or more"),
        (lambda: simulate(TRAFFIC, FLEET, math.nan), "0 s or more"),
        (lambda: compare(replace(SETTING, ranks=2), TRAFFIC, FLEET, ("checkpoint",)), "one GPU, not 2"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()

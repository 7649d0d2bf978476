"""The simulator: tokens are conserved, rates are what they say, and each part of RLBoost does its work."""

import itertools
import random

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.rlboost import claims
from workbench.rlboost.engines import Engine, Link, Request
from workbench.rlboost.prices import PAPER, rates
from workbench.rlboost.rates import Curve, Lengths
from workbench.rlboost.setting import Setting, constant, throughput, usd_per_million
from workbench.rlboost.sim import simulate
from workbench.rlboost.traces import Event, Trace

FLAT = Curve(fixed_s=0.1, each_s=0.0, token_s=0.0, slots=4, prefill_tok_s=1e9)
SMALL = {"responses": 96, "lengths": Lengths(mean=900.0, most=2000)}


def engine(curve=FLAT):
    env, ended = simpy.Environment(), []
    return env, Engine(env, "e", curve, lambda r: ended.append((env.now, r))), ended


def test_an_engine_takes_the_time_of_its_steps():
    """Ten tokens at 0.1 s; five requests on four places: the fifth begins when the first has ended."""
    env, made, ended = engine()
    for n, length in enumerate((10, 10, 20, 20, 10)):
        made.give(Request(n, 0, length))
    env.run(until=60)
    assert [(round(at, 6), r.name) for at, r in ended] == [(1.0, 0), (1.0, 1), (2.0, 2), (2.0, 3), (2.0, 4)]
    assert made.tokens == 70
    slow, slower = Curve(0.1, 0.05, 0.0, 4, 1e9), Curve(0.1, 0.05, 1e-4, 4, 1e9)
    ends = []
    for curve in (FLAT, slow, slower):
        env, made, ended = engine(curve)
        for n in range(2):
            made.give(Request(n, 100, 10))
        env.run(until=60)
        ends.append(ended[-1][0])
    assert ends[0] == pytest.approx(1.0)
    assert ends[1] == pytest.approx(2.0)
    assert ends[2] == pytest.approx(2.0 + 10 * 2 * 100e-4 / 1.0 * 1.0, rel=0.06)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=12), st.integers(0, 1000))
def test_tokens_are_made_once_wherever_requests_move(lengths, seed):
    """Requests hop between two engines at random times: pieces join without gap or overlap, and all end."""
    lot, env, ended = random.Random(seed), simpy.Environment(), []
    engines = [Engine(env, name, FLAT, lambda r: ended.append(r)) for name in ("a", "b")]
    requests = [Request(n, 5, length) for n, length in enumerate(lengths)]
    for request in requests:
        lot.choice(engines).give(request)

    def hop():
        for _ in range(12):
            yield env.timeout(lot.uniform(0, 2))
            source, target = lot.sample(engines, 2)
            for request in source.empty() if lot.random() < 0.5 else source.take(1, executing=lot.random() < 0.5):
                target.give(request)

    env.process(hop())
    env.run(until=600)
    assert sorted(r.name for r in ended) == list(range(len(lengths)))
    for request in requests:
        assert request.made[0][1] == 0
        assert request.made[-1][2] == pytest.approx(request.length)
        for (_, _, end), (_, start, _) in itertools.pairwise(request.made):
            assert start == pytest.approx(end)
    assert sum(e.tokens for e in engines) == pytest.approx(sum(lengths))


def test_the_link_is_shared_and_a_puller_has_its_own_limit():
    env, done = simpy.Environment(), {}
    link = Link(env, sender_gb_s=10.0, puller_gb_s=6.0)

    def pull(name, at, gb):
        yield env.timeout(at)
        yield env.process(link.pull(name, gb))
        done[name] = env.now

    for name, at in (("a", 0), ("b", 0), ("late", 4)):
        env.process(pull(name, at, 30))
    env.run()
    # a and b at 5 GB/s have 10 left each after 4 s; three at 10/3 take 3 s for those; late has 20 left, alone at 6 GB/s
    assert done["a"] == done["b"] == pytest.approx(7.0)
    assert done["late"] == pytest.approx(7.0 + 20 / 6)
    alone = simpy.Environment()
    assert Link(alone, 10.0, 6.0)._rate() == 6.0
    with pytest.raises(ValueError, match="above 0"):
        Link(alone, 0.0, 6.0)


def kills(seed, end_s=4000.0):
    """Instances that come and go at random, bulk kills among them."""
    lot, events, there, made = random.Random(seed), [], [], 0
    at = 0.0
    while at < end_s:
        if there and lot.random() < 0.5:
            for name in lot.sample(there, lot.randint(1, len(there))):
                there.remove(name)
                events.append(Event(at, "remove", name))
        else:
            made += 1
            there.append(f"i{made}")
            events.append(Event(at, "add", there[-1]))
        at += lot.expovariate(1 / 40)
    return Trace(tuple(events), end_s, f"kills {seed}")


@pytest.mark.parametrize("seed", range(25))
def test_no_token_is_lost_over_random_kills(seed):
    """Every response is trained in every step; with migration nothing that was made is thrown away."""
    setting = Setting(**SMALL, seed=seed, boot_s=5.0)
    rows = list(simulate(setting, kills(seed), steps=4))
    assert len(rows) == 4
    for row in rows:
        lengths = setting.lengths.draw(setting.responses, seed * 10_007 + row.step)
        assert row.tokens == sum(lengths)
        assert row.wasted_tokens == 0


def test_without_migration_work_is_thrown_away():
    """The control: the same kills."""
    wasted = [
        sum(
            r.wasted_tokens
            for r in simulate(Setting(**SMALL, seed=s, boot_s=5.0, without=frozenset({"migration"})), kills(s), 4)
        )
        for s in range(4)
    ]
    assert sum(wasted) > 1000


def test_nobody_for_hours_is_co_located():
    alone = list(simulate(Setting("co-located", **SMALL), constant(0), 3))
    empty = list(simulate(Setting(**SMALL), Trace((), 1e6, "nobody"), 3))
    for mine, theirs in zip(empty, alone, strict=True):
        assert mine.seconds == pytest.approx(theirs.seconds, rel=0.02)
        assert mine.instance_s == 0
        assert mine.migrations == 0


def test_cost_is_the_integral_of_prices():
    rows = list(simulate(Setting(**SMALL), constant(3), 3))
    paid = rates(PAPER)
    whole = sum(r.seconds for r in rows)
    assert sum(r.cost_usd(paid) for r in rows) == pytest.approx((83.79 + 3 * 5.32) * whole / 3600, rel=1e-6)
    free = rates(PAPER.at_discount(1.0))
    assert sum(r.cost_usd(free) for r in rows) == pytest.approx(83.79 * whole / 3600, rel=1e-6)


def test_more_is_never_slower_and_the_same_seed_the_same():
    speed = {n: throughput(list(simulate(Setting(**SMALL), constant(n), 6))[3:]) for n in (0, 1, 2, 4)}
    assert speed[0] < speed[1] < speed[2] < speed[4]
    slow = throughput(list(simulate(Setting(**SMALL, instance_gb_s=0.2), constant(2), 6))[3:])
    assert slow < speed[2]
    one, two = (list(simulate(Setting(**SMALL, seed=5), kills(1), 3)) for _ in range(2))
    assert one == two


def test_a_notice_saves_the_kill():
    """With two minutes' notice the instance hands on while it stands: what it had is not prefilled at the kill."""
    told = {}
    for notice in (0.0, 120.0):
        spans = []
        for seed in range(6):
            list(simulate(Setting(**SMALL, notice_s=notice, boot_s=5.0), kills(seed), 4, spans.append))
        told[notice] = {s.kind for s in spans}
    assert "kill" in told[0.0]
    assert "notice" not in told[0.0]
    assert "notice" in told[120.0]


def test_wrong_settings_are_named():
    for changes, says in (
        ({"without": frozenset({"luck"})}, "without: luck"),
        ({"model": "GPT"}, "no model is called 'GPT'"),
        ({"responses": 0}, "1 or more"),
    ):
        with pytest.raises(ValueError, match=says):
            Setting(**changes)


def test_published_numbers_from_the_two_prices():
    """The paper's cost claims follow from its throughputs and prices: arithmetic, no simulation."""
    paid = rates(PAPER)
    node, one = paid.reserved_usd_h, paid.instance_usd_h
    assert (1 + one / node) / 1.37 - 1 == pytest.approx(-0.22, abs=0.01)
    assert (1 + 6 * one / node) / 2.25 / ((1 + one / node) / 1.37) - 1 == pytest.approx(-0.21, abs=0.01)


def test_the_fitted_and_the_predicted():
    """Close where it was fitted, and within a tenth for one instance and both costs, which were not."""
    base = claims._settled(Setting("co-located"), constant(0))
    found = {p.what: p for p in claims._static(base)}
    assert sum(p.fitted for p in found.values()) == 1
    assert all(abs(p.error) < 0.1 for p in found.values())
    assert 15 < 100 * claims.break_even(claims._settled(Setting(), constant(6)), base) < 35
    assert usd_per_million(base) > 0

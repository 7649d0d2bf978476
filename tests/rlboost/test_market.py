"""Whom a run takes and keeps, by price, zone and lives seen: the policy, the simulator, the live run; and the bill."""

import math
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import runner
from workbench.rlboost import SYSTEM, sim
from workbench.rlboost.chaos import Chaos
from workbench.rlboost.crosscheck import Seen
from workbench.rlboost.events import Event, Trace, zone_of
from workbench.rlboost.market import Market
from workbench.rlboost.plan import Plan
from workbench.rlboost.prices import PAPER, SPREAD, rates
from workbench.rlboost.rates import Lengths
from workbench.rlboost.ray_run import _price
from workbench.rlboost.result import ALONE, TESTED
from workbench.rlboost.seeding import Seeding, SeedingOptions
from workbench.rlboost.setting import Setting, usd_per_million
from workbench.rlboost.sim import simulate
from workbench.rlboost.simulate import arms, trace_of

SMALL = {"responses": 256, "lengths": Lengths(mean=1500.0, most=4000), "seeding": SeedingOptions(first_s=10.0)}
PAPERS = {"responses": 1024, "lengths": Lengths(), "seeding": SeedingOptions()}  # of which about six instances pay
HOUR = 3600.0


def standing(zone, count, end_s, life_s=math.inf):
    """So many of a zone at any time, each replaced at once when it has lived for `life_s`, one after the other."""
    events = []
    for place in range(count):
        at, number = 0.0, 0
        while at < end_s:
            name = f"{zone}/{place}.{number}"
            events.append(Event(at, "add", name))
            at = at + life_s if number else life_s * (place + 1) / count
            number += 1
            if at < end_s:
                events.append(Event(at, "remove", name))
    return events


def trace_of_two(dear_life_s=math.inf, cheap_life_s=math.inf, end_s=3 * HOUR):
    """Sixteen of each zone, where six pay; of one time those of dear are named first."""
    events = standing("dear", 16, end_s, dear_life_s) + standing("cheap", 16, end_s, cheap_life_s)
    return Trace(tuple(sorted(events, key=lambda e: e.time_s)), end_s, "two zones")


def ran(trace, choice, prices=(), **changes):
    spans = []
    setting = Setting(**SMALL | {"boot_s": 20.0, "choice": choice, "prices": tuple(prices)} | changes)
    return list(simulate(setting, trace, told=spans.append)), sum(span.kind == "kill" for span in spans)


def takes(trace, choice, steps, **changes):
    """(s, who is taken up) of a simulated run."""
    setting = Setting(**SMALL | {"choice": choice, "boot_s": 20.0} | changes)
    world, log = sim._World(setting, trace, lambda _: None), []
    take = world.market.take

    def seen(*asked):
        taken = take(*asked)
        log.extend((world.env.now, name) for name in taken)
        return taken

    world.market.take = seen
    for number in range(steps):
        world.env.run(until=world.env.process(world.step(number)))
    return log


# -- the policy ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 9), st.integers(-2, 12), st.sampled_from(["first", "price", "worth"]))
def test_in_one_zone_every_choice_takes_the_first(count, wanted, choice):
    market, names = Market(choice, {"": 3.0}), [f"i{n}" for n in range(count)]
    for n, name in enumerate(names):
        market.came(name, 10.0 * n)
    market.went("i0", 500.0)
    assert market.take(names, wanted, 600.0, 60.0, ["i7"]) == names[: max(0, wanted)]


def test_price_zone_and_lives_decide():
    offered = ["a/1", "b/1", "a/2", "b/2"]
    assert Market("first", {"a": 2.0}).take(offered, 2, 0.0, 60.0) == ["a/1", "b/1"]
    assert Market("price", {"a": 2.0}).take(offered, 2, 0.0, 60.0) == ["b/1", "b/2"]
    assert Market("price").take(offered, 2, 0.0, 60.0) == ["a/1", "b/1"]  # alike: spread
    assert Market("price", {"a": 1.01}).take(offered, 1, 0.0, 60.0, held=["b/0"]) == ["a/1"]  # b has one already
    for choice, taken in (("price", ["b/1", "b/2"]), ("worth", ["a/1", "a/2"])):
        market = Market(choice, {"a": 1.2})
        for n in range(10):
            market.came(f"b/{n}", 0.0)
            market.came(f"a/{n}", 0.0)
            market.went(f"b/{n}", 100.0)
        assert market.take([f"{z}/{n}" for n in (1, 2) for z in "ab"], 2, 2000.0, 600.0) == taken
    assert Market("worth", {"a": 0.0}).take(offered, 2, 0.0, 60.0) == ["a/1", "a/2"]  # for nothing


def test_who_is_given_back_did_not_die():
    market = Market("worth")
    for name in ("a/1", "a/2", "a/3"):
        market.came(name, 0.0)
    market.went("a/1", 50.0)
    market.left("a/2", 80.0)
    market.went("never/there", 90.0)
    known = market.survival(200.0)
    assert list(known) == ["a"]
    assert (known["a"].went_s, known["a"].there_s) == ([50.0], [80.0, 200.0])
    assert market.seen["a"].there_s == [80.0]  # who is there now is not kept as an end


# -- the simulator ---------------------------------------------------------------------------------------------------


def test_each_zone_is_billed_at_its_price():
    """One of a at double, one of b at half the price; a is taken away in the middle of the second step."""
    both = (Event(0.0, "add", "a/1"), Event(0.0, "add", "b/1"))
    prices = (("a", 2.0), ("b", 0.5))
    calm, _ = ran(Trace(both, 1e3, "both"), "first", prices)
    gone_s = calm[1].start_s + 0.3 * calm[1].seconds
    rows, _ = ran(Trace((*both, Event(gone_s, "remove", "a/1")), 1e3, "one goes"), "first", prices)
    assert rows[0].price == pytest.approx((2.0 + 0.5) / 2)
    had_s, whole_s = gone_s - rows[1].start_s, rows[1].seconds
    assert rows[1].instance_s == pytest.approx(had_s + whole_s)
    assert rows[1].price == pytest.approx((2.0 * had_s + 0.5 * whole_s) / (had_s + whole_s))
    assert rows[2].price == pytest.approx(0.5)
    by_hand = (83.79 * whole_s + 5.32 * (2.0 * had_s + 0.5 * whole_s)) / 3600
    assert rows[1].cost_usd(rates(PAPER)) == pytest.approx(by_hand)
    plain, _ = ran(Trace((*both, Event(gone_s, "remove", "a/1")), 1e3, "one goes"), "first")
    assert {row.price for row in plain} == {1.0}
    assert [replace(row, price=1.0) for row in rows] == plain  # prices change the bill and no step


def test_worth_takes_the_cheap_zone_that_lasts():
    trace, prices = trace_of_two(dear_life_s=1600.0, end_s=3000.0), (("dear", 1.5), ("cheap", 0.7))
    (first, lost), (worth, kept) = (ran(trace, choice, prices, **PAPERS) for choice in ("first", "worth"))
    assert usd_per_million(worth) < 0.95 * usd_per_million(first)
    assert kept < lost / 2
    assert statistics.mean(r.price for r in worth) < 1 < statistics.mean(r.price for r in first)


def test_where_zones_are_alike_choosing_wins_nothing():
    trace = trace_of_two()
    (first, _), (worth, _) = (ran(trace, choice, **PAPERS) for choice in ("first", "worth"))
    assert usd_per_million(worth) == pytest.approx(usd_per_million(first), rel=0.01)


def test_lives_count_where_prices_do_not():
    """The same price: whoever looks at lives leaves the zone whose instances go, whoever does not stays in both."""
    trace = trace_of_two(dear_life_s=400.0)
    lost = {choice: ran(trace, choice, **PAPERS)[1] for choice in ("price", "worth")}
    assert 0 < lost["worth"] < 0.7 * lost["price"]
    log = takes(trace, "worth", 8, **PAPERS)
    assert [zone_of(name) for at, name in log if at == 0.0] == ["dear", "dear", "cheap", "cheap"]  # nothing was seen
    dear = {choice: sum(zone_of(name) == "dear" for _, name in takes(trace, choice, 8, **PAPERS)) for choice in lost}
    assert dear["worth"] < dear["price"] / 2


def test_nothing_is_known_of_what_is_to_come():
    """Traces that are the same until a time have the same choices until then, and others after it."""
    now_s = 2000.0
    trace = trace_of_two(dear_life_s=400.0, cheap_life_s=900.0)
    before = tuple(e for e in trace.events if e.time_s < now_s)
    there = {e.instance: None for e in before if e.kind == "add"}
    for gone in (e.instance for e in before if e.kind == "remove"):
        there.pop(gone)
    cheap = [name for name in there if zone_of(name) == "cheap"]
    other = (
        *before,
        *(Event(now_s, "remove", name) for name in cheap),
        *(Event(now_s, "add", f"dear/new{n}") for n in range(9)),
    )
    one, two = (takes(Trace(events, trace.end_s, "x"), "worth", 8, **PAPERS) for events in (trace.events, other))
    assert {zone_of(name) for at, name in one if 500.0 < at < now_s} == {"dear", "cheap"}
    assert [row for row in one if row[0] < now_s] == [row for row in two if row[0] < now_s]
    assert one != two


def test_who_chooses_looks_at_all_that_come_at_one_time():
    """The dear one is named first and the cheap one last: of the same second."""
    events = [Event(5.0, "add", f"dear/{n}") for n in range(6)] + [Event(5.0, "add", f"cheap/{n}") for n in range(6)]
    trace, prices = Trace(tuple(events), 1e6, "all at once"), (("dear", 9.0),)
    for choice, zone in (("first", "dear"), ("price", "cheap")):
        assert {zone_of(name) for at, name in takes(trace, choice, 1, prices=prices) if at == 5.0} == {zone}


# -- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoned():
    quick = {"hours": 0.5, "responses": 64, "longest": 1500, "share": 1.0, "compare": "parts"}
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", zones=3, choice="worth", **quick), record=False).start().wait(120)
    assert done.error is None, done.error
    return done.result


def test_a_run_has_an_arm_that_does_not_choose(zoned):
    config = zoned.config
    assert zoned.ways()[-1] == "no choice"
    assert "no choice" not in arms(config)  # without zones there is nothing to choose between
    assert "no choice" not in arms(config.model_copy(update={"choice": "first"}), {"a": 1.0, "b": 1.1})
    assert any("made by seed 0, within 30 %" in note for note in zoned.notes)
    prices = [row.price for row in zoned.of(TESTED) if row.instance_s]
    assert all(1 - SPREAD <= price <= 1 + SPREAD for price in prices)
    assert any(price != 1 for price in prices)
    assert {row.price for row in zoned.of(ALONE)} == {1.0}
    paid = zoned.paid
    for row in zoned.rows:
        usd = (paid.reserved_usd_h * row.reserved_s + paid.instance_usd_h * row.price * row.instance_s) / 3600
        assert row.cost_usd == pytest.approx(usd)
    for arm in zoned.ways():
        cost = 1e6 * sum(r.cost_usd for r in zoned.of(arm)) / sum(r.tokens for r in zoned.of(arm))
        assert zoned.usd_per_million(arm) == pytest.approx(cost)
    unchosen = config.model_copy(update={"choice": "first"})
    rows = list(simulate(arms(unchosen, unchosen.zone_prices(list("abc"))[0])["rlboost"], trace_of(unchosen)))
    assert [r.price for r in rows] == [r.price for r in zoned.of("no choice")]
    assert zoned.figure().layout.title.text


# -- the live run, on doubles ----------------------------------------------------------------------------------------


def live_of(names, n_prem=1.4):
    seeding = Seeding()
    seeding.n_prem = n_prem
    there = {name: SimpleNamespace(draining=False, requests={}) for name in names}
    manager = SimpleNamespace(instances=there, now=lambda: manager.at_s, at_s=0.0, join=lambda name: None)
    manager.notice = lambda name: setattr(there[name], "draining", True)
    return SimpleNamespace(manager=manager, seeding=seeding, plan=replace(Plan(), cap=True))


def chaos_of(choice, prices=None, zones=("",)):
    added = []
    fleet = SimpleNamespace(cluster=object(), nodes={}, fallen=list, add=added.append)
    return Chaos(fleet, nodes=4, market=Market(choice, prices or {}), zones=zones), added


@pytest.mark.parametrize(
    ("choice", "kept"), [("first", ["dear/1", "cheap/1"]), ("price", ["cheap/1", "cheap/2"])], ids=["first", "price"]
)
def test_the_dear_are_given_back_first(choice, kept):
    live = live_of(["dear/1", "cheap/1", "dear/2", "cheap/2"])
    chaos, _ = chaos_of(choice, {"dear": 2.0})
    chaos._release(live, chaos._wanted(live))
    assert [name for name, one in live.manager.instances.items() if not one.draining] == kept
    chaos.close()


@pytest.mark.parametrize(("choice", "kept"), [("price", ["short/a", "long/a"]), ("worth", ["long/a", "long/b"])])
def test_lives_seen_in_the_run_decide_who_stays(choice, kept):
    live = live_of(["short/a", "long/a", "long/b"])
    chaos, _ = chaos_of(choice)
    there = live.manager.instances
    for number in range(6):  # of zone short one after the other is lost, at 100 s
        there[f"short/{number}"] = SimpleNamespace(draining=False, requests={})
        chaos._lives(live)
        live.manager.at_s += 100.0
        del there[f"short/{number}"]
        chaos._lives(live)
    chaos._round_s = 300.0
    chaos._release(live, 2)
    assert [name for name, one in there.items() if not one.draining] == kept
    given_back = next(name for name, one in there.items() if one.draining)
    assert chaos.market.survival(600.0)[zone_of(given_back)].went_s.count(600.0) == 0
    del there[given_back]
    chaos._lives(live)
    assert 600.0 not in chaos.market.survival(600.0)[zone_of(given_back)].went_s  # it was not taken away
    chaos.close()


@pytest.mark.parametrize(
    ("choice", "names"), [("first", ["dear/spot-1", "cheap/spot-2"]), ("price", ["cheap/spot-1", "cheap/spot-2"])]
)
def test_a_new_node_comes_to_the_zone_that_is_worth_it(choice, names):
    chaos, added = chaos_of(choice, {"dear": 2.0}, ("dear", "cheap"))
    live = live_of([])
    for _ in range(2):
        chaos._add(live)
    chaos.close()
    assert list(chaos._coming) == names
    assert added == names[: len(added)]
    plain, _ = chaos_of("worth")
    plain._add(live)
    assert list(plain._coming) == ["spot-1"]
    plain.close()


def test_a_live_step_is_billed_by_the_zones_at_work():
    there = ((0.0, "add", "a/1"), (2.0, "add", "b/1"), (5.0, "remove", "a/1"))
    seen = Seen(SimpleNamespace(seconds=10.0), (), (), (), there, ())
    assert _price(seen, Market("worth", {"a": 2.0})) == pytest.approx((2.0 * 5 + 1.0 * 8) / 13)
    assert _price(replace(seen, there=()), Market()) == 1.0

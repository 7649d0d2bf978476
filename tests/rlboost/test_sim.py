"""The simulator: tokens are conserved, rates are what they say, and each part of RLBoost does its work."""

import itertools
import math
import random

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.rlboost import sim
from workbench.rlboost.engines import Engine, Link, Request
from workbench.rlboost.prices import PAPER, rates
from workbench.rlboost.rates import MODELS, Curve, Lengths
from workbench.rlboost.seeding import SeedingOptions
from workbench.rlboost.setting import Setting, constant, throughput
from workbench.rlboost.sim import simulate
from workbench.rlboost.traces import Event, Trace

FLAT = Curve(fixed_s=0.1, each_s=0.0, token_s=0.0, slots=4, prefill_tok_s=1e9)
SMALL = {"responses": 256, "lengths": Lengths(mean=1500.0, most=4000), "seeding": SeedingOptions(first_s=10.0)}


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
    assert ends[2] == pytest.approx(2.0 + 10 * 2 * 100e-4 + 2e-4 * 10**2 / 2, rel=1e-6)  # contexts grow as they go


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


def test_a_pull_that_is_cut_off_leaves_the_link_to_the_others():
    """Two instances begin to pull; one is taken away after 2 s of them, the other goes on at its own limit."""
    setting = Setting(**SMALL, boot_s=0.0, sender_gb_s=10.0, instance_gb_s=6.0)
    ends = {}
    for gone in (True, False):
        events = [Event(0.0, "add", "a"), Event(0.0, "add", "b")]
        trace = Trace((*events, Event(2.0, "remove", "b")) if gone else tuple(events), 1e6, "cut off")
        _, spans = spans_of(setting, trace, 1)
        ends[gone] = {s.lane: s.end_s for s in spans if s.kind == "transfer" and s.end_s < 10}
    gb = MODELS[setting.model].weights_gb
    assert ends[True] == {"a": pytest.approx(2 + (gb - 2 * 5) / 6)}
    assert ends[False] == {"a": pytest.approx(gb / 5), "b": pytest.approx(gb / 5)}


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


def test_what_moves_is_computed_anew_with_its_prompt(monkeypatch):
    """Also where an idle instance takes what another executes."""
    moved = {"lost": 0.0, "balanced": 0.0}
    whole, given_up, emptied = sim._World._hand_on, Engine.take, Engine.empty

    def hand_on(world, requests, source, why):
        moved["lost"] += sum(r.prompt + r.done for r in requests if r.done)
        whole(world, requests, source, why)

    def take(engine, count, *, executing):
        found = given_up(engine, count, executing=executing)
        moved["balanced"] += sum(r.prompt + r.done for r in found) if executing else 0.0
        return found

    def empty(engine):
        before = moved["balanced"]
        found, moved["balanced"] = emptied(engine), before
        return found

    monkeypatch.setattr(sim._World, "_hand_on", hand_on)
    monkeypatch.setattr(Engine, "take", take)
    monkeypatch.setattr(Engine, "empty", empty)
    monkeypatch.setattr(sim.Plateau, "batch", lambda *_: 2)  # so that there is something to take
    rows = [row for seed in range(3) for row in simulate(Setting(**SMALL, boot_s=5.0, seed=seed), kills(seed), 4)]
    assert min(moved.values()) > 0
    assert sum(row.recomputed_tokens for row in rows) == pytest.approx(sum(moved.values()))


def test_nobody_for_hours_is_co_located():
    """To the last digits: also before the first instance comes, and after the last has gone."""
    alone = list(simulate(Setting("co-located", **SMALL), constant(0), 8))
    empty = list(simulate(Setting(**SMALL), Trace((), 1e6, "nobody"), 8))
    late = list(simulate(Setting(**SMALL), Trace((Event(4.5 * alone[0].seconds, "add", "a"),), 1e6, "late"), 8))
    gone = (Event(0.0, "add", "a"), Event(2.5 * alone[0].seconds, "remove", "a"))
    left = list(simulate(Setting(**SMALL), Trace(gone, 1e6, "left"), 8))
    calm = [r for r in late if r.end_s < 4.4 * alone[0].seconds], [r for r in left if r.start_s > gone[1].time_s]
    assert len(calm[0]) >= 3
    assert len(calm[1]) >= 3
    for mine in (*empty, *calm[0], *calm[1]):
        assert mine.seconds == pytest.approx(alone[mine.step].seconds, rel=1e-9)
        assert (mine.instance_s, mine.migrations, mine.tokens) == (0, 0, alone[mine.step].tokens)
    helped = [r for r in left if r.end_s < gone[1].time_s]  # the control: while it is there, steps are others
    assert all(abs(r.seconds / alone[r.step].seconds - 1) > 1e-3 for r in helped)
    assert helped


def spans_of(setting, trace, steps):
    spans = []
    rows = list(simulate(setting, trace, steps, spans.append))
    return rows, spans


def test_the_reserved_machines_do_one_thing_at_a_time():
    """All instances die in the middle of a step: the trainer stops to roll out, and trains again when that is done."""
    calm, _ = spans_of(Setting(**SMALL, boot_s=1.0), constant(2), 3)
    at = calm[2].start_s + 0.4 * calm[2].seconds
    events = (*constant(2).events, Event(at, "remove", "i1"), Event(at, "remove", "i2"))
    rows, spans = spans_of(Setting(**SMALL, boot_s=1.0), Trace(events, 1e6, "all die"), 4)
    rolled = [(s.start_s, s.end_s) for s in spans if s.lane == "reserved" and s.label == "roll out"]
    trained = [(s.start_s, s.end_s) for s in spans if s.lane == "trainer"]
    assert any(start > at and end <= rows[2].end_s for start, end in rolled)  # it did roll out again in that step
    for start, end in rolled:
        assert all(done <= start + 1e-9 or begun >= end - 1e-9 for begun, done in trained)
    assert rows[2].seconds > calm[2].seconds


def world_of(setting, trace, steps):
    """The world after these steps, with what Algorithm 1 was told of each."""
    world, told = sim._World(setting, trace, lambda _: None), []
    learn = world.seeding.after
    world.seeding.after = lambda seen: (told.append(seen), learn(seen))
    rows = []
    for number in range(steps):
        done = world.env.process(world.step(number))
        world.env.run(until=done)
        rows.append(done.value)
    return world, rows, told


def test_algorithm_1_is_told_of_the_whole_step():
    """Pulls of new weights are no change, so calm steps are remembered; a kill is one, and n is the mean over time."""
    setting = Setting(**SMALL, boot_s=1.0)
    world, rows, told = world_of(setting, constant(3), 4)
    assert rows[0].t_seed_s == 10.0  # the first window, since instances are there from the start
    assert [seen.changed for seen in told] == [True, False, False, False]  # they came in the first
    assert [seen.mean_instances for seen in told[1:]] == pytest.approx([3.0] * 3, rel=1e-9)
    assert world.seeding.memory_s == {3: world.seeding.t_seed_s}
    at = rows[2].start_s + 0.25 * rows[2].seconds
    events = (*constant(3).events, Event(at, "remove", "i2"))
    world, rows, told = world_of(setting, Trace(events, 1e6, "one dies"), 5)
    by_hand = (3 * (at - rows[2].start_s) + 2 * (rows[2].end_s - at)) / rows[2].seconds
    assert told[2].mean_instances == pytest.approx(by_hand, rel=1e-9)
    assert (told[2].changed, told[2].next_instances) == (True, 2)
    assert [seen.changed for seen in told[3:]] == [False, False]
    assert sorted(world.seeding.memory_s) == [2, 3]
    assert told[2].t_train_s == pytest.approx(rows[2].tokens * world.train_token_s)


def test_a_window_comes_back_with_its_number():
    """Three, two, three: with memory the window of three is there at once, without it has to be found again."""
    calm = list(simulate(Setting(**SMALL, boot_s=1.0), constant(3), 6))
    gone = calm[5].start_s + 1.0
    events = (*constant(3).events, Event(gone, "remove", "i3"), Event(gone + 4 * calm[5].seconds, "add", "i4"))
    windows = {}
    for name, without in (("with", frozenset()), ("without", frozenset({"memory"}))):
        _, rows, told = world_of(Setting(**SMALL, boot_s=1.0, without=without), Trace(events, 1e6, "back"), 14)
        back = next(n for n, seen in enumerate(told) if n > 5 and seen.next_instances == 3)
        windows[name] = rows[back + 1].t_seed_s, rows[5].t_seed_s
    assert windows["with"][0] == pytest.approx(windows["with"][1], abs=1e-9)
    assert windows["without"][0] != pytest.approx(windows["without"][1], abs=0.1)


def test_the_cap_begins_at_the_reserved_engines():
    first, *_, last = simulate(Setting(boot_s=1.0), constant(12), 5)
    assert first.instances == pytest.approx(4.0, rel=1e-9)
    assert 4 < last.instances < 9  # more would wait for the trainer
    (wild,) = simulate(Setting(boot_s=1.0, without=frozenset({"cap"})), constant(12), 1)
    assert wild.instances == pytest.approx(12.0, rel=1e-9)


def test_without_pull_who_comes_waits_for_the_next_step():
    alone = next(simulate(Setting(**SMALL, boot_s=1.0), constant(1), 1))
    events = (Event(0.0, "add", "a"), Event(0.3 * alone.seconds, "add", "b"))
    begun = {}
    for name, without in (("pull", frozenset()), ("together", frozenset({"pull"}))):
        rows, spans = spans_of(Setting(**SMALL, boot_s=1.0, without=without), Trace(events, 1e6, "one more"), 2)
        begun[name] = next(s.start_s for s in spans if s.lane == "b" and s.kind == "transfer"), rows
    assert begun["pull"][0] == pytest.approx(events[1].time_s + 1.0)
    trained = begun["together"][1][0]
    assert trained.start_s + 0.9 * trained.seconds < begun["together"][0] <= trained.end_s


def test_training_costs_by_the_token_and_short_responses_leave_room():
    short = Lengths(most=5000)
    model = MODELS["Qwen3-14B"]
    assert model.engine(short).slots > model.curve.slots == model.engine(Lengths()).slots
    assert model.train_token_s * 1024 * Lengths().drawn_mean() == pytest.approx(model.train_s)
    for system, engines in (("co-located", 4), ("doubled", 8)):
        world, (row,), _ = world_of(Setting(system, lengths=short), constant(0), 1)
        assert world.train_token_s * row.tokens == pytest.approx(model.train_token_s * row.tokens * 4 / engines)
    for name, size in MODELS.items():  # split, not shared: what trains does not roll out
        world = sim._World(Setting("disaggregated", name), constant(0), lambda _: None)
        training = size.train_token_s / world.train_token_s * size.local_engines
        assert training + world.local_count == pytest.approx(2 * size.local_engines)


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


def test_who_is_about_to_go_begins_nothing():
    """A notice that comes while weights are pulled: the instance is paid until it goes, and never generates."""
    events = (Event(0.0, "add", "a"), Event(30.0, "remove", "a"))
    for notice_s, kinds in ((28.0, set()), (1.0, {"transfer", "notice"})):
        rows, spans = spans_of(Setting(**SMALL, boot_s=0.0, notice_s=notice_s), Trace(events, 1e6, "soon"), 2)
        assert {s.kind for s in spans if s.lane == "a"} == kinds | {"kill"}  # told of also with nothing on it
        assert sum(row.instance_s for row in rows) == pytest.approx(30.0)
        assert (rows[0].migrations > 0) == bool(kinds)


def test_wrong_settings_are_named():
    for changes, says in (
        ({"without": frozenset({"luck"})}, "without: luck"),
        ({"model": "GPT"}, "no model is called 'GPT'"),
        ({"responses": 0}, "1 or more, not 0 and 16"),
        ({"boot_s": math.inf}, "boot_s is 0 s or more"),
        ({"notice_s": math.nan}, "notice_s is 0 s or more"),
        ({"sender_gb_s": 0.0}, "sender_gb_s is above 0"),
        ({"instance_gb_s": math.nan}, "instance_gb_s is above 0"),
    ):
        with pytest.raises(ValueError, match=says):
            Setting(**changes)
    for changes, says in (
        ({"mean": 0.0}, "above 0 tokens"),
        ({"sigma": -1}, "sigma"),
        ({"most": 2}, "8 tokens or more"),
    ):
        with pytest.raises(ValueError, match=says):
            Lengths(**changes)

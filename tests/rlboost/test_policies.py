"""Policies of RLBoost as plain objects: seeding, balancing, the plateau, what to take."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.rlboost.balance import Load, Plateau, rebalance, select
from workbench.rlboost.manager import Manager, _Instance
from workbench.rlboost.market import Offer, Survival, choose
from workbench.rlboost.rollout import Ask, Rollouts, Tokens
from workbench.rlboost.seeding import Seeding, SeedingOptions, StepSeen
from workbench.rlboost.spot import Said

LOADS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.builds(Load, st.integers(0, 30), st.integers(0, 90))
)


def step(**changes):
    base = {
        "wait_train_s": 0.0, "wait_remote_s": 0.0, "t_remote_s": 400.0, "t_train_s": 500.0, "mean_instances": 3.0,
        "next_instances": 3, "changed": False, "reserved": 4.0,
    }  # fmt: skip
    return StepSeen(**base | changes)


# -- Algorithm 1 -----------------------------------------------------------------------------------------------------


def test_the_window_grows_where_the_trainer_waits_and_shrinks_where_instances_do():
    seeding = Seeding(SeedingOptions(eta=4.0, first_s=100.0, memory=False))
    seeding.after(step(wait_train_s=40.0))
    assert seeding.t_seed_s == 110.0
    seeding.after(step(wait_remote_s=80.0))
    assert seeding.t_seed_s == 90.0
    for _ in range(20):
        seeding.after(step(wait_remote_s=80.0))
    assert seeding.t_seed_s == 0.0


def test_it_settles_where_neither_waits():
    """A plant in which the trainer waits for what is generated late and instances for what is trained late."""
    seeding, best = Seeding(SeedingOptions(first_s=10.0)), 145.0
    for _ in range(60):
        off = best - seeding.t_seed_s
        seeding.after(step(wait_train_s=max(0.0, off), wait_remote_s=max(0.0, -off)))
    assert seeding.t_seed_s == pytest.approx(best, abs=0.5)


def test_n_prem_is_the_work_over_the_trainers_time():
    seeding = Seeding(SeedingOptions(first_s=100.0, memory=False))
    assert seeding.allowed() > 10**6  # nothing is known: take what there is
    seeding.after(step(t_remote_s=450.0, mean_instances=2.0, t_train_s=500.0))
    assert seeding.n_prem == pytest.approx((450 * 2 + 100 * 4) / 500)
    assert seeding.allowed() == 3


def test_the_memory_jumps_back_and_only_calm_steps_are_remembered():
    with_it, without = Seeding(SeedingOptions(first_s=100.0)), Seeding(SeedingOptions(first_s=100.0, memory=False))
    for each in (with_it, without):
        each.after(step(wait_train_s=60.0, next_instances=3))  # calm, 3 instances: 120 s
        each.after(step(wait_train_s=90.0, next_instances=5, changed=True))  # two came: 150 s, not remembered
        assert 5 not in each.memory_s
        each.after(step(wait_remote_s=30.0, next_instances=3, changed=True))  # back to 3
    assert with_it.t_seed_s == with_it.memory_s[3] == 120.0
    assert without.t_seed_s == 140.0


def test_the_releases_rule_follows_a_running_mean():
    seeding = Seeding(SeedingOptions(first_s=100.0, rule="release", forget=0.2))
    seeding.after(step())
    assert seeding.memory_s == {3: 100.0}
    seeding.after(step(wait_train_s=150.0))
    assert seeding.memory_s[3] == pytest.approx(110.0)


def test_without_instances_it_is_co_located():
    seeding = Seeding()
    before = seeding.t_seed_s
    assert math.isinf(seeding.window_s(0))
    assert seeding.window_s(1) == before
    for _ in range(50):  # hours without a single one
        seeding.after(step(mean_instances=0.0, next_instances=0, wait_train_s=300.0))
    assert seeding.t_seed_s == before
    assert seeding.memory_s == {}


def test_state_goes_on_and_nonsense_is_refused():
    seeding = Seeding()
    for n in (2, 3, 4):
        seeding.after(step(next_instances=n, wait_train_s=10.0 * n))
    again = Seeding()
    again.restore(seeding.state())
    assert again == seeding
    fresh = Seeding()
    fresh.restore(Seeding().state())
    assert math.isinf(fresh.n_prem)
    with pytest.raises(ValueError, match="no state of seeding"):
        again.restore({"t_seed_s": 3})
    for bad in ({"wait_train_s": -1.0}, {"t_train_s": math.nan}, {"mean_instances": -1}):
        with pytest.raises(ValueError, match="0"):
            step(**bad)
    with pytest.raises(ValueError, match="eta"):
        SeedingOptions(eta=0)


# -- Algorithm 2 -----------------------------------------------------------------------------------------------------


@given(LOADS, st.integers(1, 20))
def test_a_request_goes_to_the_shortest_queue_that_has_room(loads, theta):
    found = select(loads, theta)
    room = {name: load for name, load in loads.items() if load.pending < theta}
    if found is None:
        assert not room  # delayed dispatch: nobody has room
    else:
        assert loads[found].pending == min(load.pending for load in room.values()) < theta


def after(loads, moves):
    pending = {n: load.pending for n, load in loads.items()}
    executing = {n: load.executing for n, load in loads.items()}
    for move in moves:
        held = executing if move.executing else pending
        assert held[move.source] >= move.count > 0, "moves what is not there"
        held[move.source] -= move.count
        (executing if move.executing else pending)[move.target] += move.count
    return pending, executing


@given(LOADS, st.one_of(st.none(), st.integers(1, 64)))
def test_moves_lose_nothing_end_and_help(loads, plateau):
    moves = rebalance(loads, plateau)
    pending, executing = after(loads, moves)
    assert sum(pending.values()) == sum(load.pending for load in loads.values())
    assert sum(executing.values()) == sum(load.executing for load in loads.values())
    if pending:
        assert max(pending.values()) <= max(load.pending for load in loads.values())
        if min(pending.values()) == 0:  # whoever has none waiting: nobody has two
            assert max(pending.values()) <= 1 or not any(load.pending for load in loads.values())
    for move in moves:
        if move.executing:  # only beyond the plateau, only to one that was fully idle
            assert plateau is not None
            assert loads[move.source].executing > plateau
            assert loads[move.target] == Load(0, 0)


def test_a_migration_only_beyond_the_plateau():
    loads = {"busy": Load(0, 40), "idle": Load(0, 0)}
    assert rebalance(loads, None) == []  # the first step has no profile
    assert rebalance(loads, 40) == []
    (move,) = rebalance(loads, 32)
    assert (move.source, move.target, move.count, move.executing) == ("busy", "idle", 8, True)
    (move,) = rebalance(loads, 2)
    assert move.count == 20  # an even split, or it would come back
    assert rebalance({"a": Load(3, 4), "b": Load(0, 9)}, 1)[0].executing is False  # queues first


def test_the_plateau_is_where_an_engine_gets_no_faster():
    profile = Plateau(share=0.8)
    assert profile.batch(1000) is None
    for n in (1, 2, 4, 8, 16, 32, 64) * 3:
        for context in (500.0, 4000.0):
            profile.observe(n, context, 0.02 + n * (2e-4 + 1e-7 * context))
    profile.next_step()
    short, long = profile.batch(500.0), profile.batch(4000.0)
    assert short - math.ceil(4 * 0.02 / (2e-4 + 5e-5)) in (0, 1)  # 320 to the last bit of a least-squares fit
    assert long < short  # longer contexts are at their limit sooner
    profile.observe(4, 100.0, 0.03)
    profile.next_step()  # too little was seen: the profile of before holds
    assert profile.batch(500.0) == short
    flat = Plateau()
    for n in (1, 2, 4) * 10:
        flat.observe(n, 100.0, 0.02)  # memory-bound throughout: no end in sight
    flat.next_step()
    assert flat.batch(100.0) is None
    with pytest.raises(ValueError, match="1 request or more"):
        flat.observe(0, 1.0, 0.1)


def asked(name, contexts):
    """Requests with so many tokens of prompt."""
    return [Ask(f"{name}{n}", (1,) * length, (), 10_000) for n, length in enumerate(contexts)]


def live_manager():
    """On no Ray, after seeding; `took` of an instance's actor: what it was asked to give up."""
    return Manager(
        None, None, Rollouts(None, None), model="tiny", dtype="float32", sampler=None, slots=64
    )  # fmt: skip


def instance(manager, name, asks):
    took = []
    actor = SimpleNamespace(take=SimpleNamespace(remote=lambda requests, turn: took.extend(requests)), took=took)
    one = manager.instances[name] = _Instance(name, actor, stream=object(), version=manager.version)
    one.requests = {ask.request: None for ask in asks}
    return one


def passes(manager, one, fixed_s, each_s):
    """What an engine says of decode steps with more and more in them."""
    for count in [n + 1 for n in range(len(one.requests)) for _ in range(3)]:
        told = []
        for request in list(one.requests)[:count]:
            told.append(Tokens(request, len(manager.ledger.entries[request].ids), (7,), (-1.0,)))
        manager._said(one, Said(manager.version, tuple(told), (), fixed_s + each_s * count, count))


def test_the_manager_learns_the_plateau_from_what_engines_say():
    """share 0.8: B = 4 x 0.0099 / 0.002 = 20 of 32. In the first step nobody knows it."""
    manager, asks = live_manager(), asked("r", [40] * 32)
    manager.begin(0, asks)
    busy = instance(manager, "busy", asks)
    idle = instance(manager, "idle", [])
    manager._balance()
    assert busy.actor.took == []
    passes(manager, busy, 0.0099, 0.002)
    manager._said(busy, Said(0, (), (), 9.0, 500))  # a prompt: not a step of decoding
    manager._said(busy, Said(-1, (Tokens("r0", 0, (7,), (-1.0,)),), (), 9.0, 1))  # of other weights
    busy.version = idle.version = 1  # both have the weights of the next step already
    manager.begin(1, asks)
    manager._balance()
    assert busy.actor.took == [ask.request for ask in asks[20:]]
    assert idle.actor.took == []


def test_contexts_of_now_decide_where_the_plateau_is(monkeypatch):
    """Where steps grow with what is read, longer contexts are at their limit with fewer."""
    manager, seen = live_manager(), []
    monkeypatch.setattr("workbench.rlboost.manager.rebalance", lambda loads, plateau: seen.append(plateau) or [])
    manager.plateau.fitted, manager.plateau.largest = (0.0099, 0.0, 1e-5), 64
    for length in (100, 400):
        asks = asked(f"of {length}, ", [length] * 8)
        manager.begin(0, asks)
        for name, own in (("a", asks[:4]), ("b", asks[4:])):
            instance(manager, name, own)
        manager._balance()
    assert seen == [40, 10]


# -- what to take ----------------------------------------------------------------------------------------------------


def test_cheap_lasting_and_spread():
    lasting, fleeting = Survival(there_s=[7200.0] * 20), Survival(went_s=[120.0] * 20)
    offers = [Offer("a", 4, 2.0), Offer("b", 4, 1.9)]
    assert choose(offers, 3, {"a": lasting, "b": lasting}, 1800.0, spread=1.0) == {"b": 3}
    assert choose(offers, 2, {"a": lasting, "b": fleeting}, 1800.0) == {"a": 2}
    assert choose(offers, 4, {"a": lasting, "b": lasting}, 1800.0, spread=0.8) == {"a": 2, "b": 2}
    assert choose(offers, 99, {}, 1800.0) == {"a": 4, "b": 4}
    assert choose([], 3, {}, 1800.0) == {}
    with pytest.raises(ValueError, match="no offer"):
        Offer("a", 1, -2.0)


def test_survival_by_hand():
    """Five lives: of three at risk after 100 s one is taken at 200; another leaves sight at 300."""
    seen = Survival(went_s=[50.0, 200.0], there_s=[80.0, 300.0, 900.0], assumed_s=1e12)
    assert seen.share(100.0, 400.0) == pytest.approx((3 * (2 / 3) + 1) / 4)
    assert seen.share(0.0, 0.0) == 1.0
    assert Survival(assumed_s=1000.0).share(0.0, 1000.0) == pytest.approx(math.exp(-1))
    assert Survival(went_s=[10.0] * 50).share(0.0, 60.0) < 0.1

"""The manager on real Ray actors: killed, drained, ended and damaged in the middle, and every token there once."""

import os
import signal
import time

import pytest

from workbench import lm
from workbench.lm.sampler import Sampler
from workbench.lm.tiny import tiny_weights
from workbench.rlboost.fleet import Fleet, FleetError
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.manager import Manager, Stalled
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.spot import WeightAgent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SAMPLER = Sampler(1.0, seed=1)
MOST = 60
END_S = 240.0  # of one step here: hangs are failures with a reason


@pytest.fixture(scope="module", autouse=True)
def nodes(fleet):
    """a and b."""
    for name in ("a", "b"):
        fleet.add(name)
    yield
    for name in list(fleet.nodes):
        fleet.kill(name)


@pytest.fixture(scope="module")
def tiny():
    return lm.load("tiny")


def opened(fleet, tiny, told):
    """A manager and an agent that holds version 0."""
    import ray

    agent = fleet.actor(WeightAgent, None, 2, 1024)  # 800 chunks: a pull takes a while
    ray.get(agent.publish.remote(0, tiny_weights(0)), timeout=60)
    own = Rollouts(tiny, SAMPLER, 4)
    return Manager(
        fleet, agent, own, model="tiny", dtype="float32", sampler=SAMPLER, slots=4, told=told.append
    )  # fmt: skip


def close(manager):
    import ray

    for one in manager.instances.values():
        ray.kill(one.actor)
    ray.kill(manager.agent)


@pytest.fixture(scope="module")
def shared(fleet, nodes, tiny):
    """(manager, events) of the whole file: an engine that stands is used again, for its start takes seconds."""
    told = []
    manager = opened(fleet, tiny, told)
    yield manager, told
    close(manager)


@pytest.fixture
def setup(shared):
    """(manager, agent, events), with no engine that drains and nothing counted yet."""
    manager, told = shared
    for name in [n for n, one in manager.instances.items() if one.draining]:
        end(manager, name)
    told.clear()
    manager.counts.clear()
    return manager, manager.agent, told


def end(manager, name):
    """No engine of this name; the node is free again."""
    import ray

    if name in manager.instances:
        ray.kill(manager.instances.pop(name).actor)


def asks(tiny, count=8):
    return [Ask(f"r{n}", tuple(lm.prompt(tiny, 5 + n, seed=n)), (), MOST) for n in range(count)]


@pytest.fixture(scope="module")
def expected(tiny):
    """What one engine says, never interrupted."""
    own, ledger = Rollouts(tiny, SAMPLER, 4), Ledger()
    for ask in asks(tiny):
        ledger.open(ask.request, len(ask.prompt))
        own.give(ask)
    while own.pending or own.running:
        for piece in own.step():
            ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "own", 0)
            if piece.ended:
                ledger.close(piece.request, piece.ended)
    return ledger


def until(manager, done, wait_s=0.05):
    end = time.perf_counter() + END_S
    while not done():
        assert time.perf_counter() < end, f"not in {END_S} s: {dict(manager.counts)}"
        manager.turn(wait_s)


def joined(manager, names):
    for name in names:
        if name not in manager.instances:
            manager.join(name)
    until(manager, lambda: set(names) <= set(manager.active()))


def begun(manager, tiny, names):
    """A step whose responses are at the spot engines and have their first tokens."""
    joined(manager, names)
    manager.begin(0, asks(tiny))
    manager.hand_on()
    until(manager, lambda: manager.ledger.tokens() > 20)


def kill(manager, name):
    import ray

    os.kill(ray.get(manager.instances[name].actor.pid.remote(), timeout=60), signal.SIGKILL)


def proof(manager, expected):
    until(manager, lambda: not manager.open)
    assert manager.ledger.faults([0]) == []
    assert manager.counts["refused pieces"] == 0
    assert manager.ledger.digest() == expected.digest()


def test_undisturbed(setup, tiny, expected):
    manager, _, told = setup
    begun(manager, tiny, ["a", "b"])
    proof(manager, expected)
    assert {s for e in manager.ledger.entries.values() for s in e.sources} == {"a", "b"}
    assert manager.counts["migrations"] == 0
    assert [h.what for h in told if h.who == "a"][:3] == ["join", "pull", "active"]


def test_an_actor_is_killed_in_the_middle(setup, tiny, expected):
    manager, _, told = setup
    begun(manager, tiny, ["a", "b"])
    had = len(manager.instances["a"].requests)
    kill(manager, "a")
    proof(manager, expected)
    assert had and manager.counts["migrations"] and manager.counts["lost instances"] == 1
    assert manager.counts["recomputed tokens"] > manager.counts["migrations"]
    assert any(h.what == "lost" and "Actor" in h.detail for h in told)


def test_all_are_killed_and_the_reserved_engine_goes_on(setup, tiny, expected):
    manager, _, _ = setup
    begun(manager, tiny, ["a", "b"])
    kill(manager, "a")
    kill(manager, "b")
    proof(manager, expected)
    assert "reserved" in {s for e in manager.ledger.entries.values() for s in e.sources}


def test_a_notice_moves_everything_while_the_engine_still_stands(setup, tiny, expected):
    manager, _, told = setup
    begun(manager, tiny, ["a", "b"])
    manager.notice("a")
    until(manager, lambda: not manager.instances["a"].requests)
    assert "a" not in manager.active() and manager.counts["lost instances"] == 0
    proof(manager, expected)
    assert any(h.what == "notice" for h in told)


def test_a_stream_that_ends_cleanly_is_no_end_of_its_responses(setup, tiny, expected):
    import ray

    manager, _, told = setup
    begun(manager, tiny, ["a", "b"])
    ray.get(manager.instances["a"].actor.stop.remote(), timeout=60)
    proof(manager, expected)
    assert any(h.what == "lost" and "its stream ended" in h.detail for h in told)


def test_killed_while_it_pulls(setup, tiny, expected):
    manager, _, told = setup
    joined(manager, ["b"])
    end(manager, "a")
    manager.join("a")
    kill(manager, "a")
    manager.begin(0, asks(tiny))
    manager.hand_on()
    proof(manager, expected)
    assert "a" not in manager.instances
    assert not any(h.who == "a" and h.what == "active" for h in told)


def test_one_damaged_chunk_is_pulled_again_and_two_are_an_error(setup):
    import ray

    manager, agent, told = setup
    end(manager, "a")
    end(manager, "b")
    ray.get(agent.damage.remote(1), timeout=60)
    joined(manager, ["a"])
    ray.get(agent.damage.remote(2), timeout=60)
    manager.join("b")
    until(manager, lambda: "b" not in manager.instances)
    assert any(h.who == "b" and "damaged" in h.detail for h in told)


def test_one_joins_in_the_middle_and_takes_work(setup, tiny, expected):
    manager, _, _ = setup
    end(manager, "b")
    begun(manager, tiny, ["a"])
    manager.join("b")
    proof(manager, expected)
    assert {"a", "b"} <= {s for e in manager.ledger.entries.values() for s in e.sources} or "b" in manager.instances


def test_without_a_word_it_says_who_has_what(setup, tiny, monkeypatch):
    manager, _, _ = setup
    joined(manager, ["a"])
    monkeypatch.setattr("workbench.rlboost.manager.SILENCE_S", 1.0)
    manager.begin(0, asks(tiny))
    manager.seeding = False
    monkeypatch.setattr(manager, "_deal", lambda: None)
    with pytest.raises(Stalled, match="no token for 1 s and 8 responses open: a with 0"):
        until(manager, lambda: False)


def test_a_node_vanishes_and_another_comes(setup, fleet, tiny, expected):
    """SIGKILL of the raylet: the whole node."""
    manager, _, told = setup
    begun(manager, tiny, ["a", "b"])
    fleet.drain("b", 30)
    fleet.kill("b")
    proof(manager, expected)
    until(manager, lambda: any(h.who == "b" and h.what == "lost" for h in told))  # perhaps behind the last token
    with pytest.raises(FleetError, match="no node is called b; there are a"):
        fleet.kill("b")
    with pytest.raises(FleetError, match="a node called a is there already"):
        fleet.add("a")
    with pytest.raises(FleetError, match=r"ray\.shutdown\(\) first"):
        Fleet()
    fleet.add("b")


def test_new_weights_are_pulled_by_all_and_nothing_is_mixed(setup, fleet, tiny):
    """Last: it takes the weights of the others away."""
    import ray

    manager, agent, _ = setup
    begun(manager, tiny, ["a", "b"])
    until(manager, lambda: not manager.open)
    before = manager.ledger.digest()
    ray.get(agent.publish.remote(1, tiny_weights(5)), timeout=60)
    manager.own.load(1, tiny_weights(5))
    manager.begin(1, asks(tiny))
    manager.hand_on()
    until(manager, lambda: not manager.open)
    assert manager.ledger.faults([1]) == []
    assert manager.ledger.digest() != before

"""What a run asks of its machines, on doubles, without Ray: kills, machines that do not pay, raylets that are late."""

import os
import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from workbench.rlboost.chaos import Chaos, Storm, schedule
from workbench.rlboost.fleet import Fleet, FleetError, _answers
from workbench.rlboost.live import Live
from workbench.rlboost.plan import Plan
from workbench.rlboost.rewards import TASKS
from workbench.rlboost.seeding import Seeding

ORDERED = Plan(steps=4, prompts=3, group=4, most=40, micro_batch=5, slots=3, ordered=True, first_seed_s=0.2, cap=False)


def test_kills_are_spread_over_the_steps():
    assert schedule(3, 4) == {1: 1, 2: 1, 3: 1}
    assert schedule(2, 1) == {0: 2}
    assert schedule(0, 5) == {}
    assert sum(schedule(7, 3).values()) == 7


@pytest.mark.parametrize(("cap", "left"), [(True, ["a", "b"]), (False, ["a", "b", "c"])])
def test_what_does_not_pay_is_given_back(cap, left):
    """N_prem of 1.4 holds two; without the cap all stay. What Chaos asks of a run."""
    seeding = Seeding()
    seeding.n_prem = 1.4
    there = {name: SimpleNamespace(draining=False, requests={}) for name in "abc"}
    manager = SimpleNamespace(instances=there, now=lambda: 5.0)
    manager.notice = lambda name: setattr(there[name], "draining", True)
    live = SimpleNamespace(manager=manager, seeding=seeding, plan=replace(ORDERED, cap=cap))
    chaos = Chaos(SimpleNamespace(cluster=object(), nodes={}), nodes=3)
    wanted = chaos._wanted(live)
    chaos._release(live, wanted)
    assert [name for name, one in there.items() if not one.draining] == left
    assert list(chaos._draining) == [name for name in "abc" if name not in left]
    chaos.close()


class Unready:
    """An actor whose pid is not known until `known`; Ray as far as chaos asks it, which never waits."""

    known = False

    def __init__(self, monkeypatch):
        import ray

        self.pid = SimpleNamespace(remote=lambda: self)
        monkeypatch.setattr(ray, "wait", lambda them, timeout: (them, []) if self.known else ([], them))
        monkeypatch.setattr(ray, "get", self._get)

    def _get(self, reference, timeout):
        import ray

        if not self.known:
            raise ray.exceptions.GetTimeoutError(f"waited {timeout:.0f} s")
        return 4711


@pytest.mark.parametrize("way", ["due", "drawn", "asked for"])
def test_who_cannot_be_killed_yet_is_killed_later(way, monkeypatch):
    """Neither counted nor waited for, and hit once its process is known."""
    actor, hit, waited = Unready(monkeypatch), [], []
    monkeypatch.setattr(os, "kill", lambda pid, how: hit.append(pid))
    whole = actor._get
    monkeypatch.setattr("ray.get", lambda *given, **named: waited.append(not actor.known) or whole(*given, **named))
    ledger = SimpleNamespace(
        entries={"r": SimpleNamespace(ids=[1], ended="")}, tokens=lambda: 10**6
    )  # fmt: skip
    one = SimpleNamespace(actor=actor, node="", draining=False, requests={"r": None}, process=actor)
    manager = SimpleNamespace(instances={"a": one}, active=lambda: {"a": one}, ledger=ledger, now=lambda: 5.0)
    live = SimpleNamespace(manager=manager, trainer=SimpleNamespace(version=0), plan=ORDERED)
    fleet = SimpleNamespace(cluster=None, nodes={}, fallen=list, draining=set)
    chaos = Storm(fleet, nodes=1, seed=0) if way == "drawn" else Chaos(fleet, 1, kills=way == "due", how="actor")
    if way == "asked for":
        chaos.asked.put("kill a")
    for _ in range(2):
        chaos.between(live)
        assert (chaos.done, chaos._hit, hit) == ([], set(), [])
    actor.known = True
    chaos.between(live)
    assert ([name for _, name, _ in chaos.done], chaos._hit, hit) == (["a"], {"a"}, [4711])
    chaos.between(live)
    assert hit == [4711]
    assert waited == [False]
    chaos.close()


class Late:
    """A cluster whose first raylets are late: they stand all the same."""

    def __init__(self, late):
        self.worker_nodes, self.late, self.removed = {"another"}, late, []

    def add_node(self, **_):
        node = f"node {len(self.worker_nodes) + len(self.removed)}"
        self.worker_nodes.add(node)
        self.late -= 1
        if self.late >= 0:
            raise RuntimeError("the raylet is late")
        return node

    def remove_node(self, node, allow_graceful):
        self.worker_nodes.remove(node)
        self.removed.append((node, allow_graceful))


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_raylet_that_is_late_leaves_no_second_node(late):
    """The cluster's part is a double."""
    fleet = object.__new__(Fleet)
    fleet.cluster, fleet.nodes = Late(late), {}
    if late == 2:
        with pytest.raises(FleetError, match="no raylet for spot-1, twice: the raylet is late"):
            fleet.add("spot-1")
    else:
        fleet.add("spot-1")
    assert fleet.cluster.removed == [(f"node {n + 1}", False) for n in range(late)]
    assert fleet.cluster.worker_nodes == {"another", *fleet.nodes.values()}
    assert len(fleet.nodes) == (late < 2)


@pytest.mark.parametrize("already", [False, True])  # in a cluster, as after another run of this process
def test_an_address_where_nobody_answers_is_named_at_once(monkeypatch, already):
    """Ray itself would try for minutes. The control: a port that is listened at is Ray's to judge."""
    monkeypatch.setattr("ray.is_initialized", lambda: already)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(FleetError, match=f"nothing answers at {address} .*is the cluster up"):
                Fleet(address)
        free.listen()
        _answers(f"127.0.0.1:{port}")
        if already:
            with pytest.raises(FleetError, match="in a Ray cluster already"):
                Fleet(f"127.0.0.1:{port}")
    _answers("auto")


def test_seeding_lasts_from_when_rolling_out_begins(monkeypatch):
    """Weights that are waited for are none of the window's time. Nothing is generated."""
    live, pulling = object.__new__(Live), SimpleNamespace(name="a", pulling=object(), draining=False)
    live.plan, live.task = replace(ORDERED, pull=False), TASKS[ORDERED.task]
    live.world = live.folder = live._resumed = None
    live.trainer = SimpleNamespace(version=0)
    live.seeding = SimpleNamespace(window_s=lambda there: 0.2)
    pulled, handed = [], []

    def hear(_):
        time.sleep(0.3)
        pulling.pulling = None
        pulled.append(time.perf_counter())

    def hand_on():
        handed.append(time.perf_counter())
        live.manager.seeding = False

    live.manager = SimpleNamespace(
        instances={"a": pulling}, begin=lambda *_: None, now=time.perf_counter, hear=hear, seeding=True,
        active=lambda: {"a": pulling}, hand_on=hand_on,
    )  # fmt: skip
    live.stop = lambda: bool(handed)
    for name in ("_collect", "_train", "_look", "_save_ledger"):
        monkeypatch.setattr(live, name, lambda *_: None)
    monkeypatch.setattr(live, "_turn", lambda _: time.sleep(0.01))
    assert live._step(0) is None
    assert handed[0] - pulled[0] >= 0.2


def test_a_kill_that_found_nobody_is_due_in_the_next_step():
    chaos = Chaos(SimpleNamespace(cluster=object(), nodes={}), nodes=1, kills=2, steps=3)
    assert chaos.due == {1: 1, 2: 1}
    chaos._carry(2)
    assert chaos.due == {2: 2}
    chaos._carry(3)
    assert chaos.due == {3: 2}
    chaos.close()

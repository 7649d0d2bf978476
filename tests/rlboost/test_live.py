"""GRPO on real Ray nodes that are killed: the same tokens, the same weights, and a trainer that dies goes on."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.rlboost.chaos import TURN, Chaos, Storm
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.live import LEDGER, STATE, TRAINER, Live, ResumeError
from workbench.rlboost.market import Market
from workbench.rlboost.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ORDERED = Plan(steps=4, prompts=3, group=4, most=120, micro_batch=5, slots=3, ordered=True, first_seed_s=0.2, cap=False)


def run(fleet, plan, world=None, **how):
    live = Live(fleet, plan, world=world, **how)
    try:
        return list(live.steps()), live
    finally:
        live.close()
        if isinstance(world, Chaos):
            world.close()
            for name in list(fleet.nodes):  # the next test has nodes of its own
                fleet.kill(name)


def digests(rows):
    return [(row.tokens_digest, row.weights_digest) for row in rows]


@pytest.fixture(scope="module")
def alone(fleet):
    """What the reserved machine makes of it when there is nobody else."""
    rows, _ = run(fleet, ORDERED)
    assert [row.instances for row in rows] == [0, 0, 0, 0]
    return digests(rows)


class AllAtOnce(Chaos):
    """Beside its schedule: everybody is killed in the first step, when all have begun."""

    all_gone = False

    def between(self, live):
        super().between(live)
        entries, active = live.manager.ledger.entries, live.manager.active()
        begun = [any(entries[r].ids and not entries[r].ended for r in one.requests) for one in active.values()]
        if live.trainer.version == 0 and not self.all_gone and len(begun) == self.nodes and all(begun):
            self.all_gone = True
            for name in active:
                self.asked.put(f"kill {name}")


def test_kills_change_no_token_and_no_weight(fleet, alone):
    chaos = AllAtOnce(fleet, nodes=2, kills=3, how="mixed", steps=4)
    rows, live = run(fleet, ORDERED, chaos)
    assert [(step, how) for step, _, how in chaos.done] == [(0, "kill"), (0, "kill"), *enumerate(TURN, 1)]
    assert digests(rows) == alone
    # whoever had said all before it went is not missed: the drained one, and perhaps the last
    assert 3 <= sum(row.lost_instances for row in rows) <= 5
    moved = [row.migrations >= 1 and row.recomputed_tokens > 0 for row in rows]
    assert sum(moved) >= 3  # a notice is looked for twice a second, which may be after the step
    assert [(row.lost_tokens, row.duplicated_tokens) for row in rows] == [(0, 0)] * 4
    assert live.manager.ledger.faults() == []


def test_the_reserved_agent_stands_beside_the_driver(fleet):
    import ray

    fleet.add("elsewhere")

    class Where:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    kept = [fleet.actor(Where, None) for _ in range(4)]  # Ray spreads those that are not told where
    found = set(ray.get([one.node.remote() for one in kept], timeout=120))
    there = fleet.actor(Where, "elsewhere")
    assert found == {ray.get_runtime_context().get_node_id()}
    assert ray.get(there.node.remote(), timeout=120) == fleet.node_id("elsewhere")  # the control
    for one in (*kept, there):
        ray.kill(one)
    fleet.kill("elsewhere")


def test_nodes_come_to_the_zone_that_is_worth_it(fleet):
    """Ray knows nodes by names with their zone."""
    market = Market("price", {"dear": 2.0})
    chaos = Chaos(fleet, nodes=2, every=True, market=market, zones=("dear", "cheap"))
    rows, live = run(fleet, replace(ORDERED, steps=1), chaos)
    assert sorted(live.manager.instances) == sorted(market.since_s) == ["cheap/spot-1", "cheap/spot-2"]
    assert rows[0].instances > 0


def test_another_seed_is_another_run(fleet, alone):
    """The control: digests are not equal by themselves."""
    rows, _ = run(fleet, replace(ORDERED, seed=1, steps=1))
    assert digests(rows)[0][0] != alone[0][0]
    assert digests(rows)[0][1] != alone[0][1]


class Watch(Chaos):
    """Beside its schedule: keeps who had which weights, at each turn."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.seen = []

    def between(self, live):
        self.seen += [one.version == live.trainer.version for one in live.manager.instances.values()]
        super().between(live)


def test_baselines_without_migration_and_with_synchronous_weights(fleet, alone):
    """Lost tokens are made twice, nobody works with old weights; the same is said and learnt all the same."""
    chaos = Watch(fleet, nodes=1, kills=1, how="node", steps=2)
    rows, _ = run(fleet, replace(ORDERED, migrate=False, pull=False, steps=2), chaos)
    assert digests(rows) == alone[:2]
    assert [row.discarded_tokens > 0 for row in rows] == [False, True]
    assert chaos.seen
    assert all(chaos.seen)


def test_it_goes_on_in_the_middle_of_a_step(fleet, alone, tmp_path):
    def stop():
        ledger = live.manager.ledger
        return "1/0/0" in ledger.entries and ledger.tokens() > 60

    live = Live(fleet, ORDERED, tmp_path, stop=stop)
    try:
        before = list(live.steps())
    finally:
        live.close()
    assert len(before) == 1
    kept, told = Ledger.load(tmp_path / LEDGER)
    assert told["step"] == 1
    assert kept.tokens() > 60
    made = kept.tokens()
    world = First()
    rows, _ = run(fleet, ORDERED, world, folder=tmp_path)
    assert [row.step for row in rows] == [1, 2, 3]
    assert digests(before) + digests(rows) == alone
    assert world.tokens == made  # nothing of it was made again


class First:
    """Nothing happens; keeps what was on the ledger when the first turn began."""

    tokens = None

    def before(self, live):
        pass

    def between(self, live):
        if self.tokens is None:
            self.tokens = live.manager.ledger.tokens()


def test_a_trainer_that_is_killed_goes_on_from_its_ledger(fleet, alone, tmp_path):
    """A process of its own, SIGKILL in the middle of step 1."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import time
from dataclasses import replace
from pathlib import Path
from workbench.rlboost.fleet import Fleet
from workbench.rlboost.live import Live, Plan
from test_live_plan import PLAN
class Slow:
    before = lambda self, live: None
    between = lambda self, live: time.sleep(0.1 * live.trainer.version)  # so that there is a middle to be killed in
with Fleet() as fleet:
    live = Live(fleet, PLAN, Path({str(tmp_path)!r}), world=Slow())
    for row in live.steps():
        print(row.step, flush=True)
"""
    own = tmp_path / "test_live_plan.py"
    own.write_text(f"from workbench.rlboost.live import Plan\nPLAN = Plan(**{vars(ORDERED)!r})\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 240
        while not _in_step_one(tmp_path):
            assert process.poll() is None, "the trainer ended before it could be killed"
            assert time.monotonic() < end, "step 1 was not reached in 240 s"
            time.sleep(0.05)
        children = _children(process.pid)
        process.kill()
    finally:
        process.kill()
        process.wait(30)
    _ended(children)
    rows, _ = run(fleet, ORDERED, folder=tmp_path)
    assert [row.step for row in rows] == [1, 2, 3]
    assert digests(rows) == alone[1:]


def _in_step_one(folder):
    try:
        ledger, told = Ledger.load(folder / LEDGER)
    except ValueError:
        return False
    return told["step"] == 1 and ledger.tokens() > 20 and bool(ledger.unfinished())


def _children(pid):
    import psutil

    return psutil.Process(pid).children(recursive=True)


def _ended(children):
    """What a killed driver leaves behind ends by itself or is ended here: Ray's own processes."""
    import psutil

    _, left = psutil.wait_procs(children, timeout=5)
    for each in left:
        each.kill()
    psutil.wait_procs(left, timeout=10)


def test_a_folder_of_another_run_is_refused(fleet, tmp_path):
    one = replace(ORDERED, steps=1, most=8)
    run(fleet, one, folder=tmp_path)
    with pytest.raises(ResumeError, match=r"another plan .lr 0.003, not 0.01.: give it that plan, or another folder"):
        Live(fleet, replace(one, lr=0.01), tmp_path)
    rows, _ = run(fleet, replace(one, steps=2), folder=tmp_path)  # more steps are no other run
    assert [row.step for row in rows] == [1]
    state = json.loads((tmp_path / STATE).read_text())
    assert state["seeding"]["t_seed_s"] >= 0
    (tmp_path / STATE).write_text("{", encoding="utf-8")
    with pytest.raises(ResumeError, match="is no state of a run"):
        Live(fleet, one, tmp_path)
    (tmp_path / STATE).write_text(json.dumps(state | {"format": 9}), encoding="utf-8")
    with pytest.raises(ResumeError, match="format 9"):
        Live(fleet, one, tmp_path)
    (tmp_path / STATE).write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / TRAINER).write_bytes(b"no checkpoint")
    with pytest.raises(RuntimeError, match="is no checkpoint of this model"):
        Live(fleet, replace(one, steps=2), tmp_path)


@pytest.mark.vllm
def test_vllm_on_a_spot_node_says_the_same_and_ends_with_its_node(fleet):
    """float32, SmolLM2: what vLLM rolled out until its node was killed, and what was moved, is what one alone says."""
    import psutil

    plan = Plan(
        model="smollm2", task="sums", steps=1, prompts=1, group=4, most=10, micro_batch=4, slots=2, ordered=True,
        first_seed_s=0.0, seeding=False,
    )  # fmt: skip
    alone, _ = run(fleet, plan)
    chaos = Chaos(fleet, nodes=1, kills=1, how="node", steps=1)
    rows, live = run(fleet, replace(plan, engine="vllm"), chaos)
    assert [how for _, _, how in chaos.done] == ["node"]
    assert digests(rows) == digests(alone)
    assert rows[0].instances > 0
    sources = {source for entry in live.manager.ledger.entries.values() for source in entry.sources}
    assert "spot-1" in sources
    left = [p for p in psutil.process_iter(["cmdline"]) if "workbench.rlboost.vllm_child" in (p.info["cmdline"] or [])]
    _, left = psutil.wait_procs(left, timeout=20)
    assert left == []


WRONG = [{"engine": "vllm"}, {"task": "essays"}, {"group": 1}, {"steps": 0}, {"temperature": 0.0}]


@pytest.mark.parametrize("changes", WRONG)
def test_a_plan_that_cannot_be_run_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Plan(**changes)


def test_the_reward_rises_with_and_without_kills(fleet):
    plan = Plan(steps=8, prompts=4, group=8, most=12, micro_batch=8, slots=8, lr=1e-2, first_seed_s=0.05)
    quiet, _ = run(fleet, plan)
    chaos = Chaos(fleet, nodes=1, kills=2, how="actor", steps=8)
    rough, _ = run(fleet, plan, chaos)
    for rows in (quiet, rough):
        rewards = [row.reward for row in rows]
        assert sum(rewards[-2:]) / 2 > rewards[0] + 0.1, rewards
        assert all(row.lost_tokens == row.duplicated_tokens == 0 for row in rows)
    assert len(chaos.done) == 2
    last = [sum(row.reward for row in rows[-2:]) / 2 for rows in (quiet, rough)]
    assert abs(last[0] - last[1]) < 0.3, last  # seed noise of eight steps


def test_twenty_random_schedules_leave_every_position_once(fleet):
    """A step a schedule: kills of all kinds, at any moment, of anybody. `workbench bench rlboost` runs a hundred."""
    steps = 20
    plan = replace(ORDERED, prompts=2, group=4, most=60, micro_batch=8, slots=4, steps=steps)
    quiet, _ = run(fleet, plan)
    storm = Storm(fleet, nodes=3, seed=11)
    rows, _ = run(fleet, plan, storm)
    assert len(rows) == steps
    drawn = sum(random.Random(f"11|{step}").choice((1, 1, 1, 2)) for step in range(steps))
    assert len(storm.done) + len(storm._drawn) == drawn  # none is forgotten
    assert len(storm.done) >= 0.8 * steps  # a step may end before anybody can be killed: its kill opens the next one
    assert {how for _, _, how in storm.done} == {"actor", "node", "notice"}
    assert [(row.lost_tokens, row.duplicated_tokens) for row in rows] == [(0, 0)] * steps
    assert digests(rows) == digests(quiet)
    assert sum(row.migrations for row in rows) >= steps / 4


class Fall(Chaos):
    """The raylet of the first instance is killed behind everybody's back while its engine starts."""

    fell = ""

    def _meet(self, live):
        super()._meet(live)
        if not self.fell and live.manager.instances:
            self.fell = next(iter(live.manager.instances))
            [raylet] = self.fleet.nodes[self.fell].all_processes["raylet"]
            raylet.process.kill()
            raylet.process.wait(30)


def test_a_raylet_that_dies_by_itself_is_replaced(fleet):
    happened = []
    chaos = Fall(fleet, nodes=1, every=True)
    rows, live = run(fleet, replace(ORDERED, steps=1), chaos, told=happened.append)
    assert [one.who for one in happened if one.what == "lost"] == [chaos.fell]
    assert chaos.fell not in fleet.nodes and rows[0].instances > 0
    assert live.manager.join_s > max(one.at_s for one in happened)  # nobody waited for it to join

"""GRPO over instances that vanish, live: the reserved trainer, the manager, and the step that ties them.

    live = Live(fleet, Plan(model="tiny", task="letters", steps=8))
    for row in live.steps(): ...                   a LiveStep each: times, tokens, reward, what moved
    live.close()

A step is the simulator's: roll out on all engines for T_seed, hand on, train micro-batches of at least m_b responses as
their groups are complete, publish the next weights. With `ordered` the trainer waits for all and trains in the order of
requests, always cut the same way: then the weights after k steps do not depend on who made which token, and a run with
kills can be compared with one without to the bit.

The ledger, the trainer's checkpoint and what the scheduler has learnt lie in `folder`, where one is given: a trainer
that died goes on in the middle of the step, with the tokens that were there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from workbench import aside, lm
from workbench.lm.model import LM
from workbench.lm.sampler import Sampler
from workbench.rlboost.fleet import Fleet
from workbench.rlboost.grpo import advantages
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.manager import Happened, Manager, Stalled
from workbench.rlboost.plan import LiveStep, Plan, World
from workbench.rlboost.rewards import TASKS, Problem
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.seeding import Seeding, SeedingOptions, StepSeen
from workbench.rlboost.spot import WeightAgent
from workbench.rlboost.trainer import Sample, Trainer, llama
from workbench.rlboost.weights import digest

WAIT_S = 0.05
SAVE_S = 1.0  # between two copies of the ledger on disk
PUBLISH_S = 120.0
SYNC_S = 300.0  # for all instances to have the weights, where a step waits for them
FORMAT = 1
LEDGER, TRAINER, STATE = "ledger.jsonl", "trainer.pt", "state.json"


class ResumeError(RuntimeError):
    """The folder holds another run, or one that cannot be gone on with; the message says which and what to do."""


@dataclass
class _Round:
    """A step under way."""

    number: int
    asks: list[Ask]
    problems: list[Problem]
    window_s: float
    began: float = field(default_factory=time.perf_counter)
    rolls: float = field(default_factory=time.perf_counter)  # since when there is rolling out: T_seed counts from here
    groups: dict[int, list[str]] = field(default_factory=dict)  # requests that have ended, by prompt
    rewards: dict[str, float] = field(default_factory=dict)
    ready: list[Sample] = field(default_factory=list)
    trained: int = 0
    waited_s: float = 0.0
    training_s: float = 0.0
    saved: float = field(default_factory=time.perf_counter)
    looked: float = field(default_factory=time.perf_counter)
    instance_s: float = 0.0  # active instances, over time


class Live:
    """One run. `world` adds, drains and kills nodes, and tells `manager` of joins and notices.

    ResumeError, LedgerError, TrainError: `folder` holds something that cannot be gone on with.
    """

    def __init__(
        self,
        fleet: Fleet,
        plan: Plan,
        folder: Path | None = None,
        told: Callable[[Happened], None] | None = None,
        stop: Callable[[], bool] | None = None,
        world: World | None = None,
    ) -> None:
        self.fleet, self.plan, self.folder = fleet, plan, folder
        self.stop = stop or (lambda: False)
        self.world = world
        self.task = TASKS[plan.task]
        self.seeding = Seeding(SeedingOptions(first_s=plan.first_seed_s, floor_s=0.0, memory=plan.memory))
        self.model: LM = lm.load(plan.model, plan.dtype)
        self.trainer = Trainer(llama(plan.model), plan.lr, temperature=plan.temperature)
        self.step_began_s = 0.0  # on the manager's clock
        self._counted = Counter[str]()
        self._resumed: Ledger | None = None
        if folder is not None and (folder / STATE).exists():
            self._resume(folder)
        sampler = Sampler(plan.temperature, seed=plan.seed)
        self.agent = fleet.actor(WeightAgent, None)
        self.manager = Manager(
            fleet, self.agent, Rollouts(self.model, sampler, plan.slots, version=-1), model=plan.model,
            dtype=plan.dtype, sampler=sampler, slots=plan.slots, migrate=plan.migrate, balance=plan.balance,
            engine=plan.engine, told=told,
        )  # fmt: skip
        self._publish()

    def steps(self) -> Iterator[LiveStep]:
        """Steps until the plan's are done or `stop` says so. Stalled, TrainError, LedgerError end the run by name."""
        while self.trainer.version < self.plan.steps and not self.stop():
            row = self._step(self.trainer.version)
            if row is None:
                return
            yield row

    def close(self) -> None:
        """End the actors; the fleet stays, but for nodes whose engine is still starting.

        A raylet now and then dies of ray.kill of an actor that is being created (Ray 2.60), and what joins it later
        would wait in vain.
        """
        import ray

        for one in self.manager.instances.values():
            if one.version < 0 and one.name in self.fleet.nodes:
                self.fleet.kill(one.name)
            else:
                ray.kill(one.actor)
        ray.kill(self.agent)

    # -- a step --------------------------------------------------------------------------------------------------

    def _step(self, number: int) -> LiveStep | None:
        """None: it was stopped, and its tokens are on disk where there is a folder."""
        if self.world is not None:
            self.world.before(self)
        now = self._begin(number)
        while now.trained < self.plan.responses:
            if self.stop():
                self._save_ledger()
                return None
            if self.world is not None:
                self.world.between(self)
            at = time.perf_counter()
            if self.manager.seeding and self.manager.active() and at - now.rolls >= now.window_s:
                self.manager.hand_on()
            self._collect(now)
            if not self._train(now):
                self._turn(now)
            self._look(now)
        return self._end(now)

    def _begin(self, number: int) -> _Round:
        problems = self.task.problems(self.plan.seed, number, self.plan.prompts)
        asks = []
        for p, problem in enumerate(problems):
            prompt = tuple(self._prompt(problem.prompt))
            asks += [Ask(f"{number}/{p}/{g}", prompt, (), self.plan.most) for g in range(self.plan.group)]
        now = _Round(number, asks, problems, 0.0)
        self.step_began_s = self.manager.now()
        self.manager.begin(number, asks, self._resumed)
        self._resumed = None
        if not self.plan.pull:
            self._wait_for_pulls()
        there = [one for one in self.manager.instances.values() if not one.draining]
        now.window_s = self.seeding.window_s(len(there))
        if there and not self.plan.seeding:
            now.window_s = 0.0
        now.rolls = time.perf_counter()
        return now

    def _prompt(self, text: str) -> list[int]:
        if self.plan.model == "tiny":
            return list(text.encode())
        return list(self.model.tokenizer.chat([{"role": "user", "content": text}]))

    def _wait_for_pulls(self) -> None:
        """Synchronous transfer: nobody works until everybody has the weights."""
        end = time.perf_counter() + SYNC_S
        while pulling := [one.name for one in self.manager.instances.values() if one.pulling is not None]:
            if time.perf_counter() > end:
                raise Stalled(f"{', '.join(pulling)} did not have the weights within {SYNC_S:.0f} s")
            self.manager.hear(WAIT_S)

    def _collect(self, now: _Round) -> None:
        """Rewards of what has ended; groups that are complete become samples."""
        manager, plan = self.manager, self.plan
        while manager.finished:
            name = manager.finished.popleft()
            at, entry = _order(name)[1], manager.ledger.entries[name]
            text = self.model.tokenizer.decode(entry.ids)
            now.rewards[name] = self.task.reward(now.problems[at], entry.ids, text)
            group = now.groups.setdefault(at, [])
            group.append(name)
            if len(group) == plan.group:
                now.ready += self._samples(now, sorted(group, key=_order))

    def _samples(self, now: _Round, names: list[str]) -> list[Sample]:
        """A complete group, each response with its advantage."""
        prompts = {a.request: a.prompt for a in now.asks}
        value = advantages(torch.tensor([now.rewards[n] for n in names]), len(names))
        entries = self.manager.ledger.entries
        return [
            Sample(n, prompts[n], tuple(entries[n].ids), float(a)) for n, a in zip(names, value.tolist(), strict=True)
        ]

    def _train(self, now: _Round) -> bool:
        """Train on a micro-batch when there is one and the reserved machine does not roll out. Whether it did."""
        plan, manager = self.plan, self.manager
        enough = plan.responses if plan.ordered else min(plan.micro_batch, plan.responses - now.trained)
        if len(now.ready) < enough or (manager.seeding and manager.open):
            return False
        began = time.perf_counter()
        if plan.ordered:
            now.ready.sort(key=lambda s: _order(s.request))
        parts = [now.ready]
        if plan.ordered:  # always cut the same way
            parts = [now.ready[at : at + plan.micro_batch] for at in range(0, len(now.ready), plan.micro_batch)]
        for part in parts:
            share = torch.tensor([1 / (plan.responses * len(s.response)) for s in part])  # grpo.shares of the step
            self.trainer.add(part, share)
            now.trained += len(part)
        seconds = time.perf_counter() - began
        self.manager.say("trainer", "train", f"{sum(map(len, parts))} responses", seconds)
        now.ready = []
        now.training_s += seconds
        if manager.open:
            manager.turn(0.0)
        return True

    def _turn(self, now: _Round) -> None:
        began = time.perf_counter()
        self.manager.turn(WAIT_S)
        if not self.manager.seeding:
            now.waited_s += time.perf_counter() - began

    def _look(self, now: _Round) -> None:
        at = time.perf_counter()
        now.instance_s += len(self.manager.active()) * (at - now.looked)
        now.looked = at
        if at - now.saved > SAVE_S:
            self._save_ledger()
            now.saved = at

    def _end(self, now: _Round) -> LiveStep:
        """The optimizer's step, and the next weights for everybody."""
        manager = self.manager
        self.trainer.finish()
        seconds = time.perf_counter() - now.began
        instances = now.instance_s / seconds
        counts, self._counted = manager.counts - self._counted, Counter(manager.counts)  # between two steps too
        self._learn(now, seconds, instances, counts)
        lost, twice = manager.ledger.audit(self.plan.most)
        row = LiveStep(
            step=now.number,
            seconds=seconds,
            t_seed_s=now.window_s,
            n_prem=self.seeding.n_prem,
            instances=instances,
            tokens=manager.ledger.tokens(),
            reward=sum(now.rewards.values()) / len(now.rewards),
            migrations=counts["migrations"],
            recomputed_tokens=counts["recomputed tokens"],
            discarded_tokens=counts["discarded tokens"],
            lost_instances=counts["lost instances"],
            refused_pieces=counts["refused pieces"],
            wait_train_s=now.waited_s,
            train_s=now.training_s,
            lost_tokens=lost,
            duplicated_tokens=twice,
            tokens_digest=manager.ledger.digest(),
            weights_digest=digest(self.trainer.weights()),
        )
        self._publish()
        self._save_state()
        return row

    def _learn(self, now: _Round, seconds: float, instances: float, counts: Counter[str]) -> None:
        """Algorithm 1, from what the step showed."""
        last = self.manager.last_remote_s + self.manager.began  # of the last remote response
        remote_s = min(seconds, max(0.0, last - now.began)) if instances else 0.0
        there = sum(not one.draining for one in self.manager.instances.values())
        seen = StepSeen(
            wait_train_s=now.waited_s,
            wait_remote_s=seconds - remote_s if instances else 0.0,
            t_remote_s=remote_s,
            t_train_s=now.training_s,
            mean_instances=instances,
            next_instances=there,
            changed=any(counts[name] for name in ("joins", "notices", "lost instances")),
            reserved=1.0,
        )
        self.seeding.after(seen)

    # -- weights and checkpoints ---------------------------------------------------------------------------------

    def _publish(self) -> None:
        import ray

        version, weights = self.trainer.version, self.trainer.weights()
        ray.get(self.agent.publish.remote(version, weights), timeout=PUBLISH_S)
        self.manager.own.load(version, {n: w.clone() for n, w in weights.items()})

    def _save_ledger(self) -> None:
        if self.folder is not None:
            self.manager.ledger.save(self.folder / LEDGER, {"step": self.trainer.version})

    def _save_state(self) -> None:
        """The trainer first: a ledger of an older step than it is left aside."""
        if self.folder is None:
            return
        self.trainer.save(self.folder / TRAINER)
        state = {"format": FORMAT, "plan": asdict(self.plan), "seeding": self.seeding.state()}
        with aside.whole(self.folder / STATE) as out:
            out.write(json.dumps(state).encode())

    def _resume(self, folder: Path) -> None:
        """Weights of the last whole step, and the tokens of the one that was interrupted."""
        state = self._read_state(folder / STATE)
        free = ("steps", "pull", "migrate", "first_seed_s", "cap", "engine")  # these may change on the way
        mine = asdict(self.plan)
        others = [n for n, v in state["plan"].items() if n not in free and mine.get(n) != v]
        if others:
            told = ", ".join(f"{n} {state['plan'][n]!r}, not {mine.get(n)!r}" for n in others)
            raise ResumeError(f"{folder} holds a run of another plan ({told}): give it that plan, or another folder")
        self.trainer.load(folder / TRAINER)
        self.seeding.restore(state["seeding"])
        if (folder / LEDGER).exists():
            ledger, told_with = Ledger.load(folder / LEDGER)
            if told_with.get("step") == self.trainer.version:
                self._resumed = ledger

    @staticmethod
    def _read_state(file: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if state["format"] == FORMAT and isinstance(state["plan"], dict) and isinstance(state["seeding"], dict):
                return state
            raise ResumeError(f"{file} is of format {state['format']}, not {FORMAT}: begin in another folder")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResumeError(
                f"{file} is no state of a run ({type(error).__name__}): begin in another folder"
            ) from None


def _order(request: str) -> tuple[int, ...]:
    """(step, prompt, number in the group)."""
    return tuple(int(part) for part in request.split("/"))

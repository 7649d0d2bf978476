"""GRPO over instances that vanish, live: the reserved trainer, the manager, and the step that ties them.

    live = Live(fleet, Plan(model="tiny", task="letters", steps=8))
    for row in live.steps(): ...                   a LiveStep each: times, tokens, reward, what moved
    live.close()

A step is the simulator's: roll out on all engines for T_seed, hand on, train micro-batches of at least m_b responses as
their groups are complete, publish the next weights. With `ordered` the trainer waits for all and trains in the order of
requests, always cut the same way: then the weights after k steps do not depend on who made which token, and a run with
kills can be compared with one without to the bit.

The ledger and the trainer's checkpoint lie in `folder`, where one is given: a trainer that died goes on in the middle
of the step, with the tokens that were there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from workbench import lm
from workbench.lm.dtype import Dtype
from workbench.lm.model import LM
from workbench.lm.sampler import Sampler
from workbench.rlboost.fleet import Fleet
from workbench.rlboost.grpo import advantages
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.manager import Happened, Manager
from workbench.rlboost.rewards import TASKS, Problem
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.seeding import Seeding, SeedingOptions, StepSeen
from workbench.rlboost.spot import WeightAgent
from workbench.rlboost.trainer import Sample, Trainer
from workbench.rlboost.weights import digest

WAIT_S = 0.05
PUBLISH_S = 120.0


@dataclass(frozen=True)
class Plan:
    """What is trained. `prompts` times `group` responses a step, of at most `most` tokens; micro_batch in responses."""

    model: str = "tiny"
    dtype: Dtype = "float32"
    task: str = "letters"
    steps: int = 8
    prompts: int = 4
    group: int = 8
    most: int = 16
    micro_batch: int = 8
    slots: int = 8
    lr: float = 3e-3
    temperature: float = 1.0
    seed: int = 0
    ordered: bool = False
    first_seed_s: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"no task is called {self.task!r}; there are {', '.join(TASKS)}")
        if min(self.steps, self.prompts, self.most, self.micro_batch, self.slots) < 1 or self.group < 2:
            raise ValueError("steps, prompts, most, micro_batch and slots are 1 or more, group 2 or more")


@dataclass(frozen=True)
class LiveStep:
    """One step, measured. Seconds of wall time."""

    step: int
    seconds: float
    t_seed_s: float
    instances: int  # active at its end
    tokens: int
    reward: float  # mean
    migrations: int
    recomputed_tokens: int
    lost_instances: int
    refused_pieces: int
    wait_train_s: float
    train_s: float
    faults: int  # positions lost or twice, by the ledger
    tokens_digest: str
    weights_digest: str


class Live:
    """One run. Meanwhile the caller adds, drains and kills nodes, and tells `manager` of joins and notices."""

    def __init__(
        self,
        fleet: Fleet,
        plan: Plan,
        folder: Path | None = None,
        told: Callable[[Happened], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.fleet, self.plan, self.folder = fleet, plan, folder
        self.stop = stop or (lambda: False)
        self.task = TASKS[plan.task]
        self.model: LM = lm.load(plan.model, plan.dtype)
        self.trainer = Trainer(_module(plan.model), plan.lr)
        self.seeding = Seeding(SeedingOptions(first_s=plan.first_seed_s, floor_s=0.0))
        sampler = Sampler(plan.temperature, seed=plan.seed)
        self.agent = fleet.actor(WeightAgent, None)
        self.manager = Manager(
            fleet, self.agent, Rollouts(self.model, sampler, plan.slots, version=-1), model=plan.model,
            dtype=plan.dtype, sampler=sampler, slots=plan.slots, told=told,
        )  # fmt: skip
        self._resumed: Ledger | None = None
        if folder is not None and (folder / "trainer.pt").exists():
            self._resume(folder)
        self._publish()

    def steps(self) -> Iterator[LiveStep]:
        """Steps until the plan's are done or `stop` says so. Stalled, TrainError, LedgerError end the run by name."""
        while self.trainer.version < self.plan.steps and not self.stop():
            row = self._step(self.trainer.version)
            if row is None:
                return
            yield row

    def close(self) -> None:
        """End the actors; the fleet stays."""
        import ray

        for one in self.manager.instances.values():
            ray.kill(one.actor)
        ray.kill(self.agent)

    # -- a step --------------------------------------------------------------------------------------------------

    def _asks(self, step: int) -> tuple[list[Ask], list[Problem]]:
        problems = self.task.problems(self.plan.seed, step, self.plan.prompts)
        asks = []
        for p, problem in enumerate(problems):
            prompt = tuple(self._prompt(problem.prompt))
            asks += [Ask(f"{step}/{p}/{g}", prompt, (), self.plan.most) for g in range(self.plan.group)]
        return asks, problems

    def _prompt(self, text: str) -> list[int]:
        if self.plan.model == "tiny":
            return list(text.encode())
        return list(self.model.tokenizer.encode(text))

    def _step(self, number: int) -> LiveStep | None:
        plan, manager, began = self.plan, self.manager, time.perf_counter()
        before = dict(manager.counts)
        asks, problems = self._asks(number)
        manager.begin(number, asks, self._resumed)
        self._resumed = None
        window_s = self.seeding.window_s(len(manager.active()))
        groups: dict[int, list[str]] = {}
        rewards: dict[str, float] = {}
        ready: list[Sample] = []
        trained, waited, training, saved = 0, 0.0, 0.0, time.perf_counter()
        total = len(asks)
        while trained < total:
            if self.stop():
                self._save()
                return None
            now = time.perf_counter()
            if manager.seeding and manager.active() and now - began >= window_s:
                manager.hand_on()
            while manager.finished:
                name = manager.finished.popleft()
                p = int(name.split("/")[1])
                entry = manager.ledger.entries[name]
                text = self.model.tokenizer.decode(entry.ids)
                rewards[name] = self.task.reward(problems[p], entry.ids, text)
                groups.setdefault(p, []).append(name)
                if len(groups[p]) == plan.group:
                    ready += self._samples(asks, sorted(groups[p], key=_order), rewards)
            enough = total if plan.ordered else min(plan.micro_batch, total - trained)
            if len(ready) >= enough and not (manager.seeding and manager.open):
                if plan.ordered:
                    ready.sort(key=lambda s: _order(s.request))
                at = time.perf_counter()
                trained += self._train(ready[: plan.micro_batch] if plan.ordered else ready, total)
                ready = ready[plan.micro_batch :] if plan.ordered else []
                while plan.ordered and ready:
                    trained += self._train(ready[: plan.micro_batch], total)
                    ready = ready[plan.micro_batch :]
                training += time.perf_counter() - at
                if manager.open:
                    manager.turn(0.0)
                continue
            at = time.perf_counter()
            manager.turn(WAIT_S)
            if not manager.seeding:
                waited += time.perf_counter() - at
            if self.folder is not None and time.perf_counter() - saved > 1.0:
                self._save()
                saved = time.perf_counter()
        row_counts = {k: manager.counts[k] - before.get(k, 0) for k in ("migrations", "recomputed tokens")}
        instances = len(manager.active())
        self.trainer.finish()
        seconds = time.perf_counter() - began
        self._learn(seconds, waited, training, instances, began)
        self._publish()
        self._save_trainer()
        reward = sum(rewards.values()) / len(rewards)
        return LiveStep(
            number, seconds, window_s, instances, manager.ledger.tokens(), reward, row_counts["migrations"],
            row_counts["recomputed tokens"], manager.counts["lost instances"] - before.get("lost instances", 0),
            manager.counts["refused pieces"] - before.get("refused pieces", 0), waited, training,
            len(manager.ledger.faults([number])), manager.ledger.digest(), digest(self.trainer.weights()),
        )  # fmt: skip

    def _samples(self, asks: list[Ask], names: list[str], rewards: dict[str, float]) -> list[Sample]:
        """A complete group, each response with its advantage."""
        prompts = {a.request: a.prompt for a in asks}
        value = advantages(torch.tensor([rewards[n] for n in names]), len(names))
        entries = self.manager.ledger.entries
        return [
            Sample(n, prompts[n], tuple(entries[n].ids), float(a)) for n, a in zip(names, value.tolist(), strict=True)
        ]

    def _train(self, part: list[Sample], total: int) -> int:
        share = torch.tensor([1 / (total * len(s.response)) for s in part])  # grpo.shares of the whole step
        self.trainer.add(part, share)
        return len(part)

    def _learn(self, seconds: float, waited: float, training: float, instances: int, began: float) -> None:
        last = self.manager.last_remote_s + self.manager.began
        remote_s = max(0.0, last - began) if instances else 0.0
        seen = StepSeen(
            wait_train_s=waited, wait_remote_s=max(0.0, seconds - remote_s) if instances else 0.0,
            t_remote_s=remote_s, t_train_s=max(1e-6, training), mean_instances=float(instances),
            next_instances=instances, changed=False, reserved=1.0,
        )  # fmt: skip
        self.seeding.after(seen)

    # -- weights and checkpoints ---------------------------------------------------------------------------------

    def _publish(self) -> None:
        import ray

        version, weights = self.trainer.version, self.trainer.weights()
        ray.get(self.agent.publish.remote(version, weights), timeout=PUBLISH_S)
        self.manager.own.load(version, {n: w.clone() for n, w in weights.items()})

    def _save(self) -> None:
        if self.folder is not None:
            self.manager.ledger.save(self.folder / "ledger.jsonl", {"step": self.trainer.version})

    def _save_trainer(self) -> None:
        if self.folder is not None:
            self.trainer.save(self.folder / "trainer.pt")
            (self.folder / "plan.json").write_text(json.dumps(asdict(self.plan)), encoding="utf-8")

    def _resume(self, folder: Path) -> None:
        """Weights of the last whole step, and the tokens of the one that was interrupted."""
        self.trainer.load(folder / "trainer.pt")
        file = folder / "ledger.jsonl"
        if file.exists():
            ledger, told = Ledger.load(file)
            if told.get("step") == self.trainer.version:
                self._resumed = ledger


def _order(request: str) -> tuple[int, ...]:
    return tuple(int(part) for part in request.split("/"))


def _module(model: str) -> Any:
    """The model as transformers has it, with the weights that the engines begin with."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if model == "tiny":
        from workbench.lm.tiny import CONFIG, tiny_weights

        module = LlamaForCausalLM(LlamaConfig(**CONFIG))
        module.load_state_dict(tiny_weights(0), strict=False)
        return module
    return AutoModelForCausalLM.from_pretrained(lm.path(model), dtype=torch.float32)

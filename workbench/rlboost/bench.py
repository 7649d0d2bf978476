"""RLBoost measured live: `workbench bench rlboost` keeps its rows with the other benchmarks. A quarter of an hour.

On real Ray nodes of this machine: what a kill costs early and late in a step, with migration and without; pulled
weights against synchronous ones, with those of SmolLM2; how well the simulator predicts a run from its first steps; and
a hundred random schedules of kills, after which every position of every response is on the ledger once. Engines share
the machine's cores, so seconds compare variants of one round with each other and say nothing of a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import workbench as wb
from workbench.rlboost.chaos import Chaos, Storm
from workbench.rlboost.config import PRESETS
from workbench.rlboost.fleet import Fleet
from workbench.rlboost.live import Live
from workbench.rlboost.plan import LiveStep, Plan, World

ROUNDS, SEEDS, SCHEDULES = 2, 5, 100
BASE = Plan(steps=3, prompts=4, group=4, most=96, micro_batch=4, slots=4, ordered=True, first_seed_s=0.2)
LARGE = Plan(
    model="smollm2", task="sums", steps=3, prompts=2, group=4, most=24, micro_batch=4, slots=4, lr=2e-5, ordered=True,
    first_seed_s=0.2,
)  # fmt: skip
EARLY, LATE = 0.1, 0.7  # share of the step's tokens that are there when an engine is killed
PARTS = "kills weights crosscheck schedules"


def main() -> list[dict[str, Any]]:
    """Run everything; one row per number. WORKBENCH_BENCH: what to measure, all of it if not set."""
    wanted = os.environ.get("WORKBENCH_BENCH", PARTS).split()
    rows: list[dict[str, Any]] = []
    with Fleet() as fleet:
        if "kills" in wanted:
            rows += _kills(fleet)
        if "weights" in wanted:
            rows += _weights(fleet)
        if "schedules" in wanted:
            rows += _schedules(fleet, SCHEDULES)
    if "crosscheck" in wanted:  # a run starts a cluster of its own
        rows += _crosscheck()
    return rows


class At(Chaos):
    """One engine is killed in each step but the first, when this share of the step's tokens is there."""

    def __init__(self, fleet: Fleet, share: float) -> None:
        super().__init__(fleet, nodes=2, every=True)
        self.share, self._last = share, 0

    def between(self, live: Live) -> None:
        step, ledger = live.trainer.version, live.manager.ledger
        if step > self._last and ledger.tokens() >= self.share * live.plan.responses * live.plan.most:
            has = {name: len(one.requests) for name, one in live.manager.active().items()}
            if has and (most := max(has, key=lambda name: has[name])) and has[most]:
                self._last = step
                self.done.append((step, most, "actor"))
                self._kill(live, most, "actor")
        super().between(live)


def _row(case: str, name: str, value: float, badge: str = "measured") -> dict[str, Any]:
    print(f"  {case:<44} {name:<28} {value:10.4g}  {badge}", flush=True)
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}


def _steps(fleet: Fleet, plan: Plan, world: World | None) -> list[LiveStep]:
    """All steps; nodes that are left are there for the next."""
    live = Live(fleet, plan, world=world)
    try:
        return list(live.steps())
    finally:
        live.close()
        if isinstance(world, Chaos):
            world.close()


def _kills(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """Nobody killed, one early, one late; what was lost goes on from its tokens, or begins anew."""
    variants: dict[str, tuple[Plan, float | None]] = {"no kill": (BASE, None)}
    for when, there in (("early", EARLY), ("late", LATE)):
        variants[f"{when} kill, migrated"] = (BASE, there)
        variants[f"{when} kill, begun anew"] = (replace(BASE, migrate=False), there)
    found: dict[str, list[LiveStep]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, (plan, share) in variants.items():
            chaos = Chaos(fleet, nodes=2, every=True) if share is None else At(fleet, share)
            found[name] += _steps(fleet, plan, chaos)[1:]  # the first has no kill and warms up
    quiet = median(row.seconds for row in found["no kill"])
    for name, rows in found.items():
        case = f"tiny, 2 spot nodes, {name}"
        yield _row(case, "step_s", median(row.seconds for row in rows))
        yield _row(case, "step over no kill", median(row.seconds for row in rows) / quiet)
        yield _row(case, "lost instances", sum(row.lost_instances for row in rows))
        yield _row(case, "responses moved a step", median(row.migrations for row in rows))
        yield _row(case, "tokens prefilled again a step", median(row.recomputed_tokens for row in rows))
        yield _row(case, "tokens decoded again a step", median(row.discarded_tokens for row in rows))
    same = len({tuple(row.weights_digest for row in rows if row.step == 2) for rows in found.values()})
    yield _row("tiny, 2 spot nodes, all of these", "different weights at the end", same)


def _weights(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """A spot node pulls SmolLM2's weights, 538 MB in float32, while the reserved machine works; or all wait for it."""
    variants = {"pulled": LARGE, "synchronous": replace(LARGE, pull=False)}
    found: dict[str, list[LiveStep]] = {name: [] for name in variants}
    for _ in range(2):
        for name, plan in variants.items():
            found[name] += _steps(fleet, plan, Chaos(fleet, nodes=1, every=True))[1:]
    for name, rows in found.items():
        case = f"smollm2, 1 spot node, weights {name}"
        yield _row(case, "step_s", median(row.seconds for row in rows))
        yield _row(case, "step without training_s", median(row.seconds - row.train_s for row in rows))
        yield _row(case, "instances at work", median(row.instances for row in rows))
        yield _row(case, "tokens a second", median(row.tokens / row.seconds for row in rows))


def _crosscheck() -> Iterator[dict[str, Any]]:
    """The simulator beside the run, and the run beside the machine alone; reward with kills and without."""
    from workbench.rlboost.result import ALONE, TESTED, RLBoostResult

    all_errors: list[float] = []
    for seed in range(SEEDS):
        result = wb.run("rlboost", PRESETS["live"].model_copy(update={"seed": seed}))
        assert isinstance(result, RLBoostResult)
        case = f"preset live, seed {seed}"
        errors = [r.predicted_s / r.seconds - 1 for r in result.rows if r.way == TESTED and r.predicted_s is not None]
        all_errors += map(abs, errors)
        yield _row(case, "median error of predicted step_s", median(abs(e) for e in errors), "modelled")
        for name, value in result.summary().items():
            yield _row(case, name, value, result.provenance.badges[name])
        for arm in (ALONE, TESTED):
            rewards = [r.reward for r in result.rows if r.way == arm and r.reward is not None]
            yield _row(case, f"{arm}: reward_last", rewards[-1])
        for what in ("same_tokens", "same_weights", "control_differs"):
            yield _row(case, what, float(bool(getattr(result, what))))
    yield _row(f"preset live, {SEEDS} seeds", "median error of predicted step_s", median(all_errors), "modelled")


def _schedules(fleet: Fleet, number: int) -> Iterator[dict[str, Any]]:
    """A step a schedule: kills of all kinds, at any moment, of anybody."""
    plan = replace(BASE, prompts=2, group=4, most=120, micro_batch=8, steps=number)
    for name in list(fleet.nodes):
        fleet.kill(name)
    quiet = _steps(fleet, plan, None)
    storm = Storm(fleet, nodes=3, seed=11)
    rows = _steps(fleet, plan, storm)
    case = f"{number} random schedules"
    yield _row(case, "kills", len(storm.done))
    for how in ("actor", "node", "notice"):
        yield _row(case, f"of these by {how}", sum(one == how for _, _, one in storm.done))
    yield _row(case, "lost tokens", sum(row.lost_tokens for row in rows))
    yield _row(case, "duplicated tokens", sum(row.duplicated_tokens for row in rows))
    yield _row(case, "responses moved", sum(row.migrations for row in rows))
    unlike = sum(a.tokens_digest != b.tokens_digest for a, b in zip(rows, quiet, strict=True))
    yield _row(case, "steps with other tokens than alone", unlike)
    yield _row(case, "same weights at the end", float(rows[-1].weights_digest == quiet[-1].weights_digest))

"""A modelled Foundry run: ways to start on the paper's models, fleets in a burst, published numbers beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event as Flag
from typing import Any

from workbench.foundry import claims, fleet, sim
from workbench.foundry.config import FoundryConfig
from workbench.foundry.parts import Burst, Published, Row
from workbench.foundry.result import FoundryResult
from workbench.held import Held
from workbench.pump import Stopped
from workbench.system import Event, Point, Progress

NAMES: dict[sim.Arm, str] = {
    "capture": "capture",
    "eager": "eager start",
    "one by one": "one by one",
    "foundry": "foundry start",
    "checkpoint": "checkpoint",
}
IN_BURSTS: tuple[sim.Arm, ...] = ("capture", "eager", "foundry")
LADDERS = (1, 8, 16, 35, 51, 83, 128, 256, 512)


def setting_of(config: FoundryConfig) -> sim.Setting:
    """What starts."""
    return sim.Setting(config.sim_model, config.sim_ranks, config.sim_graphs, prefill_graphs=config.sim_prefill_graphs)


def arms_of(config: FoundryConfig) -> list[sim.Arm]:
    """Ways to start; a process checkpoint holds one GPU."""
    return [arm for arm in NAMES if arm != "checkpoint" or config.sim_ranks == 1]


def modelled(config: FoundryConfig, say: Callable[[Event], None], stop: Flag) -> FoundryResult:
    """Starts, ladders, a burst, the paper's numbers."""
    began = time.monotonic()

    def tick(share: float, note: str) -> None:
        if stop.is_set():
            raise Stopped("the simulation was cancelled")
        say(Progress(100 * share, 100, note))

    tick(0.0, "starts")
    setting, held, rows = setting_of(config), list[Held](), list[Row]()
    phases = {}
    for arm in arms_of(config):
        found = sim.start(setting, arm)
        phases[NAMES[arm]] = [(p.name, p.seconds) for p in found.phases if p.seconds > 0]
        for span in found.spans():
            one = Held(
                lane=NAMES[arm], start_s=span.start_s, end_s=span.end_s, label=span.label, kind=kind_of(span.label),
                why=dict(span.why),
            )  # fmt: skip
            held.append(one)
            say(one.span())
    for count in sorted({*LADDERS, config.sim_graphs}):
        tick(0.1, f"a ladder of {count}")
        for arm in arms_of(config):
            ready_s = sim.start(replace(setting, sizes=count), arm).total_s
            rows.append(Row(way=NAMES[arm], round=0, size=count, ready_s=ready_s, badge="modelled"))
            say(Point(f"{NAMES[arm]}: time to ladder (s)", float(count), ready_s))
    traffic = fleet.Traffic(rate_s=config.sim_rate_s, burst=config.sim_burst, seed=config.seed)
    bursts = []
    for i, way in enumerate(IN_BURSTS):
        tick(0.2 + 0.2 * i, f"a burst: {NAMES[way]}")
        bursts.append(_burst(NAMES[way], fleet.fleet_of(setting, traffic, fleet.Fleet(), way)))
    tick(0.8, "the paper's numbers")
    table = list(claims.everything(lambda share: tick(0.8 + 0.19 * share, "the paper's numbers")))
    facts: dict[str, Any] = {
        "rows": rows,
        "processes": [],
        "held": held,
        "phases": phases,
        "bursts": bursts,
        "built": setting.built(),
        "published": [_published(one) for one in table],
        "table": [one.claim() for one in table],
    }
    from workbench.foundry.work import assemble

    result = assemble(config, "sim", began, facts)
    say(Progress(100, 100, "done"))
    return result


def _burst(way: str, found: fleet.Outcome) -> Burst:
    return Burst(
        way=way, start_s=found.start_s, requests=found.requests, late=found.late, lost=found.lost,
        p99_s=found.first_token(0.99), gpu_h=found.gpu_h, counts=[tuple(c) for c in found.counts],
    )  # fmt: skip


def _published(one: Any) -> Published:
    return Published(
        what=one.what, paper=one.paper, ours=one.value, unit=one.unit, error=one.error, fitted=one.fitted,
        source=one.source, note=one.note,
    )  # fmt: skip


def kind_of(phase: str) -> str:
    """The kind of a span by the phase of a simulated start."""
    return PHASES.get(phase, "run")


PHASES = {
    "environment": "wait",
    "weights": "load",
    "compile": "compile",
    "memory profile and warm-up": "import",
    "capture": "capture",
    "capture of prefill": "capture",
    "archive": "transfer",
    "templates": "run",
    "graphs": "run",
    "ranks": "join",
    "restore": "transfer",
}

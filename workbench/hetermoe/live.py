"""The measured run, seen from the process of the panel: one child does everything, its lines become events and rows.

Imports no torch. What the planner knows is computed again from the profile that the child measured, when it has ended:
nothing else computes while it measures.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.child import Child, ChildDied
from workbench.hetermoe.config import HeterMoEConfig
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.launch import ENVIRONMENT, PortTaken, RankFailed
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Profile
from workbench.hetermoe.quota import QuotaDenied
from workbench.hetermoe.result import SHORT, Drawn, HeterMoEResult, Proof, Row
from workbench.pump import Clock, Stopped
from workbench.system import Event, Note, Point, Progress, Span

Say = Callable[[Event], None]
BEAT_S = 0.05
START_S = 300.0  # imports on a slow machine
MARGIN_S = 90.0  # beyond a collective's timeout, for a rank that computes; the ranks' own watch names whoever is silent
ERRORS: Mapping[str, type[Exception]] = {"PlanError": PlanError, "PortTaken": PortTaken, "QuotaDenied": QuotaDenied}


class Heard:
    """Folds the child's lines: says events, keeps what the result needs."""

    def __init__(self, config: HeterMoEConfig, say: Say, clock: Clock) -> None:
        self.config, self.say, self.clock = config, say, clock
        self.profile: Profile | None = None
        self.shares: list[list[float]] = []  # of the untrained model's routing
        self.rows: list[Row] = []
        self.proof: Proof | None = None
        self.drawn: Drawn | None = None
        self.notes: list[str] = []

    def take(self, told: Mapping[str, Any]) -> bool:
        """One line; whether it was the last. The child's own error where it failed."""
        fields = {name: value for name, value in told.items() if name != "is"}
        match told["is"]:
            case "doing":
                self.say(Progress(told["share"], 1, told["text"]))
            case "note":
                self.notes.append(told["text"])
                self.say(Note(**fields))
            case "profile":
                self.profile, self.shares = Profile.from_json(told["profile"]), told["shares"]
            case "proof":
                self.proof = Proof(**fields)
                self.say(Note(self._proved(self.proof)))
            case "row":
                self._row(told)
            case "end":
                self.drawn = Drawn.model_validate(told["drawn"])
                return True
            case "failed":
                raise ERRORS.get(told["kind"], RankFailed)(told["text"])
        return False

    def _proved(self, proof: Proof) -> str:
        how = "equal bit for bit" if proof.bits else f"equal to {proof.max_rel_param_error:.1e}"
        return (
            f"{proof.parameters:,} parameters trained under this plan are {how} to those of one process after "
            f"{proof.steps} steps; with the gate's path cut they are {proof.control:.1e} apart"
        )

    def _row(self, told: Mapping[str, Any]) -> None:
        row = Row.model_validate(told["row"])
        self.rows.append(row)
        at_s = told["start_s"] - self.clock.began  # ranks and this process share the monotonic clock
        why: dict[str, float | str] = {"tokens_per_s": row.tokens_per_s, "loss": row.loss or 0.0, "round": row.round}
        self.say(Span("turns", at_s, told["end_s"] - self.clock.began, f"a step of {SHORT[row.way]}", row.way, why))
        self.say(Point(f"{SHORT[row.way]}: throughput (tokens/s)", row.round + 1, row.tokens_per_s))
        if "drawn" in told:
            for span in Drawn.model_validate(told["drawn"]).spans():
                self.say(Span(span.lane, at_s + span.start_s, at_s + span.end_s, span.label, span.kind, span.why))


def run(config: HeterMoEConfig, say: Say, stop: threading.Event) -> HeterMoEResult:
    """Measure every way and prove the plan. PlanError, PortTaken, QuotaDenied, RankFailed: with cause and way out."""
    clock = Clock()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    heard = Heard(config, say, clock)
    if config.attention + config.expert > len(cores):
        told = f"{config.attention + config.expert} ranks share {len(cores)} cores: they take from one another's time"
        heard.notes.append(told)
        say(Note(told, "warning"))
    say(Progress(0.01, 1, "importing torch"))
    with tempfile.TemporaryDirectory(prefix="workbench-hetermoe-") as name:
        folder = Path(name)
        child = Child([sys.executable, "-m", "workbench.hetermoe.live_child"], folder, ENVIRONMENT, "measuring")
        try:
            child.send({"config": config.model_dump(mode="json"), "folder": name, "cores": cores})
            _listen(child, heard, config, stop)
        except ChildDied as died:
            raise RankFailed(str(died)) from died
        finally:
            child.end()
    return _result(config, heard, say, stop, clock)


def _listen(child: Child, heard: Heard, config: HeterMoEConfig, stop: threading.Event) -> None:
    patience = START_S
    while True:
        if stop.is_set():
            raise Stopped("the run was cancelled")
        for told in child.read(BEAT_S):
            child.doing = str(told.get("text") or told["is"])
            if told["is"] == "profile":
                patience = START_S + config.timeout_s + MARGIN_S
            if heard.take(told):
                return
        child.check_silence(patience)


def _result(
    config: HeterMoEConfig, heard: Heard, say: Say, stop: threading.Event, clock: Clock
) -> HeterMoEResult:  # fmt: skip
    """With what the planner makes of the measured profile."""
    from workbench.hetermoe.baselines import Model
    from workbench.hetermoe.live_child import pace_of
    from workbench.hetermoe.pace import worked
    from workbench.hetermoe.setting import of_profile
    from workbench.hetermoe.simulate import facts_of, measurable
    from workbench.hetermoe.work import stamped

    def tick() -> None:
        if stop.is_set():
            raise Stopped("the run was cancelled")

    profile = heard.profile
    assert profile is not None
    assert heard.drawn is not None
    model = Model(config.layers, config.experts, config.top_k, profile.model_key)
    setting = of_profile(config, profile, model, heard.shares)
    found = measurable(config, setting)
    zebra = found["zebra"]
    used = zebra.line.utilisation
    if pace := pace_of(config, zebra):
        used = worked(used, pace)
    predicted = drawn(zebra, "modelled", zebra.line.spans, zebra.line.step_s, used)
    facts = facts_of(setting, found, say, tick, (0.95, 0.99))
    facts |= {"rows": heard.rows, "drawn": [predicted, heard.drawn], "proof": heard.proof, "notes": heard.notes}
    say(Progress(1, 1, "done"))
    return stamped(config, "cpu", clock(), facts)

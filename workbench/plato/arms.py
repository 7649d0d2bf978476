"""The ways of answering, run one after the other on one engine, interleaved over rounds, none with KV of another."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from workbench.plato.conductor import conduct
from workbench.plato.config import PlatoConfig
from workbench.plato.cost import StepCost
from workbench.plato.engine import Counts, Engine
from workbench.plato.forecast import judge, predict, prior
from workbench.plato.graph import PART_TOKENS, Plan
from workbench.plato.happen import Happening, Outcome, Script, Settings, Verdict, Way
from workbench.plato.layout import Layout
from workbench.plato.warm import since, stems, warm
from workbench.pump import Stopped

COMPARED: tuple[Way, ...] = ("plato", "plain", "sot", "independent", "nodes")
PARTS_UNSEEN = 4  # of a plan that the model still has to write: bounds the plain answer decoded beside it


class Arms:
    """One query, one engine, one fitted cost; `script(way)` gives a fresh planner for each answer."""

    def __init__(
        self,
        config: PlatoConfig,
        engine: Engine,
        query: str,
        plan: Plan | None,
        script: Callable[[Way], Script],
        cost: StepCost | None,
        stop: threading.Event | None = None,
    ) -> None:
        self.config, self.engine, self.query, self.plan = config, engine, query, plan
        self.script, self.cost, self.stop = script, cost, stop or threading.Event()
        self.layout = Layout(engine, query, warm=config.warm and getattr(engine, "warms", True))
        self.prior = prior(cost, len(self.layout.front) + 64) if cost else None
        self.plain_tokens = plan.tokens if plan else PARTS_UNSEEN * (config.node_tokens or PART_TOKENS)

    def order(self, number: int) -> list[Way]:
        """Ways of a round, the one under test first in the first round (it may have to find the plan), then rotated."""
        ways = list(dict.fromkeys([self.config.way, *COMPARED]))
        if number:
            ways = [w for w in ways if w != "nodes" or self.config.way == "nodes"]  # the slow one is measured once
        turn = number % len(ways)
        return ways[turn:] + ways[:turn]

    def settings(self, way: Way) -> Settings:
        """The config's settings for a way; baselines run as they are, without hedge or refusal."""
        c = self.config
        refusing = self._refusing(way)
        return Settings(
            way=way,
            pipeline=c.pipeline or way != "plato",
            context=c.context if way == "plato" else "growing",
            whole=c.whole,
            plain_tokens=self.plain_tokens,
            hedge=refusing and bool(self.prior and self.prior.hedge),
            most_running=c.most_running,
        )

    def _refusing(self, way: Way) -> bool:
        return way == "plato" and self.config.refuse and self.cost is not None

    def answer(self, way: Way, on: Callable[[Happening], None]) -> Outcome:
        """One answer; the cache holds at most what no query changes. Stopped when the run is cancelled meanwhile."""
        self.engine.forget()
        script = self.script(way)
        before = warm(self.engine, stems(self.layout, script, way), self._stopped) if self.layout.warm else Counts()
        way_in = "plain" if way == "plato" and self.config.refuse and self.prior and not self.prior.plan else way
        decide = judge(self.cost, len(self.layout.front)) if self.cost and self._refusing(way) else None
        going = conduct(self.engine, self.layout, script, self.settings(way_in), decide)
        try:
            outcome = self._follow(going, on)
        finally:
            going.close()
        counts = since(outcome.counts, before)
        refused = outcome.verdict is not None and not outcome.verdict.branch
        if self.plan is None and outcome.plan is not None and not refused:
            self.plan = outcome.plan
            self.plain_tokens = outcome.plan.tokens  # from here on the baselines get as many tokens
        verdict = outcome.verdict
        if way_in != way and self.prior:  # refused before there was a plan
            verdict = Verdict(False, math.inf, math.inf, self.prior.why)
        return replace(outcome, counts=counts, verdict=verdict)

    def _follow(self, going: Iterator[Happening], on: Callable[[Happening], None]) -> Outcome:
        while True:
            self._stopped()
            try:
                on(next(going))
            except StopIteration as done:
                outcome: Outcome = done.value
                return outcome

    def _stopped(self) -> None:
        if self.stop.is_set():
            raise Stopped("the run was cancelled")

    def predicted_s(self, way: Way, script: Script) -> float | None:
        """What the scheduler expects of a way, on a virtual clock."""
        if self.cost is None:
            return None
        settings = self.settings(way)
        decide = judge(self.cost, len(self.layout.front)) if self._refusing(way) else None
        warmed = self.layout.warm
        return predict(self.cost, self.engine, self.query, script, settings, decide, warmed=warmed).total_s

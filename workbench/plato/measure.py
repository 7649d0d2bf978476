"""The measured run: answer by every way in interleaved rounds, check a branch, score tasks."""

from __future__ import annotations

import threading
from typing import Any

from workbench.lm.threads import compute_threads
from workbench.plato import asked
from workbench.plato.arms import Arms
from workbench.plato.config import PlatoConfig
from workbench.plato.engine import Ask, ContextOverflow, EngineError
from workbench.plato.happen import Outcome, Way
from workbench.plato.opening import Opened, Say, drained, open_engine
from workbench.plato.pairwise import LIMIT_S, Judged, judge_pair
from workbench.plato.result import Chosen, Machine, Piece, Planned, PlatoResult, Row, plan_lines, row_of
from workbench.plato.stage import Stage
from workbench.pump import Clock
from workbench.system import Note, Progress

BEAT_S = 0.2  # between two words on how far an answer is: what is told takes time from what is measured
UNSEEN = ("model", "free")  # planners whose plan is not known before they wrote it
CHECKED_TOKENS = 24  # of a branch that is decoded again, alone


def measure(config: PlatoConfig, say: Say, stop: threading.Event) -> PlatoResult:
    """Everything on this machine, with the engine of the config."""
    clock = Clock()
    with compute_threads(config.threads):
        opened = open_engine(config, say, stop)
        try:
            return Bench(config, opened, say, stop, clock).run()
        finally:
            opened.engine.close()


class Bench:
    """One query answered by all ways, in rounds; keeps rows and the shown outcome."""

    def __init__(self, config: PlatoConfig, opened: Opened, say: Say, stop: threading.Event, clock: Clock) -> None:
        self.config, self.opened, self.say, self.stop, self.clock = config, opened, say, stop, clock
        self.question = asked.question(config)
        engine = opened.engine
        self.notes: list[str] = []
        self.planner = self._planner()
        self.known = None if self.planner in UNSEEN else self.question.plan  # else it shows while it is written
        self.arms = Arms(config, engine, self.question.query, self.known, self._script, opened.cost, stop)
        self.rows: list[Row] = []
        self.shown: Outcome | None = None
        self.plain = ""
        if config.whole and not getattr(engine, "exact_lengths", True):
            self._warn(
                "this server writes as much as it likes, up to a part's tokens: compare answer_tokens of the ways"
            )

    def _planner(self) -> str:
        """The config's planner; a server that cannot be made to write the given plan lets its model plan."""
        planner = self.config.planner
        if planner != "script" or getattr(self.opened.engine, "scripts", True):
            return planner
        self._warn(
            "this server cannot be made to write a given plan: its model plans instead; planner='given' takes yours"
        )
        return "model"

    def _warn(self, said: str) -> None:
        self.notes.append(said)
        self.say(Note(said, "warning"))

    def _script(self, way: Way) -> Any:
        return asked.script(self.planner if way != "nodes" else "given", self.arms.plan, self.config.node_tokens)

    def run(self) -> PlatoResult:
        """All rounds, then the checks."""
        if self.arms.prior:
            self.say(Note(f"before planning: {self.arms.prior.why}"))
        plan_of = [(number, way) for number in range(self.config.rounds) for way in self.arms.order(number)]
        for at, (number, way) in enumerate(plan_of):
            self.say(Progress(0.05 + 0.85 * at / len(plan_of), 1, f"{way}, round {number + 1}"))
            if way == "nodes" and self.arms.plan is None:
                self._warn(
                    "the plan was refused or could not be used: there are no parts to decode one after the other"
                )
                continue
            self._one(way, number, (at, len(plan_of)))
        exact, differs = self._checked()
        return self._result(exact, differs, self._scored(), self._judged())

    def _one(self, way: Way, number: int, place: tuple[int, int]) -> None:
        tested = way == self.config.way
        stage = Stage(self.say, way, number, self.clock(), tested and number == 0, self.known)
        at, total = place

        told_s = 0.0

        def on(now: Any) -> None:
            nonlocal told_s
            stage.take(now)
            if now.at_s - told_s >= BEAT_S:
                told_s = now.at_s
                share = min(0.95, now.at_s / 20)
                self.say(Progress(0.05 + 0.85 * (at + share) / total, 1, f"{way}, round {number + 1}"))

        outcome = self.arms.answer(way, on)
        stage.close(outcome.parts)
        predicted_s = self._predicted(way)
        self.rows.append(row_of(outcome, way, number, predicted_s, "measured"))
        if tested:
            self.shown = outcome
        if way == "plain":
            self.plain = outcome.answer

    def _predicted(self, way: Way) -> float | None:
        """By the virtual clock; a plan that the model wrote is predicted once it is known."""
        if self.opened.cost is None or (self.arms.plan is None and way != "plain"):
            return None
        planner = "given" if way == "nodes" or self.config.planner in ("given", "rules") else "script"
        planner = planner if self.arms.plan else "free"  # a plain answer asks no planner
        return self.arms.predicted_s(way, asked.script(planner, self.arms.plan, self.config.node_tokens))

    # -- checks --------------------------------------------------------------------------------------------------

    def _checked(self) -> tuple[bool | None, bool | None]:
        """(a branch of a batch says the same alone, and something else without what it saw), None: nothing to check.

        An engine that rounds by width where that is faster does not here, so there the batch is decoded again.

        With temperature 0 only: a sequence of another name would be drawn with other random numbers.
        """
        shown = self.shown
        nodes = [p for p in shown.parts if p.kind == "node" and p.ids and p.prompt] if shown else []
        if not nodes or self.config.temperature > 0 or self.config.engine == "endpoint":
            return None, None
        part = max(nodes, key=lambda p: (len(p.saw), -p.node))
        self.say(Progress(0.92, 1, f"decoding part {part.node} again, alone"))
        engine, want = self.opened.engine, part.ids[:CHECKED_TOKENS]
        engine.forget()
        if hasattr(engine, "exact"):
            engine.exact = True
            company = [p for p in nodes if p is not part][:3]
            asks = [Ask(p.name, p.prompt, len(want), whole=True) for p in (part, *company)]
            want = drained(engine, asks, self.stop)[part.name]
            engine.forget()
        alone = drained(engine, [Ask("alone", part.prompt, len(want), whole=True)], self.stop)["alone"]
        front = self.arms.layout.front
        plan = shown.plan if shown and shown.plan else self.arms.plan  # a model's has other parts than the example's
        header = self.arms.layout.header(plan.nodes[part.node - 1]) if plan else ()
        differs = None
        if part.saw:
            cut = drained(engine, [Ask("cut", front + header, len(want), whole=True)], self.stop)["cut"]
            differs = cut != want
        return alone == want, differs

    def _scored(self) -> list[dict[str, Any]]:
        if not self.config.quality_tasks:
            return []
        from workbench.plato.quality import scored

        self.say(Progress(0.94, 1, "scoring generated tasks"))
        return scored(self.opened.engine, self.config.quality_tasks, self.config.seed, self.say, self.stop)

    def _judged(self) -> Judged | None:
        """What the server's model says of the shown answer and the plain one; a judge that fails costs nothing else."""
        if not self.config.judge or self.shown is None:
            return None
        if self.shown.answer == self.plain:
            self._warn("nothing to judge: both answers are the same")
            return None
        self.say(Progress(0.97, 1, "asking the judge, in both orders"))
        try:
            engine = self.opened.engine
            limit_s = max(LIMIT_S, getattr(engine, "patience_s", 0.0))
            return judge_pair(engine, self.question.query, self.shown.answer, self.plain, limit_s, self.stop.is_set)
        except (EngineError, ContextOverflow) as error:
            self._warn(f"no verdict of a judge: {error}")
            return None

    def _result(
        self, exact: bool | None, differs: bool | None, scores: list[dict[str, Any]], judged: Judged | None
    ) -> PlatoResult:
        from workbench.plato.work import stamped

        self.say(Progress(1, 1, "done"))
        shown = self.shown
        assert shown is not None
        verdict, prior = shown.verdict, self.arms.prior
        plan = shown.plan or self.arms.plan
        refused = verdict is not None and not verdict.branch
        facts = {
            "query": self.question.query,
            "rows": self.rows,
            "pieces": [Piece.of(part) for part in shown.parts],
            "planned": planned(self.planner, shown, self.question.plan),
            "chosen": Chosen.of(prior.why if prior else "no cost model: nothing is refused", verdict),
            "machine": Machine.of(self.opened.cost, self.opened.samples) if self.opened.cost else None,
            "exact": exact,
            "control_differs": differs,
            "answer": shown.answer,
            "plain_answer": self.plain,
            "scores": scores,
            "judged": judged,
            "notes": self.notes + ([] if plan or refused else ["no plan could be used"]),
        }
        return stamped(self.config, self.opened.where, self.clock(), facts)


def planned(planner: str, outcome: Outcome, wanted: Any) -> Planned:
    """What became of the plan."""
    from workbench.plato.graph import edge_scores

    plan = outcome.plan
    return Planned(
        text=plan_lines(plan),
        planner=planner,
        valid=plan is not None,
        repairs=outcome.repairs,
        error=outcome.plan_error,
        edge_f1=edge_scores(plan, wanted)[2] if plan is not None and wanted is not None else None,
    )

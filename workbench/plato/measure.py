"""The measured run: calibrate the step, answer by every way in interleaved rounds, check a branch, score tasks."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench import lm
from workbench.plato import asked
from workbench.plato.arms import Arms
from workbench.plato.config import PlatoConfig
from workbench.plato.cost import KNOTS, Sample, StepCost, calibrate, fit
from workbench.plato.engine import Ask, Constraint, Engine
from workbench.plato.happen import Outcome, Way
from workbench.plato.result import Chosen, Machine, Piece, Planned, PlatoResult, Row, plan_text, row_of
from workbench.plato.stage import Stage
from workbench.pump import Clock, Stopped
from workbench.system import Event, Note, Progress

Say = Callable[[Event], None]
BEAT_S = 0.2  # between two words on how far an answer is: what is told takes time from what is measured
CHECKED_TOKENS = 24  # of a branch that is decoded again, alone


@dataclass
class Opened:
    """An engine ready to answer, the cost of its steps where it was measured, and what to say of it."""

    engine: Engine
    cost: StepCost | None
    samples: list[Sample]
    where: str = "cpu"


def measure(config: PlatoConfig, say: Say, stop: threading.Event) -> PlatoResult:
    """Everything on this machine, with the engine of the config."""
    clock = Clock()
    opened = open_engine(config, say, stop)
    try:
        return Bench(config, opened, say, stop, clock).run()
    finally:
        opened.engine.close()


def open_engine(config: PlatoConfig, say: Say, stop: threading.Event) -> Opened:
    """Load, warm up and calibrate. Errors are those of the engine that the config names."""
    if config.engine == "embedded":
        return _embedded(config, say, stop)
    if config.engine == "vllm":
        from workbench.plato.vllm_engine import open_vllm

        engine: Engine = open_vllm(
            config.model, config.weights, say, stop, temperature=config.temperature, seed=config.seed
        )
    else:
        from workbench.plato.endpoint import open_endpoint

        engine = open_endpoint(
            config.endpoint_url, config.endpoint_model, config.endpoint_key_variable, config.endpoint_timeout_s
        )
    try:
        say(Progress(0, 1, "timing steps of the engine"))
        samples = time_engine(engine, stop, outside=True)
    except BaseException:
        engine.close()
        raise
    return Opened(engine, fit(samples, f"{config.engine}, measured in this run"), samples)


def _embedded(config: PlatoConfig, say: Say, stop: threading.Event) -> Opened:
    import torch

    from workbench.plato.embedded import EmbeddedEngine
    from workbench.plato.matcher import Matcher

    torch.set_num_threads(config.threads)
    say(Progress(0, 1, "loading the model"))
    model = lm.load(config.model, dtype=config.weights, seed=config.seed, progress=_follow(say, stop))
    samples: list[Sample] = []
    for done, total, samples in calibrate(model):  # noqa: B007  the last ones are kept
        if stop.is_set():
            raise Stopped("the run was cancelled")
        say(Progress(0.04 * done / total, 1, f"calibrating: what a step costs, {done} of {total}"))
    cost = fit(samples, f"{config.model} in {config.weights}, {config.threads} thread, measured in this run")
    sampler = lm.Sampler(temperature=config.temperature, seed=config.seed)
    # not exact: in float32 one row alone is decoded with the product that is fastest for it, so that sequential ways
    # are as fast as they can be; `_checked` decodes with equal bits
    engine = EmbeddedEngine(model, sampler, pad=cost.padded if config.pad else None, exact=False)
    Matcher(model.tokenizer, Constraint('start: "a"'))  # reads the vocabulary, once a process: no part of an answer
    say(Progress(0.045, 1, "timing steps of the engine"))
    return Opened(engine, cost.with_engine(time_engine(engine, stop)), samples)


def _follow(say: Say, stop: threading.Event) -> Callable[[float, float, str], None]:
    def follow(done: float, total: float, note: str) -> None:
        if stop.is_set():
            raise Stopped("the run was cancelled while the model was fetched")
        say(Progress(0, 1, f"{note}, {100 * done / total:.0f} %"))

    return follow


WIDTHS, TIMED = (1, 2, 4, 8), 16
COUNT = "Count slowly from one to ninety. "
SHORT, LONG = 8, 64  # times it stands in the prompt: the usual context, and one that shows what KV costs
LONG_WIDTHS = (1, 4)


def time_engine(engine: Engine, stop: threading.Event, *, outside: bool = False) -> list[Sample]:
    """Step times of any engine: 1, 2, 4 and 8 sequences of TIMED tokens over one shared prompt.

    outside: the engine's passes cannot be timed by themselves, so these samples are all there is. Then a long context
    and a fresh prompt are timed too: over one context the cost of a cached token cannot be told from a sequence's.
    """
    short = _counting(engine, SHORT)
    samples = [_decode(engine, short, rows, stop) for rows in WIDTHS]
    if outside:
        long = _counting(engine, LONG)[: engine.room() - TIMED - 1]
        samples += [_decode(engine, long, rows, stop) for rows in LONG_WIDTHS]
        samples.append(_prefill(engine, stop))
    return samples


def _counting(engine: Engine, times: int) -> tuple[int, ...]:
    return tuple(engine.chat("You are a careful assistant.", COUNT * times))


def _decode(engine: Engine, front: tuple[int, ...], rows: int, stop: threading.Event) -> Sample:
    """Seconds of a step of so many sequences behind this prompt, which is in before the clock starts."""
    engine.forget()
    _drain(engine, [Ask("warm", front, 0)], stop)
    for number in range(rows):
        engine.start(Ask(f"row {number}", front, TIMED, whole=True))
    began, tokens = None, 0
    while engine.running():
        if stop.is_set():
            raise Stopped("the run was cancelled")
        gained = sum(len(out.ids) for out in engine.step())
        if began is None and gained:
            began = engine.now_s()  # from the first tokens on: prompts are in
        elif gained:
            tokens += gained
    seconds = (engine.now_s() - (began or 0.0)) / max(tokens / rows, 1)
    return Sample(rows, rows, rows * (len(front) + TIMED // 2), seconds)


def _prefill(engine: Engine, stop: threading.Event) -> Sample:
    """Seconds from a prompt to its first token; it begins with words of its own, so no cache of a server has it."""
    fresh = tuple(engine.chat(uuid.uuid4().hex, COUNT * LONG))[: min(KNOTS[-1], engine.room() - 1)]
    began = engine.now_s()
    _drain(engine, [Ask("fresh", fresh, 1, whole=True)], stop)
    return Sample(len(fresh), 1, len(fresh), engine.now_s() - began)


def _drain(engine: Engine, asks: list[Ask], stop: threading.Event) -> dict[str, tuple[int, ...]]:
    """Decode to the end; tokens by name."""
    said: dict[str, tuple[int, ...]] = {}
    for ask in asks:
        engine.start(ask)
    while engine.running():
        if stop.is_set():
            raise Stopped("the run was cancelled")
        for out in engine.step():
            said[out.name] = said.get(out.name, ()) + out.ids
    return said


class Bench:
    """One query answered by all ways, in rounds; keeps rows and the shown outcome."""

    def __init__(self, config: PlatoConfig, opened: Opened, say: Say, stop: threading.Event, clock: Clock) -> None:
        self.config, self.opened, self.say, self.stop, self.clock = config, opened, say, stop, clock
        self.question = asked.question(config)
        engine = opened.engine
        self.notes: list[str] = []
        self.planner = self._planner()
        self.arms = Arms(config, engine, self.question.query, self.question.plan, self._script, opened.cost, stop)
        self.rows: list[Row] = []
        self.shown: Outcome | None = None
        self.plain = ""

    def _planner(self) -> str:
        """The config's planner; a server that cannot be made to write the given plan lets its model plan."""
        planner = self.config.planner
        if planner != "script" or getattr(self.opened.engine, "scripts", True):
            return planner
        said = "this server cannot be made to write a given plan: its model plans instead; planner='given' takes yours"
        self.notes.append(said)
        self.say(Note(said, "warning"))
        return "model"

    def _script(self, way: Way) -> Any:
        planner = self.planner if way != "nodes" else "given"
        plan = self.arms.plan if hasattr(self, "arms") else self.question.plan
        return asked.script(planner, plan, self.config.node_tokens)

    def run(self) -> PlatoResult:
        """All rounds, then the checks."""
        if self.arms.prior:
            self.say(Note(f"before planning: {self.arms.prior.why}"))
        plan_of = [(number, way) for number in range(self.config.rounds) for way in self.arms.order(number)]
        for at, (number, way) in enumerate(plan_of):
            self.say(Progress(0.05 + 0.85 * at / len(plan_of), 1, f"{way}, round {number + 1}"))
            self._one(way, number, (at, len(plan_of)))
        exact, differs = self._checked()
        scores = self._scored()
        return self._result(exact, differs, scores)

    def _one(self, way: Way, number: int, place: tuple[int, int]) -> None:
        tested = way == self.config.way
        stage = Stage(self.say, way, number, self.clock(), tested and number == 0, self.question.plan)
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
            want = _drain(engine, asks, self.stop)[part.name]
            engine.forget()
        alone = _drain(engine, [Ask("alone", part.prompt, len(want), whole=True)], self.stop)["alone"]
        front = self.arms.layout.front
        plan = shown.plan if shown and shown.plan else self.arms.plan  # a model's has other parts than the example's
        header = self.arms.layout.header(plan.nodes[part.node - 1]) if plan else ()
        differs = None
        if part.saw:
            cut = _drain(engine, [Ask("cut", front + header, len(want), whole=True)], self.stop)["cut"]
            differs = cut != want
        return alone == want, differs

    def _scored(self) -> list[dict[str, Any]]:
        if not self.config.quality_tasks:
            return []
        from workbench.plato.quality import scored

        self.say(Progress(0.94, 1, "scoring generated tasks"))
        return scored(self.opened.engine, self.config.quality_tasks, self.config.seed, self.say, self.stop)

    def _result(self, exact: bool | None, differs: bool | None, scores: list[dict[str, Any]]) -> PlatoResult:
        from workbench.plato.work import stamped

        self.say(Progress(1, 1, "done"))
        shown = self.shown
        assert shown is not None
        verdict, prior = shown.verdict, self.arms.prior
        plan = shown.plan or self.arms.plan
        facts = {
            "query": self.question.query,
            "rows": self.rows,
            "pieces": [Piece.of(part) for part in shown.parts],
            "planned": planned(self.planner, shown, self.question.plan),
            "chosen": Chosen(
                before=prior.why if prior else "no cost model: nothing is refused",
                branch=verdict.branch if verdict else None,
                graph_s=_finite(verdict.graph_s) if verdict else None,
                plain_s=_finite(verdict.plain_s) if verdict else None,
                why=verdict.why if verdict else "",
            ),
            "machine": Machine.of(self.opened.cost, self.opened.samples) if self.opened.cost else None,
            "exact": exact,
            "control_differs": differs,
            "answer": shown.answer,
            "plain_answer": self.plain,
            "scores": scores,
            "notes": self.notes + ([] if plan else ["no plan could be used"]),
        }
        return stamped(self.config, self.opened.where, self.clock(), facts)


def planned(planner: str, outcome: Outcome, wanted: Any) -> Planned:
    """What became of the plan."""
    from workbench.plato.graph import edge_scores

    plan = outcome.plan
    return Planned(
        text=plan_text(plan),
        planner=planner,
        valid=plan is not None,
        repairs=outcome.repairs,
        error=outcome.plan_error,
        edge_f1=edge_scores(plan, wanted)[2] if plan is not None and wanted is not None else None,
    )


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None

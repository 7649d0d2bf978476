"""Every way of answering on tasks with known answers: which parts come out right, at what cost, and how it reads.

    tasks.py  ->  conductor.py with the true plan  ->  marks.py  ->  Score by way and family

Beside the ways that are compared stand two of our own: a part sees only what it needs (context: needs), and the
control, the same plan with its edges cut. The plan is given, so that what is scored is the decoding and not the
planner; planners are scored on their edges (`plans`).

A model of 135M parameters that has just read an outline goes on with the outline, so that "sot" has next to nothing
right here; "independent" is the same without an outline in view, and the fairer number for parts that see no other.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from workbench.lm import LM
from workbench.plato import marks
from workbench.plato.asked import script
from workbench.plato.conductor import conduct
from workbench.plato.engine import Engine, EngineError
from workbench.plato.graph import Plan, PlanError
from workbench.plato.happen import Outcome, Settings
from workbench.plato.layout import BETWEEN, Layout
from workbench.plato.tasks import FAMILIES, Task, generate
from workbench.pump import Stopped
from workbench.system import Event, Progress

Stop = Callable[[], bool]
ALL = "all"  # the family of a score over all tasks


@dataclass(frozen=True)
class Arm:
    """A way of answering: its settings; edges cut: the control; outline: the questions are written first (SoT)."""

    about: str
    settings: Settings
    cut: bool = False
    outline: bool = False


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "nodes": Arm("one part after the other, each sees all before it", Settings("nodes")),
        "plato": Arm("the graph; a part sees all that was finished when it began", Settings("plato")),
        "plato, needs": Arm("the graph; a part sees what it needs", Settings("plato", context="needs")),
        "plato, edges cut": Arm("control: the same parts without edges, all at once", Settings("plato"), cut=True),
        "sot": Arm("Skeleton-of-Thought: all questions first, then all parts at once", Settings("sot"), outline=True),
        "independent": Arm("all parts at once, nothing shared", Settings("independent")),
    }
)


@dataclass(frozen=True)
class Graded:
    """One answer to one task. steps: passes over the weights, those of an outline included."""

    family: str
    seed: int
    way: str
    said: dict[int, str]
    right: dict[int, bool]
    linked: dict[int, bool]
    levels: list[tuple[int, int]]  # (right, parts) by depth
    tokens: int
    steps: int
    critical_tokens: int
    prefilled: int
    reused: int
    reading: marks.Reading
    shuffled: marks.Reading  # control
    distinct: float
    repeats: float
    doubled: float  # control


@dataclass(frozen=True)
class Score:
    """A way on a family of tasks. Shares are of parts, tokens and steps are means of a task; None: nothing to score."""

    family: str
    way: str
    tasks: int
    parts: int
    exact: float  # parts that say the expected string
    exact_low: float  # Wilson's interval, 95 %
    exact_high: float
    first_exact: float | None  # of parts that need nothing
    deeper_exact: float | None  # of parts that need others
    linked: float | None  # of parts that need others: those that go on where these ended
    all_right: float  # tasks with every part right
    tokens: float
    steps: float
    critical_tokens: float  # no schedule has fewer steps
    prefilled_tokens: float
    reused_tokens: float
    boundary_ppl: float | None  # perplexity at the first tokens of parts, read in order by the same model
    inside_ppl: float | None
    shuffled_boundary_ppl: float | None  # control: must be higher
    distinct_3: float | None  # different runs of three words over all of them
    repeats_3: float | None  # runs of three words shared by parts that ran side by side
    doubled_repeats_3: float | None  # control: must be higher


# -- answers -------------------------------------------------------------------------------------------------------


def assess(
    engine: Engine,
    tasks: Sequence[Task],
    ways: Sequence[str] = tuple(ARMS),
    *,
    model: LM | None = None,
    stop: Stop = lambda: False,
) -> Generator[Graded, None, list[Score]]:
    """Answer every task by every way, each from a cold cache; yields each answer's marks, returns the scores.

    `model` reads the answers; without one there are no perplexities. ValueError for an unknown way, Stopped when `stop`
    says so, the engine's own errors otherwise.
    """
    if unknown := [way for way in ways if way not in ARMS]:
        raise ValueError(f"no way is called {unknown[0]!r}; there are {', '.join(ARMS)}")
    found = []
    for task in tasks:
        layout = Layout(engine, task.query)
        reader = marks.Reader(model, layout.front) if model is not None else None
        for way in ways:
            outcome = answer(engine, layout, task, ARMS[way], stop)
            found.append(grade(task, way, outcome, layout, reader))
            yield found[-1]
    return scores(found)


def answer(engine: Engine, layout: Layout, task: Task, arm: Arm, stop: Stop = lambda: False) -> Outcome:
    """One answer by one way, the true plan given."""
    engine.forget()
    plan = task.plan.flat() if arm.cut else task.plan
    going = conduct(engine, layout, script("script" if arm.outline else "given", plan), arm.settings)
    try:
        while True:
            if stop():
                raise Stopped("the run was cancelled")
            next(going)
    except StopIteration as done:
        outcome: Outcome = done.value
        return outcome
    finally:
        going.close()


def grade(task: Task, way: str, outcome: Outcome, layout: Layout, reader: marks.Reader | None) -> Graded:
    """All marks of one answer."""
    parts = {part.node: part for part in outcome.parts if part.kind == "node"}
    said = {node: part.text.strip() for node, part in parts.items()}
    right, counts = marks.matches(task, said), outcome.counts
    ids = {node: part.ids for node, part in parts.items()}
    beside = bool(marks.siblings(task.plan)) and len(said) == len(task.plan)
    return Graded(
        family=task.family,
        seed=task.seed,
        way=way,
        said=said,
        right=right,
        linked=marks.linked(task, said),
        levels=marks.by_depth(task.plan, right),
        tokens=outcome.answer_tokens,
        steps=counts.steps,
        critical_tokens=task.plan.critical_tokens({node: len(part) for node, part in ids.items()}),
        prefilled=counts.prefilled,
        reused=counts.reused,
        reading=_read(task, ids, layout, reader),
        shuffled=_read(task, marks.shuffled(ids, task.seed), layout, reader) if len(ids) > 1 else marks.Reading(),
        distinct=marks.distinct(list(said.values())),
        repeats=marks.repeats(task.plan, said),
        doubled=marks.repeats(task.plan, marks.doubled(task.plan, said)) if beside else math.nan,
    )


def _read(task: Task, ids: Mapping[int, tuple[int, ...]], layout: Layout, reader: marks.Reader | None) -> marks.Reading:
    if reader is None:
        return marks.Reading()
    parts = [(layout.header(node), ids.get(node.id, ())) for node in task.plan.nodes]
    return reader.read(parts, layout.encode(BETWEEN))


# -- scores --------------------------------------------------------------------------------------------------------


def scores(graded: Sequence[Graded]) -> list[Score]:
    """By way and family, and by way over all of them."""
    families = list(dict.fromkeys(g.family for g in graded))
    ways = list(dict.fromkeys(g.way for g in graded))
    found = []
    for family in [*families, ALL]:
        for way in ways:
            some = [g for g in graded if g.way == way and family in (g.family, ALL)]
            if some:
                found.append(_score(family, way, some))
    return found


def _score(family: str, way: str, some: Sequence[Graded]) -> Score:
    right = [r for g in some for r in g.right.values()]
    low, high = marks.interval(sum(right), len(right))
    read = sum((g.reading for g in some), marks.Reading())
    control = sum((g.shuffled for g in some), marks.Reading())
    return Score(
        family=family,
        way=way,
        tasks=len(some),
        parts=len(right),
        exact=sum(right) / len(right),
        exact_low=low,
        exact_high=high,
        first_exact=_share([g.levels[0] for g in some]),
        deeper_exact=_share([level for g in some for level in g.levels[1:]]),
        linked=_share([(sum(g.linked.values()), len(g.linked)) for g in some]),
        all_right=sum(all(g.right.values()) for g in some) / len(some),
        tokens=_mean([g.tokens for g in some]) or 0.0,
        steps=_mean([g.steps for g in some]) or 0.0,
        critical_tokens=_mean([g.critical_tokens for g in some]) or 0.0,
        prefilled_tokens=_mean([g.prefilled for g in some]) or 0.0,
        reused_tokens=_mean([g.reused for g in some]) or 0.0,
        boundary_ppl=_known(read.boundary),
        inside_ppl=_known(read.inside),
        shuffled_boundary_ppl=_known(control.boundary),
        distinct_3=_mean([g.distinct for g in some]),
        repeats_3=_mean([g.repeats for g in some]),
        doubled_repeats_3=_mean([g.doubled for g in some]),
    )


def _share(levels: Sequence[tuple[int, int]]) -> float | None:
    of = sum(parts for _, parts in levels)
    return sum(right for right, _ in levels) / of if of else None


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


# -- planners ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A planner's graph for one task; edges None where no plan came of it."""

    family: str
    seed: int
    mode: str
    edges: marks.Edges | None
    true: marks.Edges
    repairs: int


def plans(
    engine: Engine, tasks: Sequence[Task], modes: Sequence[str] = ("rules", "model", "free"), stop: Stop = lambda: False
) -> Iterator[Planned]:
    """Plan each task's request (without its examples) by each mode: model, free (no grammar) or rules."""
    for task in tasks:
        true = marks.edges(task.plan, task.plan)
        for mode in modes:
            plan, repairs = planned(engine, task.request, mode, stop)
            yield Planned(
                task.family, task.seed, mode, marks.edges(plan, task.plan) if plan else None, true, len(repairs)
            )


def planned(engine: Engine, request: str, mode: str, stop: Stop = lambda: False) -> tuple[Plan | None, list[str]]:
    """One plan and its repairs; None when there is none that can be used."""
    if mode == "rules":
        from workbench.plato.rules import rules_plan

        return rules_plan(request), []
    layout, writer = Layout(engine, request), script(mode, None)
    ask = writer.ask(layout, False)
    assert ask is not None
    engine.forget()
    engine.start(ask)
    ids: tuple[int, ...] = ()
    try:
        while engine.running():
            if stop():
                raise Stopped("the run was cancelled")
            for out in engine.step():
                if out.ended == "failed":
                    raise EngineError(f"the planner failed: {out.said}")
                ids = (ids + out.ids)[: len(ids) + len(out.ids) - out.dropped]
    finally:
        engine.stop(ask.name)
    writer.feed(engine.decode(ids))
    try:
        return writer.finish(), writer.repairs
    except PlanError as error:
        return None, [*writer.repairs, str(error)]


# -- for a run -----------------------------------------------------------------------------------------------------


def scored(
    engine: Engine, count: int, seed: int, say: Callable[[Event], None], stop: threading.Event
) -> list[dict[str, Any]]:
    """`count` tasks, the families in turn, by every way: scores as a result keeps them."""
    tasks, model = generate(count, seed), getattr(engine, "model", None)
    going = assess(engine, tasks, model=model, stop=stop.is_set)
    total, done = len(tasks) * len(ARMS), 0
    while True:
        try:
            graded = next(going)
        except StopIteration as end:
            return [asdict(score) for score in end.value]
        done += 1
        about = FAMILIES[graded.family].about
        say(Progress(0.94 + 0.05 * done / total, 1, f"scoring {done} of {total}: {graded.way}; {about}"))

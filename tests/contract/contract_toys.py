"""A toy system that holds to the contract, and one toy for each way of breaking it."""

import dataclasses
import math
import subprocess
import sys
import tempfile
import threading
import time
import types
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
from pydantic import BaseModel, Field, field_validator

from workbench import backends, records, system, theme
from workbench.pump import listen
from workbench.system import MOST_OFFERS, Act, Claim, Config, Offer, Point, Progress, Result, Span, System, Text, Vertex


class Toy(Config):
    backend: Literal["auto", "cpu", "cuda", "sim"] = Field("auto", description="Where the work runs")
    steps: int = Field(40, ge=1, le=1000, description="Steps to take")
    factor: float | None = Field(1.0, gt=0, description="What each step multiplies by; none for no factor")
    check: bool = Field(True, description="Look at the outcome again")
    mode: Literal["both", "one"] = Field("both", description="Which side works")
    sizes: tuple[int, ...] = Field((1, 2), description="Sizes to try")


class ToyResult(Result):
    values: list[float]
    took: list[tuple[float, float]] = []

    def summary(self):
        return {"total": sum(self.values), "steps": float(len(self.values))}

    def to_frame(self):
        return pd.DataFrame({"step": range(len(self.values)), "value": self.values})

    def figure(self):
        fig = go.Figure(go.Scatter(x=list(range(len(self.values))), y=self.values))
        return theme.finish(fig, "Values", self.sentence(), x="step (index)", y="value (1)")

    def sentence(self):
        return f"The {len(self.values)} steps came to {sum(self.values):g} in all."

    def decided(self):
        return {"values": self.values}

    def claims(self):
        return [Claim(what="total", paper=3.0, ours=sum(self.values), unit="1", badge="modelled", source="Table 1")]

    def spans(self):
        return [Span("steps", a, b, f"step {i}", "compute", {"i": i}) for i, (a, b) in enumerate(self.took)]


def step(config, at):
    return round(((config.seed + 1) * 7919 + at * 104729) % 1000 * (config.factor or 1.0), 3)


def steps(config, pause_s=0.001):
    """The plain work of a toy, in the part that all toys share: yields events, returns values and times."""
    clock, took, values = time.perf_counter(), [], []
    yield Vertex("walk", "take the steps")
    yield Vertex("look", "look at <them>", ("walk",), weight=1)
    for at in range(config.steps):
        yield Progress(at, config.steps, f"step {at}")
        start = time.perf_counter() - clock
        time.sleep(pause_s)
        values.append(step(config, at))
        took.append((start, time.perf_counter() - clock))
        yield Span("steps", *took[-1], f"step {at}", "compute", {"value": values[-1]})
        yield Vertex("walk", "take the steps", state="running", share=at / config.steps, critical=True)
        yield Text("walk", f"step {at}\n")
    yield Vertex("walk", "take the steps", state="done", share=1.0, critical=True, note=f"{config.steps} steps")
    yield Vertex("look", "look at <them>", ("walk",), "cut", 0.5, weight=1)
    yield Text("aside", "nothing — nichts")
    yield Progress(config.steps, config.steps, "all steps taken")
    return values, took


def result(config, values, took, kind=ToyResult):
    where = backends.choose(config.backend, {"cpu"})
    told = backends.provenance(where, {"total": "measured", "steps": "modelled"})
    return kind(config=config, provenance=told, values=values, took=took)


def work(config):
    backends.choose(config.backend, {"cpu"})
    values, took = yield from steps(config)
    return result(config, values, took)


def offering(config, answers=True):
    """A toy that one acts in: it is told to add a hundred, again and again, or to stop adding, once."""
    heard = []
    values, took = yield from listen(_offered_steps(config, heard, answers), heard.append)
    return result(config, values, took)


def _offered_steps(config, heard, answers):
    more, stop = Offer("more", "Add <100>", "sum", "to the first value"), Offer("stop", "Add no more", "end")
    yield from (more, stop)
    inner = steps(config)
    extra = 0.0
    while True:
        try:
            event = next(inner)
        except StopIteration as end:
            values, took = end.value
            return [values[0] + extra, *values[1:]], took
        yield event
        while answers and heard:
            asked = heard.pop(0)
            extra += 100.0 * (asked == "more")
            yield more if asked == "more" else dataclasses.replace(stop, open=False)


class Extreme(BaseModel):
    at: float


class Unbounded(ToyResult):
    best: Extreme


def endless(config):
    values, took = yield from steps(config)
    values = [*values, math.inf, -math.inf, math.nan]
    made = result(config, values, took).model_dump() | {"config": config, "best": Extreme(at=math.inf)}
    return Unbounded(**made)


def forgets(config):
    made = yield from work(config)
    return Forgetful(**made.model_dump() | {"config": config, "kept": 1.5})


class Forgetful(ToyResult):
    kept: float = Field(0.0, exclude=True)


def preview(config, title="Model", text="Values as the steps come, modelled.", x="step (index)"):
    fig = go.Figure(go.Scatter(x=list(range(config.steps)), y=[step(config, at) for at in range(config.steps)]))
    return theme.finish(fig, title, text, x=x, y="value (1)")


def detail(span):
    return f"{span.label} was the next one."


GOOD = System(
    name="contract_toy",
    title="Toy",
    paper="Nobody, Nowhere 2026",
    about="Takes steps.",
    config=Toy,
    result=ToyResult,
    work=work,
    presets={"tiny": Toy(steps=20), "small": Toy(), "paper": Toy(steps=500)},
    baselines={"one side": {"mode": "one"}},
    backends=frozenset({"cpu"}),
    columns={"step": "which step", "value": "what it came to (1)"},
    preview=preview,
    detail=detail,
)


def but(**changes):
    return dataclasses.replace(GOOD, **changes)


OFFERING = but(work=offering)
UNBOUNDED = but(result=Unbounded, work=endless, presets={"tiny": Toy(steps=20, factor=math.inf)})


def with_config(kind):
    return but(config=kind, presets={"tiny": kind(steps=20), "small": kind(), "paper": kind(steps=500)})


def with_result(**methods):
    kind = type("BadResult", (ToyResult,), methods)

    def bad(config):
        values, took = yield from steps(config)
        return result(config, values, took, kind)

    return but(result=kind, work=bad)


def with_events(*extra):
    """A toy that also yields `extra` after its last event."""

    def bad(config):
        values, took = yield from steps(config)
        yield from extra
        return result(config, values, took)

    return but(work=bad)


class Undescribed(Toy):
    more: int = Field(3)


class Forgiving(Toy):
    @field_validator("steps", mode="before")
    @classmethod
    def _any(cls, value):
        return value if isinstance(value, int) else 40


class OneWay(Toy):
    @field_validator("steps", mode="after")
    @classmethod
    def _drift(cls, value):
        return value + 1


def leaves_thread(config):
    gate = threading.Event()
    threading.Thread(target=gate.wait, args=(20,), name="left-behind", daemon=True).start()
    values, took = yield from steps(config)
    gate.set()
    return result(config, values, took)


def leaves_process(config):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    values, took = yield from steps(config)
    child.kill()
    child.wait()
    return result(config, values, took)


def leaves_file(config):
    with tempfile.NamedTemporaryFile(delete=False) as out:
        out.write(b"left")
    return (yield from work(config))


def deaf(config):
    """No event for 2.6 s: neither cancel nor a live view gets through."""
    yield Progress(0, 1, "deaf")
    time.sleep(2.6)
    return (yield from work(config))


def any_seed(config):
    values, took = yield from steps(config.model_copy(update={"seed": 0}))
    return result(config, values, took)


def by_the_clock(config):
    values, took = yield from steps(config)
    return result(config, [*values[:-1], time.time()], took)


def downgrades(config):
    values, took = yield from steps(config)
    return result(config.model_copy(update={"backend": "cpu"}), values, took)


def unlabelled(self):
    return go.Figure(go.Scatter(x=[1], y=[1]))


def no_unit(self):
    return theme.finish(ToyResult.figure(self), "Values", self.sentence(), x="somewhere", y="value")


def huge(self):
    fig = ToyResult.figure(self)
    fig.add_scatter(x=[i / 7 for i in range(30_000)], y=[i / 3 for i in range(30_000)])
    return fig


BAD = {  # check -> toys that it must catch
    "presets": [
        but(presets={"tiny": Toy(), "small": Toy()}),
        but(presets=dict.fromkeys(("tiny", "small", "paper"), Config())),
    ],
    "baselines": [but(baselines={}), but(baselines={"same": {"mode": "both"}}), but(baselines={"x": {"nosuch": 1}})],
    "config_json": [with_config(OneWay)],
    "descriptions": [with_config(Undescribed)],
    "wrong_field_named": [with_config(Forgiving)],
    "code": [with_config(OneWay)],
    "same_seed": [but(work=by_the_clock)],
    "another_seed": [but(work=any_seed), with_result(decided=lambda self: {})],
    "progress": [with_events(Progress(1, 2, "back")), with_events(Progress(5, 4, "more than all"))],
    "gaps": [but(work=deaf)],
    "events": [
        with_events("not an event"),
        with_events(Act("a", "the run's own")),
        with_events(Point("values", 0.0, math.nan)),
        with_events(Point("values", math.inf, 0.0)),
    ],
    "graph": [
        with_events(Vertex("a", "needs what comes later", ("b",), "done"), Vertex("b", "later", state="done")),
        with_events(Vertex("a", "needs itself", ("a",), "done")),
        with_events(Vertex("walk", "needs a later one", ("look",), "done")),
        with_events(Vertex("a", "twice", ("walk", "walk"), "done")),
        with_events(Vertex("a", "more than all", state="done", share=1.1)),
        with_events(Vertex("a", "no share", state="done", share=math.nan)),
        with_events(Vertex("a", "left open", state="running", share=0.5)),
        with_events(Vertex("a", "odd", state="asleep")),
        with_events(Vertex("a", " ", state="done")),
        with_events(Vertex("", "no name", state="done")),
        with_events(Text("", "whose?")),
        with_events(Text("a", "")),
        with_events(*(Vertex(f"v{at}", "one of many", state="done") for at in range(70))),
    ],
    "offers": [
        with_events(Offer("", "no name")),
        with_events(Offer("a", " ")),
        with_events(Offer("a", "Do it", "g"), Offer("b", "Do it", "g")),
        with_events(Offer("a", "never there", open=False)),
        with_events(*(Offer(f"a{at}", f"Do {at}") for at in range(MOST_OFFERS + 1))),
        but(work=lambda config: offering(config, answers=False)),
    ],
    "spans": [
        with_events(Span("a", 2.0, 1.0, "backwards", "k")),
        with_events(Span("a", -1.0, 1.0, "too early", "k")),
        with_events(Span("a", 0.0, 1e6, "too late", "k")),
        with_events(Span("a", 0.0, 0.0, "odd", "k", {"why": [1]})),
        with_result(spans=lambda self: []),
    ],
    "details": [
        but(detail=said) for said in (lambda span: "", lambda span: None, lambda span: f"why {span.why['nosuch']}")
    ],
    "preview": [
        but(preview=lambda config: unlabelled(config)),
        but(preview=lambda config: preview(config, title="")),
        but(preview=lambda config: preview(config, text="")),
        but(preview=lambda config: preview(config, x="somewhere")),
        but(preview=lambda config: preview(config) if config.steps < 100 else 1 / 0),  # it must do every preset
    ],
    "summary": [
        with_result(summary=lambda self: {"total": 1.0, "unbadged": 2.0}),
        with_result(summary=lambda self: {"total": float("nan")}),
    ],
    "provenance": [but(backends=frozenset({"sim"}))],
    "sentence": [with_result(sentence=lambda self: "done")],
    "figure": [with_result(figure=f) for f in (unlabelled, no_unit, huge)],
    "frame": [
        but(columns={"step": "which step"}),
        with_result(to_frame=lambda self: pd.DataFrame({"step": [], "value": []})),
    ],
    "disk": [
        but(result=Forgetful, work=forgets),
        with_result(to_json=lambda self, indent=None: self.model_dump_json(exclude={"took"})),
    ],
    "no_downgrade": [but(work=downgrades)],
    "cancel": [but(work=w) for w in (leaves_thread, leaves_process, leaves_file, deaf)],
}  # fmt: skip


def install(target, patch):
    """Put a toy into the catalogue for one test."""
    module = types.ModuleType(f"workbench.{target.name}")
    module.SYSTEM = target
    patch.setitem(sys.modules, module.__name__, module)
    for place in (system, records):
        patch.setattr(place, "NAMES", (*system.NAMES, target.name) if place is system else place.NAMES)
    patch.setattr(records, "NAMES", system.NAMES)
    system.system.cache_clear()
    system.systems.cache_clear()

"""Open the engine that a config names: load it, warm it up, and time what its steps cost."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from workbench import lm
from workbench.plato import asked
from workbench.plato.config import PlatoConfig
from workbench.plato.cost import KNOTS, Sample, StepCost, calibrate, fit
from workbench.plato.engine import Ask, Constraint, ContextOverflow, Engine, EngineError, Out
from workbench.plato.graph import PART_TOKENS
from workbench.plato.layout import Layout
from workbench.pump import Stopped
from workbench.system import Event, Progress

Say = Callable[[Event], None]
FRESH_S = 900.0  # a calibration is used again in one process: long enough for a row of runs, too short for a new load
_kept: dict[tuple[str, str, int, int], tuple[float, list[Sample]]] = {}


@dataclass
class Opened:
    """An engine ready to answer, the cost of its steps where it was measured, and what to say of it."""

    engine: Engine
    cost: StepCost | None
    samples: list[Sample]
    where: str = "cpu"


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
            config.endpoint_url,
            config.endpoint_model,
            config.endpoint_key_variable,
            config.endpoint_timeout_s,
            config.temperature,
        )
    try:
        _fits(engine, config)
        say(Progress(0, 1, "timing steps of the engine"))
        samples = time_engine(engine, stop, outside=True)
    except BaseException:
        engine.close()
        raise
    return Opened(engine, fit(samples, f"{config.engine}, measured in this run"), samples)


def _embedded(config: PlatoConfig, say: Say, stop: threading.Event) -> Opened:
    from workbench.plato.embedded import EmbeddedEngine
    from workbench.plato.matcher import Matcher

    say(Progress(0, 1, "loading the model"))
    model = lm.load(config.model, dtype=config.weights, seed=config.seed, progress=_follow(say, stop))
    # not exact: in float32 one row alone is decoded with the product that is fastest for it, so that sequential ways
    # are as fast as they can be; `_checked` decodes with equal bits
    engine = EmbeddedEngine(model, lm.Sampler(temperature=config.temperature, seed=config.seed), exact=False)
    _fits(engine, config)
    samples, when = _calibrated(model, config, say, stop)
    cost = fit(samples, f"{config.model} in {config.weights}, {config.threads} thread, measured {when}")
    engine.pad = cost.padded if config.pad else None
    Matcher(model.tokenizer, Constraint('start: "a"'))  # reads the vocabulary, once a process: no part of an answer
    say(Progress(0.045, 1, "timing steps of the engine"))
    return Opened(engine, cost.with_engine(time_engine(engine, stop)), samples)


def _calibrated(model: object, config: PlatoConfig, say: Say, stop: threading.Event) -> tuple[list[Sample], str]:
    """Samples of the model's steps and when they were taken: this process keeps them for FRESH_S."""
    key = (config.model, config.weights, config.threads, config.seed)
    if key in _kept and (age := time.monotonic() - _kept[key][0]) < FRESH_S:
        return _kept[key][1], f"{age / 60:.0f} min before, in this process"
    samples: list[Sample] = []
    for done, total, samples in calibrate(model):  # noqa: B007  the last ones are kept
        if stop.is_set():
            raise Stopped("the run was cancelled")
        say(Progress(0.04 * done / total, 1, f"calibrating: what a step costs, {done} of {total}"))
    _kept[key] = (time.monotonic(), samples)
    return samples, "in this run"


def _fits(engine: Engine, config: PlatoConfig) -> None:
    """ContextOverflow where not even a plain answer has room: before anything is timed."""
    question = asked.question(config)
    tokens = question.plan.tokens if question.plan else config.node_tokens or PART_TOKENS
    front = len(Layout(engine, question.query).front)
    if front + tokens > engine.room():
        raise ContextOverflow(
            f"the query takes {front} tokens and the answer {tokens}, where the model has {engine.room()} positions: "
            "shorten the query, or give parts fewer tokens"
        )


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
    """Seconds of a step of so many sequences behind this prompt, which is in before the clock starts.

    EngineError when nothing is decoded. Where all comes at once (a server that does not stream), prompts count too.
    """
    engine.forget()
    drained(engine, [Ask("warm", front, 0)], stop)
    opened = engine.now_s()
    for number in range(rows):
        engine.start(Ask(f"row {number}", front, TIMED, whole=True))
    came: list[tuple[float, int]] = []  # when, how many tokens
    while engine.running():
        if stop.is_set():
            raise Stopped("the run was cancelled")
        if gained := sum(len(out.ids) for out in _good(engine.step())):
            came.append((engine.now_s(), gained))
    if not came:
        raise EngineError(
            "steps cannot be timed: answers are empty; where a model thinks before it answers, switch that off"
        )
    began, tokens = (came[0][0], sum(n for _, n in came[1:])) if len(came) > 1 else (opened, came[0][1])
    seconds = max(came[-1][0] - began, 1e-6) / max(tokens / rows, 1)
    return Sample(rows, rows, rows * (len(front) + TIMED // 2), seconds)


def _good(outs: list[Out]) -> list[Out]:
    """The same. EngineError for a sequence that failed: its time would be taken for that of an answer."""
    if failed := next((out for out in outs if out.ended == "failed"), None):
        raise EngineError(f"{failed.name} failed: {failed.said}")
    return outs


def _prefill(engine: Engine, stop: threading.Event) -> Sample:
    """Seconds from a prompt to its first token; it begins with words of its own, so no cache of a server has it."""
    fresh = tuple(engine.chat(uuid.uuid4().hex, COUNT * LONG))[: min(KNOTS[-1], engine.room() - 1)]
    began = engine.now_s()
    drained(engine, [Ask("fresh", fresh, 1, whole=True)], stop)
    return Sample(len(fresh), 1, len(fresh), engine.now_s() - began)


def drained(engine: Engine, asks: list[Ask], stop: threading.Event) -> dict[str, tuple[int, ...]]:
    """Decode to the end; tokens by name."""
    said: dict[str, tuple[int, ...]] = {}
    for ask in asks:
        engine.start(ask)
    while engine.running():
        if stop.is_set():
            raise Stopped("the run was cancelled")
        for out in _good(engine.step()):
            said[out.name] = said.get(out.name, ()) + out.ids
    return said

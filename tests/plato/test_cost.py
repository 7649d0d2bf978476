"""The step's cost: what is measured comes back, padding only where it pays, nonsense is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import lm
from workbench.plato.cost import KNOTS, Sample, StepCost, fit, shapes
from workbench.plato.embedded import EmbeddedEngine
from workbench.plato.engine import Ask, EngineError, Out
from workbench.plato.opening import TIMED, WIDTHS, time_engine
from workbench.plato.sim import SimEngine

FLAT = StepCost(tuple([0.02] * len(KNOTS)), 0.001, 1e-6)
OUTSIDE = StepCost(tuple([0.02] * len(KNOTS)), 0.0, 1e-5)
RISING = StepCost(tuple(0.01 + 0.002 * k for k in KNOTS), 0.0, 0.0)
DIP = StepCost((0.037, 0.062, 0.075, 0.058, 0.062, 0.066, 0.080, 0.12, 0.2, 0.3, 0.5, 0.9), 0.0, 0.0)  # 4 beats 2 and 3


def samples_of(cost: StepCost, noise: float = 0.0) -> list[Sample]:
    draw = np.random.default_rng(0)
    found = []
    for tokens, rows, context in shapes(8192):
        seconds = cost.step_s(tokens, rows, rows * context) * (1 + noise * draw.standard_normal())
        found.append(Sample(tokens, rows, rows * context, seconds))
    return found


@pytest.mark.parametrize("true", [FLAT, RISING, DIP])
def test_a_cost_is_recovered_from_its_own_steps(true: StepCost) -> None:
    found = fit(samples_of(true))
    for tokens, rows, kv in [(1, 1, 300), (4, 4, 2000), (8, 8, 4000), (40, 2, 900), (200, 1, 500)]:
        assert found.step_s(tokens, rows, kv) == pytest.approx(true.step_s(tokens, rows, kv), rel=0.02)
    assert found.error < 0.01


def test_what_samples_cannot_tell_apart_is_the_tables() -> None:
    """Decoding alone never shows a sequence without its token: a sequence's own price would make wide passes free."""
    decoding = [
        Sample(n, n, n * c, 0.05 + 1e-6 * n * c) for n, c in [(1, 85), (2, 85), (4, 85), (8, 85), (1, 477), (4, 477)]
    ]
    found = fit([*decoding, Sample(256, 1, 256, 0.15)])
    assert found.row_s == pytest.approx(0, abs=1e-9)
    assert found.kv_s == pytest.approx(1e-6, rel=0.05)
    assert found.step_s(9, 1, 300) == pytest.approx(0.05 + 0.1 * 1 / 248, rel=0.05)  # a branch and eight of a prompt


def test_an_engine_timed_from_outside_tells_its_cost() -> None:
    """On a virtual clock with a known cost; the control: over one context alone cached tokens come out wrong."""
    like = EmbeddedEngine(lm.load("tiny"))
    try:
        engine = SimEngine(OUTSIDE, like)
        samples = time_engine(engine, threading.Event(), outside=True)
    finally:
        like.close()
    assert fit(samples).kv_s == pytest.approx(OUTSIDE.kv_s, rel=0.1)
    for rows, context in [(1, 300), (2, 500), (4, 200), (8, 300)]:
        true = OUTSIDE.step_s(rows, rows, rows * context)
        assert fit(samples).step_s(rows, rows, rows * context) == pytest.approx(true, rel=0.05)
    assert fit(samples[: len(WIDTHS)]).kv_s != pytest.approx(OUTSIDE.kv_s, rel=0.5)


class Burst:
    """An engine whose answers come whole, a second after they were asked for."""

    def __init__(self, said: int = 99, ended: str = "budget") -> None:
        self.said, self.ended, self.clock_s, self.asks = said, ended, 0.0, list[Ask]()

    def now_s(self) -> float:
        return self.clock_s

    def chat(self, *_: str) -> list[int]:
        return [1] * 10

    def room(self) -> int:
        return 1000

    def forget(self) -> None: ...

    def start(self, ask: Ask) -> None:
        self.asks.append(ask)

    def running(self) -> list[str]:
        return [ask.name for ask in self.asks]

    def step(self) -> list[Out]:
        self.clock_s += 1.0
        outs = [Out(a.name, (1,) * min(a.budget, self.said), self.ended, "no memory") for a in self.asks]  # type: ignore[arg-type]
        self.asks = []
        return outs


def test_a_server_that_does_not_stream_is_timed_and_one_that_fails_is_not() -> None:
    """Its steps took no time at all, and a failure counted as an answer."""
    samples = time_engine(Burst(), threading.Event(), outside=True)  # type: ignore[arg-type]
    assert {s.seconds for s in samples if s.tokens == s.rows} == {1 / TIMED}
    assert fit(samples).step_s(1, 1) == pytest.approx(1 / TIMED, rel=0.1)
    for engine, named in ((Burst(ended="failed"), "failed: no memory"), (Burst(said=0), "answers are empty")):
        with pytest.raises(EngineError, match=named):
            time_engine(engine, threading.Event())  # type: ignore[arg-type]


def test_noise_shows_as_error() -> None:
    noisy = [*samples_of(RISING, 0.2), *samples_of(RISING)]
    assert fit(noisy).error > 0.02 > fit(samples_of(RISING)).error


def test_padding_only_where_a_wider_step_is_faster() -> None:
    assert DIP.padded(2) == 4
    assert DIP.padded(3) == 4
    assert DIP.padded(1) == 1  # 37 ms beat all
    assert [RISING.padded(w) for w in range(1, 17)] == list(range(1, 17))  # the control: no dip, no padding


def test_beyond_the_table_the_last_slope_goes_on() -> None:
    assert RISING.step_s(1000) == pytest.approx(0.01 + 2.0)


def test_branches_gain_less_than_their_number() -> None:
    assert 1 < FLAT.width_gain(4) < 4
    assert StepCost(tuple(0.01 * k for k in KNOTS), 0.0, 0.0).width_gain(4) == pytest.approx(1.0)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="three or more widths"):
        fit([Sample(1, 1, 10, 0.1), Sample(2, 2, 10, 0.1)])


@pytest.mark.parametrize(("tokens", "rows"), [(0, 1), (1, 0), (-1, 1)])
def test_an_empty_step_has_no_cost(tokens: int, rows: int) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        FLAT.step_s(tokens, rows)


@given(st.lists(st.floats(1e-4, 1.0), min_size=len(KNOTS), max_size=len(KNOTS)), st.floats(0, 0.01), st.floats(0, 1e-5))
def test_no_fit_has_a_negative_part(table: list[float], row_s: float, kv_s: float) -> None:
    found = fit(samples_of(StepCost(tuple(table), row_s, kv_s)))
    assert min(found.table) >= 0
    assert found.row_s >= 0
    assert found.kv_s >= 0

"""What a decode step costs on this machine: measured at a few widths and contexts, and fitted.

    seconds = table(tokens) + row_s * (rows - 1) + kv_s * kv_tokens + around_s + around_row_s * rows

table: piecewise linear through KNOTS in the tokens of the step (weights are read once, whatever their number, so it is
flat for few tokens and rises where arithmetic takes over); row_s: what one more sequence costs beside its token; kv_s:
one cached token that attention reads; around: what the engine does beside the pass (sampling, grammar, text), from its
own steps. Non-negative least squares over the samples, weighted for relative error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256)
DOUBT = 1e-3  # ridge on row_s and kv_s, over a sample's weight: it decides only what samples leave open
WORTH = 0.97  # a wider step must take less than this share of the narrower one before it is padded to
FURTHEST = 2  # and at most so many times its width


@dataclass(frozen=True)
class Sample:
    """One shape of step, as it was measured: the median of some repetitions."""

    tokens: int
    rows: int
    kv_tokens: int  # that attention reads, over all rows
    seconds: float


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step. `table`: seconds at KNOTS for one sequence with an empty context."""

    table: tuple[float, ...]
    row_s: float
    kv_s: float
    error: float = 0.0  # median relative error over the samples
    source: str = ""
    around_s: float = 0.0  # of a step, outside the model: sampling, grammar, text
    around_row_s: float = 0.0

    def step_s(self, tokens: int, rows: int = 1, kv_tokens: int = 0) -> float:
        """A step of `tokens` new tokens in `rows` sequences over `kv_tokens` cached ones. Beyond KNOTS: their slope."""
        if tokens < 1 or rows < 1:
            raise ValueError(f"a step has at least one token and one sequence, not {tokens} and {rows}")
        last, before = self.table[-1], self.table[-2]
        if tokens > KNOTS[-1]:
            base = last + (tokens - KNOTS[-1]) * max(last - before, 0.0) / (KNOTS[-1] - KNOTS[-2])
        else:
            base = float(np.interp(tokens, KNOTS, self.table))
        around = self.around_s + self.around_row_s * rows
        return base + self.row_s * (rows - 1) + self.kv_s * kv_tokens + around

    def with_engine(self, samples: Sequence[Sample]) -> StepCost:
        """The same, with what the engine's own steps take beyond the model's: `samples` of decode steps by rows."""
        from scipy.optimize import nnls

        beyond = np.array([s.seconds - self.step_s(s.tokens, s.rows, s.kv_tokens) for s in samples])
        found, _ = nnls(np.array([[1.0, s.rows] for s in samples]), beyond.clip(min=0.0))
        return replace(self, around_s=float(found[0]), around_row_s=float(found[1]))

    def padded(self, tokens: int) -> int:
        """The width that a step of `tokens` is best padded to: itself, unless a wider one is clearly faster."""
        wider = [k for k in KNOTS if tokens < k <= FURTHEST * tokens]
        best = min(wider, key=self.step_s, default=tokens)
        return best if self.step_s(best) < WORTH * self.step_s(tokens) else tokens

    def width_gain(self, rows: int, context: int = 256) -> float:
        """Tokens per second of `rows` sequences over those of one, each with `context` cached tokens."""
        return rows * self.step_s(1, 1, context) / self.step_s(rows, rows, rows * context)


def fit(samples: Sequence[Sample], source: str = "") -> StepCost:
    """The cost that fits the samples best. ValueError with fewer samples than it takes to tell its parts apart."""
    from scipy.optimize import nnls

    if len({s.tokens for s in samples}) < 3 or len({s.rows for s in samples}) < 2:
        raise ValueError("a step's cost is fitted to samples of three or more widths and two or more numbers of rows")
    hats = np.array([_hat(s.tokens) for s in samples])
    extra = np.array([[s.rows - 1, s.kv_tokens] for s in samples], dtype=float)
    seconds = np.array([s.seconds for s in samples])
    scale = extra.max(axis=0).clip(min=1.0)
    matrix = np.hstack([hats, extra / scale]) / seconds[:, None]
    ones = np.ones(len(samples))
    # where samples cannot tell a sequence or a cached token from the step's tokens, the table takes it
    doubt = np.hstack([np.zeros((2, len(KNOTS))), DOUBT * np.eye(2) / seconds.min()])
    found, _ = nnls(np.vstack([matrix, doubt]), np.append(ones, np.zeros(2)))
    seen = hats.sum(axis=0) > 0
    table = np.interp(KNOTS, np.array(KNOTS)[seen], found[: len(KNOTS)][seen])
    error = float(np.median(np.abs(matrix @ found - ones)))
    row_s, kv_s = found[len(KNOTS) :] / scale
    return StepCost(tuple(float(v) for v in table), float(row_s), float(kv_s), error, source)


def _hat(tokens: int) -> list[float]:
    """Weights of the knots that a width lies between."""
    at = min(max(tokens, KNOTS[0]), KNOTS[-1])
    unit = np.eye(len(KNOTS))
    return [float(np.interp(at, KNOTS, row)) for row in unit]


ROWS, CHUNKS = (1, 2, 3, 4, 6, 8, 12, 16), (8, 16, 32, 64, 128, 256)
SHORT, LONG = 128, 896  # contexts, tokens


def shapes(most_positions: int) -> list[tuple[int, int, int]]:
    """(tokens, rows, context of each row) to measure: decode widths, prompt chunks, and a long context."""
    far = min(LONG, most_positions - CHUNKS[-1] - 1)
    found = [(rows, rows, SHORT) for rows in ROWS]
    found += [(tokens, 1, SHORT) for tokens in CHUNKS]
    return [*found, (1, 1, far), (4, 4, far)]


def calibrate(model: object, repetitions: int = 3, *, exact: bool = False) -> Iterator[tuple[int, int, list[Sample]]]:
    """Measure `model` (an LM) in its present threads; yields (done, total, samples), the last with all of them.

    exact: as the engine will run (embedded.py). Shapes are interleaved, so that a noisy second does not fall on one
    of them; each sample is a median.
    """
    import time

    import torch

    from workbench.lm.model import LM

    assert isinstance(model, LM)
    plan = shapes(model.config.max_position)
    far = max(context for _, _, context in plan)
    room = far + CHUNKS[-1] + 1
    base = model.new_cache(room)
    ids = torch.arange(far) % min(model.config.vocab, 256)
    model.forward(ids, base, 0, logits=None)
    caches = [base] + [base.fork(room) for _ in range(max(ROWS) - 1)]
    times: dict[tuple[int, int, int], list[float]] = {shape: [] for shape in plan}
    total = (repetitions + 1) * len(plan)
    for repetition in range(repetitions + 1):  # the first one warms up and does not count
        for at, (tokens, rows, context) in enumerate(plan):
            each = [ids[: tokens // rows] for _ in range(rows)]
            began = time.perf_counter()
            model.forward_ragged(each, caches[:rows], [context] * rows, exact=exact)
            if repetition:
                times[tokens, rows, context].append(time.perf_counter() - began)
            yield repetition * len(plan) + at + 1, total, []
    samples = [
        Sample(tokens, rows, rows * context + tokens, median(seconds))
        for (tokens, rows, context), seconds in times.items()
    ]
    yield total, total, samples

"""The simulator against a live run: a profile from the run's first steps predicts how long the later ones take.

    profile = measured(seen[:half], slots=8)            what a pass, a pull and training cost in these steps
    predicted_s(seen[n], profile, ...)                  a later step on the virtual clock, by the simulator's own code

Of the step that is predicted, the simulator is told what no profile can know: who was there and when, how long the
responses were, and the window that the scheduler had chosen. How long it took is not among that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np

from workbench.rlboost.manager import Pass
from workbench.rlboost.plan import LiveStep
from workbench.rlboost.rates import PROMPT, Curve, Lengths, Model
from workbench.rlboost.seeding import SeedingOptions
from workbench.rlboost.setting import Setting
from workbench.rlboost.sim import simulate
from workbench.rlboost.traces import Event, Trace

LONG_GAP_S = 2.0  # between two passes of an engine: it had nothing to do
TINY = 1e-9


@dataclass(frozen=True)
class Seen:
    """A live step as the cross-check needs it. Times from its beginning, s."""

    row: LiveStep
    lengths: tuple[int, ...]  # of its responses, tokens
    prompts: tuple[int, ...]  # of its prompts, tokens
    passes: tuple[Pass, ...]
    there: tuple[tuple[float, str, str], ...]  # (s, "add" or "remove", instance); those at its beginning at 0
    pulls_s: tuple[float, ...]


@dataclass(frozen=True)
class Profile(Model):
    """Engines that were measured. `measured_curve` replaces the roofline."""

    measured_curve: Curve = field(default_factory=lambda: Curve(0.01, 0.0, 0.0, 1, 1.0))
    token_train_s: float = 0.0

    def engine(self, lengths: Lengths) -> Curve:  # noqa: ARG002  nothing depends on lengths here
        return self.measured_curve

    @property
    def train_token_s(self) -> float:
        return self.token_train_s


@dataclass(frozen=True)
class Recorded(Lengths):
    """Lengths that were had, in place of drawn ones."""

    had: tuple[int, ...] = ()

    def draw(self, number: int, seed: int) -> list[int]:  # noqa: ARG002  as Lengths is asked
        return list(self.had[:number])

    def drawn_mean(self) -> float:
        return sum(self.had) / len(self.had)


def measured(seen: Sequence[Seen], slots: int) -> Profile:
    """What these steps show. ValueError where they have too few passes to tell anything.

    A pass is timed from one to the next of the same engine, as the manager hears of them: so what it takes to stream
    tokens and to hand them on is in it.
    """
    rows = [row for one in seen for row in _gaps(one.passes)]
    if len(rows) < 4:
        raise ValueError(f"{len(rows)} passes are too few for a profile: give steps more tokens")
    fixed, each, prompt = _fitted(rows)
    tokens = sum(one.row.tokens for one in seen)
    pulls = [s for one in seen for s in one.pulls_s]
    prompts = [n for one in seen for n in one.prompts]
    ours = prompt * sum(prompts) / len(prompts)  # s for a prompt; the simulator's have PROMPT tokens
    curve = Curve(fixed, each, TINY, slots, PROMPT / max(ours, TINY))
    return Profile(
        "measured", 0.0, 0.0, 1, 0.0, 1.0, weights_gb=median(pulls) if pulls else TINY, measured_curve=curve,
        token_train_s=sum(one.row.train_s for one in seen) / max(1, tokens),
    )  # fmt: skip


def _gaps(passes: Sequence[Pass]) -> list[tuple[int, int, float]]:
    """(tokens made, prompt tokens, seconds) of each pass that followed another without a pause."""
    found = []
    for engine in sorted({p.engine for p in passes}):
        own = [p for p in passes if p.engine == engine]
        for before, one in pairwise(own):
            if 0 < (gap := one.at_s - before.at_s) < LONG_GAP_S + one.seconds:
                found.append((one.made, one.computed - one.made, gap))
    return found


def _fitted(rows: Sequence[tuple[int, int, float]]) -> tuple[float, float, float]:
    """(s of a pass, of a token made, of a prompt's token), none below 0; outliers of a busy machine count less."""
    from scipy.optimize import nnls

    table = np.array([[1.0, made, prompt] for made, prompt, _ in rows])
    seconds = np.array([s for *_, s in rows])
    weight = np.ones(len(rows))
    for _ in range(8):  # least absolute deviations, by reweighting: means sum up, medians would lose the tail
        found, _ = nnls(table * weight[:, None], seconds * weight)
        off = np.abs(table @ found - seconds)
        weight = 1 / np.sqrt(np.maximum(off, 0.2 * max(float(np.median(off)), TINY)))
    scale = float(seconds.sum() / max((table @ found).sum(), TINY))  # a step takes the sum of its passes
    fixed, each, prompt = (float(v) * scale for v in found)
    return fixed, each, prompt


def predicted_s(one: Seen, profile: Profile, micro_batch: int, seed: int = 0) -> float:
    """Seconds of this step by the simulator."""
    events = tuple(Event(at, "add" if what == "add" else "remove", name) for at, what, name in one.there)
    trace = Trace(events, 10 * one.row.seconds + 3600, "as it was")
    setting = Setting(
        responses=len(one.lengths),
        micro_batch=micro_batch,
        lengths=Recorded(had=one.lengths),
        seeding=SeedingOptions(first_s=min(one.row.t_seed_s, 1e9), floor_s=0.0),
        seed=seed,
        without=frozenset({"cap"}),
        instance_gb_s=1.0,  # weights of so many GB as a pull took seconds
        sender_gb_s=1e6,
        boot_s=0.0,
        profile=profile,
    )
    return next(iter(simulate(setting, trace, 1))).seconds


def crosschecked(seen: Sequence[Seen], slots: int, micro_batch: int) -> list[float | None]:
    """A prediction for each step of the second half, by the profile of the first; None for the first."""
    half = (len(seen) + 1) // 2
    if half == len(seen):
        return [None] * len(seen)
    profile = measured(seen[:half], slots)
    return [None] * half + [predicted_s(one, profile, micro_batch) for one in seen[half:]]

"""A run: replay the trace under every policy; yields while it works, returns a result."""

import time
from itertools import islice

import numpy as np

from workbench import backends
from workbench.belady.config import BeladyConfig
from workbench.belady.replace import ANOMALY, POLICIES
from workbench.belady.result import BeladyResult, Row
from workbench.held import Held
from workbench.system import Point, Progress, Span, Work

SLICE = 2_000  # requests between two words to the user: some milliseconds


def trace_of(config: BeladyConfig) -> list[int]:
    """Page numbers, [requests]."""
    if config.trace == "anomaly":
        return list(ANOMALY)
    if config.trace == "loop":
        return [(config.seed + at) % config.pages for at in range(config.requests)]
    weight = 1 / np.arange(1, config.pages + 1) ** config.skew
    draw = np.random.default_rng(config.seed).choice(config.pages, config.requests, p=weight / weight.sum())
    return [int(page) for page in draw]


def work(config: BeladyConfig) -> Work:
    """Misses of each policy with this memory and, of the one under test, with a frame less. All are counted here."""
    where = backends.choose(config.backend, {"cpu"})
    began, trace = time.perf_counter(), trace_of(config)
    todo = [(policy, config.frames) for policy in POLICIES]
    todo += [(config.policy, config.frames - 1)] if config.frames > 1 else []
    rows, held = [], []
    for at, (policy, frames) in enumerate(todo):
        missed, seconds, start = 0, 0.0, time.perf_counter() - began
        replay = POLICIES[policy](trace, frames)
        for first in range(0, len(trace), SLICE):
            clock = time.process_time()
            missed += sum(islice(replay, SLICE))
            seconds += time.process_time() - clock
            done = min(first + SLICE, len(trace))
            yield Progress(at + done / len(trace), len(todo), f"{policy}, {frames} frames")
            yield Point(f"{policy}, {frames} frames: miss ratio (1)", done, missed / done)
        why = {"misses": missed, "frames": frames}
        replayed = Span("replays", start, time.perf_counter() - began, policy, "compute", why)
        yield replayed
        held.append(Held.of(replayed))
        rows.append(Row(policy=policy, frames=frames, misses=missed, requests=len(trace), seconds=seconds))
    badges = dict.fromkeys(("miss_ratio", "opt_miss_ratio", "over_opt", "request_us"), "measured")
    told = backends.provenance(where, badges, seconds=round(time.perf_counter() - began, 3))
    yield Progress(1, 1, "done")
    return BeladyResult(config=config, provenance=told, rows=rows, held=held)

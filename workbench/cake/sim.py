"""The policy on a virtual clock: two simpy processes, one that computes and one that loads, over any requests.

Only time is modelled here. Every decision is made by the Policy and Ledger objects that real runs use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import simpy

from workbench.cake.costs import Costs
from workbench.cake.ledger import Ledger
from workbench.cake.policy import ORDERS, Compute, Job, Load, Mode, Policy, Ready, loadable_grains
from workbench.system import Span

WATCHDOG_STEPS = 1_000_000
NEVER_S = 1e12  # nothing is due by itself: only news ends the wait


@dataclass(frozen=True)
class Request:
    """A prompt to restore: `stored[i]` says whether grain i is in the store; all of them when None."""

    tokens: int
    arrived_s: float = 0.0
    stored: Sequence[bool] | None = None


@dataclass(frozen=True)
class Outcome:
    """When each request could give its first token, and what happened."""

    ttft_s: list[float]
    met_at: list[int]  # first token that was loaded; the number of loadable tokens where none was
    spans: list[Span] = field(default_factory=list)

    @property
    def makespan_s(self) -> float:
        """When the last request was ready."""
        return max(self.ttft_s)


@dataclass
class World:
    """What the machine really does, where it differs from what the policy believes.

    bandwidth(t) and compute(t): factors on the true rates at virtual time t (1 = as modelled).
    fails(job, grain): that load ends in an error after its time.
    """

    true: Costs
    bandwidth: Callable[[float], float] = lambda _t: 1.0
    compute: Callable[[float], float] = lambda _t: 1.0
    fails: Callable[[str, int], bool] = lambda _job, _grain: False


class _Machine:
    """One compute resource and one load resource, shared by the jobs."""

    def __init__(self, policy: Policy, world: World, jobs: list[Job], trace: bool) -> None:
        self.env = simpy.Environment()
        self.policy, self.world, self.jobs, self.trace = policy, world, jobs, trace
        self.ttft: dict[str, float] = {}
        self.first_loaded = {j.name: j.loadable for j in jobs}
        self.spans: list[Span] = []
        self.loading = False
        self.news = self.env.event()
        self.env.process(self._compute())
        self.env.process(self._load())

    def present(self) -> list[Job]:
        return [j for j in self.jobs if j.arrived_s <= self.env.now and j.name not in self.ttft]

    def tell(self) -> None:
        news, self.news = self.news, self.env.event()
        news.succeed()

    def idle(self, seconds: float) -> simpy.Event:
        return self.env.any_of([self.news, self.env.timeout(max(seconds, 1e-6))])

    def span(self, lane: str, job: Job, began: float, label: str, kind: str, why: Mapping[str, Any]) -> None:
        if self.trace:
            self.spans.append(Span(lane, began, self.env.now, f"{job.name}{label}", kind, dict(why)))

    def _compute(self) -> Iterator[simpy.Event]:
        for _ in range(WATCHDOG_STEPS):
            if len(self.ttft) == len(self.jobs):
                return
            coming = (j.arrived_s - self.env.now for j in self.jobs if j.arrived_s > self.env.now)
            pause = max(1e-6, min(coming, default=NEVER_S))
            for job in self.policy.order_compute(self.present()):
                step = self.policy.compute_step(job, self.env.now)
                if isinstance(step, Compute):
                    yield from self._pass(job, step)
                    pause = 0.0
                    break
                if isinstance(step, Ready):
                    self.ttft[job.name] = self.env.now - job.arrived_s
                    pause = 0.0
                    break
                pause = min(pause, max(step.seconds, 1e-6))
            if pause:
                yield self.idle(pause)
        raise RuntimeError("simulation: compute made no end; the policy is in a loop")

    def _pass(self, job: Job, step: Compute) -> Iterator[simpy.Event]:
        began = self.env.now
        left_s = self.world.true.compute_s(step.start, step.tokens) * self.world.compute(began)
        while left_s > 1e-12:  # slowed just while a load runs
            slow, since = self.world.true.contention if self.loading else 1.0, self.env.now
            yield self.idle(left_s * slow)
            left_s -= (self.env.now - since) / slow
        end = min(step.start + step.tokens, job.loadable)
        if step.start < end:
            job.ledger.computed(step.start // job.grain, -(-(end - step.start) // job.grain))
        job.position = step.start + step.tokens
        job.ledger.learn_pass(step.why.get("compute_s"), self.env.now - began)
        self.span("compute", job, began, f"[{step.start}:{job.position}]", "compute", step.why)
        self.tell()

    def _load(self) -> Iterator[simpy.Event]:
        for _ in range(WATCHDOG_STEPS):
            if len(self.ttft) == len(self.jobs):
                return
            pause = 0.05
            for job in self.policy.order_load(self.present()):
                step = self.policy.load_step(job, self.env.now)
                if isinstance(step, Load):
                    yield from self._read(job, step)
                    pause = 0.0
                    break
                if not isinstance(step, Ready):
                    pause = min(pause, max(step.seconds, 1e-6))
            if pause:
                yield self.idle(pause)
        raise RuntimeError("simulation: loading made no end; the policy is in a loop")

    def _read(self, job: Job, step: Load) -> Iterator[simpy.Event]:
        began, self.loading = self.env.now, True
        self.tell()
        tokens = len(step.grains) * job.grain
        seconds = self.world.true.load_s(tokens, tokens) / max(self.world.bandwidth(began), 1e-9)
        yield self.env.timeout(seconds)
        self.loading = False
        job.ledger.set_gauge("load_run", 0)
        if not all(self.world.fails(job.name, grain) for grain in step.grains):
            job.ledger.learn_read(self.policy.costs.load_s(tokens, tokens), seconds, self.env.now)
        for grain in step.grains:
            if self.world.fails(job.name, grain):
                job.ledger.failed(grain)
            elif job.ledger.begin_commit(grain):
                job.ledger.loaded(grain)
                self.first_loaded[job.name] = min(self.first_loaded[job.name], grain * job.grain)
        first = min(step.grains) * job.grain
        self.span("load", job, began, f"[{first}:{first + tokens}]", "load", step.why)
        self.tell()


def simulate(
    policy: Policy,
    requests: Sequence[Request],
    grain: int = 128,
    world: World | None = None,
    *,
    trace: bool = False,
    until_s: float = NEVER_S,
) -> Outcome:
    """Restore the requests on one compute and one load resource. RuntimeError when the policy would hang.

    A policy that names no order gets the best one by its own cost model (`choose_order`), whatever `world` is like.
    """
    policy, jobs = choose_order(policy, requests, grain), []
    for i, request in enumerate(requests):
        stored = [True] * (request.tokens // grain) if request.stored is None else list(request.stored)
        grains = loadable_grains(request.tokens, grain, stored)
        ledger = Ledger(grains, stored, backend="reference")
        name = "" if len(requests) == 1 else f"r{i} "
        jobs.append(Job(ledger, request.tokens, grain, name=name, arrived_s=request.arrived_s))
    machine = _Machine(policy, world or World(policy.costs), jobs, trace)
    machine.env.run(until=until_s)
    if len(machine.ttft) < len(jobs):
        raise RuntimeError(f"simulation: not ready after {until_s} virtual seconds; the policy waits for nothing")
    return Outcome([machine.ttft[j.name] for j in jobs], [machine.first_loaded[j.name] for j in jobs], machine.spans)


def choose_order(policy: Policy, requests: Sequence[Request], grain: int = 128) -> Policy:
    """The policy with the order of requests that serves its aim best, found by simulating each of ORDERS.

    Decided from the requests that come first; later ones are served in the same order.
    """
    first_s = min(r.arrived_s for r in requests)
    known = [r for r in requests if r.arrived_s == first_s]
    if policy.order is not None or len(known) < 2 or len(ORDERS[policy.batch]) < 2:
        return policy

    def missed(tried: Policy) -> float:
        done = simulate(tried, known, grain)
        return done.makespan_s if policy.batch == "makespan" else sum(done.ttft_s)

    return min((replace(policy, order=order) for order in ORDERS[policy.batch]), key=missed)


def ttft(policy: Policy, tokens: int, grain: int = 128, mode: Mode | None = None, world: World | None = None) -> float:
    """Time to first token of one fully stored prompt."""
    chosen = policy if mode is None else replace(policy, mode=mode)
    return simulate(chosen, [Request(tokens)], grain, world).ttft_s[0]


def choose_chunks(
    costs: Costs,
    tokens: int,
    grain: int,
    steps: Sequence[int] = (128, 256, 512, 1024, 2048),
    runs: Sequence[int] = (1, 2, 4, 8),
) -> tuple[int, int]:
    """Compute step (tokens) and load run (grains) with the least simulated TTFT: how chunk sizes follow the tier.

    A dear read (latency of a network or object store) asks for long runs; a dear pass for long steps; both waste
    more at the meeting point.
    """
    tried = [(ttft(Policy(costs, step=s, run=r), tokens, grain), s, r) for s in steps if s >= grain for r in runs]
    _, step, run = min(tried)
    return step, run


def trace_rate(times_s: Sequence[float], factors: Sequence[float]) -> Callable[[float], float]:
    """A step function of time for World.bandwidth or World.compute, as a recorded trace has it."""
    if len(times_s) != len(factors) or not times_s or any(b <= a for a, b in pairwise(times_s)):
        raise ValueError("a rate trace needs as many factors as rising times")

    def at(t: float) -> float:
        import bisect

        return factors[max(0, bisect.bisect_right(times_s, t) - 1)]

    return at

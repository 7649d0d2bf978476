"""The policy: who takes which part of which prompt next. It holds no thread, no file, no clock of its own.

The same object drives the simulator (virtual clock), the embedded engine (threads) and vLLM (processes). It is
asked twice, over and over, and answers from the ledger and the cost model:

    compute_step(job, now_s)  -> Compute(start, tokens) | Wait | Ready        the side that computes from the front
    load_step(job, now_s)     -> Load(grains) | Wait | Ready                  the side that loads from the back

CAKE (arXiv 2410.03065), section 3: two pointers that meet anywhere. Beyond it: claims shrink towards the meeting
point, neither side takes work that the other would finish sooner (so the pair is never slower than the better
single resource, the paper's own open gap), late loads are hedged, several requests share both resources.
`guards=False` leaves all of that out and is the paper's rule itself, to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workbench.cake.costs import Costs, balanced_split, overlapped_s
from workbench.cake.ledger import Ledger

Mode = Literal["cake", "compute", "load"]
Batch = Literal["fifo", "mean", "makespan"]
Order = Literal["arrival", "shortest", "shortest alone", "longest alone", "cheapest"]
Why = Mapping[str, float | str]

MIN_WAIT_S, IDLE_S = 0.0005, 0.05
FRONT, BACK = "front", "back"  # reasons of decisions, as spans show them
NOTHING_STORED = "front: nothing there is stored"
PROBE = "probe of a slow link"
HEDGED = "hedge: the load is late"
TAIL = "tail: not in the store"
NO_END = "no end in sight"
ORDERS: Mapping[Batch, Sequence[Order]] = {  # that may serve the aim best; the first where nobody has compared them
    "fifo": ("arrival",),
    "mean": ("shortest", "shortest alone", "arrival"),
    "makespan": ("cheapest", "shortest", "shortest alone", "longest alone", "arrival"),
}
HEDGE_AFTER = 1.5  # a load is late when it has taken this many times what it should


class Stopped(RuntimeError):
    """A restore, measured or simulated, was asked to stop."""


@dataclass(frozen=True)
class Compute:
    """Run the model over positions [start, start + tokens)."""

    start: int
    tokens: int
    why: Why = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """Load these grains, in this order."""

    grains: Sequence[int]
    why: Why = field(default_factory=dict)


@dataclass(frozen=True)
class Wait:
    """Nothing to do now; look again when the ledger changes, or after `seconds`."""

    seconds: float
    why: Why = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """Every position below `token` has its KV; nothing is left for this side."""

    token: int


@dataclass
class Job:
    """One request: `tokens` prompt tokens, of which whole grains below the last token may come from the store.

    position: first token whose KV is not known to be ready. The token that gives the first logits is always
    computed, so a full hit leaves at least one token of work.
    """

    ledger: Ledger
    tokens: int
    grain: int
    position: int = 0
    name: str = ""
    arrived_s: float = 0.0

    @property
    def loadable(self) -> int:
        """Tokens that the ledger covers."""
        return self.ledger.grains * self.grain


def loadable_grains(tokens: int, grain: int, stored: Sequence[bool]) -> int:
    """How many grains of a prompt the ledger must cover: up to the last stored one, never the last token."""
    whole = min((tokens - 1) // grain, len(stored))
    return max((i + 1 for i in range(whole) if stored[i]), default=0)


def _shown(seconds: float) -> float | str:
    """Seconds as a decision states them; JSON has no infinity, so a time without an end is put in words."""
    return NO_END if math.isinf(seconds) else round(seconds, 4)


def _until(load_ends_s: float) -> float:
    """How long to wait for loads: until it should end; where it is overdue, IDLE_S."""
    return max(MIN_WAIT_S, load_ends_s) if 0 < load_ends_s < math.inf else IDLE_S


@dataclass(frozen=True)
class Policy:
    """Decisions over one cost model. `step`: most tokens a pass computes; `run`: most grains a read loads.

    `order`: how several requests are served; None takes the usual one for the aim `batch`, `sim.choose_order` the best.
    """

    costs: Costs
    step: int = 512
    run: int = 1
    mode: Mode = "cake"
    batch: Batch = "mean"
    hedge: bool = True
    guards: bool = True
    order: Order | None = None

    def now_costs(self, job: Job, now_s: float | None = None) -> Costs:
        """The cost model with what this request measured in place of the estimates; with `now_s` its reads fade."""
        compute, load = job.ledger.compute_scale, job.ledger.load_scale(now_s)
        return self.costs if compute == load == 1.0 else self.costs.scaled(compute=compute, load=load)

    # -- compute, from the front ---------------------------------------------------------------------------------

    def compute_step(self, job: Job, now_s: float) -> Compute | Wait | Ready:
        """What compute does next for this request."""
        ledger, grain = job.ledger, job.grain
        if job.position < job.loadable and job.position % grain == 0:
            job.position += ledger.ready_run(job.position // grain) * grain
        if job.position >= job.loadable:
            return self._tail(job)
        at, table = job.position // grain, ledger.table
        met = table.front >= table.back
        owned = ledger.owned_run(at, holes=met or at < table.front)
        if owned:
            state = ledger.state(at).name.lower()
            return Compute(job.position, self._cut(owned * grain - job.position % grain, grain), {"reason": state})
        if not met and at >= table.front:
            return self._claim(job, now_s)
        return self._late(job, at, now_s)

    def _cut(self, tokens: int, grain: int) -> int:
        """At most one step, of whole grains."""
        return min(tokens, max(grain, self.step // grain * grain))

    def _tail(self, job: Job) -> Compute | Ready:
        left = job.tokens - job.position
        if left <= 0:
            return Ready(job.tokens)
        return Compute(job.position, min(left, self.step), {"reason": TAIL})

    def _claim(self, job: Job, now_s: float) -> Compute | Wait:
        """Claim from the front what compute will have done when the loads of the rest are done."""
        ledger, grain, costs = job.ledger, job.grain, self.now_costs(job)
        gap = (ledger.table.back - ledger.table.front) * grain
        behind_s = self._in_flight_s(job, now_s, costs)
        share = self._compute_share(job, costs, gap, behind_s)
        load_all_s = costs.load_s(gap, self.run * grain) + behind_s
        facts: dict[str, float | str] = {
            "mode": self.mode,
            "gap_tokens": gap,
            "compute_share_tokens": share,
            "load_rest_s": _shown(load_all_s),
            "compute_rest_s": round(costs.compute_range_s(job.position, gap, self.step), 4),
        }
        if share == 0:
            ends_s = behind_s if ledger.gauge("load_run") > 0 else load_all_s  # look again when the read should end
            return Wait(_until(ends_s), facts | {"reason": "loading the rest is sooner"})
        stored = ledger.any_free(ledger.table.front, ledger.table.back)
        got = ledger.claim_front(self._cut(share, grain) // grain)
        if got == 0:
            return Wait(MIN_WAIT_S, facts | {"reason": "the back claimed it first"})
        spent_s = costs.compute_s(job.position, got * grain)
        ledger.set_gauge("compute_until_s", now_s + spent_s)
        beside_s = behind_s + costs.load_s(gap - share, self.run * grain)
        facts |= {"compute_s": costs.beside_s(spent_s, beside_s), "reason": FRONT if stored else NOTHING_STORED}
        return Compute(job.position, got * grain, facts)

    def _compute_share(self, job: Job, costs: Costs, gap: int, behind_s: float) -> int:
        """Tokens of the unclaimed gap that compute should do, by the mode, by what is stored, by the costs."""
        table = job.ledger.table
        if self.mode == "compute" or not self.guards or not job.ledger.any_free(table.front, table.back):
            return gap
        if self.mode == "load":
            return 0
        if math.isinf(behind_s):  # never wait for a load without an end
            return max(job.grain, balanced_split(costs, job.position, gap, job.grain, self.step, self.run))
        return balanced_split(costs, job.position, gap, job.grain, self.step, self.run, load_ahead_s=behind_s)

    def _late(self, job: Job, at: int, now_s: float) -> Compute | Wait:
        """Compute has arrived at a grain that is being loaded: wait for it, or take it over."""
        ledger, grain, costs = job.ledger, job.grain, self.now_costs(job)
        left_s = self._in_flight_s(job, now_s, costs)
        own_s = costs.beside_s(costs.compute_s(job.position, grain), left_s)
        why: dict[str, float | str] = {"mode": self.mode, "load_left_s": _shown(left_s), "compute_s": own_s}
        hedge = self.hedge and self.guards and self.mode != "load"
        if hedge and left_s > own_s and ledger.take_late(at):
            return Compute(job.position, grain, why | {"reason": HEDGED})
        return Wait(_until(left_s), why | {"reason": "the load ends first"})

    def _in_flight_s(self, job: Job, now_s: float, costs: Costs) -> float:
        """Seconds until the read under way should end; a read that is late has no end in sight (infinity)."""
        run = job.ledger.gauge("load_run")
        if run <= 0:
            return 0.0
        expected_s = costs.load_s(int(run) * job.grain, int(run) * job.grain)
        elapsed_s = now_s - job.ledger.gauge("load_began_s")
        return math.inf if elapsed_s > HEDGE_AFTER * expected_s + 0.01 else max(0.0, expected_s - elapsed_s)

    # -- load, from the back -------------------------------------------------------------------------------------

    def load_step(self, job: Job, now_s: float) -> Load | Wait | Ready:
        """What the loader does next for this request."""
        ledger, grain = job.ledger, job.grain
        front, back = ledger.table.front, ledger.table.back
        if self.mode == "compute" or ledger.closed or back <= front:
            return Ready(back * grain)
        gap = (back - front) * grain
        busy_s = max(0.0, ledger.gauge("compute_until_s") - now_s)
        costs, reason = self.now_costs(job), BACK
        want = self._load_share(costs, front * grain, gap, grain, busy_s)
        alone_s = busy_s + costs.compute_range_s(front * grain, gap, self.step)
        if want == 0 and self.hedge:  # a probe that is late again is taken over: it costs nobody a wait
            want = min(1, self._load_share(self.now_costs(job, now_s), front * grain, gap, grain, busy_s))
            reason = PROBE
        need_s = costs.load_s(min(max(want, 1), self.run) * grain, self.run * grain)
        why: dict[str, float | str] = {
            "mode": self.mode,
            "load_s": round(need_s, 4),
            "compute_reaches_it_in_s": round(alone_s, 4),
        }
        if want == 0:
            return Wait(IDLE_S, why | {"reason": "computing the rest is sooner"})
        grains = ledger.claim_back(min(self.run, want))
        if not grains:
            return Wait(MIN_WAIT_S, {"reason": "not in the store"})
        ledger.set_gauge("load_began_s", now_s)
        ledger.set_gauge("load_run", len(grains))
        return Load(grains, why | {"reason": reason})

    def _load_share(self, costs: Costs, front: int, gap: int, grain: int, busy_s: float) -> int:
        """Grains of the unclaimed gap that loading should do."""
        if self.mode == "load" or not self.guards:
            return gap // grain
        return (gap - balanced_split(costs, front, gap, grain, self.step, self.run, compute_ahead_s=busy_s)) // grain

    # -- several requests ----------------------------------------------------------------------------------------

    def order_compute(self, jobs: Sequence[Job]) -> list[Job]:
        """Requests in the order in which compute serves them; the first that has a step gets it.

        arrival: as they came. shortest: least work left first (shortest remaining processing time), which is good for
        the mean TTFT. cheapest: the front where a pass costs least, so that loads take the dear ends of all prompts.
        alone: only the first of them, so that no pass of another one keeps its tail waiting: good on fast links.
        """
        ordered = self._ordered(jobs, _position)
        return ordered[:1] if self.order in ("shortest alone", "longest alone") else ordered

    def order_load(self, jobs: Sequence[Job]) -> list[Job]:
        """The same for the loader. cheapest: the longest prompt first, whose end costs compute most."""
        return self._ordered(jobs, self._longest)

    def _ordered(self, jobs: Sequence[Job], cheapest: Callable[[Job], float]) -> list[Job]:
        if len(jobs) < 2:
            return list(jobs)
        keys: dict[Order, Callable[[Job], float]] = {
            "arrival": _arrival, "cheapest": cheapest, "longest alone": _tokens
        }  # fmt: skip
        return sorted(jobs, key=keys.get(self.order or ORDERS[self.batch][0], self.left_s))

    def _longest(self, job: Job) -> float:
        return -self.left_s(job)

    def left_s(self, job: Job) -> float:
        """Seconds this request needs with both resources to itself."""
        costs, table = self.now_costs(job), job.ledger.table
        gap = max(0, table.back - table.front) * job.grain
        front = balanced_split(costs, table.front * job.grain, gap, job.grain, self.step, self.run)
        both_s = overlapped_s(
            costs,
            costs.compute_range_s(table.front * job.grain, front, self.step),
            costs.load_s(gap - front, self.run * job.grain),
        )
        return both_s + costs.compute_range_s(job.loadable, job.tokens - max(job.loadable, job.position), self.step)


def _arrival(job: Job) -> float:
    return job.arrived_s


def _position(job: Job) -> float:
    return job.position


def _tokens(job: Job) -> float:
    return -job.tokens

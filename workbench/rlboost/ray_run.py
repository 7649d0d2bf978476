"""The live run: training on Ray with spot nodes that are taken away, beside the same training alone.

First one step with another seed: the control that tokens and weights are not equal by themselves, and what is paid once
is paid before anything is timed. Then the reserved machine alone (the baseline), then with spot nodes under kills. All
on real processes; every kill is one. Who replaces a lost node joins between two steps, outside their time: starting
Ray's processes takes the cores of this machine, which other machines' joining would not.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from workbench.held import Held
from workbench.lm.threads import compute_threads
from workbench.pump import Clock, Stopped
from workbench.rlboost.chaos import Chaos
from workbench.rlboost.config import RLBoostConfig
from workbench.rlboost.crosscheck import Seen, crosschecked
from workbench.rlboost.fleet import Fleet
from workbench.rlboost.live import Live
from workbench.rlboost.manager import Happened
from workbench.rlboost.market import Market
from workbench.rlboost.plan import LiveStep, Plan
from workbench.rlboost.prices import Rates, rates
from workbench.rlboost.result import ALONE, TESTED, Moved, Paid, RLBoostResult, Row
from workbench.rlboost.traces import ZONES
from workbench.system import Event, Note, Offer, Point, Progress, Span

Say = Callable[[Event], None]
GPUS = 2  # of the reserved machine, as bills go: as big as an instance, like the processes here


def plan_of(config: RLBoostConfig) -> Plan:
    """The live plan that a config asks for."""
    return Plan(
        model=config.model,
        dtype="float32",
        task=config.task,
        steps=config.steps,
        prompts=config.prompts,
        group=config.group,
        most=config.tokens,
        micro_batch=config.micro_batch,
        slots=config.slots,
        lr=config.lr,
        seed=config.seed,
        ordered=config.ordered,
        first_seed_s=0.5 if config.seeding else 0.0,
        seeding=config.seeding,
        memory=config.memory,
        migrate=config.migration,
        pull=config.pull,
        balance=config.balance,
        cap=config.cap,
        engine=config.engine,
    )


def run(config: RLBoostConfig, say: Say, stop: threading.Event, asked: queue.SimpleQueue[str]) -> RLBoostResult:
    """The control, alone, and with kills. FleetError, Stalled, TrainError name what ended it; nothing is left."""
    from workbench.rlboost.work import stamped

    clock, plan = Clock(), plan_of(config)
    say(Progress(0, 1, "starting Ray"))
    # one thread, as the engines on spot nodes have: more of them than cores wait for each other
    with compute_threads(1), Fleet(config.address or None) as fleet:
        arms = _Arms(config, plan, fleet, say, stop, clock)
        control = arms.train("another seed", replace(plan, seed=plan.seed + 1, steps=1), None)
        alone = arms.train(ALONE, plan, None)
        zones = ZONES[: config.zones] if config.zones > 1 else ("",)
        prices, said = config.zone_prices(zones)
        if said:
            say(Note(said))
        market = Market(config.choice, prices)
        chaos = Chaos(
            fleet, config.nodes, config.kills, config.kill, config.steps, every=True, market=market, zones=zones
        )  # fmt: skip
        chaos.asked = asked
        try:
            tested = arms.train(TESTED, plan, chaos)
        finally:
            chaos.close()
        say(Progress(1, 1, "done"))
    return stamped(config, "cpu", clock(), _facts(config, plan, alone, tested, control, chaos))


@dataclass
class _Arm:
    """One training: its steps, and what was seen of each."""

    name: str
    seen: list[Seen] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)  # since the run began
    happened: list[Happened] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    queues: list[tuple[float, str, int, int]] = field(default_factory=list)
    ledgers: list[list[Moved]] = field(default_factory=list)
    began_s: float = 0.0  # of its manager, since the run began

    @property
    def rows(self) -> list[LiveStep]:
        return [one.row for one in self.seen]


class _Arms:
    """Trains one arm after the other and tells of it."""

    def __init__(
        self,
        config: RLBoostConfig,
        plan: Plan,
        fleet: Fleet,
        say: Say,
        stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self.config, self.plan, self.fleet, self.say, self.stop, self.clock = config, plan, fleet, say, stop, clock
        self.done, self.total = 0, 2 * plan.steps + 1

    def train(self, name: str, plan: Plan, chaos: Chaos | None) -> _Arm:
        """All steps of a plan. Stopped when the run is cancelled."""
        arm, shown = _Arm(name), name == TESTED
        lanes = _Lanes(arm, self.say if shown else lambda _: None)

        def told(one: Happened) -> None:
            arm.happened.append(one)
            lanes.take(one)
            if shown:
                self._offer(one)

        self.say(Progress(self.done, self.total, f"{name}: starting its engines"))
        live = Live(self.fleet, plan, told=told, stop=self.stop.is_set, world=_Watched(self, name, chaos))
        arm.began_s = lanes.offset_s = self.clock() - live.manager.now()
        try:
            self._steps(arm, live, lanes, shown)
        finally:
            live.close()
        if self.stop.is_set():
            raise Stopped("the run was cancelled")
        lanes.end(live.manager.now())
        arm.queues = [(at + arm.began_s, who, waiting, busy) for at, who, waiting, busy in live.manager.queues]
        return arm

    def _steps(self, arm: _Arm, live: Live, lanes: _Lanes, shown: bool) -> None:
        at = len(arm.happened)
        for row in live.steps():
            end = live.manager.now()
            start = live.step_began_s
            arm.starts_s.append(arm.began_s + start)
            there = _there(arm.happened, start, end)
            pulls = tuple(h.seconds for h in arm.happened[at:] if h.what == "pull")
            at = len(arm.happened)
            passes = tuple(live.manager.passes)
            live.manager.passes.clear()
            entries = live.manager.ledger.entries
            lengths = tuple(len(e.ids) for e in entries.values())
            prompts = tuple(e.prompt_tokens for e in entries.values())
            arm.seen.append(Seen(row, lengths, prompts, passes, there, pulls))
            arm.ledgers.append([Moved(request=n, pieces=list(e.pieces)) for n, e in entries.items()])
            lanes.step(start, end)
            self.done += 1
            self._tell(arm.name, row, shown)

    def _tell(self, name: str, row: LiveStep, shown: bool) -> None:
        said = f"{name}: step {row.step + 1}, {row.seconds:.1f} s, reward {row.reward:.2f}"
        self.say(Progress(self.done, self.total, said))
        if name in (ALONE, TESTED):
            self.say(Point(f"{name}: reward (0 to 1)", row.step, row.reward))
            self.say(Point(f"{name}: step (s)", row.step, row.seconds))
        if shown and row.lost_instances:
            self.say(Note(f"step {row.step + 1}: {row.lost_instances} lost, {row.migrations} responses moved"))

    def _offer(self, one: Happened) -> None:
        """Buttons that kill: they come when an instance is at work and go with it."""
        kill, notice = f"kill {one.who}", f"notice {one.who}"
        if one.what == "active":
            local = self.fleet.cluster is not None
            self.say(Offer(kill, f"Kill {one.who}", "Take away", "SIGKILL, now" if local else "SIGKILL of its engine"))
            self.say(Offer(notice, f"Notice to {one.who}", "Take away", "it drains, then its node is killed"))
        elif one.what in ("lost", "notice"):
            self.say(Offer(notice, f"Notice to {one.who}", "Take away", open=False))
            if one.what == "lost":
                self.say(Offer(kill, f"Kill {one.who}", "Take away", open=False))


class _Watched:
    """A World that says what the run waits for; without chaos nothing happens to it."""

    def __init__(self, arms: _Arms, name: str, chaos: Chaos | None) -> None:
        self.arms, self.name, self.chaos = arms, name, chaos

    def before(self, live: Live) -> None:
        if self.chaos is not None:
            said = f"{self.name}: step {live.trainer.version + 1}, instances join"
            self.arms.say(Progress(self.arms.done, self.arms.total, said))
            self.chaos.before(live)

    def between(self, live: Live) -> None:
        if self.chaos is not None:
            self.chaos.between(live)


class _Lanes:
    """Spans of machines, from what happened to them."""

    def __init__(self, arm: _Arm, say: Say) -> None:
        self.arm, self.say, self.offset_s = arm, say, 0.0
        self.since: dict[str, tuple[str, float]] = {}  # instance -> (what it does, since when)

    def take(self, one: Happened) -> None:
        at = one.at_s
        match one.what:
            case "join":
                self._begin(one.who, "join", at)
            case "pull":
                self._end(one.who, at - one.seconds)
                self._add(one.who, at - one.seconds, at, f"pull weights, {one.detail}", "transfer")
            case "active":
                self._begin(one.who, "generate", at)
            case "notice":
                self._end(one.who, at)
                self._add(one.who, at, at, f"notice: {one.detail}", "notice")
                self._begin(one.who, "drain", at)
            case "lost":
                self._end(one.who, at)
                self._add(one.who, at, at, f"lost: {one.detail}", "kill")
            case "migrate" | "seeds":
                self._add(one.who, at, at, f"{one.what}: {one.detail}", one.what)
            case "train":
                self._add(one.who, at - one.seconds, at, f"train on {one.detail}", "compute")

    def step(self, start: float, end: float) -> None:
        """A step has ended: engines are idle until they pull again."""
        for name in [n for n, (what, _) in self.since.items() if what == "generate"]:
            self._end(name, end)
        self._add("steps", start, end, f"step {self.arm.rows[-1].step + 1}", "step")

    def end(self, at: float) -> None:
        for name in list(self.since):
            self._end(name, at)

    def _begin(self, who: str, what: str, at: float) -> None:
        self._end(who, at)
        self.since[who] = (what, at)

    def _end(self, who: str, at: float) -> None:
        if who in self.since:
            what, since = self.since.pop(who)
            if at > since:
                self._add(who, since, at, what, {"generate": "decode", "join": "wait"}.get(what, what))

    def _add(self, who: str, start: float, end: float, label: str, kind: str) -> None:
        start, end = (max(0.0, v + self.offset_s) for v in (start, end))
        span = Span(who, start, end, label, kind)
        self.say(span)
        self.arm.held.append(Held.of(span))


def _came_and_went(happened: list[Happened]) -> list[tuple[float, str, str]]:
    """(s, "add" or "remove", instance): first at work, and lost or about to be; further versions are no news."""
    present: set[str] = set()
    found = []
    for one in happened:
        if one.what == "active" and one.who not in present:
            present.add(one.who)
            found.append((one.at_s, "add", one.who))
        elif one.what in ("lost", "notice") and one.who in present:
            present.remove(one.who)
            found.append((one.at_s, "remove", one.who))
    return found


def _there(happened: list[Happened], start: float, end: float) -> tuple[tuple[float, str, str], ...]:
    """Who came and went in a step, by its own time: at 0 those that had been at work before."""
    rows = [(at - start, what, who) for at, what, who in _came_and_went(happened)]
    gone_before = {who for at, what, who in rows if what == "remove" and at <= 0}
    kept = [(max(0.0, at), what, who) for at, what, who in rows if who not in gone_before and at < end - start]
    return tuple(sorted(kept, key=lambda row: row[0]))


def _facts(
    config: RLBoostConfig, plan: Plan, alone: _Arm, tested: _Arm, control: _Arm, chaos: Chaos
) -> dict[str, object]:
    """What the result holds."""
    price = config.priced()
    paid = rates(price, node_gpus=GPUS, instance_gpus=GPUS)
    said = config.zone_prices(chaos.zones)[1]
    notes = [said] if said else []
    try:
        least = plan.responses if plan.ordered else plan.micro_batch
        predictions = crosschecked(tested.seen, plan.slots, least)
    except ValueError as error:
        predictions = [None] * len(tested.seen)
        notes.append(f"no cross-check: {error}")
    rows = [*_rows(alone, paid, [], chaos.market), *_rows(tested, paid, predictions, chaos.market)]
    most = max(range(len(tested.rows)), key=lambda at: (tested.rows[at].migrations, at))
    compared = plan.ordered
    there, count = [(0.0, 0)], 0
    for at, what, _ in _came_and_went(tested.happened):
        count += 1 if what == "add" else -1
        there.append((at + tested.began_s, count))
    return {
        "rows": rows,
        "held": tested.held,
        "there": there,
        "queues": tested.queues,
        "ledger": tested.ledgers[most],
        "paid": Paid(
            reserved_usd_h=paid.reserved_usd_h, instance_usd_h=paid.instance_usd_h, discount=price.discount,
            told=paid.told,
        ),
        "source": ", ".join(f"{how} of {name} in step {step + 1}" for step, name, how in chaos.done) or "no kills",
        "same_tokens": _same(alone, tested, "tokens_digest") if compared else None,
        "same_weights": _same(alone, tested, "weights_digest") if compared else None,
        "control_differs": _differs(alone, control) if compared else None,
        "notes": notes,
    }  # fmt: skip


def _price(seen: Seen, market: Market) -> float:
    """Of an instance-second of a step over the run's price, mean: by the zones of those at work."""
    came, held_s, priced_s = dict[str, float](), 0.0, 0.0
    for at, what, who in [*seen.there, *((seen.row.seconds, "remove", who) for _, _, who in seen.there)]:
        if what == "add":
            came[who] = at
        elif who in came:
            work_s = at - came.pop(who)
            held_s += work_s
            priced_s += work_s * market.price(who)
    return priced_s / held_s if held_s else 1.0


def _rows(arm: _Arm, paid: Rates, predictions: list[float | None], market: Market) -> list[Row]:
    found = []
    for at, (row, start) in enumerate(zip(arm.rows, arm.starts_s, strict=True)):
        instance_s, price = row.instances * row.seconds, _price(arm.seen[at], market)
        found.append(
            Row(
                way=arm.name,
                step=row.step,
                start_s=start,
                seconds=row.seconds,
                predicted_s=predictions[at] if predictions else None,
                t_seed_s=row.t_seed_s,
                n_prem=row.n_prem,
                instances=row.instances,
                tokens=row.tokens,
                wasted_tokens=row.discarded_tokens,
                migrations=row.migrations,
                recomputed_tokens=row.recomputed_tokens,
                wait_train_s=row.wait_train_s,
                train_s=row.train_s,
                reserved_s=row.seconds,
                instance_s=instance_s,
                price=price,
                cost_usd=paid.cost_usd(row.seconds, instance_s * price),
                reward=row.reward,
                lost_instances=row.lost_instances,
                lost_tokens=row.lost_tokens,
                duplicated_tokens=row.duplicated_tokens,
                badge="measured",
            )
        )
    return found


def _same(one: _Arm, other: _Arm, what: str) -> bool:
    return [getattr(r, what) for r in one.rows] == [getattr(r, what) for r in other.rows]


def _differs(alone: _Arm, control: _Arm) -> bool:
    first, other = alone.rows[0], control.rows[0]
    return first.tokens_digest != other.tokens_digest and first.weights_digest != other.weights_digest

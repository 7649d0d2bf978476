"""What may be done by hand in a simulated run: each press is simulated at once, the new step drawn behind the last.

Experts of a layer go to attention ranks and back, sequences get longer or shorter, the routing drifts and experts are
placed anew (drift.py). The run waits `hand_s` after each press, and ends then or when it is told that all is done.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from workbench.hetermoe.arms import Arm
from workbench.hetermoe.config import HeterMoEConfig
from workbench.hetermoe.drawing import drawn
from workbench.hetermoe.outlook import moved
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.result import Moved
from workbench.hetermoe.setting import Setting, Tick, arm_of, skewed
from workbench.system import Event, Note, Offer, Point

Say = Callable[[Event], None]
LOOK_S = 0.05
GROUPS = 12  # of layers that are moved together where there are more: two buttons each
SHORTEST, LONGEST = 64, 65_536
STEPS_LEFT = 1000  # that a new placement has to pay for itself in
DRIFTED = 1.0  # skew of a routing that has drifted
PLACE, LENGTH, ROUTING, END = "Move an expert of layer", "Sequences", "Routing", "Planner"


@dataclass
class Hand:
    """Where things stand. drifts: how often the routing has."""

    config: HeterMoEConfig
    setting: Setting
    arm: Arm
    drifts: int = 0


def by_hand(
    config: HeterMoEConfig, setting: Setting, arm: Arm, say: Say, tick: Tick, asked: queue.SimpleQueue[str],
    shown: tuple[float, list[str]],
) -> list[tuple[Moved, Arm]]:  # fmt: skip
    """Everything that was done, each with the step after it. `tick` may raise to end it."""
    hand, done, at_s = Hand(config, setting, arm), list[tuple[Moved, Arm]](), shown[0]
    offers = {offer.name: offer for offer in offered(arm.plan.layers)}
    for offer in offers.values():
        say(offer)
    say(Note(f"move experts, lengths and routing with the buttons; the run ends {config.hand_s:g} s after the last"))
    _tell_counts(say, 0, hand.arm)
    deadline = time.monotonic() + config.hand_s
    while time.monotonic() < deadline:
        tick()
        try:
            name = asked.get(timeout=LOOK_S)
        except queue.Empty:
            continue
        if name == "done":
            say(replace(offers["done"], open=False))
            break
        try:
            what = act(hand, name, tick)
        except PlanError as error:
            say(Note(f"not done: {error}", "warning"))
        else:
            say(Note(f"{what}: a step takes {1e3 * hand.arm.line.step_s:.4g} ms"))
            done.append((_moved(hand, what), hand.arm))
            at_s += _draw(say, hand.arm, at_s, shown[1])
            _tell_counts(say, len(done), hand.arm)
        say(offers[name])
        deadline = time.monotonic() + config.hand_s
    return done


def offered(layers: int) -> Iterator[Offer]:
    """All that may be done."""
    for first, last in groups(layers):
        told = f"{first}" if first == last else f"{first}-{last}"
        yield Offer(f"to attention {first}", f"{told} to attention", PLACE, "the least asked")
        yield Offer(f"to experts {first}", f"{told} to experts", PLACE, "of the fullest rank")
    yield Offer("longer", "twice as long", LENGTH, "attention grows")
    yield Offer("shorter", "half as long", LENGTH, "attention shrinks")
    yield Offer("drift", "drift", ROUTING, "others are asked")
    yield Offer("replan", "place anew", ROUTING, f"pays in {STEPS_LEFT} steps?")
    yield Offer("search", "search", END, "as the planner has it")
    yield Offer("done", "done", END, "end the run")


def groups(layers: int) -> list[tuple[int, int]]:
    """(first, last) layers that move together."""
    number = min(layers, GROUPS)
    edges = [layers * at // number for at in range(number + 1)]
    return [(a, b - 1) for a, b in pairwise(edges)]


def act(hand: Hand, name: str, tick: Tick) -> str:
    """Do it and say it in words. PlanError where it cannot be done; then nothing has changed."""
    kind, _, number = name.rpartition(" ")
    if kind in {"to attention", "to experts"}:
        first, last = next(g for g in groups(hand.arm.plan.layers) if g[0] == int(number))
        return _move(hand, range(first, last + 1), to_attention=kind == "to attention")
    if name in {"longer", "shorter"}:
        return _length(hand, 2.0 if name == "longer" else 0.5)
    if name == "drift":
        return _drift(hand)
    if name == "replan":
        return _replan(hand)
    from workbench.hetermoe.search import search

    plan = search(hand.setting.plain, hand.setting.profile, hand.setting.load, tick).plan
    hand.arm = arm_of("hand", plan, hand.setting)
    return f"as the planner has it, {sum(plan.offload)} experts on attention ranks"


def _move(hand: Hand, layers: range, *, to_attention: bool) -> str:
    arm, told = replace(hand.arm, name="hand"), list[str]()
    for layer in layers:
        expert, rank = pick(arm.plan, arm.load.share_of(arm.plan)[layer], layer, to_attention=to_attention)
        arm = moved(arm, hand.setting.profile, layer, expert, rank)
        told.append(f"expert {expert} of layer {layer} to rank {rank}")
    hand.arm = arm
    return ", ".join(told) if len(told) < 3 else f"{len(told)} experts of layers {layers[0]} to {layers[-1]}"


def pick(plan: Plan, shares: Iterable[float], layer: int, *, to_attention: bool) -> tuple[int, int]:
    """(expert, rank): of the side's busiest rank the expert that is asked least, to the other side's idlest."""
    share = [float(s) for s in shares]
    owner = plan.owner[layer]
    sides = (plan.expert_ranks, plan.attention_ranks)
    source, target = sides if to_attention else sides[::-1]
    busy = {rank: sum(share[e] for e, own in enumerate(owner) if own == rank) for rank in range(plan.world)}
    holding = [rank for rank in source if rank in owner]
    if not holding:
        side = "expert" if to_attention else "attention"
        raise PlanError(f"no expert of layer {layer} is on {side} ranks: there is none to move")
    fullest = max(holding, key=lambda rank: (busy[rank], -rank))
    own = [e for e, rank in enumerate(owner) if rank == fullest]
    return min(own, key=lambda e: (share[e], -e)), min(target, key=lambda rank: (busy[rank], rank))


def _length(hand: Hand, factor: float) -> str:
    length = round(hand.setting.load.length * factor)
    if not SHORTEST <= length <= LONGEST:
        raise PlanError(f"sequences of {length:,} tokens: {SHORTEST} to {LONGEST:,} are simulated")
    hand.setting = hand.setting.at(length)
    hand.arm = arm_of("hand", hand.arm.plan, hand.setting)
    return f"sequences of {length:,} tokens"


def _drift(hand: Hand) -> str:
    hand.drifts += 1
    shares = skewed(hand.setting.model, DRIFTED, hand.config.seed + 1000 * hand.drifts)
    hand.setting = replace(hand.setting, load=hand.setting.load.with_shares(shares))
    hand.arm = arm_of("hand", hand.arm.plan, hand.setting)
    return "the routing has drifted, experts stay where they are"


def _replan(hand: Hand) -> str:
    from workbench.hetermoe.drift import replan

    load = hand.setting.load
    shares = [[float(s) for s in row] for row in load.share_of(hand.arm.plan)]
    decision = replan(hand.arm.plan, hand.setting.profile, load, shares, STEPS_LEFT)
    hand.arm = arm_of("hand", decision.plan, hand.setting)
    return decision.why


def _moved(hand: Hand, what: str) -> Moved:
    line, plan = hand.arm.line, hand.arm.plan
    used = line.utilisation
    sides = used[: plan.attention], used[plan.attention :]
    return Moved(
        what=what, step_s=line.step_s, attention_used=sum(sides[0]) / len(sides[0]),
        expert_used=sum(sides[1]) / len(sides[1]), offload=list(plan.offload), length=hand.setting.load.length,
    )  # fmt: skip


def _draw(say: Say, arm: Arm, at_s: float, lanes: Sequence[str]) -> float:
    """The step behind those before, in the lanes of the first: of each side its busiest rank. Its seconds."""
    picture = drawn(arm, "modelled", arm.line.spans, arm.line.step_s, arm.line.utilisation)
    for name in lanes:
        side = name.rpartition(", ")[2]
        alike = [at for at, own in enumerate(picture.lanes) if own.rpartition(", ")[2] == side]
        computing = [at for at in alike if at < len(picture.used)]
        chosen = max(computing, key=lambda at: picture.used[at]) if computing else picture.lanes.index(name)
        for span in picture.spans(chosen, name):
            say(replace(span, start_s=span.start_s + at_s, end_s=span.end_s + at_s))
    return picture.step_s


def _tell_counts(say: Say, number: int, arm: Arm) -> None:
    say(Point("zebra: a step (ms)", number, 1e3 * arm.line.step_s))
    used = arm.line.utilisation
    for side, shares in (("attention", used[: arm.plan.attention]), ("experts", used[arm.plan.attention :])):
        say(Point(f"{side}: busy (%)", number, 100 * sum(shares) / len(shares)))
    for layer, count in list(enumerate(arm.plan.offload))[:8]:
        say(Point(f"layer {layer}: experts on attention ranks", number, count))

"""What a plan will take, before it is decoded: the conductor on a virtual clock, and the judge that asks it.

predict     a whole query by any way of answering: the very control code, with a fitted cost in place of the model
remaining   what is left of a graph that is under way, step by step, in a few microseconds
judge       branch or not: the rest of the graph against the rest of the plain answer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.plato.conductor import conduct
from workbench.plato.cost import StepCost
from workbench.plato.engine import Engine
from workbench.plato.graph import Node, Plan
from workbench.plato.happen import Judge, Outcome, Script, Settings, Standing, Verdict
from workbench.plato.layout import Layout
from workbench.plato.warm import stems, warm

MARGIN = 1.05  # a graph must be faster than the plain answer by this factor, or the plain answer goes on
# A hedge lengthens the steps of planning by s - 1 either way; without one a refused plan has cost all of them.
HEDGE_COSTS = 1.5  # where refusing is as likely as not, the two are even here
TYPICAL_WIDTH = 4  # of a plan that nobody has seen yet


@dataclass(frozen=True)
class Prior:
    """What the scheduler decides before there is a plan: whether planning can pay, and whether a hedge is cheap."""

    plan: bool
    hedge: bool
    why: str


def prior(cost: StepCost, context: int = 256) -> Prior:
    """From the step's cost at widths 1, 2 and TYPICAL_WIDTH alone."""
    second = cost.step_s(2, 2, 2 * context) / cost.step_s(1, 1, context)
    gain = cost.width_gain(TYPICAL_WIDTH, context)
    if gain < MARGIN:
        return Prior(False, False, f"{TYPICAL_WIDTH} rows decode {gain:.2f}x the tokens of one: branches cannot pay")
    if second > HEDGE_COSTS:
        return Prior(True, False, f"a second row makes a step {second:.2f}x as long: planned first, no hedge")
    return Prior(True, True, f"a second row makes a step {second:.2f}x as long: the plain answer is decoded beside")


def predict(
    cost: StepCost,
    like: Engine,
    query: str,
    script: Script,
    settings: Settings,
    judge: Judge | None = None,
    *,
    warmed: bool = False,
) -> Outcome:
    """The outcome of a query on a virtual clock: `like` lends its tokenizer and its padding; texts mean nothing, times
    and steps do.

    warmed: what no query changes is computed before the clock starts (warm.py).
    """
    from workbench.plato.sim import SimEngine

    engine = SimEngine(cost, like, pad=getattr(like, "pad", None))
    layout = Layout(engine, query, warm=warmed)
    if warmed:
        warm(engine, stems(layout, script, settings.way))
    going = conduct(engine, layout, script, settings, judge)
    try:
        while True:
            next(going)
    except StopIteration as done:
        outcome: Outcome = done.value
        return outcome
    finally:
        engine.close()


def remaining(
    cost: StepCost, plan: Plan, done: Mapping[int, int], ended: frozenset[int], *, front: int = 128, header: int = 16
) -> float:
    """Seconds until every node has ended, from here: nodes start when what they need has ended.

    done: tokens decoded by node; ended: nodes that are finished. front: tokens of the shared prompt, header: of a
    node's own prompt, which ride along in the step that starts it.
    """
    left = {n.id: n.budget - done.get(n.id, 0) for n in plan.nodes if n.id not in ended}
    over, trunk = set(ended), front + sum(done.get(i, 0) + header for i in ended)
    seconds, running = 0.0, {i for i in left if i in done}
    while left:
        new = [i for i in left if i not in running and set(_node(plan, i).needs) <= over]
        running |= set(new)
        rows = len(running)
        if new:  # the step in which prompts join
            seconds += cost.step_s(rows + header * len(new), rows, rows * trunk)
        steps = max(1, min(left[i] for i in running))
        seconds += steps * cost.step_s(rows, rows, rows * (trunk + steps // 2))
        for i in running:
            left[i] -= steps
        finished = {i for i in running if left[i] <= 0}
        trunk += sum(_node(plan, i).budget + header for i in finished)
        running -= finished
        over |= finished
        for i in finished:
            del left[i]
    return seconds


def _node(plan: Plan, at: int) -> Node:
    return plan.nodes[at - 1]


def plain_left(cost: StepCost, tokens: int, context: int) -> float:
    """Seconds to decode `tokens` more, one after the other."""
    return tokens * cost.step_s(1, 1, context + tokens // 2) if tokens > 0 else 0.0


def judge(cost: StepCost, front: int = 128) -> Judge:
    """A judge for `conduct`: the graph goes on where it is faster than what is left of the plain answer, by MARGIN."""

    def decide(now: Standing) -> Verdict:
        graph_s = remaining(cost, now.plan, now.done, now.ended, front=front)
        total = now.plain_total if now.settings.whole else min(now.plain_total, now.plan.tokens)
        plain_s = plain_left(cost, total - now.plain_done, front + now.plain_done)
        branch = graph_s * MARGIN < plain_s
        p = now.plan
        shape = f"{len(p)} part{'s' * (len(p) != 1)}, {p.width} wide, {p.depth} deep"
        why = f"{shape}: the graph needs {graph_s:.2f} s more, the plain answer {plain_s:.2f} s"
        return Verdict(branch, graph_s, plain_s, why)

    return decide

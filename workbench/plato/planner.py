"""Where a plan comes from: given beforehand, or written by the model that also answers and read as it grows.

The planner's instructions stand before the query where they are computed already (Layout.warm) and are longer than it;
else the prompt begins with the query's own front, whose KV the plain answer computes, and they stand behind it. The
published system's prompt is not known: this one is ours.
"""

from __future__ import annotations

import json
from typing import Literal

from workbench.plato.engine import Ask, Constraint
from workbench.plato.grammar import MOST_ASK, one_line, outline_lark, plan_lark, plan_schema, plan_text
from workbench.plato.graph import Node, Plan
from workbench.plato.layout import Layout
from workbench.plato.parse import Funnel, PlanReader

Mode = Literal["model", "script", "free"]
Form = Literal["lines", "json"]

LINE_TOKENS = 40  # of a line that the model writes itself: a question of 120 characters has about 30
END = "\nRequest:"  # a model without a grammar goes on with the next example

# One small and one larger example: with one alone a small model copies its edges.
_SHOWN = (
    (
        "Describe a village and the river beside it, then tell how the two fit together.",
        Plan(
            (
                Node(1, "What is the village like?"),
                Node(2, "What is the river like?"),
                Node(3, "How do the village and the river fit together?", (1, 2)),
            )
        ),
    ),
    (
        "What do cats, dogs and birds eat?",
        Plan((Node(1, "What do cats eat?"), Node(2, "What do dogs eat?"), Node(3, "What do birds eat?"))),
    ),
)
_TASK = (
    "Before I answer, I split the request into parts that can be answered on their own, one line for each. A line has "
    "the number of the part, after <- the parts whose answers it needs (most need none), and its question.\n"
)
_OUTLINE_TASK = "Before I answer, I write the points of the answer, one line for each: its number and what it tells.\n"
_JSON_TASK = (
    "Before I answer, I split the request into parts that can be answered on their own, as JSON. A part has an id, "
    "the ids of earlier parts whose answers it needs (most need none), and the question that it answers.\n"
)
_JSON_OUTLINE_TASK = "Before I answer, I write the points of the answer as JSON: of each its id and what it tells.\n"


class Given:
    """A plan that is there before anything is decoded; it costs nothing."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.repairs: list[str] = []

    def ask(self, layout: Layout, outline: bool) -> Ask | None:  # noqa: ARG002  as scripts are asked
        """Nothing has to be written."""
        return None

    def feed(self, text: str) -> list[Node]:  # noqa: ARG002
        return []

    def opened(self) -> None:
        """No line is ever half written."""

    def finish(self) -> Plan:
        return self.plan


class Written:
    """A plan that a sequence writes; for one answer only, as it keeps what it has read.

    mode: "model" lets the model choose under the grammar, "free" without one, "script" has the text of `plan` written
    token by token, each at the price of a step. At least `least` and at most `most` parts, `node_tokens` each where
    neither the plan nor the text says it. form: what the model is shown; by default what its engine takes best.
    """

    def __init__(
        self,
        mode: Mode = "model",
        plan: Plan | None = None,
        *,
        most: int = 8,
        least: int = 2,
        node_tokens: int = 64,
        form: Form | None = None,
        forced: bool = True,
    ) -> None:
        if mode == "script":
            if plan is None:
                raise ValueError("planner: a script needs the plan that it shall write")
            most, least, form = len(plan), min(2, len(plan)), "lines"
            plan = Plan(tuple(Node(n.id, one_line(n.ask), n.needs, n.budget) for n in plan.nodes))
        self.mode, self.plan, self.most, self.least = mode, plan, most, least
        self.node_tokens, self.form, self.forced = node_tokens, form, forced
        self._reader = self._new_reader(False)

    def ask(self, layout: Layout, outline: bool) -> Ask:
        """Query, task and examples, and under which grammar the plan is written."""
        self._reader = self._new_reader(outline)
        form = self.form or layout.form
        ids = self._ids(layout, self._instructions(outline, form))
        constraint = None if self.mode == "free" else self._constraint(outline)
        budget = self.most * LINE_TOKENS
        if constraint and constraint.script:
            budget = len(layout.encode(constraint.script))
        return Ask("plan", ids, budget, constraint, stop=() if constraint else (END,))

    def feed(self, text: str) -> list[Node]:
        """Nodes that `text` completes."""
        return self._reader.feed(text)

    def opened(self) -> tuple[int, tuple[int, ...]] | None:
        """(id, needs) of the line that is being written, once they are known."""
        return self._reader.opened()

    def finish(self) -> Plan:
        """The plan; PlanError when none could be read."""
        return self._reader.finish()

    @property
    def repairs(self) -> list[str]:
        return self._reader.repairs

    def funnel(self) -> Funnel:
        """How far the text came before any repair; after `finish`."""
        return self._reader.funnel()

    # -- pieces --------------------------------------------------------------------------------------------------

    def _new_reader(self, outline: bool) -> PlanReader:
        known = {n.id: n.budget for n in self.plan.nodes} if self.mode == "script" and self.plan else {}
        return PlanReader(self.most, 1, self.node_tokens, known, outline)

    def _constraint(self, outline: bool) -> Constraint:
        script, longest = "", MOST_ASK
        if self.mode == "script" and self.plan is not None:
            script = plan_text(self.plan, outline)
            longest = max(longest, *(len(n.ask) for n in self.plan.nodes))
        lark = (outline_lark if outline else plan_lark)(self.most, self.least, longest)
        schema = json.dumps(plan_schema(self.most, self.least, longest, outline))
        return Constraint(lark, self.forced, script, schema)

    def _ids(self, layout: Layout, instructions: str) -> tuple[int, ...]:
        """The whole prompt, in the order that leaves fewer tokens to compute."""
        request = f"Request: {' '.join(layout.query.split())}\n"
        behind = layout.encode(f"{instructions}{request}")
        if layout.warm and len(behind) > 2 * len(layout.encode(request)):
            return layout.chat(instructions, request)
        return layout.front + behind

    def _instructions(self, outline: bool, form: Form) -> str:
        if form == "json":
            task = _JSON_OUTLINE_TASK if outline else _JSON_TASK
        else:
            task = _OUTLINE_TASK if outline else _TASK
        shown = "".join(f"Request: {request}\n{_text(plan, outline, form)}" for request, plan in _SHOWN)
        return f"{task}\n{shown}"


def _text(plan: Plan, outline: bool, form: Form) -> str:
    """An example's plan, with the empty line after it."""
    if form == "lines":
        return plan_text(plan, outline)
    parts = [{"id": n.id} | ({} if outline else {"needs": list(n.needs)}) | {"ask": n.ask} for n in plan.nodes]
    return json.dumps({"parts": parts}) + "\n\n"

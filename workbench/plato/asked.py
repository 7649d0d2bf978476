"""What a config asks: the query, the plan that goes with it, and who plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.plato.config import PlatoConfig, plan_from
from workbench.plato.examples import EXAMPLES
from workbench.plato.graph import PART_TOKENS, Plan
from workbench.plato.happen import Script
from workbench.plato.planner import Given, Written


@dataclass(frozen=True)
class Question:
    """A query and its plan; None where the model shall find one."""

    query: str
    plan: Plan | None


def question(config: PlatoConfig) -> Question:
    """From the settings: an own query or plan replaces the example's. ValueError names what is wrong with a plan."""
    example = EXAMPLES[config.example]
    query = config.query if config.query is not None else example.query
    if config.planner == "rules":
        from workbench.plato.rules import rules_plan

        return Question(query, rules_plan(query, config.node_tokens or PART_TOKENS))
    if config.plan is not None:
        return Question(query, plan_from(config.plan, config.node_tokens))
    return Question(query, None if config.query is not None else example.plan(config.node_tokens))


def script(planner: str, plan: Plan | None, node_tokens: int | None = None) -> Script:
    """A planner for one answer. "script" and "given" take `plan`, the others find one."""
    if planner in ("given", "rules", "script") and plan is None:
        raise ValueError(f"planner: {planner!r} needs a plan")
    if planner in ("given", "rules") and plan is not None:
        return Given(plan)
    if planner == "script":
        return Written("script", plan)
    return Written("model" if planner == "model" else "free", node_tokens=node_tokens or PART_TOKENS)


Scripts = Callable[[str], Script]

"""What an answer's parts cost beside writing them, item by item, for the last answer by the way under test.

Planning is measured. The rest happens inside steps that also decode, so no clock sees it alone: it is the difference
between two steps of the fitted cost. Items overlap (a plan is written while parts run), so they are no sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from workbench.plato.cost import StepCost

if TYPE_CHECKING:
    from workbench.plato.result import PlatoResult

COLUMNS = ("item", "seconds", "tokens", "badge")


def overheads(result: PlatoResult) -> list[dict[str, Any]]:
    """Rows of COLUMNS; what is saved is negative. Without a cost model only what was measured."""
    rows = list(_planning(result))
    if result.machine is not None:
        rows += _modelled(result, result.machine.cost())
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _planning(result: PlatoResult) -> Iterator[tuple[str, float, int, str]]:
    badge = result.badge
    plan = next((p for p in result.pieces if p.kind == "plan"), None)
    if plan is None:
        return
    starts = [p.start_s for p in result.pieces if p.kind == "node"]
    yield "the plan is written", plan.end_s - plan.start_s, plan.tokens, badge
    yield "of that, before the first part runs", min([plan.end_s, *starts]) - plan.start_s, plan.tokens, badge


def _modelled(result: PlatoResult, cost: StepCost) -> Iterator[tuple[str, float, int, str]]:
    row = result.of(result.config.way)[-1]
    bare = StepCost(cost.table, cost.row_s, cost.kv_s)
    one = bare.step_s(1)
    pieces = result.pieces

    def prompts(counts: list[int]) -> float:
        """Seconds that prompts of so many tokens add to steps that run anyway."""
        return sum(bare.step_s(1 + n) - one for n in counts if n)

    yield "prompts that were computed", prompts([p.prefilled for p in pieces]), row.prefilled, "modelled"
    yield "prompts whose KV was reused", 0.0 - prompts([p.reused for p in pieces]), row.reused, "modelled"
    yield "plan tokens that the grammar forced", 0.0 - one * row.forced, row.forced, "modelled"
    hedge = sum(p.tokens for p in pieces if p.kind == "plain" and p.ended == "cancelled")
    yield "the plain answer beside the plan, dropped", hedge * (bare.step_s(2, 2) - one), hedge, "modelled"
    around = row.steps * cost.around_s + row.decoded * cost.around_row_s
    yield "sampling, grammar and text", around, row.decoded, "modelled"

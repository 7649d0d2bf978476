"""The paper's numbers beside a run's own: ours only where the run's setting is the one that a number is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.system import Claim

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from workbench.hetermoe.result import HeterMoEResult
    from workbench.published import Published

FIG_EP = "evaluation, against others"
OVER_EP = {4096: 1.22, 16_384: 1.67, 32_768: 1.89}  # means over models and clusters
OVER_IDEAL = 1.18
DISTEP = 55.0  # % of HeterMoE
ELSEWHERE = "other devices and models than the paper's; preset paper predicts its own"
CELL = "one model and cluster; the paper's is a mean over several"


def beside(result: HeterMoEResult) -> list[Claim]:
    """All that were predicted in this run, else the main ones with this run's own number where it speaks to them."""
    if result.published:
        return [
            Claim(
                what=one.what, paper=one.paper, ours=one.ours, unit=one.unit, badge="modelled", source=one.source,
                note="fitted to it" if one.fitted else one.note or "predicted", fitted=one.fitted,
            )
            for one in result.published
        ]  # fmt: skip
    paper, badge = papers(result), result.badge
    rates = dict(result.lengths)

    def claim(what: str, number: float, ours: float | None, unit: str) -> Claim:
        note = CELL if ours is not None else ELSEWHERE
        return Claim(what=what, paper=number, ours=ours, unit=unit, badge=badge, source=FIG_EP, note=note)

    def over(length: int, arm: str) -> float | None:
        at = rates.get(length, {})
        return at["zebra"] / at[arm] if paper and at.get(arm) and at.get("zebra") else None

    found = [claim(f"over EP, {n // 1024}K, mean", number, over(n, "ep"), "x") for n, number in OVER_EP.items()]
    here = result.config.tokens_of_sequence
    share = over(here, "distep")
    found.append(claim("over EP (Ideal), mean", OVER_IDEAL, over(here, "ideal"), "x"))
    found.append(claim("DistEP of HeterMoE, mean", DISTEP, 100 / share if share else None, "%"))
    return found


def papers(result: HeterMoEResult) -> bool:
    """Whether devices and model are the paper's first cluster's."""
    c = result.config
    return (
        not result.measured and c.model != "own" and {c.new, c.old} == {"A40", "V100"} and c.attention + c.expert == 12
        and not c.skew and c.moved_pct is None and c.placed is None
    )  # fmt: skip


def table(rows: Iterable[Published]) -> pd.DataFrame:
    """Claims as a table: paper and ours in `unit`, error relative or, of per cent, in points, both in %."""
    import pandas as pd

    return pd.DataFrame([row.cells() | {"note": row.note} for row in rows])

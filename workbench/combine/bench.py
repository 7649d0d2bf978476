"""Systems put together, measured: `workbench bench combine` appends rows to combine.csv. Ten minutes of one core.

WORKBENCH_BENCH names a part: migrate, union or join; without it all three are run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import workbench as wb
from workbench.combine import join, migrate, union
from workbench.foundry.result import FoundryResult

PLANS = ("eight", "wide")
ALONE: tuple[migrate.Way, ...] = ("recompute", "compute")
BESIDE: tuple[migrate.Way, ...] = ("load", "cake")


def main() -> list[dict[str, Any]]:
    """Run everything, or the named part; one row per number. ValueError: no part has that name."""
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"migrate": _migrate, "union": _union, "join": _join}
    named = os.environ.get("WORKBENCH_BENCH", "")
    if named and named not in parts:
        raise ValueError(f"WORKBENCH_BENCH: {named} is no part of this benchmark; there are {', '.join(parts)}")
    return [row for name, part in parts.items() if named in ("", name) for row in part()]


def _row(case: str, name: str, value: float, badge: str) -> dict[str, Any]:
    print(f"  {case:<44} {name:<44} {value:10.4g}  {badge}")
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}


def _migrate() -> Iterator[dict[str, Any]]:
    with migrate.killed(prompts=(209, 465), tokens=48) as died:
        found = migrate.measure(died)
    for tokens in found.lengths:
        case = f"migrate: SmolLM2-135M, float32, {tokens} tokens"
        for way in ALONE:
            yield _row(case, f"{way}_s", found.seconds(way, tokens), "measured")
        for link in found.links:
            rate = next(r.link_mb_s for r in found.rows if (r.tokens, r.link) == (tokens, link))
            yield _row(case, f"link at {link:g}x of the balance, MB/s", rate, "measured")
            for way in BESIDE:
                yield _row(case, f"{way}_s at {link:g}x", found.seconds(way, tokens, link), "measured")
    yield _row("migrate: the checkpoint", "share of decoding", found.keeping, "measured")
    yield _row("migrate: the checkpoint", "written while decoding, MB/s", found.kept_mb_s, "measured")
    yield _row("migrate: the checkpoint", "exact", float(found.exact), "measured")


def _union() -> Iterator[dict[str, Any]]:
    model = union.trained()
    for plan in PLANS:
        found = union.measure(model, plan)
        for row in found.table:
            if row.layer < 0:
                case = f"union: plan {plan}, {row.rows}, width {row.width}"
                yield _row(case, "sparsity", row.sparsity, "measured")
                yield _row(case, "expected, by layer", row.by_layer, "modelled")
                yield _row(case, "expected, by expert", row.by_expert, "modelled")
        yield _row(f"union: plan {plan}", "controls_hold", float(found.controls_hold), "measured")


def _join() -> Iterator[dict[str, Any]]:
    here = wb.run("foundry", layers=1, batches="2,4", compare="most", steps=3)
    there = wb.run("foundry", preset="paper", sim_model="Qwen3-14B")
    for result in (here, there):
        assert isinstance(result, FoundryResult)
        found = join.measure(result)
        for start in found.starts:
            case = f"join: {found.source}, {start.way}"
            yield _row(case, "start_s", start.seconds, start.badge)
            yield _row(case, "tokens over no start", found.ratio(start.way), "modelled")
            yield _row(case, "dollars a token over no start", found.ratio(start.way, "usd_per_million"), "modelled")
        yield _row(f"join: {found.source}", "tokens lost for a minute of start", found.per_minute(), "modelled")
        dearer = found.per_minute("usd_per_million")
        yield _row(f"join: {found.source}", "dollars a token for a minute of start", dearer, "modelled")
        yield _row(f"join: {found.source}", "controls_hold", float(found.controls_hold), "modelled")

"""What a Plato run found: a row per answer, the parts of one, the plan, the step's cost, scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench import dag
from workbench.plato.config import PlatoConfig, plan_from
from workbench.plato.cost import Sample, StepCost
from workbench.plato.graph import Plan
from workbench.plato.happen import Outcome, Part, Verdict, Way
from workbench.plato.pairwise import Judged
from workbench.system import Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WAYS: Mapping[str, str] = {
    "plain": "plain decoding",
    "nodes": "part after part",
    "sot": "Skeleton-of-Thought",
    "independent": "independent branches",
    "plato": "Plato",
}
SEQUENTIAL: tuple[Way, ...] = ("plain", "nodes")
COLUMNS = {
    "way": "plain: token by token, no plan; nodes: part after part, the plan at no cost; sot: outline, then all points "
    "at once; independent: all parts at once, nothing shared; plato: the graph",
    "round": "repetition",
    "total_s": "from the query to the last token, planning and prompts included, s",
    "predicted_s": "the same by the scheduler on a virtual clock, with the fitted step cost, s",
    "first_s": "until the first token of the answer that was kept, s",
    "steps": "passes over the weights",
    "decoded": "tokens that a step chose, over all sequences, those of an abandoned hedge included",
    "plan_tokens": "tokens of the plan or outline",
    "forced": "of these, tokens that the grammar left no choice about, taken without a step",
    "prefilled": "prompt tokens whose KV was computed",
    "reused": "prompt tokens whose KV was there already",
    "answer_tokens": "tokens of the answer",
    "refused": "whether the scheduler refused the plan and the plain answer was given",
    "badge": "measured here or modelled",
}


class Row(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: Way
    round: int
    total_s: float
    predicted_s: float | None = None
    first_s: float
    steps: int
    decoded: int
    plan_tokens: int
    forced: int
    prefilled: int
    reused: int
    answer_tokens: int
    refused: bool = False
    badge: Literal["measured", "modelled"] = "measured"


class Piece(BaseModel):
    """One sequence of the shown answer. Times from the query on, s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["plan", "plain", "node", "trunk"]
    node: int = 0
    start_s: float
    first_s: float
    end_s: float
    tokens: int
    reused: int
    prefilled: int
    ended: str
    saw: tuple[int, ...] = ()
    text: str = ""

    @classmethod
    def of(cls, part: Part) -> Piece:
        """From a part of an outcome."""
        return cls(
            name=part.name,
            kind=part.kind,
            node=part.node,
            start_s=round(part.start_s, 5),
            first_s=round(part.first_s or part.end_s, 5),
            end_s=round(part.end_s, 5),
            tokens=len(part.ids),
            reused=part.reused,
            prefilled=part.prefilled,
            ended=part.ended,
            saw=part.saw,
            text=part.text,
        )

    def spans(self, offset_s: float = 0.0, prefix: str = "") -> list[Span]:
        """Its prompt and its decoding, as spans of a timeline."""
        lane = f"part {self.node}" if self.kind == "node" else self.name
        why: dict[str, float | str] = {"reused_tokens": self.reused, "computed_tokens": self.prefilled}
        if self.kind == "node":
            why["sees_parts"] = ", ".join(map(str, self.saw)) or "none"
        first = min(max(self.first_s, self.start_s), self.end_s)
        start, first, end = (v + offset_s for v in (self.start_s, first, self.end_s))
        said = f"{prefix}{lane}: prompt, {self.reused} tokens reused, {self.prefilled} computed"
        found = [Span(lane, start, first, said, "reuse" if self.reused > self.prefilled else "prefill", why)]
        if end > first:
            kind = {"plan": "plan", "plain": "plain"}.get(self.kind, "decode")
            also: dict[str, float | str] = {"tokens": self.tokens, "ended_by": self.ended}
            found.append(Span(lane, first, end, f"{prefix}{lane}: {self.tokens} tokens", kind, why | also))
        return found


class Planned(BaseModel):
    """The plan that was decoded, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str  # lines of workbench.dag, "" where there was none
    planner: str
    valid: bool
    repairs: list[str] = Field(default_factory=list)
    error: str = ""
    edge_f1: float | None = None  # against the plan of the settings

    def plan(self) -> Plan | None:
        return plan_from(self.text) if self.text else None


class Chosen(BaseModel):
    """The scheduler's verdict on the shown answer, and what it said before there was a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str
    branch: bool | None = None
    graph_s: float | None = None
    plain_s: float | None = None
    why: str = ""

    @classmethod
    def of(cls, before: str, verdict: Verdict | None) -> Chosen:
        """The same without infinities, which JSON does not have."""
        if verdict is None:
            return cls(before=before)
        graph_s, plain_s = (s if math.isfinite(s) else None for s in (verdict.graph_s, verdict.plain_s))
        return cls(before=before, branch=verdict.branch, graph_s=graph_s, plain_s=plain_s, why=verdict.why)


class Machine(BaseModel):
    """The fitted cost of a step, and the samples behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: tuple[float, ...]
    row_s: float
    kv_s: float
    error: float
    source: str
    around_s: float = 0.0
    around_row_s: float = 0.0
    samples: list[tuple[int, int, int, float]] = Field(default_factory=list)  # tokens, rows, kv_tokens, seconds

    @classmethod
    def of(cls, cost: StepCost, samples: Sequence[Sample] = ()) -> Machine:
        rows = [(s.tokens, s.rows, s.kv_tokens, round(s.seconds, 6)) for s in samples]
        return cls(**asdict(cost), samples=rows)

    def cost(self) -> StepCost:
        return StepCost(**self.model_dump(exclude={"samples"}))


class PlatoResult(Result):
    """Answers to one query by several ways, measured or simulated."""

    config: PlatoConfig
    query: str
    rows: list[Row]
    pieces: list[Piece]  # of the last answer by the way under test
    planned: Planned
    chosen: Chosen
    machine: Machine | None
    exact: bool | None = None  # a branch decoded in the batch gave the tokens that it gives alone
    control_differs: bool | None = None  # and without what it needs it gave others
    answer: str = ""
    plain_answer: str = ""
    scores: list[dict[str, Any]] = Field(default_factory=list)  # quality.Score, by way and family
    judged: Judged | None = None  # one: the shown answer, two: the plain one
    notes: list[str] = Field(default_factory=list)

    def of(self, way: str) -> list[Row]:
        return [row for row in self.rows if row.way == way]

    def median(self, way: str, field: str = "total_s") -> float:
        """Median over rounds; nan where the way was not run or has no such number."""
        found = [v for row in self.of(way) if (v := getattr(row, field)) is not None]
        return float(median(found)) if found else math.nan

    def piece(self, node: int) -> Piece | None:
        return next((p for p in self.pieces if p.kind == "node" and p.node == node), None)

    def critical(self) -> list[int]:
        """Nodes of the critical path by the tokens that they had, [] without a plan."""
        plan = self.planned.plan()
        tokens = {p.node: p.tokens for p in self.pieces if p.kind == "node"}
        return plan.critical_path(tokens) if plan else []

    def sequential(self) -> tuple[str, float]:
        """The faster sequential way and its seconds; ("", nan) where none was measured.

        They are compared within the rounds that both took part in, and the median of the one with more rounds is
        scaled by what the other is to it there: one slow or fast minute of the machine decides nothing.
        """
        by = {w: {r.round: r.total_s for r in self.of(w)} for w in SEQUENTIAL if self.of(w)}
        if len(by) < 2:
            return next(((w, self.median(w)) for w in by), ("", math.nan))
        often, once = sorted(by, key=lambda w: -len(by[w]))
        shared = by[often].keys() & by[once].keys()
        ratio = median(by[once][r] / by[often][r] for r in shared) if shared else 1.0
        return (once, ratio * self.median(often)) if ratio < 1 else (often, self.median(often))

    def summary(self) -> dict[str, float]:
        tested, plan = self.config.way, self.planned.plan()
        sequential, sequential_s = self.sequential()
        steps = self.median(tested, "steps")
        tokens = {p.node: p.tokens for p in self.pieces if p.kind == "node"}
        critical = plan.critical_tokens(tokens) if plan else 0
        branched = critical and not self.median(tested, "refused")
        exact = math.nan if self.exact is None else float(self.exact and self.control_differs is not False)
        numbers = {
            "total_s": self.median(tested),
            "sequential_s": sequential_s,
            "sot_s": self.median("sot"),
            "independent_s": self.median("independent"),
            "speedup_vs_sequential": sequential_s / self.median(tested),
            "token_steps": steps,
            "critical_path_steps": float(critical) if plan else math.nan,
            "token_step_speedup": self.median(sequential, "steps") / steps if steps else math.nan,
            "token_step_speedup_bound": sum(tokens.values()) / critical if branched else math.nan,
            "planned_nodes": float(len(plan)) if plan else 0.0,
            "plan_valid": float(self.planned.valid) if plan or self.planned.error else math.nan,  # cut short: neither
            "refused": self.median(tested, "refused"),
            "kv_tokens_reused": self.median(tested, "reused"),
            "kv_tokens_computed": self.median(tested, "prefilled"),
            "predicted_s": self.median(tested, "predicted_s"),
            "first_token_s": self.median(tested, "first_s"),
            "exact": exact,
            "right_fraction": self.scored("plato"),
            "right_fraction_edges_cut": self.scored("plato, edges cut"),
            "right_fraction_sot": self.scored("sot"),
            "judge_prefers_it": self._preferred(),
        }
        return {k: v for k, v in numbers.items() if not math.isnan(v)}

    def _preferred(self) -> float:
        """1 where the judge took the shown answer in both orders, -1 the plain one, 0 neither; nan without its word."""
        better = self.judged.better if self.judged else "unclear"
        return {"one": 1.0, "two": -1.0, "tie": 0.0}.get(better, math.nan)

    def scored(self, way: str) -> float:
        """Share of parts that said the expected string, over all families of tasks; nan where nothing was scored."""
        return next((float(s["exact"]) for s in self.scores if s["way"] == way and s["family"] == "all"), math.nan)

    def overheads(self) -> pd.DataFrame:
        """What the last answer by the way under test cost beside its parts, item by item (overheads.py)."""
        import pandas as pd

        from workbench.plato.overheads import COLUMNS, overheads

        return pd.DataFrame(overheads(self), columns=list(COLUMNS))

    def scores_frame(self) -> pd.DataFrame:
        """The scores on tasks with known answers, a row per way and family (fields of quality.Score)."""
        import pandas as pd

        return pd.DataFrame(self.scores)

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.rows], columns=list(COLUMNS))

    def figure(self) -> go.Figure:
        from workbench.plato.figures import overview

        return overview(self)

    def spans(self) -> list[Span]:
        return [span for piece in self.pieces for span in piece.spans()]

    def claims(self) -> list[Claim]:
        from workbench.plato.claims import claims

        return claims(self)

    def sentence(self) -> str:
        from workbench import theme

        s, modelled = self.summary(), not self.measured
        source = self.machine.source if self.machine else "no cost model"
        how = f"Modelled ({source})" if modelled else f"Measured on {self.provenance.device}"
        tested = WAYS[self.config.way]
        plan = self.planned.plan()
        shape = "no usable plan" if self.planned.error else "the plan was not finished"
        if self.chosen.branch is False and not any(piece.kind == "plan" for piece in self.pieces):
            shape = "none was asked for"
        if plan:
            shape = f"{len(plan)} part{'s' * (len(plan) != 1)}, {plan.width} wide and {plan.depth} deep"
        refused = ", the plan refused," if s.get("refused") else ""
        steps = ""
        if "token_step_speedup_bound" in s:
            gain, bound = s["token_step_speedup"], s["token_step_speedup_bound"]
            steps = f" In steps it is {gain:.2f} times, where the critical path would allow {bound:.2f}."
        others = [f"{theme.number(s['sequential_s'])} s by the faster sequential way"]
        others += [f"{theme.number(s['sot_s'])} s by Skeleton-of-Thought"] if "sot_s" in s else []
        return (
            f"{how}: {tested}{refused} answers after {theme.number(s['total_s'])} s, planning included ({shape}), "
            f"against {' and '.join(others)}: {s['speedup_vs_sequential']:.2f} times as fast as sequential decoding."
            f"{steps}"
        )

    def decided(self) -> dict[str, Any]:
        told: dict[str, Any] = {"query": self.query, "ways": sorted({r.way for r in self.rows})}
        if not self.measured:
            return told | {"plan": self.planned.text, "rows": [r.model_dump() for r in self.rows]}
        told["plain"] = self.plain_answer
        if self.config.refuse and self.config.way == "plato":
            return told  # whether the plan is refused, and how much of it is written then, is up to the clock
        return told | {"plan": self.planned.text, "answer": self.answer, "exact": self.exact}


def row_of(outcome: Outcome, way: Way, number: int, predicted_s: float | None, badge: str) -> Row:
    """The row of an outcome."""
    c = outcome.counts
    plan = next((p for p in outcome.parts if p.kind == "plan"), None)
    return Row(
        way=way,
        round=number,
        total_s=outcome.total_s,
        predicted_s=predicted_s,
        first_s=outcome.first_s,
        steps=c.steps,
        decoded=c.decoded,
        plan_tokens=len(plan.ids) if plan else 0,
        forced=c.forced,
        prefilled=c.prefilled,
        reused=c.reused,
        answer_tokens=outcome.answer_tokens,
        refused=bool(outcome.verdict and not outcome.verdict.branch) or bool(outcome.plan_error),
        badge="modelled" if badge == "modelled" else "measured",
    )


def plan_lines(plan: Plan | None) -> str:
    """A plan as lines of workbench.dag, budgets included; "" for none."""
    return dag.write(dag.Vertex(n.id, n.ask, n.needs, n.budget) for n in plan.nodes) if plan else ""

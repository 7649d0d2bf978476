"""What a CAKE run found: one row per restore, the fitted costs, the trace of one restore, the modelled curve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.cake.config import CakeConfig
from workbench.cake.costs import Costs
from workbench.system import Badge, Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

RowMode = Literal["compute", "load", "cake", "raw load", "raw cake", "warm", "lmcache-mp load"]
# Largest difference of logits between two orders of the same arithmetic, as a share of the largest logit: a pass cut
# elsewhere changes the blocking of matrix products. Seen over ten prompts of 600 to 3,000 tokens, cut in other ways:
# 1e-6 in float32, 0.012 in bfloat16 (SmolLM2), against 0.3 to 1.8 with one grain of noise.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}
THEIRS = ("lmcache-mp load",)  # rows that another system answers for
BY = {"cake": "CAKE", "compute": "computing alone", "load": "loading alone"}
COLUMNS = {
    "mode": "compute: no store; load: store only; cake: both; raw: the store without a throttle; warm: vLLM's prefix "
    "cache; lmcache-mp load: LMCache's own connector, from shared memory, without a throttle",
    "round": "repetition",
    "link_mb_s": "bandwidth of the store, MB/s; for raw rows the one that was measured, 0 where nothing is loaded",
    "throttled": "whether reads were held to link_mb_s by a token bucket; raw rows are the store's own speed",
    "ttft_s": "time to first token, s; the mean over requests where there are several",
    "makespan_s": "until the last request was ready, s",
    "meeting_token": "first token that was loaded, all storable ones where none was; what is before it was computed",
    "loaded_tokens": "tokens whose KV came from the store",
    "failed_grains": "grains whose load failed and which were computed instead",
    "hedged_grains": "grains that compute took over from a late load",
    "logits_max_abs_diff": "largest difference of the first token's logits from compute-only's",
    "same_tokens": "whether the greedy continuation equals compute-only's",
    "badge": "measured here or modelled",
}
BADGES: Mapping[str, Badge] = {  # oracle and bound are computed from measured times
    "oracle_ttft_s": "modelled", "lower_bound_ttft_s": "modelled", "ratio_to_oracle": "modelled",
    "prompt_tokens": "set", "link_mb_s": "set",
}  # fmt: skip


def restore_name(mode: RowMode, number: int, link_mb_s: float) -> str:
    """What is being done, in words: "load, round 2, 17 MB/s throttled"."""
    throttled = mode in ("load", "cake") and link_mb_s > 0
    return f"{mode}, round {number + 1}" + (f", {link_mb_s:,.3g} MB/s throttled" if throttled else "")


class Row(BaseModel):
    """One restore."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: RowMode
    round: int
    link_mb_s: float
    throttled: bool = False
    ttft_s: float
    makespan_s: float
    meeting_token: int
    loaded_tokens: int
    failed_grains: int = 0
    hedged_grains: int = 0
    logits_max_abs_diff: float | None = None
    same_tokens: bool | None = None
    badge: Literal["measured", "modelled"] = "measured"


class Stroke(BaseModel):
    """A span of the traced restore, with the positions it covers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lane: Literal["compute", "load"]
    start_s: float
    end_s: float
    first_token: int
    last_token: int  # exclusive
    request: int = 0
    why: dict[str, float | str] = Field(default_factory=dict)

    def span(self) -> Span:
        """As an event of the timeline."""
        name = f"r{self.request} " if self.request else ""
        label = f"{name}[{self.first_token}:{self.last_token}]"
        return Span(self.lane, self.start_s, self.end_s, label, self.lane, self.why)


def to_stroke(span: Span) -> Stroke:
    """A span of the engine with its positions as numbers."""
    name, _, positions = span.label.rpartition("[")
    first, last = (int(v) for v in positions.rstrip("]").split(":"))
    request = int(name.strip().removeprefix("r") or 0)
    return Stroke(
        lane="compute" if span.lane == "compute" else "load",
        start_s=round(span.start_s, 5),
        end_s=round(span.end_s, 5),
        first_token=first,
        last_token=last,
        request=request,
        why=dict(span.why),
    )


class Model(BaseModel):
    """Costs as JSON holds them, and where they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_s: float
    token_s: float
    pair_s: float
    load_token_s: float
    load_request_s: float = 0.0
    contention: float = 1.0
    step: int
    run: int
    token_bytes: int
    source: str

    @classmethod
    def of(cls, costs: Costs, step: int, run: int, token_bytes: int, source: str) -> Model:
        """From a cost model and the chunk sizes used with it."""
        return cls(**asdict(costs), step=step, run=run, token_bytes=token_bytes, source=source)

    def costs(self) -> Costs:
        """As the policy and the simulator take it."""
        fields = ("step_s", "token_s", "pair_s", "load_token_s", "load_request_s", "contention")
        return Costs(**{name: getattr(self, name) for name in fields})


class Curve(BaseModel):
    """TTFT over bandwidth, modelled with the fitted costs by the simulator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    link_mb_s: list[float]
    compute_s: list[float]
    load_s: list[float]
    cake_s: list[float]
    oracle_s: list[float]
    bound_s: list[float] = Field(default_factory=list)  # what no schedule can beat


class CakeResult(Result):
    """Restores of one prompt (or of several together), measured or simulated."""

    config: CakeConfig
    rows: list[Row]
    strokes: list[Stroke]
    model: Model
    curve: Curve
    link_mb_s: float  # the bandwidth of the throttled rows
    prompt_tokens: int
    oracle_s: float | None  # best split of one prompt, gaps in the store included; of several prompts the best order
    oracle_token: int | None
    bound_s: float | None
    tolerance: float | None = None  # of logits_max_abs_diff
    control_max_abs_diff: float | None = None  # logits with one grain's KV corrupted: must exceed the tolerance
    tokens: list[int] = Field(default_factory=list)  # greedy continuation, compute-only
    text: str = ""
    prompt_hash: str = ""
    notes: list[str] = Field(default_factory=list)
    table: list[Claim] = Field(default_factory=list)

    def of(self, mode: RowMode) -> list[Row]:
        """Rows of one mode at the link of this run (sweep points have other bandwidths)."""
        raw = mode.startswith("raw") or mode in ("warm", "compute", "lmcache-mp load")
        return [r for r in self.rows if r.mode == mode and (raw or r.link_mb_s == self.link_mb_s)]

    @property
    def aim(self) -> str:
        """What several prompts are served for: the mean TTFT, or the TTFT of the last one (batch="makespan")."""
        last = self.config.requests > 1 and self.config.batch == "makespan"
        return "makespan_s" if last else "ttft_s"

    def median_s(self, mode: RowMode, field: str | None = None) -> float:
        """Median over rounds, of the TTFT that the run aims at if no field is named; nan where the mode was not run."""
        found = [getattr(r, field or self.aim) for r in self.of(mode)]
        return float(median(found)) if found else float("nan")

    @property
    def exact(self) -> bool:
        """Every measured restore of ours gave compute-only's tokens and logits, and corrupted KV did not."""
        rows = [r for r in self.rows if r.badge == "measured" and r.same_tokens is not None and r.mode not in THEIRS]
        same = all(r.same_tokens for r in rows)
        if self.tolerance is None or self.control_max_abs_diff is None:
            return False
        near = all((r.logits_max_abs_diff or 0.0) <= self.tolerance for r in rows)
        return bool(rows) and same and near and self.control_max_abs_diff > self.tolerance

    def summary(self) -> dict[str, float]:
        tested: RowMode = self.config.policy
        nan = math.nan
        ttft_s, compute_s, load_s = (self.median_s(m) for m in (tested, "compute", "load"))
        numbers = {
            "ttft_s": ttft_s,
            "compute_only_ttft_s": compute_s,
            "load_only_ttft_s": load_s,
            "oracle_ttft_s": nan if self.oracle_s is None else self.oracle_s,
            "speedup_vs_best_single": min(compute_s, load_s) / ttft_s,
            "ratio_to_oracle": ttft_s / self.oracle_s if self.oracle_s else nan,
            "exact": float(self.exact) if self.measured else nan,
            "meeting_token": self.median_s(tested, "meeting_token"),
            "lower_bound_ttft_s": nan if self.bound_s is None else self.bound_s,
            "prompt_tokens": float(self.prompt_tokens),
            "link_mb_s": self.link_mb_s,
            "makespan_s": self.median_s(tested, "makespan_s"),
            "raw_load_only_ttft_s": self.median_s("raw load"),
            "raw_ttft_s": self.median_s("raw cake"),
            "warm_ttft_s": self.median_s("warm"),
            "lmcache_mp_load_only_ttft_s": self.median_s("lmcache-mp load"),
        }
        return {k: v for k, v in numbers.items() if not math.isnan(v)}

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.rows], columns=list(COLUMNS))

    def figure(self) -> go.Figure:
        from workbench.cake.figures import overview

        return overview(self)

    def spans(self) -> list[Span]:
        return [stroke.span() for stroke in self.strokes]

    def claims(self) -> list[Claim]:
        return self.table

    def sentence(self) -> str:
        from workbench import theme

        s, tested = self.summary(), self.config.policy
        how = f"Measured on {self.provenance.device}" if self.measured else "Modelled"
        link = f"{theme.number(self.link_mb_s)} MB/s" if self.link_mb_s else "the raw disk"
        throttled = ", throttled" if self.link_mb_s and self.measured else ""
        prompt = f"a prompt of {self.prompt_tokens:,} tokens is"
        if self.config.requests > 1:
            whose = "the last of" if self.aim == "makespan_s" else "the mean of"
            prompt = f"{whose} {self.config.requests} prompts, the longest of {self.prompt_tokens:,} tokens, is"
        seconds = {name: theme.number(s[name]) for name in ("ttft_s", "compute_only_ttft_s", "load_only_ttft_s")}
        text = f"{how}: {prompt} ready after {seconds['ttft_s']} s by {BY[tested]} over a store of {link}{throttled}"
        alone = {"compute": f"{seconds['compute_only_ttft_s']} s by computing alone"}
        alone["load"] = f"{seconds['load_only_ttft_s']} s by loading alone"
        others = " and ".join(words for mode, words in alone.items() if mode != tested)
        if tested != "cake":
            return f"{text}, against {others}."
        best = "computing" if s["compute_only_ttft_s"] <= s["load_only_ttft_s"] else "loading"
        known = "best possible split" if self.config.requests == 1 else "best order found"
        met = f"; the sides met at token {s['meeting_token']:,.0f}" if self.config.requests == 1 else ""
        return (
            f"{text}, against {others}: {s['speedup_vs_best_single']:.2f} times as fast as {best}, "
            f"{s['ratio_to_oracle']:.2f} times the {known}{met}."
        )

    def decided(self) -> dict[str, Any]:
        if not self.measured:
            return {"rows": [r.model_dump() for r in self.rows], "curve": self.curve.model_dump()}
        return {
            "prompt": self.prompt_hash,
            "tokens": self.tokens,
            "modes": sorted({r.mode for r in self.rows}),
            "exact": self.exact,
        }

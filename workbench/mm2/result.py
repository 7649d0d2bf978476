"""What an mm2-gb run found: a row per timing, reads, the read that is drawn, and the modelled schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workbench.held import Held
from workbench.mm2.config import Mm2Config
from workbench.system import Badge, Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FULL, MINIMAP2 = "every predecessor", "minimap2's loop"  # the two dynamic programmes
BINS_KBP = (5, 20, 50, 100, 300)  # edges of read length
COLUMNS = {
    "what": "loop: the dynamic programme alone, on anchors that lie ready; mapping: reads of a file to PAF, without "
    "the index; schedule: one batch on a GPU",
    "name": "which loop, mapper or design",
    "reads_kbp": "read length, thousands of bases; all: every read",
    "round": "repetition",
    "seconds": "processor seconds of one thread, of a GPU the wall's; of a schedule the batch's seconds on the GPU",
    "anchors": "anchors that it had to chain",
    "pairs": "pairs of anchors in each other's window: what an exact loop without pruning looks at",
    "pairs_per_s": "pairs / seconds, whether or not the loop looked at all of them",
    "bound_s": "of a schedule: no order and no assignment of the same blocks ends sooner, s",
    "badge": "measured here or modelled",
}
BADGES: Mapping[str, Badge] = {  # of every run: counts are of real seeding
    "reads": "measured", "anchors": "measured", "pairs": "measured",
    "gpu_batch_s": "modelled", "gpu_batch_bound_s": "modelled",
}  # fmt: skip


class Base(BaseModel):
    """Frozen, and no field that is not named."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Timing(Base):
    """One row of the table."""

    what: Literal["loop", "mapping", "schedule"]
    name: str
    reads_kbp: str = "all"
    round: int = 0
    seconds: float
    anchors: int
    pairs: int
    bound_s: float | None = None
    badge: Literal["measured", "modelled"] = "measured"


class Read(Base):
    """One read: its work, its mapping."""

    length: int
    anchors: int
    pairs: int
    chains: int = 0
    right: bool | None = None  # maps where it comes from; None: nobody knows where that is


class Totals(Base):
    """Of all reads, kept or not; seconds are of the processor, as those of the rivals are (a GPU's chaining: wall)."""

    reads: int = 0
    bases: int = 0
    mapped: int = 0
    anchors: int = 0
    pairs: int = 0
    seed_s: float = 0.0
    chain_s: float = 0.0
    join_s: float = 0.0
    hits_s: float = 0.0
    index_s: float = 0.0


class Checks(Base):
    """What was compared with what, in reads; `caught`: an anchor moved on purpose was seen to change the scores.

    `moved`: in how many reads there was a chain, so that an anchor of one could be moved; 0: nothing was checked, None:
    a record of before this was counted.
    """

    reads: int = 0
    equal: int = 0
    defined: int = 0  # reads whose first anchors went through the definition in Python, in both modes
    defined_equal: int = 0
    moved: int | None = None
    caught: bool = False
    against: list[str] = Field(default_factory=list)
    auto: str = ""  # the loop that kernel='auto' takes


class Drawn(Base):
    """A chain on the plot: corners of its line, first to last anchor."""

    x: list[float]
    y: list[float]
    score: int
    anchors: int
    reverse: bool
    found_by: Literal["both", "full", "exact_skip25"]


class Dots(Base):
    """One read against the reference: anchors (one for each place of the screen) and chains of both modes."""

    read: str
    length: int
    target: str
    begin: int  # of the part of the reference that is shown
    end: int
    low: int = 0  # of the part of the read that is shown
    high: int
    x: list[int] = Field(default_factory=list)
    y: list[int] = Field(default_factory=list)
    reverse: list[int] = Field(default_factory=list)  # 0 or 1
    anchors: int = 0  # of the read, all
    shown: int = 0  # of them in the part that is shown
    chains: list[Drawn] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)  # found by -> chains of the read


class Plan(Base):
    """The modelled schedule of one batch: each design's end, and the strokes of this run's design."""

    device: str
    batch_mbp: float
    segments: int
    long_segments: int
    ends_s: dict[str, float]  # design -> when the batch is done
    bounds_s: dict[str, float]
    busy: dict[str, float]
    asked: float  # end of the design that the config asks for
    asked_bound_s: float
    critical_s: float
    strokes: list[Held]
    levels: dict[str, list[tuple[float, int]]]  # design -> (time, units at work)
    lorenz: dict[str, tuple[list[float], list[float]]]  # of what -> share of items, share of pairs
    half: int  # segments that hold half of the pairs
    classes: dict[str, tuple[float, float]]  # class -> share of anchors, share of pairs


class Mm2Result(Result):
    """Reads mapped and chained every way, or (backend sim) their schedule alone."""

    config: Mm2Config
    timings: list[Timing]
    reads: list[Read]
    totals: Totals
    plan: Plan
    checks: Checks = Checks()
    dots: Dots | None = None  # of the read with most pairs
    differs: Dots | None = None  # of the read whose chains differ most between the modes, where they do
    strokes: list[Held] = Field(default_factory=list)
    paf_hash: str = ""
    reads_hash: str = ""
    paf_equal: dict[str, float] = Field(default_factory=dict)  # mode -> share of reads with minimap2's lines
    heuristic_differs: float | None = None  # share of reads whose lines differ between the two modes
    truth_accuracy: float | None = None
    rival: str = ""  # the installed minimap2's version
    notes: list[str] = Field(default_factory=list)

    @property
    def tested(self) -> str:
        """Name of the loop that the config asks for."""
        if self.config.mode == "exact_skip25":
            return MINIMAP2
        if self.provenance.backend in ("cuda", "hip"):
            return f"{FULL}, {self.provenance.backend}"
        if self.config.kernel not in ("auto", "cpu"):
            return f"{FULL}, {self.config.kernel}"
        return self.checks.auto or f"{FULL}, scalar"

    def median_s(self, what: str, name: str, reads_kbp: str = "all") -> float:
        """Median over rounds; nan where there is none."""
        found = [t.seconds for t in self.timings if (t.what, t.name, t.reads_kbp) == (what, name, reads_kbp)]
        return float(median(found)) if found else math.nan

    def names(self, what: str) -> list[str]:
        """Names of these rows, in order."""
        return list(dict.fromkeys(t.name for t in self.timings if t.what == what))

    @property
    def exact_fraction(self) -> float:
        """Share of the checked reads with the definition's scores and chains from every loop.

        0 where the control failed, nan where no read has a chain, so that there was nothing to check.
        """
        c = self.checks
        if c.moved == 0:
            return math.nan
        if not c.reads or not c.caught or c.defined != c.defined_equal:
            return 0.0
        return c.equal / c.reads

    def summary(self) -> dict[str, float]:
        t, nan = self.totals, math.nan
        loop_s, theirs_s = self.median_s("loop", self.tested), self.median_s("loop", MINIMAP2)
        pairs = next((r.pairs for r in self.timings if r.what == "loop"), 0)
        mode = self.config.mode
        numbers = {
            "dp_speedup_vs_minimap2": theirs_s / loop_s if loop_s and pairs else nan,
            "pairs_per_s": pairs / loop_s if loop_s and pairs else nan,
            "exact_fraction": self.exact_fraction if self.measured else nan,
            "truth_accuracy": nan if self.truth_accuracy is None else self.truth_accuracy,
            "total_s": self.median_s("mapping", ours(mode)),
            "minimap2_total_s": self.median_s("mapping", theirs("exact_skip25")),
            "chain_s": t.chain_s if self.measured else nan,
            "mapped_fraction": t.mapped / t.reads if self.measured and t.reads else nan,
            "reads": float(t.reads),
            "anchors": float(t.anchors),
            "pairs": float(t.pairs),
            "seed_s": t.seed_s if self.measured else nan,
            "join_s": t.join_s if self.measured else nan,
            "paf_equal_fraction": min(self.paf_equal.values(), default=nan),
            "heuristic_differs_fraction": nan if self.heuristic_differs is None else self.heuristic_differs,
            "minimap2_full_total_s": self.median_s("mapping", theirs("full")),
            "mappy_total_s": self.median_s("mapping", MAPPY),
            "gpu_batch_s": self.plan.asked,
            "gpu_batch_bound_s": self.plan.asked_bound_s,
        }
        return {name: value for name, value in numbers.items() if not math.isnan(value)}

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        rows = [t.model_dump() | {"pairs_per_s": t.pairs / t.seconds if t.seconds else math.nan} for t in self.timings]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"bound_s": float})

    def reads_frame(self) -> pd.DataFrame:
        """A row per read that was kept: length, anchors, pairs, chains, whether it maps where it comes from."""
        import pandas as pd

        table = pd.DataFrame([r.model_dump() for r in self.reads], columns=list(Read.model_fields))
        return table.assign(pairs_per_base=table["pairs"] / table["length"].clip(lower=1))

    def figure(self) -> go.Figure:
        from workbench.mm2.figures import overview
        from workbench.mm2.gantt import overview as planned

        return overview(self) if self.measured else planned(self.plan, self.sentence())

    def schedule(self) -> go.Figure:
        """How a GPU would share one batch out: modelled, from this run's segments."""
        from workbench.mm2.gantt import overview as planned

        return planned(self.plan, self.plan_sentence())

    def difference(self) -> go.Figure:
        """The read whose chains differ most between the two modes. ValueError where nothing was mapped."""
        from workbench.mm2.figures import difference

        shown = self.differs or self.dots
        if shown is None:
            raise ValueError("no read was drawn: a simulated schedule maps nothing")
        return difference(shown)

    def spans(self) -> list[Span]:
        return [stroke.span() for stroke in (self.strokes or self.plan.strokes)]

    def claims(self) -> list[Claim]:
        from workbench.mm2.claims import claims

        return claims(self)

    def plan_sentence(self) -> str:
        """The schedule in one sentence."""
        p = self.plan
        end = p.ends_s["full design"]
        if not end:
            return f"Modelled on the {p.device}: the reads have no anchors, so there is nothing to schedule."
        worst = max(p.ends_s, key=lambda name: p.ends_s[name])
        share = f"with '{worst}' it takes {p.ends_s[worst] / end:.2f} times as long"
        return (
            f"Modelled on the {p.device}, from real segments: a batch of {p.batch_mbp:g} Mb ({p.segments:,} segments) "
            f"is chained after {end * 1e3:,.1f} ms by the full design, where no order of its blocks could end before "
            f"{p.bounds_s['full design'] * 1e3:,.1f} ms; "
            f"{share if worst != 'full design' else 'no part of the design matters here'}. Half of the pairs lie in "
            f"{p.half:,} segments."
        )

    def sentence(self) -> str:
        if not self.measured:
            return self.plan_sentence()
        s, t = self.summary(), self.totals
        total = f"; reads to PAF took {s['total_s']:.2f} s of processor"
        if "minimap2_total_s" in s:
            total += f", minimap2 {self.rival.partition('-')[0]} as users run it {s['minimap2_total_s']:.2f} s"
        reads = f"{t.reads:,} reads ({t.bases / 1e6:.1f} Mb, {_many(t.pairs)} pairs of anchors)"
        where = f"Measured on {self.provenance.device}, one thread: {reads}"
        if "dp_speedup_vs_minimap2" not in s:
            return f"{where}; there was nothing to chain, so no loop has a speed{total}."
        speed = s["dp_speedup_vs_minimap2"]
        return (
            f"{where}; '{self.tested}' scores chains {speed:.2f} times as fast as minimap2's heuristic loop"
            f"{total}; {self._exactness()}."
        )

    def _exactness(self) -> str:
        c = self.checks
        if c.moved == 0:
            return "no read has a chain, so there was nothing to be exact about"
        if not c.caught or c.defined != c.defined_equal:
            return "a control of exactness failed, so nothing is said of it"
        return f"{c.equal:,} of {c.reads:,} reads chained exactly as defined"

    def decided(self) -> dict[str, Any]:
        return {
            "reads": self.reads_hash,
            "paf": self.paf_hash,
            "totals": {name: getattr(self.totals, name) for name in ("reads", "bases", "mapped", "anchors", "pairs")},
            "exact": None if math.isnan(self.exact_fraction) else self.exact_fraction,
            "schedule": self.plan.ends_s,
        }


MAPPY = "mappy (with base alignment)"
MODE_WORDS = {"exact_skip25": "skip 25", "full": "every predecessor"}


def _many(count: int) -> str:
    """2.79 billion, 17.1 million, 812."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,}"


def ours(mode: str) -> str:
    """Name of our mapper in a mode."""
    return f"ours, {MODE_WORDS[mode]}"


def theirs(mode: str) -> str:
    """Name of minimap2 in a mode."""
    return f"minimap2, {MODE_WORDS[mode]}"


def bin_of(length: int) -> str:
    """The bin of a read's length: "20-50"."""
    edges = (0, *BINS_KBP)
    at = max(i for i, edge in enumerate(edges) if length >= edge * 1000)
    return f"{edges[at]}-{edges[at + 1]}" if at + 1 < len(edges) else f"over {edges[at]}"


def bins() -> list[str]:
    """All bins, short reads first."""
    return [bin_of(edge * 1000) for edge in (0, *BINS_KBP)]

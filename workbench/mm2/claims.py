"""Numbers of mm2-gb's paper, repository and authors' notebook beside this run's.

The speed-ups are of the dynamic programme on an AMD MI210 against mm2-fast on 32 Ice Lake cores. No GPU was at hand, so
they stay alone. How work grows with a read can be looked at anywhere: theirs is of human reads, ours of this run's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.mm2.shape import MID
from workbench.system import Badge, Claim

if TYPE_CHECKING:
    from workbench.mm2.result import Mm2Result, Read

README = "abstract and README: MI210 against mm2-fast on 32 Ice Lake cores"
NOTEBOOK = "authors' notebook in the repository's history (d3f0d24), human reads, 500 Mb a bin"
NO_GPU = "no GPU was at hand; the kernel is compiled for gfx90a and was never run there"
SPEEDUPS = (
    ("speed-up of chain scoring, reads of 10-100 kb, least", 2.57),
    ("speed-up of chain scoring, reads of 10-100 kb, most", 5.33),
    ("speed-up of chain scoring, reads of 100-300 kb", 1.87),
)
# read length in thousands of bases -> anchors a base, pairs a base
WORK = {(1, 5): (4.3, 33.5), (10, 20): (4.7, 146.0), (40, 50): (4.8, 315.0), (90, 100): (4.9, 491.0),
        (140, 150): (5.0, 654.0)}  # fmt: skip
CHAINING_PCT = (40.0, 68.0)


def claims(result: Mm2Result) -> list[Claim]:
    """The paper's numbers, ours where this run speaks to them."""
    found = [_claim(what, paper, None, "x", "modelled", README, NO_GPU) for what, paper in SPEEDUPS]
    badge: Badge = "measured"  # pairs are counted on real anchors, whatever is done with them
    genome = "of this run's reads: another genome, so look at the growth"
    for (low, high), (_, pairs) in WORK.items():
        ours = _per_base(result.reads, low, high)
        note = genome if ours is not None else "no read of this run is of that length"
        found.append(_claim(f"pairs a base, reads of {low}-{high} kb", pairs, ours, "pairs", badge, NOTEBOOK, note))
    growth, told = _growth(result.reads)
    paper = WORK[(140, 150)][1] / WORK[(1, 5)][1]
    found.append(_claim("growth of pairs a base from 1-5 kb to 140-150 kb", paper, growth, "x", badge, NOTEBOOK, told))
    if result.measured and (share := _chaining_pct(result)) is not None:
        note = "first pass and long join; ours is vectorised, theirs is minimap2's own"
        for end, value in zip(("least", "most"), CHAINING_PCT, strict=True):
            what = f"share of chaining in processor time, {end}"
            found.append(_claim(what, value, share, "%", "measured", "abstract and README: minimap2 on a CPU", note))
    long_pct = 100 * result.plan.classes["long"][1]
    note = f"segments of more than {MID:,} anchors, cut at every gap; theirs are cut at some"
    what = "share of pairs in long segments, reads of 140-150 kb; ours: all reads"
    found.append(_claim(what, 91.0, long_pct, "%", badge, NOTEBOOK, note))
    return found


def _claim(what: str, paper: float, ours: float | None, unit: str, badge: Badge, source: str, note: str) -> Claim:
    rounded = None if ours is None else float(f"{ours:.4g}")
    return Claim(what=what, paper=round(paper, 2), ours=rounded, unit=unit, badge=badge, source=source, note=note)


def _per_base(reads: list[Read], low_kb: float, high_kb: float) -> float | None:
    """Pairs a base over reads of that length; None without one."""
    own = [r for r in reads if low_kb * 1000 <= r.length < high_kb * 1000]
    return sum(r.pairs for r in own) / sum(r.length for r in own) if own else None


def _growth(reads: list[Read]) -> tuple[float | None, str]:
    short, long = _per_base(reads, 1, 5), _per_base(reads, 140, 150)
    if short is None or long is None or short == 0:
        return None, "this run lacks reads of one of the two lengths"
    return long / short, "of this run's reads"


def _chaining_pct(result: Mm2Result) -> float | None:
    t = result.totals
    total = t.seed_s + t.chain_s + t.join_s + t.hits_s
    return 100 * (t.chain_s + t.join_s) / total if total else None

"""Numbers of mm2-gb's paper, repository and authors' notebook beside this run's.

The speed-ups are of the dynamic programme on an AMD MI210 against mm2-fast on 32 Ice Lake cores. No MI210 was at hand:
beside them stands the model's batch (their design, which shares no giants) over 32 of this machine's cores, each as
fast as our loop of mm2-fast's kind was measured in the same run. How work grows with a read can be looked at anywhere:
theirs is of human reads, ours of this run's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.mm2.shape import MID
from workbench.system import Badge, Claim

if TYPE_CHECKING:
    from workbench.mm2.result import Mm2Result, Read

README = "abstract and README: MI210 against mm2-fast on 32 Ice Lake cores"
NOTEBOOK = "authors' notebook in the repository's history (d3f0d24), human reads, 500 Mb a bin"
NEVER_RUN = "compiled for gfx90a, never run there"
SPEEDUPS = (  # what, the paper's number, read length in thousands of bases
    ("speed-up of chain scoring, reads of 10-100 kb, least", 2.57, (10, 100)),
    ("speed-up of chain scoring, reads of 10-100 kb, most", 5.33, (10, 100)),
    ("speed-up of chain scoring, reads of 100-300 kb", 1.87, (100, 300)),
)
CORES = 32
THEIRS = ("MI210", "not split")  # the paper's GPU, and the design that is nearest to the paper's
# read length in thousands of bases -> anchors a base, pairs a base
WORK = {(1, 5): (4.3, 33.5), (10, 20): (4.7, 146.0), (40, 50): (4.8, 315.0), (90, 100): (4.9, 491.0),
        (140, 150): (5.0, 654.0)}  # fmt: skip
CHAINING_PCT = (40.0, 68.0)


def claims(result: Mm2Result) -> list[Claim]:
    """The paper's numbers, ours where this run speaks to them."""
    found = []
    for what, paper, length in SPEEDUPS:
        times, told = speedup(result, *length)
        found.append(_claim(what, paper, times, "x", "modelled", README, told))
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
    long_pct: float | None = 100 * result.plan.classes["long"][1]
    note = f"segments of more than {MID:,} anchors, cut at every gap; theirs are cut at some"
    if not result.totals.pairs:
        long_pct, note = None, "this run's reads have no pairs of anchors"
    what = "share of pairs in long segments, reads of 140-150 kb; ours: the batch drawn from all reads"
    found.append(_claim(what, 91.0, long_pct, "%", "modelled", NOTEBOOK, note))
    return found


def speedup(result: Mm2Result, low_kb: float, high_kb: float) -> tuple[float | None, str]:
    """How many times faster the modelled GPU scores this run's chains than 32 cores, and what that rests on.

    None where this run measured no loop, or where most of its pairs are of reads of another length.
    """
    name = next((n for n in result.names("loop") if n.endswith("without pruning")), "")
    if not name or result.plan.device != THEIRS[0]:
        return None, f"takes a measured run with vectors, modelled for the {THEIRS[0]}; {NEVER_RUN}"
    every = sum(r.pairs for r in result.reads)
    own = sum(r.pairs for r in result.reads if low_kb * 1000 <= r.length < high_kb * 1000)
    if 2 * own < every or not own:
        return None, f"{100 * own / max(every, 1):.0f} % of this run's pairs are of reads of that length; {NEVER_RUN}"
    loop = next(t for t in result.timings if (t.what, t.name, t.reads_kbp) == ("loop", name, "all"))
    rate = loop.pairs / result.median_s("loop", name)
    batch = next(t for t in result.timings if (t.what, t.name) == ("schedule", ", ".join(THEIRS)))
    told = (
        f"modelled batch of {result.plan.batch_mbp:g} Mb of this run's reads, transfers left out, over {CORES} times "
        f"one core measured here ({rate / 1e9:.2g} billion pairs/s); theirs are human reads, with more work a base; "
        f"{100 * own / every:.0f} % of this run's pairs are of reads of that length; {NEVER_RUN}"
    )
    return batch.pairs / (CORES * rate) / batch.seconds, told


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

"""mm2-gb measured: `workbench bench mm2` appends rows to benchmarks/mm2.csv. Some minutes; leave the machine alone.

Loops and whole mappers on simulated reads of the shipped genome by length and errors, with satellites where the exact
loops lose, on the real ultra-long reads and on human X where WORKBENCH_DATA has them; the modelled MI210 beside the
paper's speed-ups; what a mapping takes in memory, by threads, reads and the length of one; the modelled schedule.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workbench as wb
from workbench.mm2 import SYSTEM, source
from workbench.mm2.index import build
from workbench.mm2.io import read
from workbench.mm2.reads import ecoli, real_reads, simulate
from workbench.mm2.result import FULL, MINIMAP2, Mm2Result

HUMAN_X = "grch37_chrX_58-68Mb.fa.gz"
MODELLED = (
    "full design",
    "not split",
    "not sorted",
    "not persistent",
    "not pooled",
    "no segmentation",
    "none of these",
)
SIZES: dict[str, dict[str, Any]] = {
    "E. coli, 1-5 kb, 5 % errors": {"length_kbp_min": 1.0, "length_kbp_max": 5.0},
    "E. coli, 10-100 kb, 5 % errors": {"length_kbp_min": 10.0, "length_kbp_max": 100.0},
    "E. coli, 100-300 kb, 5 % errors": {"length_kbp_min": 100.0},
    "E. coli, 100-300 kb, 1 % errors": {"length_kbp_min": 100.0, "error_pct": 1.0},
    "E. coli, 20 kb of satellites, 5 % errors": {"satellite_kbp": 20.0},
    "E. coli, 20 kb of satellites, 2 % errors": {"satellite_kbp": 20.0, "error_pct": 2.0},
    "E. coli, 80 kb of satellites, 2 % errors": {"satellite_kbp": 80.0, "error_pct": 2.0, "megabases": 3.0},
}
MEMORY_CODE = """
import json, re, sys
from pathlib import Path
from workbench.mm2.index import load
from workbench.mm2.io import read
from workbench.mm2.mapper import Mapper, map_reads
mapper = Mapper(load(sys.argv[1]), mode="full")
# kB; getrusage's ru_maxrss of a child begins with what its parent had
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before, anchors = peak(), 0
for mapped in map_reads(mapper, read(sys.argv[2]), threads=int(sys.argv[3])):
    anchors = max(anchors, mapped.anchors)
print(json.dumps([before, peak(), anchors]))
"""
# name -> threads, megabases of reads, shortest and longest; of the shipped genome and, where it is, of human X
MEMORY = {
    "5 Mb of reads of 10-300 kb, 1 thread": (1, 5, 1e4, 3e5),
    "50 Mb of reads of 10-300 kb, 1 thread": (1, 50, 1e4, 3e5),
    "50 Mb of reads of 10-300 kb, 2 threads": (2, 50, 1e4, 3e5),
    "one read of 4.5 Mb, 1 thread": (1, 1, 4.5e6, 4.5e6),
}
HUMAN_MEMORY = {
    "4 Mb of reads of 10-300 kb, 1 thread": (1, 4, 1e4, 3e5),
    "40 Mb of reads of 10-300 kb, 1 thread": (1, 40, 1e4, 3e5),
    "40 Mb of reads of 10-300 kb, 2 threads": (2, 40, 1e4, 3e5),
}


def main() -> list[dict[str, Any]]:
    """Run everything; one row per number. WORKBENCH_BENCH: a word that the names of the cases to run hold."""
    word = os.environ.get("WORKBENCH_BENCH", "")
    cases = {name: {"satellite_kbp": 0.0} | changes for name, changes in SIZES.items()}
    if folder := _data():
        cases["real ultra-long reads of E. coli"] = {"reads": "real", "megabases": 20.0, "satellite_kbp": 0.0}
        human = {
            "reference_file": str(folder / HUMAN_X),
            "satellite_kbp": 0.0,
            "length_kbp_min": 100.0,
            "megabases": 3.0,
        }
        for errors in (5.0, 2.0):
            cases[f"human X 58-68 Mb, 100-300 kb, {errors:g} % errors"] = human | {"error_pct": errors}
        human |= {"length_kbp_min": 10.0, "length_kbp_max": 100.0}
        cases["human X 58-68 Mb, 10-100 kb, 5 % errors"] = human
    rows = [*_memory(folder)] if word in "memory" else []
    for name, changes in cases.items():
        if word in name:
            rows += _measured(name, SYSTEM.make("small", sim_batch_mbp=100.0, **changes))
    return [*rows, *_modelled()] if word in "schedule" else rows


def _data() -> Path | None:
    folder = Path(os.environ.get("WORKBENCH_DATA", "")) / "dna"
    return folder if real_reads() and (folder / HUMAN_X).is_file() else None


def _row(case: str, name: str, value: float, badge: str) -> dict[str, Any]:
    print(f"  {case:<46} {name:<44} {value:12.5g}  {badge}")
    return {"case": case, "number": name, "value": float(f"{value:.6g}"), "badge": badge}


def _measured(case: str, config: Any) -> Iterator[dict[str, Any]]:
    """One run: its summary, every loop's speed over minimap2's, every mapper's seconds."""
    result = wb.run("mm2", config)
    assert isinstance(result, Mm2Result)
    modelled = {name for name, badge in result.provenance.badges.items() if badge == "modelled"}
    for name, value in result.summary().items():
        if name not in modelled:
            yield _row(case, name, value, "measured")
    base = result.median_s("loop", MINIMAP2)
    for name in result.names("loop"):
        yield _row(case, f"{name}, cpu_s", result.median_s("loop", name), "measured")
        if name.startswith(FULL):
            yield _row(case, f"{name}, speed over minimap2's loop", base / result.median_s("loop", name), "measured")
    for name in result.names("mapping"):
        yield _row(case, f"{name}, cpu_s", result.median_s("mapping", name), "measured")
    for name in ("minimap2", "mappy"):
        if version := result.provenance.versions.get(name):
            yield _row(case, f"{name}, version", float(version.partition("-")[0]), "measured")
    for design, end_s in result.plan.ends_s.items():
        yield _row(case, f"schedule on {result.plan.device}, {design}, s", end_s, "modelled")
    for claim in result.claims():
        if claim.what.startswith("speed-up") and claim.ours is not None:
            yield _row(case, f"{claim.what}, MI210 over 32 cores", claim.ours, "modelled")
            yield _row(case, f"{claim.what}, the paper's", claim.paper, "paper")
            yield _row(case, f"{claim.what}, error, %", 100 * (claim.ours / claim.paper - 1), "modelled")


def _memory(folder: Path | None) -> Iterator[dict[str, Any]]:
    """Most memory of a process that loads an index and maps: by threads, with ten times the reads, with one long read.

    What mapping adds to the index is bounded by a read's anchors for each thread, not by the number of reads.
    """
    sets = [("E. coli", ecoli(), MEMORY)] + ([("human X 58-68 Mb", folder / HUMAN_X, HUMAN_MEMORY)] if folder else [])
    for name, reference, of in sets:
        with tempfile.TemporaryDirectory() as nowhere:
            index, reads = Path(nowhere) / "index", Path(nowhere) / "reads.fa"
            build(reference).save(index)
            for about, (threads, megabases, *length) in of.items():
                low, high = map(round, length)
                cut = simulate(read(reference), bases=round(megabases * 1e6), length=(low, high))
                for _ in source.write_fasta(cut, reads):
                    pass
                command = [sys.executable, "-c", MEMORY_CODE, str(index), str(reads), str(threads)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=nowhere, timeout=600)
                before, peak, anchors = json.loads(done.stdout)
                case = f"memory, {name}, {about}"
                yield _row(case, "peak of the process, mb", peak * 1024 / 1e6, "measured")
                yield _row(case, "of it by mapping, mb", (peak - before) * 1024 / 1e6, "measured")
                yield _row(case, "anchors of the read with most", anchors, "measured")


def _modelled() -> Iterator[dict[str, Any]]:
    """The schedule of a batch of 100 Mb on three GPUs, each design; its cost model is that of workbench/mm2/sim.py."""
    result = wb.run("mm2", preset="paper")
    assert isinstance(result, Mm2Result)
    for timing in result.timings:
        device, _, design = timing.name.partition(", ")
        if design in MODELLED:
            yield _row(f"schedule on {device}, 100 Mb", f"{design}, s", timing.seconds, "modelled")
    for name in ("MI210", "A100", "H200"):
        bound = next(t.bound_s for t in result.timings if t.name == f"{name}, full design")
        yield _row(f"schedule on {name}, 100 Mb", "bound of the full design, s", bound or 0.0, "modelled")

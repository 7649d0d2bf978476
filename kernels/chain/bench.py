"""CPU seconds of the chaining loops on one thread: every backend, minimap2's own loop, and what pruning is worth.

Anchors come from `WORKBENCH_DATA` (dna/): the real ultra-long reads of E. coli, and reads simulated from 10 Mb of human
X around the centromere. minimap2's loops are measured where rival.py can build them.
"""

from __future__ import annotations

import gzip
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.kernels import chain as ck
from workbench.kernels.chain import one_source, rival

ROUNDS = 5
SEED = 1
Reads = list["np.ndarray[Any, np.dtype[np.uint64]]"]


def main() -> list[dict[str, Any]]:
    """Medians of interleaved rounds; outputs of all full loops are compared first."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = os.environ.get("WORKBENCH_MINIMAP2_SOURCE")
        minimap2 = rival.Minimap2(Path(source), Path(folder)) if source else None
        if minimap2 is None:
            print("  chain: minimap2's loops are left out, set WORKBENCH_MINIMAP2_SOURCE (see rival.py)")
        for name, reads in sets().items():
            rows += _measure(name, reads, minimap2)
    return rows


def _measure(name: str, reads: Reads, minimap2: rival.Minimap2 | None) -> list[dict[str, Any]]:
    skip25, full = ck.ChainParams(), ck.ChainParams(max_skip=None)
    pairs = sum(int(ck.stats(each, full).pairs.sum()) for each in reads)
    exact = [ck.dp(each, full, backend="scalar") for each in reads]
    for backend in (b for b in ck.available(full) if b not in {"scalar", "reference"}):
        for each, right in zip(reads, exact):
            if any((one != other).any() for one, other in zip(ck.dp(each, full, backend=backend), right)):
                raise RuntimeError(f"{backend} differs from the exact loop on {name}")
    chained = [_sorted(ck.chain(each, skip25).chained) for each in reads]
    loops: dict[str, Callable[[], float]] = {
        "scalar, skip 25": lambda: _dp(reads, skip25, "scalar"),
        "scalar, full": lambda: _dp(reads, full, "scalar"),
        "one_source, full": lambda: _timed(lambda: one_source.run(reads, full)),
        "long join": lambda: _join(chained, skip25),
    }
    for vector in (b for b in ck.VECTOR if b in ck.available(full)):
        loops[f"{vector}, full"] = lambda by=vector: _dp(reads, full, by)  # type: ignore[misc]
        loops[f"{vector}, full, every pair"] = lambda by=vector: _dp(reads, full, f"{by}_every_pair")  # type: ignore[misc]
    if minimap2 is not None:
        loops["minimap2, skip 25"] = lambda: sum(minimap2.dp(each, skip25) for each in reads)
        loops["minimap2, full"] = lambda: sum(minimap2.dp(each, full) for each in reads)
        loops["minimap2, long join"] = lambda: sum(minimap2.rmq(each, skip25) for each in chained)
    seconds: dict[str, list[float]] = {loop: [] for loop in loops}
    for _ in range(ROUNDS):
        for loop, run in loops.items():
            seconds[loop].append(run())
    medians = {loop: statistics.median(taken) for loop, taken in seconds.items()}
    return list(_rows(name, reads, pairs, medians))


def _rows(name: str, reads: Reads, pairs: int, seconds: dict[str, float]) -> Iterator[dict[str, Any]]:
    def row(loop: str, number: str, value: float) -> dict[str, Any]:
        print(f"  chain, {name}, {loop:<28} {value:12.4g} {number}")
        return {"case": f"{name}; {loop}", "number": number, "value": float(f"{value:.4g}"), "badge": "measured"}

    yield row("all", "anchors", sum(map(len, reads)))
    yield row("all", "pairs_in_windows", pairs)
    for loop, taken in seconds.items():
        yield row(loop, "cpu_s", taken)
        if "full" in loop:
            yield row(loop, "gpairs_in_windows_per_s", pairs / taken / 1e9)
    best = next((f"{v}, full" for v in ck.VECTOR if f"{v}, full" in seconds), "scalar, full")
    versus = ("minimap2, skip 25", "minimap2, full", "scalar, skip 25", "scalar, full", f"{best}, every pair")
    for other in (each for each in versus if each in seconds):
        yield row(best, f"times_faster_than {other}", seconds[other] / seconds[best])
    if "minimap2, skip 25" in seconds:
        times = seconds["minimap2, skip 25"] / seconds["scalar, skip 25"]
        yield row("scalar, skip 25", "times_faster_than minimap2, skip 25", times)


def _timed(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _dp(reads: Reads, params: ck.ChainParams, backend: str) -> float:
    from workbench.kernels.chain import _chain

    which, given = _chain.Backend[backend], ck.native(params)
    return _timed(lambda: [_chain.dp(each, given, which) for each in reads])


def _join(chained: Reads, params: ck.ChainParams) -> float:
    from workbench.kernels.chain import _chain

    limit = _chain.UNLIMITED if params.max_skip is None else params.max_skip
    shape = (params.max_dist_y, params.join_inner_dist, params.bw_long, limit, params.join_size_cap)
    given = _chain.JoinParams(*shape, *params.penalties)
    return _timed(lambda: [_chain.dp_rmq(each, given) for each in chained])


def _sorted(chained: ck.Anchors) -> ck.Anchors:
    return np.ascontiguousarray(chained[np.argsort(chained[:, 0], kind="stable")])


def sets() -> dict[str, Reads]:
    """Anchors of each read of the two data sets. FileNotFoundError without WORKBENCH_DATA."""
    folder = Path(os.environ.get("WORKBENCH_DATA", "")) / "dna"
    if not os.environ.get("WORKBENCH_DATA") or not folder.is_dir():
        raise FileNotFoundError("the chaining benchmark needs WORKBENCH_DATA, a folder that holds dna/")
    coli, ultralong = _fasta(folder / "ecoli_k12_mg1655.fa.gz"), _fasta(folder / "ecoli_ultralong_ont_2017.fa.gz")
    human = _fasta(folder / "grch37_chrX_58-68Mb.fa.gz")
    return {
        "E. coli, 371 real ultra-long reads": _anchors(coli, ultralong),
        "human X 58-68 Mb, 3 Mb of simulated reads of 100-300 kb, 98 %": _anchors(human, _simulated(human[0])),
    }


def _fasta(path: Path) -> list[bytes]:
    records = gzip.decompress(path.read_bytes()).split(b">")[1:]
    return [record.partition(b"\n")[2].replace(b"\n", b"").upper() for record in records]


def _anchors(reference: list[bytes], reads: list[bytes]) -> Reads:
    from workbench.kernels.seed import SeedIndex, SeedParams

    index = SeedIndex.build(reference, 15, 10)
    params = SeedParams(mid_occ=index.cutoff())
    return [np.ascontiguousarray(index.seeds(each, params).anchors) for each in reads]


def _simulated(sequence: bytes, total: int = 3_000_000, identity: float = 0.98) -> list[bytes]:
    """Reads of log-uniform length from anywhere but gaps; of the errors 40 % change, 35 % drop, 25 % add a base."""
    random, bases = np.random.default_rng(SEED), np.frombuffer(sequence, np.uint8)
    letters, reads = np.frombuffer(b"ACGT", np.uint8), list[bytes]()
    while sum(map(len, reads)) < total:
        length = int(np.exp(random.uniform(np.log(100_000), np.log(300_000))))
        start = int(random.integers(len(bases) - length))
        read = bases[start : start + length].copy()
        if (read == ord("N")).mean() > 0.1:
            continue
        kind = random.random(length) / (1 - identity)
        read[kind < 0.4] = random.choice(letters, int((kind < 0.4).sum()))
        reads.append(
            np.repeat(read, np.where(kind < 0.4, 1, np.where(kind < 0.75, 0, np.where(kind < 1, 2, 1)))).tobytes()
        )
    return reads


if __name__ == "__main__":
    main()

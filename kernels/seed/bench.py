"""Nanoseconds a base of sketching, indexing and seeding, on random bases, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.kernels.seed import SeedIndex, SeedParams, sketch

BASES, READ, FEW = 5_000_000, 20_000, 20_000  # of the genome, of a read, and what the reference is given


def main() -> list[dict[str, Any]]:
    """CPU nanoseconds a base, best of five, interleaved."""
    rng = np.random.default_rng(0)
    genome = rng.choice(np.frombuffer(b"ACGT", np.uint8), BASES).tobytes()
    reads = [genome[i : i + READ] for i in range(0, BASES, READ)]
    index, params = SeedIndex.build([genome], 15, 10), SeedParams(mid_occ=10)

    def seed() -> None:
        for read in reads:
            index.seeds(read, params)

    cases: dict[str, tuple[Callable[[], Any], int]] = {
        "sketch, native": (lambda: sketch(genome, 15, 10), BASES),
        "sketch, homopolymers compressed": (lambda: sketch(genome, 19, 10, True), BASES),
        "sketch, reference": (lambda: sketch(genome[:FEW], 15, 10, backend="reference"), FEW),
        "index": (lambda: SeedIndex.build([genome], 15, 10), BASES),
        "seeds of exact reads": (seed, BASES),
    }
    best: dict[str, float] = {}
    for _ in range(5):
        for case, (run, _bases) in cases.items():
            began = time.process_time()
            run()
            best[case] = min(time.process_time() - began, best.get(case, float("inf")))
    rows = [_row(case, "ns_a_base", best[case] / bases * 1e9) for case, (_, bases) in cases.items()]
    rows.append(_row("index", "bytes_a_base", index.nbytes / BASES))
    for row in rows:
        print(f"  seed, {row['case']:<32} {row['value']:10.2f} {row['number']}")
    return rows


def _row(case: str, number: str, value: float) -> dict[str, Any]:
    return {"case": case, "number": number, "value": round(value, 2), "badge": "measured"}


if __name__ == "__main__":
    main()

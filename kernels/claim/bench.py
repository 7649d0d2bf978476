"""Claims per second: the native table against its definition, from one thread and from two ends at once."""

from __future__ import annotations

import threading
import time
from typing import Any

from workbench.kernels.claim import claim_table

GRAINS = 200_000


def main() -> list[dict[str, Any]]:
    """Nanoseconds a claim, best of five, interleaved."""
    best: dict[tuple[str, str], float] = {}
    for _ in range(5):
        for backend in ("native", "reference"):
            for case, run in (("one thread", _one), ("two threads", _two)):
                seconds = run(backend)
                best[backend, case] = min(seconds, best.get((backend, case), seconds))
    rows = []
    for (backend, case), seconds in best.items():
        print(f"  claim, {backend:<10} {case:<12} {seconds / GRAINS * 1e9:8.0f} ns")
        value = round(seconds / GRAINS * 1e9, 1)
        rows.append({"case": f"{backend}, {case}", "number": "claim_ns", "value": value, "badge": "measured"})
    return rows


def _one(backend: Any) -> float:
    table = claim_table(GRAINS, backend=backend)
    began = time.perf_counter()
    while table.claim_front(1)[1]:
        pass
    return time.perf_counter() - began


def _two(backend: Any) -> float:
    table = claim_table(GRAINS, backend=backend)

    def back() -> None:
        while table.claim_back(1)[1]:
            pass

    other = threading.Thread(target=back)
    began = time.perf_counter()
    other.start()
    while table.claim_front(1)[1]:
        pass
    other.join()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

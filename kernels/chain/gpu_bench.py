"""What a GPU makes of the chaining kernels: pairs per second against this machine's cores, occupancy, where time goes.

    WORKBENCH_DATA=... python -m workbench.kernels.chain.gpu_bench [cuda|hip] [FILE.csv]

Never run on a GPU here: none was at hand, and without one it refuses, with the reason. Scores are compared with the
CPU's first, all of them. Seconds are by the wall: with copies and everything the host does, beside the time of kernels
alone by the device's clock, one after the other.
"""

from __future__ import annotations

import csv
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from workbench.kernels import chain as ck
from workbench.kernels.chain import bench, gpu

ROUNDS = 5
OUT = Path("benchmarks", "chain_gpu.csv")
COLUMNS = ("case", "number", "value", "badge", "device", "host")
SCORING = ("short", "mid", "long")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code is 1, with one line on stderr, where there is no device."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    kind = cast("gpu.Kind", given.pop(0) if given and given[0] in gpu.KINDS else "cuda")
    try:
        if reason := gpu.missing(kind):
            raise RuntimeError(reason)
        rows = list(measure(gpu.device(kind)))
    except (ck.Unsupported, RuntimeError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    out = Path(given[0]) if given else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return 0


def measure(device: gpu.Device, sets: dict[str, bench.Reads] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of COLUMNS. RuntimeError when a score differs from the CPU's."""
    about, cores = device.about(), len(os.sched_getaffinity(0))

    def row(case: str, number: str, value: float) -> dict[str, Any]:
        sys.stdout.write(f"  chain on {device.kind}, {case:<72} {value:12.4g} {number}\n")
        told = {"badge": "measured", "device": about["name"], "host": f"{_processor()}, {cores} cores"}
        return {"case": case, "number": number, "value": float(f"{value:.4g}")} | told

    for kernel in ("short", "long"):
        held = about[f"blocks_{kernel}"] * about["threads_of_block"] / (about["units"] * about["threads_of_unit"])
        yield row(f"kernel {'short_or_mid' if kernel == 'short' else 'long_ones'}", "occupancy", held)
    full = ck.ChainParams(max_skip=None)
    for name, reads in (sets or bench.sets()).items():
        pairs = sum(int(ck.stats(each, full).pairs.sum()) for each in reads)
        _compared(device, reads, full)
        seconds = _in_turn(device, reads, full, cores)
        yield row(f"{name}; all", "anchors", sum(map(len, reads)))
        yield row(f"{name}; all", "pairs_in_windows", pairs)
        for way, each in seconds.items():
            yield row(f"{name}; {way}", "wall_s", each)
            yield row(f"{name}; {way}", "pairs_per_s", pairs / each)
            if way != "GPU":
                yield row(f"{name}; GPU", f"times_faster_than {way}", each / seconds["GPU"])
        done = device.run(reads, full, timed=True)
        kernels = sum(done.ms[part] for part in done.ms if part != "copies")
        yield row(f"{name}; GPU, kernels alone", "pairs_per_s", pairs / max(kernels, 1e-6) * 1e3)
        for part, ms in done.ms.items():
            yield row(f"{name}; GPU, {part}", "device_ms", ms)
            yield row(f"{name}; GPU, {part}", "share_of_device_time", ms / max(sum(done.ms.values()), 1e-6))
        for part in (*SCORING, "split", "tasks", "redone"):
            yield row(f"{name}; GPU, {part}", "count", done.counts[part])


def _compared(device: gpu.Device, reads: bench.Reads, params: ck.ChainParams) -> None:
    for got, read in zip(device.run(reads, params).reads, reads, strict=True):
        if any((one != other).any() for one, other in zip(got, ck.dp(read, params))):
            raise RuntimeError(f"{device.kind} differs from the CPU: nothing is measured")


def _in_turn(device: gpu.Device, reads: bench.Reads, params: ck.ChainParams, cores: int) -> dict[str, float]:
    """Medians of wall seconds; ways take turns, so that what disturbs one disturbs all."""
    ways: dict[str, Callable[[], Any]] = {
        "GPU": lambda: device.run(reads, params),
        f"CPU, {cores} cores": lambda: _on_cores(reads, params, cores),
        "CPU, 1 core": lambda: _on_cores(reads, params, 1),
    }
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            took[way].append(time.perf_counter() - began)
    return {way: statistics.median(each) for way, each in took.items()}


def _on_cores(reads: bench.Reads, params: ck.ChainParams, cores: int) -> None:
    with ThreadPoolExecutor(cores) as pool:  # the loops let go of the interpreter; longest first, as on the GPU
        list(pool.map(lambda read: ck.dp(read, params), sorted(reads, key=len, reverse=True)))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "processor not known"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor not known"
    )


if __name__ == "__main__":
    sys.exit(main())

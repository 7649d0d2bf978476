"""Whole mapping, reads of a file to PAF: ours, the installed minimap2 and mappy, in processor seconds of one thread.

Time for the index is left out on all sides: ours lies in memory, minimap2 says when it has its own, mappy is timed in
a process of its own from there on. mappy always aligns bases too, which nobody else here does.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING

from workbench.mm2.io import read
from workbench.pump import Stopped

if TYPE_CHECKING:
    from workbench.mm2.mapper import Mapper

EQUAL_TO = "2.24"  # the minimap2 whose lines ours are
UNLIMITED = 100_000_000  # skips: none is ever too many
STAMP = re.compile(r"^\[M::\w+::([\d.]+)\*([\d.]+)\]", re.MULTILINE)  # wall seconds, cores in use
CPU = re.compile(r"CPU: ([\d.]+) sec")
MAPPY_CODE = """
import json, sys, time, mappy
index = mappy.Aligner(sys.argv[1], preset=sys.argv[3], n_threads=1)
if not index:
    sys.exit("mappy cannot index " + sys.argv[1])
began, hits = time.process_time(), 0
for name, bases, _ in mappy.fastx_read(sys.argv[2]):
    for hit in index.map(bases):
        hits += len(str(hit)) > 0
print(json.dumps([time.process_time() - began, hits]))
"""


@dataclass(frozen=True)
class Mapping:
    """Processor seconds of one pass over the reads, and its PAF."""

    seconds: float
    paf: bytes


def minimap2_version() -> str:
    """Version of the minimap2 on PATH, "" without one that starts."""
    path = shutil.which("minimap2")
    if path is None:
        return ""
    try:
        done = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def mappy_is_here() -> bool:
    """Whether mappy can be imported."""
    found = importlib.util.find_spec("mappy")
    return found is not None and found.origin is not None  # without an origin it is any folder of that name


def ours(mapper: Mapper, reads: Path, stop: Flag) -> Mapping:
    """One pass of our own mapper on this thread. Stopped where it was cancelled."""
    lines, began = list[bytes](), time.thread_time()
    for record in read(reads):
        if stop.is_set():
            raise Stopped
        lines += [hit.paf().encode("utf-8", "surrogateescape") for hit in mapper.map(record).hits]
    return Mapping(time.thread_time() - began, b"".join(line + b"\n" for line in lines))


def minimap2(reference: Path, reads: Path, preset: str, mode: str, folder: Path, stop: Flag) -> Mapping:
    """One pass of the installed minimap2 without base alignment. RuntimeError with its own words when it fails."""
    skip = [f"--max-chain-skip={UNLIMITED}"] if mode == "full" else []
    out = folder / "minimap2.paf"
    said = _told(["minimap2", "-x", preset, "-t1", *skip, str(reference), str(reads)], out, stop)
    indexed, _, mapped = said.partition("[M::worker_pipeline")
    stamps, total = STAMP.findall(indexed), CPU.search(mapped)
    if not stamps or total is None:
        raise RuntimeError(f"minimap2 did not say what it took: {said[-300:]}")
    wall_s, cores = map(float, stamps[-1])
    return Mapping(max(float(total[1]) - wall_s * cores, 1e-3), out.read_bytes())


def mappy(reference: Path, reads: Path, preset: str, folder: Path, stop: Flag) -> tuple[float, int]:
    """Processor seconds of one pass of mappy, base alignment included, and its hits. RuntimeError when it fails."""
    out = folder / "mappy.json"
    _told([sys.executable, "-c", MAPPY_CODE, str(reference), str(reads), preset], out, stop)
    try:
        seconds, hits = json.loads(out.read_text())
    except ValueError as error:
        raise RuntimeError(f"mappy did not say what it took: {out.read_text()[:100]!r}") from error
    return float(seconds), int(hits)


def _told(command: Sequence[str], out: Path, stop: Flag) -> str:
    """Run a program with its output in a file; what it said on stderr. It is killed when `stop` is set."""
    errors = out.with_suffix(".err")
    with out.open("wb") as output, errors.open("wb") as said:
        process = subprocess.Popen(command, stdout=output, stderr=said, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                if stop.wait(0.005):
                    raise Stopped
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    text = errors.read_text(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with code {process.returncode}: {text[-300:].strip()}")
    return text


def equal_fraction(one: bytes, other: bytes, names: Sequence[str]) -> float:
    """Share of the reads whose PAF lines are the same in both, order included."""
    if one == other:
        return 1.0
    left, right = _by_read(one), _by_read(other)
    keys = [name.encode("utf-8", "surrogateescape") for name in names]
    return sum(left.get(key) == right.get(key) for key in keys) / len(keys) if keys else 1.0


def _by_read(paf: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in paf.splitlines():
        found.setdefault(line.partition(b"\t")[0], []).append(line)
    return found

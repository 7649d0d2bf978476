"""What minimap2 itself says of a read set: anchors in chaining order, chains and their scores, from its debug lines.

`minimap2 --print-seeds` writes per read: QR (name, length), RS, an SD line of every anchor, a CN line of every anchor
of every chain. With -P no hit is filtered, so that the PAF gives the score of every chain (s1:i:).
"""

import functools
import gzip
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

WANTED = "2.24"  # what the chaining is equal to; Debian 12's


@functools.cache
def version():
    """Version of the minimap2 on PATH, "" without one."""
    path = shutil.which("minimap2")
    return subprocess.run([path, "--version"], capture_output=True, text=True).stdout.strip() if path else ""


def require():
    """Skip the test, saying why, unless the minimap2 that we are equal to is installed."""
    if not version().startswith(WANTED):
        found = f"version {version()}" if version() else "none"
        pytest.skip(f"minimap2 {WANTED} is the oracle and {found} is on PATH: tools/setup.sh minimap2, on Debian 12")


def data(name):
    """A file of published data, from WORKBENCH_DATA; skips where there is none."""
    folder = Path(os.environ.get("WORKBENCH_DATA", ""))
    path = folder / "dna" / name
    if not os.environ.get("WORKBENCH_DATA") or not path.exists():
        pytest.skip(f"no {name}: set WORKBENCH_DATA to a folder that holds dna/{name}")
    return path


@dataclass
class Read:
    """One read as minimap2 saw it: anchors uint64 [n, 2] in chaining order, chains in order of its hits."""

    name: str
    length: int
    repetitive: int = 0  # rl:i: of the PAF
    anchors: np.ndarray = None
    chains: list = field(default_factory=list)  # arrays uint64 [m, 2], flags left out
    scores: list = field(default_factory=list)  # of each chain; empty unless -P was given


def run(reference, reads, *options):
    """Yields a Read per read. `reference`, `reads`: paths of FASTA. `options`: of minimap2."""
    with subprocess.Popen(
        ["minimap2", "--print-seeds", *map(str, options), str(reference), str(reads)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        names = {}
        paf = []
        drain = threading.Thread(target=lambda: paf.extend(process.stdout))  # neither pipe may fill up
        drain.start()
        found = list(_parse(process.stderr, names))
        drain.join()
        assert process.wait() == 0
    order = {name: n for n, name in names_in(reference)}
    assert names.keys() <= order.keys()
    _renumber(found, [order[name] for name in names])
    scores = _scores(paf)
    for read in found:
        told = scores.get(read.name, [])
        if len(told) == len(read.chains):
            read.scores = told
        yield read


def names_in(fasta):
    """(number, name) of each sequence of a FASTA file."""
    with (gzip.open if str(fasta).endswith(".gz") else open)(fasta, "rt") as lines:
        yield from enumerate(line[1:].split()[0] for line in lines if line.startswith(">"))


def sequences(fasta):
    """(name, sequence) of each record of a FASTA file."""
    with (gzip.open if str(fasta).endswith(".gz") else open)(fasta, "rt") as lines:
        text = lines.read()
    for record in text.split(">")[1:]:
        head, _, body = record.partition("\n")
        yield head.split()[0], body.replace("\n", "")


def _parse(lines, names):
    read, anchors, chains = None, [], []
    for line in lines:
        kind = line[:3]
        if kind == "SD\t":
            anchors.append(line)
        elif kind == "CN\t":
            chains.append(line)
        elif kind == "QR\t":
            if read is not None:
                yield _close(read, anchors, chains, names)
            _, name, _, length = line.rstrip("\n").split("\t")
            read, anchors, chains = Read(name, int(length)), [], []
        elif kind == "RS\t":
            read.repetitive = int(line.split("\t")[1])
    if read is not None:
        yield _close(read, anchors, chains, names)


def _close(read, anchors, chains, names):
    read.anchors = _packed([line.split("\t")[1:6] for line in anchors], names)
    fields = [line.split("\t") for line in chains]
    all_of_them = _packed([each[2:7] for each in fields], names)
    numbers = [int(each[1]) for each in fields]
    cuts = [n for n in range(1, len(numbers)) if numbers[n] != numbers[n - 1]]
    read.chains = np.split(all_of_them, cuts) if numbers else []
    return read


def _packed(fields, names):
    """(reference, position, strand, position on the read, span) -> uint64 [n, 2]; references by first appearance."""
    packed = np.zeros((len(fields), 2), np.uint64)
    if fields:
        name, x, strand, y, span = zip(*fields)
        number = np.array([names.setdefault(each, len(names)) for each in name], np.uint64)
        reverse = np.array([each == "-" for each in strand], np.uint64)
        packed[:, 0] = reverse << np.uint64(63) | number << np.uint64(32) | np.array(x, np.uint64)
        packed[:, 1] = np.array(span, np.uint64) << np.uint64(32) | np.array(y, np.uint64)
    return packed


def _renumber(found, order):
    """References by their place in the FASTA instead of by first appearance."""
    if order == sorted(order) == list(range(len(order))):
        return
    table = np.array(order, np.uint64)
    for read in found:
        for each in (read.anchors, *read.chains):
            number = each[:, 0] >> np.uint64(32) & np.uint64(0x7FFFFFFF)
            kept = each[:, 0] & np.uint64(0x80000000FFFFFFFF)
            each[:, 0] = kept | table[number.astype(np.int64)] << np.uint64(32)


def _scores(paf):
    scores = {}
    for line in paf:
        fields = line.rstrip("\n").split("\t")
        scores.setdefault(fields[0], []).append(int(next(f[5:] for f in fields[12:] if f.startswith("s1:i:"))))
    return scores

"""What minimap2 itself says of a read set: anchors in chaining order, chains and their scores, from its debug lines.

`minimap2 --print-seeds` writes per read: QR (name, length), RS, an SD line of every anchor, a CN line of every anchor
of every chain. With -P no hit is filtered, so that the PAF gives the score of every chain (s1:i:).
"""

import csv
import functools
import gzip
import io
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
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
        paf = []
        drain = threading.Thread(target=lambda: paf.extend(process.stdout))  # neither pipe may fill up
        drain.start()
        told = process.stderr.read()
        drain.join()
        assert process.wait() == 0
    scores = _scores(paf)
    for read in _parse(told, {name: n for n, name in names_in(reference)}):
        own = scores.get(read.name, [])
        if len(own) == len(read.chains):
            read.scores = own
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


def _parse(told, order):
    """Reads of minimap2's debug lines. `order`: the number of each reference."""
    reads, seeds, members, cuts = [], [], [], []
    for line in told.split("\n"):
        kind = line[:3]
        if kind == "SD\t":
            seeds.append(line)
        elif kind == "CN\t":
            members.append(line)
        elif kind == "QR\t":
            _, name, _, length = line.split("\t")
            reads.append(Read(name, int(length)))
            cuts.append((len(seeds), len(members)))
        elif kind == "RS\t":
            reads[-1].repetitive = int(line.split("\t")[1])
    anchors, (numbers, chained) = _packed(seeds, order)[1], _packed(members, order, chained=True)
    ends = [*cuts[1:], (len(seeds), len(members))]
    for read, (seed, member), (last_seed, last_member) in zip(reads, cuts, ends):
        read.anchors = anchors[seed:last_seed]
        own = numbers[member:last_member]
        if len(own):
            read.chains = np.split(chained[member:last_member], np.flatnonzero(np.diff(own)) + 1)
    return reads


def _packed(lines, order, chained=False):
    """Lines SD or CN -> the chain of each (of CN alone), anchors uint64 [n, 2]."""
    packed = np.zeros((len(lines), 2), np.uint64)
    if not lines:
        return np.zeros(0, np.int64), packed
    names = ["kind", *(["number"] if chained else []), "name", "x", "strand", "y", "span"]
    table = pd.read_csv(  # a million lines in a second
        io.StringIO("\n".join(lines)), sep="\t", header=None, names=names, usecols=range(len(names)),
        dtype={"name": "category", "strand": "category"}, keep_default_na=False, quoting=csv.QUOTE_NONE,
    )  # fmt: skip
    number = np.array([order[name] for name in table["name"].cat.categories], np.uint64)
    reference = number[table["name"].cat.codes.to_numpy()]
    reverse = (table["strand"] == "-").to_numpy().astype(np.uint64)
    x, y, span = (table[column].to_numpy().astype(np.uint64) for column in ("x", "y", "span"))
    packed[:, 0] = reverse << np.uint64(63) | reference << np.uint64(32) | x
    packed[:, 1] = span << np.uint64(32) | y
    return (table["number"].to_numpy() if chained else np.zeros(0, np.int64)), packed


def _scores(paf):
    scores = {}
    for line in paf:
        fields = line.rstrip("\n").split("\t")
        scores.setdefault(fields[0], []).append(int(next(f[5:] for f in fields[12:] if f.startswith("s1:i:"))))
    return scores

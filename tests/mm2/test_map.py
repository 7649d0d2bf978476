"""Reads to PAF: minimap2's bytes, in the order of the file, whatever the threads, in memory that does not grow."""

import hashlib
import io
import itertools
import os
import random
import subprocess
import sys
import threading

import minimap2_oracle as oracle
import numpy as np
import pytest

from workbench import mm2
from workbench.mm2.index import IndexFileError, build
from workbench.mm2.io import Record, SequenceError, read
from workbench.mm2.mapper import BATCH, Mapper, map_reads
from workbench.mm2.paf import write_paf
from workbench.mm2.reads import ecoli, simulate, truth_accuracy

GOLDEN = "e705768727307a5895a08eb494dc269f"  # minimap2 2.24 -x map-ont, E. coli, 371 real reads
UNLIMITED = "--max-chain-skip=100000000"


def paf(reads, reference, *args, **options):
    out = io.BytesIO()
    write_paf(mm2.map(reads, reference, *args, **options), out)
    return out.getvalue()


def minimap2(reads, reference, *options):
    oracle.require()
    command = ["minimap2", "-t1", *options, str(reference), str(reads)]
    return subprocess.run(command, check=True, capture_output=True, timeout=250).stdout


def put(path, records):
    path.write_bytes(b"".join(b">%s\n%s\n" % (r.name.encode("utf-8", "surrogateescape"), r.sequence) for r in records))
    return path


@pytest.fixture(scope="module")
def genome():
    return list(read(ecoli()))


@pytest.fixture(scope="module")
def index():
    return build(ecoli())


@pytest.fixture(scope="module")
def reads(genome, tmp_path_factory):
    records = simulate(genome, count=150, length=(1000, 40_000), identity=0.92, seed=5)
    return put(tmp_path_factory.mktemp("reads") / "reads.fa", records)


@pytest.mark.parametrize(("mode", "threads"), [("exact_skip25", 1), ("exact_skip25", 2), ("full", 1)])
def test_real_reads_have_minimap2s_bytes(mode, threads):
    reference, reads = oracle.data("ecoli_k12_mg1655.fa.gz"), oracle.data("ecoli_ultralong_ont_2017.fa.gz")
    found = paf(reads, reference, mode=mode, threads=threads)
    assert found.count(b"\n") == 390
    assert hashlib.md5(found).hexdigest() == GOLDEN


@pytest.mark.minimap2
@pytest.mark.parametrize("preset", ["map-ont", "map-pb", "map-hifi", "asm5", "asm20"])
@pytest.mark.parametrize("mode", ["exact_skip25", "full"])
def test_simulated_reads_have_minimap2s_bytes(reads, preset, mode):
    want = minimap2(reads, ecoli(), "-x", preset, *([UNLIMITED] if mode == "full" else []))
    assert want.count(b"\n") > 100
    assert paf(reads, ecoli(), preset, mode=mode, threads=2) == want


@pytest.mark.minimap2
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact_skip25", "full"])
def test_human_reads_with_satellites_have_minimap2s_bytes(tmp_path, mode):
    reference = oracle.data("grch37_chrX_58-68Mb.fa.gz")
    records = simulate(read(reference), bases=1_500_000, length=(10_000, 150_000), seed=11)
    reads = put(tmp_path / "reads.fa", records)
    want = minimap2(reads, reference, "-x", "map-ont", *([UNLIMITED] if mode == "full" else []))
    assert paf(reads, reference, mode=mode, threads=2) == want


def awkward(seed):
    """References that repeat each other with changes, and reads that join, turn round and leave out parts of them."""
    rng = random.Random(seed)
    base = "".join(rng.choices("ACGT", k=40_000))
    unit = "".join(rng.choices("ACGT", k=171))
    satellite = "".join(mutate(rng, unit, 0.02) for _ in range(50))
    references = {
        "a": base + satellite,
        "b": mutate(rng, base, 0.03) + other(base[:9000]),
        "c": mutate(rng, satellite, 0.01) + base[20_000:30_000] + satellite[:3000],
    }
    reads = {}
    for n in range(8):
        pieces = []
        for _ in range(rng.randrange(1, 4)):
            source = rng.choice(list(references.values()))
            start = rng.randrange(len(source) - 200)
            piece = mutate(rng, source[start : start + rng.randrange(200, 9000)], rng.choice([0, 0.05, 0.15]))
            pieces.append(other(piece) if rng.random() < 0.5 else piece)
        reads[f"réad\udcff/{n}"] = "".join(pieces)  # the hash of a name takes its bytes as signed
    gap = base[1000:6000] + base[12_000:18_000] + base[19_000:24_000]  # a long join over deletions
    return references, reads | {"gap": gap, "back": other(gap), "n": "N" * 300, "short": "ACGT", "tip": base[:60]}


def mutate(rng, sequence, rate):
    return "".join(rng.choice(["", c + rng.choice("ACGT"), rng.choice("ACGT")]) if rng.random() < rate else c
                   for c in sequence)  # fmt: skip


def other(sequence):
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.mark.minimap2
@pytest.mark.parametrize("seed", range(4))
def test_awkward_reads_have_minimap2s_bytes(tmp_path, seed):
    references, reads = awkward(seed)
    ref = put(tmp_path / "ref.fa", [Record(n, s.encode()) for n, s in references.items()])
    queries = put(tmp_path / "reads.fa", [Record(n, s.encode()) for n, s in reads.items()])
    for preset, mode in (
        ("map-ont", "exact_skip25"),
        ("map-ont", "full"),
        ("map-pb", "exact_skip25"),
        ("asm20", "full"),
    ):
        want = minimap2(queries, ref, "-x", preset, *([UNLIMITED] if mode == "full" else []))
        found = paf(queries, ref, preset, mode=mode)
        assert found.splitlines() == want.splitlines(), (preset, mode)
    assert b"tp:A:S" in want


def test_threads_change_nothing(reads, index):
    alone = paf(reads, index)
    assert alone.count(b"\n") >= 145
    assert paf(reads, index, threads=4) == alone


def test_simulated_reads_map_where_they_come_from(reads, index):
    names = [record.name for record in read(reads)]
    assert truth_accuracy(mm2.map(reads, index), names) >= 0.97


def test_every_kind_of_reference_gives_the_same(reads, index, tmp_path):
    index.save(tmp_path / "ecoli.idx")
    want = paf(reads, index)
    assert paf(reads, ecoli()) == want
    assert paf(reads, tmp_path / "ecoli.idx") == want
    assert paf(read(reads), index) == want


def test_reads_that_are_nothing_give_nothing(index):
    records = [Record("empty", b""), Record("n", b"N" * 10_000), Record("one", b"A"), Record("low", b"a" * 5000)]
    mapped = list(map_reads(Mapper(index), records))
    assert [(m.name, m.hits) for m in mapped] == [(r.name, []) for r in records]


def test_case_and_letters_of_rna_do_not_matter(genome, index):
    sequence = genome[0].sequence[100_000:120_000]
    kinds = [sequence, sequence.lower(), sequence.replace(b"T", b"U")]
    lines = [[hit.paf() for hit in mm2.map([Record("r", each)], index)] for each in kinds]
    assert len(lines[0]) >= 1
    assert lines[0] == lines[1] == lines[2]


def test_a_read_of_five_megabases(genome, index):
    sequence = genome[0].sequence[2_000_000:] + genome[0].sequence[:2_360_325]
    (mapped,) = map_reads(Mapper(index), [Record("circle", sequence[:5_000_000])])
    assert mapped.length == 5_000_000
    primary = [hit for hit in mapped.hits if hit.primary]
    assert sum(hit.query_end - hit.query_start for hit in primary) > 4_900_000


def test_what_is_wrong_with_the_reads_comes_after_the_hits_before_it(genome, index, tmp_path):
    good = [Record(f"r{n}", genome[0].sequence[n * 9000 : n * 9000 + 8000]) for n in range(100)]
    put(tmp_path / "bad.fa", [*good, Record("bad", b"AC?GT")])
    for threads in (1, 3):
        names = []
        with pytest.raises(SequenceError, match=r"bad.fa, record 101 \(bad\)"):
            keep(mm2.map(tmp_path / "bad.fa", index, threads=threads), names)
        assert len(set(names)) >= 100 - (threads + 2) * BATCH // 8000


def keep(hits, names):
    for hit in hits:
        names.append(hit.query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "sr"}, "no preset 'sr'"),
        ({"mode": "fast"}, "no mode 'fast'"),
        ({"threads": 0}, "0 threads"),
        ({"backend": "nope"}, "backend 'nope'"),
    ],
)
def test_what_is_wrong_with_the_call_is_told(index, options, message):
    with pytest.raises(ValueError, match=message):
        list(mm2.map([Record("r", b"ACGT" * 500)], index, **options))


def test_an_index_of_another_preset_is_not_used(reads, index):
    with pytest.raises(IndexFileError, match="needs k=19"):
        list(mm2.map(reads, index, "map-hifi"))


def test_progress_and_an_early_end(reads, index):
    told = []
    hits = mm2.map(reads, index, threads=2, progress=lambda *each: told.append(each))
    before = threading.active_count()
    assert len(list(itertools.islice(hits, 20))) == 20
    assert threading.active_count() > before
    hits.close()
    assert threading.active_count() == before
    assert len(told) < 5
    told.clear()
    list(mm2.map(reads, index, threads=2, progress=lambda *each: told.append(each)))
    assert told[-1] == (150, sum(len(r.sequence) for r in read(reads)))
    assert told == sorted(told)


def test_reads_are_taken_as_they_are_needed(genome, index):
    taken = 0

    def endless():
        nonlocal taken
        for record in itertools.cycle([Record("r", genome[0].sequence[:50_000])]):
            taken += 1
            yield record

    for threads in (1, 3):
        taken = 0
        hits = mm2.map(endless(), index, threads=threads)
        next(hits)
        assert taken <= (threads + 3) * (BATCH // 50_000 + 1)
        hits.close()


PEAK = """
import re, sys
from pathlib import Path
from workbench.mm2 import map
from workbench.mm2.io import read
from workbench.mm2.paf import write_paf
reads = list(read(sys.argv[1])) if sys.argv[3] == "keeps" else sys.argv[1]
with open("/dev/null", "wb") as out:
    hits = write_paf(map(reads, sys.argv[2], threads=2), out)
print(hits, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""  # not getrusage's ru_maxrss: that of a child begins with what its parent had, which is far more


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("how", ["streams", "keeps"])
def test_memory_does_not_grow_with_the_reads(genome, index, tmp_path, how):
    """With a control that keeps all reads, whose growth has to be seen."""
    index.save(tmp_path / "ecoli.idx")
    once = list(simulate(genome, bases=3_000_000, length=(5000, 50_000), seed=9))
    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.fa"
        with path.open("wb") as file:
            for n in range(times):
                file.writelines(b">%d_%s\n%s\n" % (n, r.name.encode(), r.sequence) for r in once)
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "ecoli.idx"), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ)
        assert done.returncode == 0, done.stderr
        hits, peak = map(int, done.stdout.split())
        assert hits >= times * len(once)
        peaks.append(peak * 1024)
    assert (peaks[1] - peaks[0] < 12e6) == (how == "streams"), peaks  # the larger file is 27 Mb larger


def test_hits_hold_what_they_say(reads, index):
    for hit in mm2.map(reads, index):
        assert 0 <= hit.query_start < hit.query_end <= hit.query_length
        assert 0 <= hit.target_start < hit.target_end <= hit.target_length
        assert 0 <= hit.mapq <= 60
        assert hit.anchors >= 3
        assert hit.score >= 40
        assert 0 < hit.matches <= hit.block
        assert hit.primary or hit.mapq == 0
        assert np.isfinite(hit.divergence)

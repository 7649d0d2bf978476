"""Every anchor as minimap2 2.24 has it, order included: real reads, human repeats, and sequences made to be awkward."""

import gzip
import random

import minimap2_oracle as oracle
import numpy as np
import pytest

from workbench.kernels.seed import SeedIndex, SeedParams

pytestmark = pytest.mark.minimap2

PRESETS = {  # k, w, homopolymers compressed, floor and ceiling of the cut-off
    "map-ont": (15, 10, False, 10, 10**6),
    "map-pb": (19, 10, True, 10, 10**6),
    "map-hifi": (19, 19, False, 50, 500),
    "asm20": (19, 10, False, 50, 500),
}
NO_FLAGS = np.uint64((1 << 40) - 1)


def compare(reference, reads, preset="map-ont"):
    """(reads, anchors) compared; fails at the first read that differs."""
    oracle.require()
    k, w, hpc, floor, ceiling = PRESETS[preset]
    index = SeedIndex.build((s.encode() for _, s in oracle.sequences(reference)), k, w, hpc)
    params = SeedParams(mid_occ=index.cutoff(floor=floor, ceiling=ceiling))
    mine = dict(oracle.sequences(reads))
    told = list(oracle.run(reference, reads, "-x", preset))
    anchors = 0
    for read in told:
        found = index.seeds(mine[read.name].encode(), params)
        want = read.anchors
        assert found.repetitive == read.repetitive, read.name
        assert np.array_equal(found.anchors[:, 0], want[:, 0]), read.name
        assert np.array_equal(found.anchors[:, 1] & NO_FLAGS, want[:, 1]), read.name
        anchors += len(want)
    assert len(told) == sum(len(s) > 0 for s in mine.values())
    return len(told), anchors


def test_all_real_reads():
    reference, reads = oracle.data("ecoli_k12_mg1655.fa.gz"), oracle.data("ecoli_ultralong_ont_2017.fa.gz")
    assert compare(reference, reads) == (371, 321_115)


@pytest.mark.slow
def test_human_reads_with_satellites(tmp_path):
    reference = oracle.data("grch37_chrX_58-68Mb.fa.gz")
    genome = next(s for _, s in oracle.sequences(reference)).upper()
    reads = tmp_path / "reads.fa"
    write(reads, cut(random.Random(3), {"x": genome}, 12, (20_000, 100_000), 0.05))
    count, anchors = compare(reference, reads)
    assert count == 12
    assert anchors > 100_000


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", range(2))
def test_awkward_sequences(tmp_path, preset, seed):
    """Tandem repeats beyond the cut-off, runs of N and of A, lower case, U, both strands, several references."""
    rng = random.Random(f"{preset} {seed}")
    genome = "".join(rng.choices("ACGT", k=30_000))
    unit = "".join(rng.choices("ACGT", k=rng.choice([7, 50, 171])))
    repeats = "".join(mutate(rng, unit, rng.choice([0, 0.02, 0.1])) for _ in range(rng.randrange(60, 120)))
    first = genome[:10_000] + "N" * rng.randrange(300) + repeats + genome[10_000:]
    second = mutate(rng, genome[5000:20_000], 0.05).lower() + "RYKMnnnnACGU" + other(genome[20_000:]) + "A" * 400
    references = {"r1": first, "r2": second, "short": "ACGT", "only_n": "N" * 50}
    reads = cut(rng, {"r1": first, "r2": second}, 8, (100, 20_000), 0.05)
    reads["half_n"] = reads["read0"][:2000] + "n" * 30 + reads["read0"][2000:] + unit * 15
    reads["rna"] = reads["read1"].replace("T", "U")
    reads |= {"only_n": "N" * 500, "one": "A"}
    write(tmp_path / "ref.fa", references)
    write(tmp_path / "reads.fa", reads)
    count, anchors = compare(tmp_path / "ref.fa", tmp_path / "reads.fa", preset)
    assert count == 12
    assert anchors > 100


def write(path, records):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))


def other(sequence):
    return sequence[::-1].translate(str.maketrans("ACGTacgt", "TGCAtgca"))


def mutate(rng, sequence, rate):
    swap = {"del": lambda c: "", "ins": lambda c: c + rng.choice("ACGT"), "sub": lambda c: rng.choice("ACGT")}
    return "".join(swap[rng.choice(list(swap))](c) if rng.random() < rate else c for c in sequence)


def cut(rng, references, count, lengths, rate):
    reads = {}
    while len(reads) < count:
        sequence = rng.choice(list(references.values()))
        size = min(rng.randint(*lengths), len(sequence))
        start = rng.randrange(len(sequence) - size + 1)
        piece = sequence[start : start + size]
        if "NNNN" in piece and len(references) == 1:
            continue
        read = mutate(rng, piece, rate)
        reads[f"read{len(reads)}"] = other(read) if rng.random() < 0.5 else read
    return reads


def test_the_comparison_sees_a_difference(tmp_path):
    """A control: another cut-off, one anchor more or less, must not pass."""
    rng = random.Random(5)
    genome = "".join(rng.choices("ACGT", k=20_000))
    write(tmp_path / "ref.fa", {"r": genome})
    write(tmp_path / "reads.fa", {"q": genome[3000:9000]})
    assert compare(tmp_path / "ref.fa", tmp_path / "reads.fa")[0] == 1
    changed = genome[:5000] + other(genome[5000:5020]) + genome[5020:]
    (tmp_path / "other.fa.gz").write_bytes(gzip.compress(f">r\n{changed}\n".encode()))
    index = SeedIndex.build([changed.encode()], 15, 10)
    found = index.seeds(genome[3000:9000].encode(), SeedParams(mid_occ=10))
    told = next(iter(oracle.run(tmp_path / "ref.fa", tmp_path / "reads.fa", "-x", "map-ont")))
    assert len(found.anchors) < len(told.anchors)

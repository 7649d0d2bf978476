"""Simulated reads know where they come from, and the measure of right and wrong can tell."""

import dataclasses

import numpy as np
import pytest

from workbench.mm2.io import Record, read
from workbench.mm2.paf import Hit
from workbench.mm2.reads import Truth, ecoli, real_reads, simulate, truth_accuracy

rng = np.random.default_rng(0)
GENOME = [
    Record("a!b", rng.choice(list(b"ACGT"), 60_000).astype(np.uint8).tobytes()),
    Record("c", b"N" * 3000 + rng.choice(list(b"acgt"), 20_000).astype(np.uint8).tobytes()),
    Record("tiny", b"ACGT"),
]
LONG = {"length": (500, 5000), "identity": 0.9}


def other(sequence):
    return sequence[::-1].translate(bytes.maketrans(b"ACGT", b"TGCA"))


def test_same_seed_same_reads():
    one, two = (list(simulate(GENOME, count=20, seed=3, **LONG)) for _ in range(2))
    assert one == two
    assert one != list(simulate(GENOME, count=20, seed=4, **LONG))


def test_without_errors_a_read_is_its_place():
    by_name = {r.name: r.sequence.upper() for r in GENOME}
    strands = set()
    for record in simulate(GENOME, count=60, seed=1, length=(500, 5000), identity=1.0):
        truth = Truth.of(record.name)
        place = by_name[truth.target][truth.start : truth.end]
        assert record.sequence == (place if truth.strand == "+" else other(place))
        assert b"N" not in place
        strands.add((truth.target, truth.strand))
    assert strands == {("a!b", "+"), ("a!b", "-"), ("c", "+"), ("c", "-")}


def test_lengths_are_log_uniform_and_bounds_hold():
    reads = list(simulate(GENOME, count=400, seed=2, length=(100, 10_000)))
    lengths = np.array([Truth.of(r.name).end - Truth.of(r.name).start for r in reads])
    assert lengths.min() >= 100
    assert lengths.max() <= 10_000
    assert np.median(lengths) == pytest.approx(1000, rel=0.25)  # the geometric mean
    total = list(simulate(GENOME, bases=50_000, length=(100, 1000)))
    assert sum(len(r.sequence) for r in total[:-1]) < 50_000 <= sum(len(r.sequence) for r in total)


def test_errors_are_as_many_and_of_the_kinds_said():
    piece = [Record("x", b"A" * 200_000)]
    (record,) = simulate(piece, count=1, length=(200_000, 200_000), identity=0.9)
    sequence = record.sequence if Truth.of(record.name).strand == "+" else other(record.sequence)
    changed = len(sequence) - sequence.count(b"A")  # substitutions, and three of four insertions
    assert changed / 200_000 == pytest.approx(0.1 * (0.40 + 0.75 * 0.25), rel=0.05)
    assert (len(sequence) - 200_000) / 200_000 == pytest.approx(0.1 * (0.25 - 0.35), rel=0.2)


@pytest.mark.parametrize(
    ("genome", "options", "message"),
    [
        (GENOME, {"count": 1, "length": (100_000, 200_000)}, "no sequence of the genome has 100000 bases"),
        (GENOME, {"count": 1, "length": (5, 4)}, "shortest first"),
        (GENOME, {"count": 1, "identity": 0.0}, "identity"),
        (GENOME, {}, "how many"),
        ([Record("n", b"N" * 1000)], {"count": 1, "length": (10, 10)}, "ambiguous"),
    ],
)
def test_what_cannot_be_simulated_is_told(genome, options, message):
    with pytest.raises(ValueError, match=message):
        list(simulate(genome, **options))


@pytest.mark.parametrize("name", ["read1", "sim!a!b!c!+", "sim!a!1!2!x", "a!1!2!+"])
def test_other_names_hold_no_truth(name):
    with pytest.raises(ValueError, match="not the name of a simulated read"):
        Truth.of(name)


def test_the_shipped_genome():
    (genome,) = read(ecoli())
    assert genome.name == "K-12-MG1655"
    assert len(genome.sequence) == 4_639_675
    assert set(genome.sequence) == set(b"ACGT")


def test_real_reads_are_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    assert real_reads() is None
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert real_reads() is None
    (tmp_path / "dna").mkdir()
    (tmp_path / "dna" / "ecoli_ultralong_ont_2017.fa.gz").touch()
    assert real_reads() == tmp_path / "dna" / "ecoli_ultralong_ont_2017.fa.gz"


NAME = "sim0!chr!1000!2000!-"
HIT = Hit(
    *(NAME, 1000, 0, 1000, "-", "chr", 10_000, 1000, 2000, 900, 1000, 60),
    primary=True, anchors=50, score=800, second=0, divergence=0.01, repetitive=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, 1),
        ({"strand": "+"}, 0),
        ({"target": "other"}, 0),
        ({"primary": False}, 0),
        ({"target_start": 1900, "target_end": 2000}, 1),  # a tenth
        ({"target_start": 1901, "target_end": 2000}, 0),
        ({"target_start": 1500, "target_end": 2500}, 1),
        ({"target_start": 2000, "target_end": 3000}, 0),
        ({"target_start": 0, "target_end": 10_000}, 1),
        ({"query": "sim1!chr!1000!2000!-"}, 0),
    ],
)
def test_right_and_wrong(change, right):
    assert truth_accuracy([dataclasses.replace(HIT, **change)], [NAME]) == right


def test_of_several_hits_the_best_primary_counts():
    wrong = dataclasses.replace(HIT, target_start=5000, target_end=6000)
    assert truth_accuracy([dataclasses.replace(wrong, score=900), HIT], [NAME]) == 0
    assert truth_accuracy([dataclasses.replace(wrong, score=700), HIT], [NAME]) == 1
    assert truth_accuracy([dataclasses.replace(wrong, score=900, primary=False), HIT], [NAME]) == 1
    assert truth_accuracy([HIT], [NAME, "sim1!chr!1!1000!+"]) == 0.5
    assert np.isnan(truth_accuracy([], []))

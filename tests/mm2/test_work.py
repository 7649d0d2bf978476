"""A run of mm2: what it maps, measures and compares, and what it says when something is not there."""

import errno
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench import runner
from workbench.kernels import chain as kernel
from workbench.mm2 import SYSTEM, loops, mapper, rivals, source, stages, work
from workbench.mm2.index import build_of
from workbench.mm2.io import Record, SequenceError, read
from workbench.mm2.presets import preset_of
from workbench.mm2.result import FULL, MINIMAP2, Checks, ours, theirs
from workbench.mm2.satellites import with_satellites
from workbench.mm2.shape import segments
from workbench.system import Point, Progress, Span

FEW = {"megabases": 0.2, "length_kbp_max": 20.0, "satellite_kbp": 0.0}


@pytest.fixture(scope="module")
def run():
    done = runner.Run(SYSTEM, SYSTEM.make("tiny"), record=False).start().wait(120)
    assert done.error is None
    return done


@pytest.fixture(scope="module")
def small_genome():
    (genome,) = read(source.reads.ecoli())
    return [Record("part", genome.sequence[:400_000])]


@pytest.fixture(scope="module")
def index(small_genome):
    return build_of(iter(with_satellites(small_genome, 8.0)), preset_of("map-ont"))


def events(run, kind):
    return [event for _, event in run.events if isinstance(event, kind)]


def test_the_tiny_run(run):
    s = run.result.summary()
    assert s["exact_fraction"] == 1
    assert s["mapped_fraction"] == 1
    assert s["truth_accuracy"] >= 0.9
    assert s["reads"] == len(run.result.reads) > 10
    assert s["anchors"] == sum(r.anchors for r in run.result.reads)
    assert s["pairs"] == sum(r.pairs for r in run.result.reads)
    assert all(s[name] > 0 for name in ("total_s", "chain_s", "seed_s", "join_s", "pairs_per_s", "gpu_batch_s"))
    loop = run.result.median_s("loop", f"{FULL}, {kernel.available()[0]}")
    assert s["dp_speedup_vs_minimap2"] == run.result.median_s("loop", MINIMAP2) / loop


def test_it_says_what_it_does_while_it_does_it(run):
    spans = events(run, Span)
    assert {s.lane for s in spans} == {*stages.STAGES, "loops", "mappers"}
    for lane in stages.STAGES:
        own = [s for s in spans if s.lane == lane]
        assert sum(s.why["reads"] for s in own) == run.result.totals.reads
        assert 0 < getattr(run.result.totals, f"{lane}_s") <= sum(s.end_s - s.start_s for s in own) + 1e-3
    assert {p.series for p in events(run, Point)} >= {"mapped: throughput (Mb/s)", "chain: time per base (ns)"}
    assert "mapping, " in " ".join(p.note for p in events(run, Progress))


@pytest.mark.minimap2
def test_lines_are_minimap2s(run):
    if not rivals.minimap2_version().startswith(rivals.EQUAL_TO):
        pytest.skip(
            f"minimap2 {rivals.EQUAL_TO} is the oracle and is not on PATH: tools/setup.sh minimap2, on Debian 12"
        )
    assert run.result.paf_equal == {"exact_skip25": 1.0, "full": 1.0}
    assert run.result.rival.startswith(rivals.EQUAL_TO)
    for mode in ("exact_skip25", "full"):
        assert run.result.median_s("mapping", theirs(mode)) > 0


def test_stages_over_a_batch_are_the_mapper(index, small_genome):
    reads = list(source.reads.simulate(with_satellites(small_genome, 8.0), count=40, length=(500, 20_000)))
    one = mapper.Mapper(index)
    want = [[hit.paf() for hit in one.map(r).hits] for r in reads]
    for threads in (1, 3):
        found = list(stages.run_all(one, iter(reads), threads, threading.Event()))
        assert [[h.paf() for h in hits] for batch in found for hits in batch.hits] == want
        assert [batch.number for batch in found] == list(range(len(found)))
    assert any(batch.joined for batch in found)


def test_time_that_others_take_is_not_a_stages(index, small_genome, monkeypatch):
    """Seconds of a stage are of the processor: beside total_s, which is so too, they must not grow with the load."""
    reads = list(source.reads.simulate(small_genome, count=4, length=(500, 2000)))
    one = mapper.Mapper(index)
    seeds = one.seeds
    monkeypatch.setattr(one, "seeds", lambda bases: (time.sleep(0.1), seeds(bases))[1])
    batch = stages.run(one, 0, reads, threading.Event())
    begin, end = batch.times["seed"]
    assert end - begin >= 0.4
    assert 0 < batch.cpu_s["seed"] < 0.2


def test_a_stopped_pass_ends(index, small_genome):
    stop = threading.Event()
    reads = source.reads.simulate(small_genome, bases=20_000_000, length=(500, 5000))
    found = stages.run_all(mapper.Mapper(index), reads, 2, stop)
    next(found)
    stop.set()
    assert len(list(found)) <= 3
    assert threading.active_count() < 20


def kept(index, genome, count=12):
    params = mapper.Mapper(index, mode="full").chain_params
    reads = source.reads.simulate(with_satellites(genome, 8.0), count=count, length=(500, 20_000))
    anchors = [index.seeds.seeds(r.sequence, index.params(preset_of("map-ont"))).anchors for r in reads]
    return [loops.Kept(5000, a, len(a)) for a in anchors], params


def test_loops_agree_and_a_wrong_one_is_caught(index, small_genome, monkeypatch):
    found, params = kept(index, small_genome)
    every = loops.loops(params)
    assert [loop.name for loop in every[:2]] == [MINIMAP2, f"{FULL}, scalar"]
    assert len(every) == 2 + len(set(kernel.available()) - {"scalar", "reference"}) + (len(every) > 2)
    told = []
    good = loops.check(found, every, threading.Event(), told.append)
    assert (good.reads, good.equal, good.caught) == (12, 12, True)
    assert good.defined == good.defined_equal > 0
    assert told == list(range(1, 13))
    true = kernel.dp

    def off_by_one(anchors, params, *, backend="auto"):
        f, p, v = true(anchors, params, backend=backend)
        if backend == every[-1].backend and len(f) > 3:
            f = f.copy()
            f[len(f) // 2] += 1
        return f, p, v

    monkeypatch.setattr(kernel, "dp", off_by_one)
    assert loops.check(found, every, threading.Event(), told.append).equal < 12


def test_a_scalar_loop_that_differs_from_the_definition_is_caught(index, small_genome, monkeypatch):
    found, params = kept(index, small_genome, 4)
    true = kernel.dp
    wrong = {"scalar"}

    def shifted(anchors, params, *, backend="auto"):
        f, p, v = true(anchors, params, backend=backend)
        return (f + 1, p, v) if backend in wrong else (f, p, v)

    monkeypatch.setattr(kernel, "dp", shifted)
    assert loops.check(found, loops.loops(params)[:2], threading.Event(), print).defined_equal == 0


def test_a_control_that_sees_nothing_makes_nothing_exact(run):
    told = run.result.checks
    for checks in (told.model_copy(update={"caught": False}), told.model_copy(update={"defined_equal": 0}), Checks()):
        assert run.result.model_copy(update={"checks": checks}).exact_fraction == 0


def test_times_of_bins_add_up(index, small_genome):
    found, params = kept(index, small_genome)
    found = [loops.Kept(n, k.anchors, k.pairs) for n, k in zip([1000, 30_000, 400_000] * 4, found, strict=True)]
    bench = loops.Bench(found)
    total = bench.time(loops.loops(params)[1], 0, threading.Event())
    rows = {row.reads_kbp: row for row in bench.rows}
    assert set(rows) == {"all", "0-5", "20-50", "over 300"}
    assert rows["all"].seconds == pytest.approx(total, abs=1e-6)
    assert sum(r.seconds for name, r in rows.items() if name != "all") == pytest.approx(total, abs=1e-6)
    assert sum(r.anchors for name, r in rows.items() if name != "all") == rows["all"].anchors
    stopped = threading.Event()
    stopped.set()
    assert np.isnan(bench.time(loops.loops(params)[1], 1, stopped))
    assert len(bench.rows) == 4


@pytest.mark.parametrize(("hits", "right"), [([], False), (None, None)])
def test_a_read_that_maps_nowhere_is_wrong_and_one_that_was_only_seeded_unknown(small_genome, hits, right):
    (record,) = source.reads.simulate(small_genome, count=1, length=(500, 501))
    begun = work._Run(SYSTEM.make("tiny"), "cpu")
    begun._count(record, 0, segments(np.zeros(0, np.int64), 0), 0, hits)
    assert [read.right for read in begun.reads] == [right]
    assert (begun.totals["reads"], begun.totals["mapped"]) == (1, 0)


def test_what_is_kept_is_counted_once_and_never_above_its_limits(monkeypatch):
    class Counted(list):
        asked = 0

        def __len__(self):
            type(self).asked += 1
            return super().__len__()

    monkeypatch.setattr(loops, "MOST_ANCHORS", 100)
    monkeypatch.setattr(loops, "MOST_PAIRS", 1000)
    begun = work._Run(SYSTEM.make("tiny"), "cpu")
    for at in range(60):
        begun._keep(Record(f"r{at}", b"ACGT"), Counted([0, 0]), 10)
    assert len(begun.kept) == len(begun.kept_names) == 50  # no more anchors
    assert Counted.asked <= 60 + 50
    begun._keep(Record("small", b"ACGT"), [], 501)
    begun._keep(Record("smaller", b"ACGT"), [], 500)
    assert begun.kept_names[50:] == ["smaller"]


def failed(**changes):
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", **changes), record=False).start().wait(60)
    assert done.state == "failed"
    return done.error


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_DATA", raising=False)
    gone = failed(reads="real", satellite_kbp=0.0)
    assert "WORKBENCH_DATA" in str(gone)
    assert "reads='simulated'" in str(gone)
    assert "WORKBENCH_DATA" in str(failed(reads="real", satellite_kbp=10.0))
    missing = failed(reads="file", reads_file=str(tmp_path / "no.fa"))
    assert isinstance(missing, FileNotFoundError)
    assert "no.fa" in str(missing)
    (tmp_path / "text.fa").write_text("hello\n")
    assert isinstance(failed(reads="file", reads_file=str(tmp_path / "text.fa"), satellite_kbp=0.0), SequenceError)
    (tmp_path / "empty.fa").write_text("")
    assert "holds no reads" in str(failed(reads="file", reads_file=str(tmp_path / "empty.fa"), satellite_kbp=0.0))


@pytest.mark.parametrize("backend", ["cpu", "sim"])
def test_reads_without_bases_are_told_and_only_n_is_fine(tmp_path, backend):
    own = {"reads": "file", "reads_file": str(tmp_path / "reads.fa"), "satellite_kbp": 0.0, "backend": backend}
    for content, message in ((">a\n>b\n\n", "holds no reads with bases"), ("", "holds no reads")):
        (tmp_path / "reads.fa").write_text(content)
        assert f"reads.fa: {message}" in str(failed(**own))
    (tmp_path / "reads.fa").write_text(">a\n" + "N" * 3000 + "\n>b\n\n")
    result = wb.run("mm2", preset="tiny", **own)
    assert result.summary()["reads"] == 2
    assert not {"exact_fraction", "dp_speedup_vs_minimap2", "pairs_per_s"} & result.summary().keys()
    told = "nothing to chain" if backend == "cpu" else "nothing to schedule"
    assert told in result.sentence()
    for picture in (result.figure(), result.schedule()):
        assert picture.layout.meta["text"]
    assert result.claims()
    assert result.decided() == wb.run("mm2", preset="tiny", **own).decided()


def test_a_reference_that_is_no_good_is_told_with_its_name(tmp_path):
    ref = tmp_path / "ref.fa"
    ref.write_text(">a\nACGT\n>a\nACGT\n")
    assert "ref.fa, record 2: the name 'a' is already" in str(failed(reference_file=str(ref)))
    ref.write_text(">a\n" + "N" * 200_000 + "\n")
    gone = str(failed(reference_file=str(ref), satellite_kbp=0.0))
    assert "ref.fa: no " in gone
    assert "take shorter reads" in gone


def test_a_full_disk_names_file_and_record(tmp_path):
    records = source.write_fasta(iter([Record("first", b"ACGT" * 5000)]), Path("/dev/full"))
    with pytest.raises(OSError, match=r"while writing first; TMPDIR names .*'/dev/full'") as told:
        list(records)
    assert told.value.errno == errno.ENOSPC
    assert [r.name for r in source.write_fasta(iter([Record("x", b"AC")]), tmp_path / "x.fa")] == ["x"]
    assert (tmp_path / "x.fa").read_bytes() == b">x\nAC\n"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reads": "file"}, "reads_file"),
        ({"reads_file": "a.fa"}, "reads_file"),
        ({"length_kbp_min": 90.0, "length_kbp_max": 5.0}, "length_kbp_min"),
        ({"mode": "exact_skip25", "kernel": "avx2"}, "kernel"),
    ],
)
def test_settings_that_do_not_fit(changes, named):
    with pytest.raises(ValueError, match=named):
        SYSTEM.make("small", **changes)


def test_own_files(tmp_path, small_genome):
    (tmp_path / "ref.fa").write_bytes(b">part\n" + small_genome[0].sequence + b"\n")
    records = list(source.reads.simulate(small_genome, count=40, length=(2000, 3000)))
    odd = [Record("empty", b""), Record("only_n", b"N" * 2000), Record("short", b"ACGT"), *records]
    (tmp_path / "reads.fa").write_bytes(b"".join(b">%s\n%s\n" % (r.name.encode(), r.sequence) for r in odd))
    files = {"reads_file": str(tmp_path / "reads.fa"), "reference_file": str(tmp_path / "ref.fa")}
    result = wb.run("mm2", preset="tiny", reads="file", satellite_kbp=0.0, **files)
    assert result.totals.reads == 43
    assert result.totals.mapped == 40
    assert result.truth_accuracy is None
    assert result.exact_fraction == 1
    assert set(result.paf_equal.values()) <= {1.0}
    cut = wb.run("mm2", preset="tiny", reads="file", megabases=0.05, **files)  # and no repeats
    assert 50_000 <= cut.totals.bases < 53_000
    assert cut.totals.reads < 40


def test_repeats_are_for_simulated_reads_alone(small_genome, tmp_path):
    """The control: for simulated ones they are put in."""
    (tmp_path / "ref.fa").write_bytes(b">part\n" + small_genome[0].sequence + b"\n")
    ours = {"reference_file": str(tmp_path / "ref.fa"), "satellite_kbp": 40.0}

    def bases(**reads):
        return sum(len(r.sequence) for r in source.reference(SYSTEM.make("tiny", **ours, **reads)))

    assert bases(reads="file", reads_file="a.fa") == bases(reads="real") == len(small_genome[0].sequence) < bases()


def test_threads_change_nothing_but_time(run):
    again = wb.run("mm2", preset="tiny", threads=2, minimap2=False)
    assert again.paf_hash == run.result.paf_hash
    assert {s.lane.partition(",")[0] for s in again.spans()} == {*stages.STAGES, "loops", "mappers"}


def test_modes_of_mapping():
    heuristic = wb.run("mm2", preset="tiny", mode="exact_skip25", minimap2=False, **FEW)
    assert heuristic.tested == MINIMAP2
    assert heuristic.summary()["dp_speedup_vs_minimap2"] == 1
    scalar = wb.run("mm2", preset="tiny", kernel="scalar", minimap2=False, **FEW)
    assert scalar.tested == f"{FULL}, scalar"
    assert scalar.summary()["total_s"] == scalar.median_s("mapping", ours("full"))


def test_a_kernel_of_another_processor_is_refused(monkeypatch):
    monkeypatch.setattr(kernel, "available", lambda params=None: ["scalar", "reference"])
    assert isinstance(failed(kernel="avx512", **FEW), kernel.Unsupported)


def test_the_simulated_backend_maps_nothing():
    result = wb.run("mm2", preset="tiny", backend="sim", **FEW)
    assert set(result.provenance.badges.values()) == {"measured", "modelled"}
    assert result.provenance.badges["gpu_batch_s"] == "modelled"
    assert {t.what for t in result.timings} == {"schedule"}
    assert {t.name.partition(",")[0] for t in result.timings} == {"MI210", "A100", "H200"}
    assert all(t.seconds >= t.bound_s - 1e-9 for t in result.timings)
    assert "exact_fraction" not in result.summary()


def test_satellites_make_work_uneven(small_genome):
    plain, full = (
        wb.run("mm2", preset="tiny", backend="sim", megabases=1.0, satellite_kbp=kb, seed=3) for kb in (0.0, 100.0)
    )
    work = [np.sort([r.pairs / r.length for r in result.reads]) for result in (plain, full)]
    assert work[1][-1] > 5 * work[0][-1]  # the read with most work a base
    assert np.median(work[1]) < 2 * np.median(work[0])  # and one like the others
    (genome,) = with_satellites(small_genome, 90.0, seed=5)
    assert len(genome.sequence) == 400_000 + 90_000
    assert list(with_satellites(small_genome, 90.0, seed=5)) == [genome]
    assert next(iter(with_satellites(small_genome, 90.0, seed=6))) != genome
    assert list(with_satellites(small_genome, 0.0)) == small_genome


def test_cancel_while_others_work():
    going = runner.Run(SYSTEM, SYSTEM.make("small"), record=False).start()
    until = time.monotonic() + 60
    while not any(isinstance(e, Span) and e.lane == "loops" for _, e in going.events):
        assert time.monotonic() < until
        time.sleep(0.05)
    asked = time.monotonic()
    going.cancel()
    going.wait(10)
    assert going.state == "cancelled"
    assert time.monotonic() - asked < 2

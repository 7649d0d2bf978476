"""Other mappers: timed where they are, told where they are not, left out where they fail."""

import errno
import re
import subprocess
import threading
import time

import pytest

import workbench as wb
from workbench import runner
from workbench.mm2 import SYSTEM, rivals, source
from workbench.mm2.io import Record, read
from workbench.mm2.result import MAPPY, ours, theirs
from workbench.pump import Stopped
from workbench.system import Note

FEW = {"megabases": 0.2, "length_kbp_max": 20.0, "satellite_kbp": 0.0}


@pytest.fixture(scope="module")
def small_genome():
    (genome,) = read(source.reads.ecoli())
    return [Record("part", genome.sequence[:400_000])]


def notes(run):
    return [event.text for _, event in run.events if isinstance(event, Note)]


def test_paf_is_compared_read_by_read():
    one = b"a\t1\nb\t2\nb\t3\n"
    assert rivals.equal_fraction(one, one, ["a", "b", "unmapped"]) == 1
    assert rivals.equal_fraction(one, b"a\t1\nb\t3\nb\t2\n", ["a", "b"]) == 0.5
    assert rivals.equal_fraction(one, b"", ["a", "b", "c", "d"]) == 0.5


def test_without_minimap2_it_says_so(monkeypatch):
    monkeypatch.setattr(rivals.shutil, "which", lambda _: None)
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", **FEW), record=False).start().wait(60)
    said = notes(done)
    assert any("minimap2 is not installed" in text and "apt-get install minimap2" in text for text in said)
    assert done.result.paf_equal == {}
    assert "minimap2_total_s" not in done.result.summary()
    assert done.result.summary()["dp_speedup_vs_minimap2"] > 0
    assert [n for n in done.result.names("mapping") if n.startswith("minimap2")] == []


def test_a_program_that_fails_is_told_with_its_own_words(tmp_path, monkeypatch):
    fake = tmp_path / "minimap2"
    fake.write_text("#!/bin/sh\necho no room >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    call = ("ref.fa", "reads.fa", "map-ont", "full", tmp_path, threading.Event())
    with pytest.raises(RuntimeError, match="code 3: no room"):
        rivals.minimap2(*call)
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        rivals.minimap2(*call[:-1], stop)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("program", ["not one", "#!/none/such\n"])
def test_a_minimap2_that_does_not_start_is_none(tmp_path, monkeypatch, program):
    fake = tmp_path / "minimap2"
    fake.write_text(program)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert rivals.shutil.which("minimap2") == str(fake)
    assert rivals.minimap2_version() == ""


def test_a_minimap2_that_says_nothing_is_none(monkeypatch):
    def hangs(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(rivals.shutil, "which", lambda name: name)
    monkeypatch.setattr(rivals.subprocess, "run", hangs)
    assert rivals.minimap2_version() == ""


def test_a_rival_that_fails_is_left_out(monkeypatch):
    monkeypatch.setattr(rivals, "minimap2_version", lambda: "2.99")

    def fails(reference, reads, preset, mode, *_):
        if mode == "full":
            raise OSError(errno.ENOEXEC, "Exec format error", "minimap2")
        raise RuntimeError("minimap2 ended with code 3: no room")

    monkeypatch.setattr(rivals, "minimap2", fails)
    monkeypatch.setattr(rivals, "mappy_is_here", lambda: True)
    monkeypatch.setattr(rivals, "mappy", lambda *_: (1.5, 3))
    done = runner.Run(SYSTEM, SYSTEM.make("tiny", **FEW), record=False).start().wait(60)
    said = " ".join(notes(done))
    assert "minimap2, skip 25 is left out: minimap2 ended with code 3: no room" in said
    assert f"{theirs('full')} is left out: [Errno 8] Exec format error" in said
    assert "minimap2 2.99 is here; equal lines are only due from 2.24" in said
    assert done.result.names("mapping") == [ours("exact_skip25"), ours("full"), MAPPY]
    assert done.result.summary()["mappy_total_s"] == 1.5
    assert done.result.paf_equal == {}


def test_mappy_is_timed_by_itself_where_it_can_be_imported(tmp_path, small_genome):
    """The real one, by default: no setting asks for it. It maps what ours maps, and its version is in the result."""
    if not rivals.mappy_is_here():
        pytest.skip("mappy is not installed, so it cannot be timed: pip install 'mappy>=2.24'")
    reads = tmp_path / "reads.fa"
    for _ in source.write_fasta(source.reads.simulate(small_genome, count=20, length=(2000, 9000)), reads):
        pass
    list(source.write_fasta(iter(small_genome), tmp_path / "ref.fa"))
    call = (tmp_path / "ref.fa", reads, "map-ont", tmp_path)
    seconds, hits = rivals.mappy(*call, threading.Event())
    assert 0 < seconds < 60
    assert hits >= 20
    with pytest.raises(RuntimeError, match="mappy cannot index"):
        rivals.mappy(tmp_path / "none.fa", *call[1:], threading.Event())
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        rivals.mappy(*call, stop)
    result = wb.run("mm2", preset="tiny", **FEW)
    assert result.summary()["mappy_total_s"] > 0
    assert MAPPY in result.names("mapping")
    assert re.match(r"2\.\d+", result.provenance.versions["mappy"])
    assert not any("mappy is not installed" in note for note in result.notes)

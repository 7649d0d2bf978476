"""`workbench mm2 map` and `index`: PAF on stdout, one clear line for whatever fails."""

import re
import signal
import subprocess
import sys

import pytest

from workbench import mm2
from workbench.kernels import chain as kernel
from workbench.mm2.cli import _Told
from workbench.mm2.io import read
from workbench.mm2.reads import ecoli, simulate

FULL = kernel.ChainParams(max_skip=None)
CALL = """
import workbench.cli, workbench.mm2.cli
if "mm2" not in [group.name for group in workbench.cli.app.registered_groups]:
    workbench.cli.app.add_typer(workbench.mm2.cli.app, name="mm2")
workbench.cli.main()
"""


def command(*args):
    return [sys.executable, "-c", CALL, "mm2", *map(str, args)]


def call(*args, stdout=subprocess.PIPE, stdin=None):
    return subprocess.run(command(*args), stdout=stdout, stderr=subprocess.PIPE, stdin=stdin, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A part of the genome as reference, its index, reads."""
    folder = tmp_path_factory.mktemp("cli")
    (genome,) = read(ecoli())
    part = genome.sequence[:300_000]
    (folder / "ref.fa").write_bytes(b">part\n" + part + b"\n")
    reads = simulate(read(folder / "ref.fa"), count=200, length=(1000, 5000), seed=1)
    (folder / "reads.fa").write_bytes(b"".join(b">%s\n%s\n" % (r.name.encode(), r.sequence) for r in reads))
    assert call("index", folder / "ref.fa", folder / "ref.idx").returncode == 0
    return folder


def want(folder):
    return "".join(hit.paf() + "\n" for hit in mm2.map(folder / "reads.fa", folder / "ref.fa")).encode()


@pytest.mark.parametrize("reference", ["ref.fa", "ref.idx"])
def test_paf_on_stdout_and_progress_on_stderr(folder, reference):
    done = call("map", folder / reference, folder / "reads.fa", "-t", 2)
    assert done.returncode == 0
    assert done.stdout == want(folder)
    assert b"the reference has 1 sequences, 0.3 Mb" in done.stderr
    assert b"mapped 200 reads" in done.stderr


def test_standard_input_several_files_and_a_file_to_write(folder, tmp_path):
    with (folder / "reads.fa").open("rb") as stdin:
        assert call("map", folder / "ref.idx", "-", stdin=stdin).stdout == want(folder)
    out = tmp_path / "out.paf"
    done = call("map", folder / "ref.idx", folder / "reads.fa", folder / "reads.fa", "-o", out)
    assert (done.returncode, done.stdout) == (0, b"")
    assert out.read_bytes() == want(folder) * 2


def said(done, code=1):
    """The one line that a failure says, after what was said of progress."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert [line for line in lines if line.startswith("workbench: ")] == lines[-1:]
    assert "Traceback" not in done.stderr.decode()
    return lines[-1]


def test_a_full_disk(folder):
    with open("/dev/full", "wb") as full:
        line = said(call("map", folder / "ref.idx", folder / "reads.fa", stdout=full))
    assert "stdout: No space left on device; the output is not complete" in line
    line = said(call("map", folder / "ref.idx", folder / "reads.fa", "-o", "/dev/full"))
    assert "/dev/full: No space left on device; the output is not complete" in line


def test_a_reader_that_goes_away(folder):
    with subprocess.Popen(command("map", folder / "ref.idx", *[folder / "reads.fa"] * 20), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(60) == 1
    assert "stdout: whoever read it is gone; the output is not complete" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_faults_are_one_line(folder, tmp_path):
    bad = tmp_path / "bad.fa"
    bad.write_text(">a\nACGT\n>b\n!!\n")
    assert f"{bad}, record 2 (b): character" in said(call("map", folder / "ref.fa", bad))
    assert f"{bad}, record 2 (b): character" in said(call("index", bad, tmp_path / "x.idx"))
    assert not (tmp_path / "x.idx").exists()
    assert "none.fa: No such file" in said(call("map", folder / "none.fa", bad))
    assert "no preset 'x'" in said(call("map", folder / "ref.fa", bad, "-x", "x"))
    assert "needs k=19" in said(call("map", folder / "ref.idx", bad, "-x", "map-hifi"))
    assert "no mode 'x'" in said(call("map", folder / "ref.idx", bad, "--mode", "x"))
    assert "/none/x.idx: No such file" in said(call("index", folder / "ref.fa", "/none/x.idx"))


@pytest.mark.parametrize("out", ["reads.fa", "ref.fa", "ref.idx", "link.fa"])
def test_what_is_read_is_never_written_to(folder, tmp_path, out):
    for name in ("reads.fa", "ref.fa", "ref.idx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "link.fa").symlink_to(tmp_path / "reads.fa")
    before = (tmp_path / out).read_bytes()
    reference = tmp_path / ("ref.fa" if out == "ref.fa" else "ref.idx")
    line = said(call("map", reference, tmp_path / "reads.fa", "-o", tmp_path / out))
    assert f"{out}: is read from, so it cannot be written to" in line
    assert (tmp_path / out).read_bytes() == before
    if out == "ref.fa":
        assert "is read from" in said(call("index", tmp_path / out, tmp_path / out))
        assert (tmp_path / out).read_bytes() == before


def test_an_earlier_output_stays_until_there_is_a_new_one(folder, tmp_path):
    out = tmp_path / "out.paf"
    out.write_text("from before\n" * 100)
    for wrong in ([folder / "none.fa", folder / "reads.fa"], [folder / "ref.idx", folder / "none.fa"]):
        assert "none.fa: No such file" in said(call("map", *wrong, "-o", out))
        assert out.read_text().startswith("from before")
    assert "no mode 'x'" in said(call("map", folder / "ref.idx", folder / "reads.fa", "--mode", "x", "-o", out))
    assert "backend 'x'" in said(call("map", folder / "ref.idx", folder / "reads.fa", "--backend", "x", "-o", out))
    assert out.read_text().startswith("from before")
    assert call("map", folder / "ref.idx", folder / "reads.fa", "-o", out).returncode == 0
    assert out.read_bytes() == want(folder)


def test_every_backend_that_help_names_is_one(folder):
    text = " ".join(call("map", "--help").stdout.decode().split())
    named = re.search(r"--backend NAME (.*?) \[default", text)[1]
    known = {"auto", "scalar", "avx2", "avx512", "one_source"}
    assert known <= set(re.findall(r"\w+", named))
    for mode, able in (("exact_skip25", {"auto", "scalar"}), ("full", {"auto", *kernel.available(FULL)} & known)):
        for name in able:
            done = call("map", folder / "ref.idx", folder / "reads.fa", "--mode", mode, "--backend", name)
            assert (done.returncode, len(done.stdout) > 0) == (0, True), done.stderr


def test_ctrl_c_ends_it_in_one_line(folder):
    with subprocess.Popen(command("map", folder / "ref.idx", *[folder / "reads.fa"] * 500, "-t", "2"),
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stderr.readline().startswith("the reference has")
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait(20) == 130
    assert errors.splitlines()[-1] == "workbench: cancelled"
    assert "Traceback" not in errors


def test_progress_is_said_now_and_then(capsys):
    now = 0.0
    told = _Told("mapped", "reads", clock=lambda: now)
    for count in range(1, 101):
        now = count * 0.5
        told(count, count * 1000)
    told.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6  # every ten seconds of fifty, and at the end
    assert lines[-1].startswith("mapped 100 reads, 0.1 Mb in 50.0 s")
    few = _Told("mapped", "reads", clock=lambda: now)
    few(1, 1234)
    few.end()
    assert capsys.readouterr().err.startswith("mapped 1 reads, 1,234 bases in ")

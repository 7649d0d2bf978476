"""SIGTERM cancels what the command line runs, and nothing of the run is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workbench import records, sigterm

COMMAND = [str(Path(sys.executable).with_name("workbench"))]


def test_sigterm_cancels_the_run_and_frees_its_files(tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = subprocess.Popen(
        [*COMMAND, "run", "cake", "--preset", "tiny", "--link-mb-s", "0.05", "--policy", "load", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    try:
        until = time.monotonic() + 120
        while not list(temporary.glob("workbench-cake-*/*")):  # its store is being written
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < until, "no folder of a run came"
            time.sleep(0.02)
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        run.send_signal(signal.SIGTERM)  # who is in a hurry sends it twice
        out, err = run.communicate(timeout=10)
    finally:
        run.kill()
    assert run.returncode == 143, err
    assert out == ""
    assert err.splitlines()[-1] == "workbench: terminated"
    assert list(temporary.iterdir()) == []
    assert [r.state for r in records.history("cake")] == ["cancelled"]


def test_it_raises_once_and_is_deaf_after():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(sigterm.Terminated), sigterm.raises():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_was_there_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm.raises():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_must_not_be_swallowed_is_no_exception():
    assert not issubclass(sigterm.Terminated, Exception)


def test_another_thread_leaves_it_alone():
    seen = []

    def work():
        with sigterm.raises():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]

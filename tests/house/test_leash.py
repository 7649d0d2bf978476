"""A helper on a leash ends with its owner, whatever happens to that; without the leash it would not."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from endings import alive, wait_for

from workbench import leash

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
OWNER = """
import os, subprocess, sys, time
from workbench import leash
how, pid_file = sys.argv[1:]
helper = leash.start({command!r}, open(os.devnull, "wb")) if how != "no leash" else subprocess.Popen({command!r})
print(helper.pid, flush=True)
if how == "while it starts":
    os._exit(0)
time.sleep(60)
"""


def family(pid):
    try:
        return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def owner():
    started = []

    def start(how):
        command = [sys.executable, "-c", OWNER.format(command=SLEEP), how, ""]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_it_ends_with_an_owner_that_is_killed(owner):
    process, helper = owner("leash")
    assert wait_for(lambda: len(family(helper)) == 2)
    both = family(helper)
    process.kill()
    assert wait_for(lambda: not any(alive(pid) for pid in both))


def test_an_owner_that_ends_while_it_starts_leaves_nothing(owner):
    _, helper = owner("while it starts")
    assert wait_for(lambda: not alive(helper))


def test_without_a_leash_it_lives_on(owner):
    """The control."""
    process, helper = owner("no leash")
    process.kill()
    process.wait(10)
    time.sleep(1.0)
    assert alive(helper)
    os.kill(helper, signal.SIGKILL)


def test_it_ends_when_told(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        process = leash.start(SLEEP, log)
    assert wait_for(lambda: len(family(process.pid)) == 2)
    both = family(process.pid)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert wait_for(lambda: not any(alive(pid) for pid in both))


def test_it_passes_the_code_on(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        assert leash.start([sys.executable, "-c", "raise SystemExit(7)"], log).wait(10) == 7

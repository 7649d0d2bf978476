"""A child that talks: lines both ways, every way to die is named with its log, nothing of it is left."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from endings import alive, wait_for

from workbench import child as child_module
from workbench.child import Child, ChildDied

HEAD = """
import json, os, subprocess, sys, threading, time
from workbench.child import serve_lines
pipe = os.fdopen(int(sys.argv[1]), "w")
def say(**fields):
    print(json.dumps(fields), file=pipe, flush=True)
"""
ECHO = "serve_lines(0, lambda fields: say(back=fields))\ntime.sleep(60)"
GRANDCHILD = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], pass_fds=[pipe.fileno()])\n"


@pytest.fixture
def start(tmp_path):
    started = []

    def make(code):
        made = Child([sys.executable, "-c", HEAD + code], tmp_path, {"WORKBENCH_CHILD": "1"}, "toy")
        started.append(made)
        return made

    yield make
    for one in started:
        one.end()


def lines(child, count=1, seconds=20.0):
    found, deadline = [], time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += child.read(0.05)
    return found


def gone(pids, seconds=10.0):
    return wait_for(lambda: not any(map(alive, pids)), seconds)


def test_lines_go_both_ways(start):
    child = start(ECHO)
    asked = {"text": "ünïcode \ud800 \U0001f9ec\nline", "long": "x" * 200_000}
    child.send(asked)
    child.send({"n": 2})
    assert lines(child, 2) == [{"back": asked}, {"back": {"n": 2}}]
    assert child.read(0.01) == []  # nothing more came, and that is no error


def test_its_environment_and_place_for_temporary_files(start, tmp_path):
    child = start("say(mark=os.environ['WORKBENCH_CHILD'], tmp=os.environ['TMPDIR'])")
    assert lines(child) == [{"mark": "1", "tmp": str(tmp_path)}]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "print('the last word'); sys.exit(3)",
            r"toy process ended with code 3 at 'loading'. Its log ends: .*last word",
        ),
        ("raise RuntimeError('no weights')", r"code 1 .*no weights"),
        ("os.kill(os.getpid(), 9)", r"code -9 at 'loading'. It logged nothing"),
        ("pipe.close(); time.sleep(60)", "code unknown: it goes on without a word"),
        (GRANDCHILD + "sys.exit(4)", "code 4"),  # the pipe stays open in what it started
    ],
)
def test_how_it_ended_is_said(start, code, message):
    child = start(code)
    child.doing = "loading"
    with pytest.raises(ChildDied, match=message):
        lines(child)


def test_silence_is_named_and_counted_from_what_was_asked(start):
    child = start("say(up=True)\ntime.sleep(60)")
    lines(child)
    time.sleep(0.3)
    with pytest.raises(ChildDied, match="said nothing for 0 s at 'starting toy'"):
        child.check_silence(0.2)
    child.expect()
    child.check_silence(0.2)


def test_one_that_takes_no_input_is_named(start, monkeypatch):
    monkeypatch.setattr(child_module, "SEND_S", 0.3)
    child = start("say(up=True)\ntime.sleep(60)")
    lines(child)
    began = time.monotonic()
    with pytest.raises(ChildDied, match="took no input"):
        child.send({"long": "x" * 1_000_000})
    assert time.monotonic() - began < 5


def test_a_dead_one_is_named_by_the_read_not_by_the_send(start):
    child = start("sys.exit(5)")
    child.process.wait(20)
    child.send({"n": 1})
    with pytest.raises(ChildDied, match="code 5"):
        lines(child)


SERVE = """
from workbench import child
def go(first, others, say):
    say({"first": first, "then": others.get()})
    raise ValueError("enough")
"""


def test_serve_answers_and_says_what_was_raised(start):
    child = start(SERVE + "child.serve(go)")
    child.send({"n": 1})
    child.send({"n": 2})
    assert lines(child, 2) == [{"first": {"n": 1}, "then": {"n": 2}}, {"is": "error", "text": "ValueError: enough"}]
    with pytest.raises(ChildDied, match=r"code 1 .*ValueError: enough"):
        lines(child)


def test_serve_names_settings_that_do_not_come(start):
    child = start(SERVE + "child.FIRST_S = 0.2\nchild.serve(go)")
    assert lines(child) == [{"is": "error", "text": "TimeoutError: no settings came within 0 s"}]


def test_end_leaves_nothing_and_twice_is_no_error(start):
    child = start(GRANDCHILD + "say(up=True)\ntime.sleep(60)")
    lines(child)
    pids = [child.process.pid, *(p.pid for p in psutil.Process(child.process.pid).children(recursive=True))]
    assert len(pids) == 2
    child.end()
    assert not any(map(alive, pids))
    child.end()


OWNER = """
import sys, time, tempfile, pathlib
from workbench.child import Child
child = Child([sys.executable, "-c", {code!r}], pathlib.Path(tempfile.mkdtemp(dir={folder!r})), {{}}, "toy")
while not (said := child.read(1.0)):
    pass
print(*said[0]["pids"], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("listens", [True, False])
def test_it_ends_with_an_owner_that_is_killed(tmp_path, listens):
    """Only one that listens does: the other is the control."""
    listen = "serve_lines(0, print)\n" if listens else ""
    code = HEAD + GRANDCHILD.replace("subprocess.Popen", "below = subprocess.Popen")
    code += listen + "say(pids=[os.getpid(), below.pid])\ntime.sleep(60)"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(code=code, folder=str(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 2
    owner.kill()
    owner.wait(10)
    try:
        assert gone(pids, 10.0 if listens else 1.0) == listens
    finally:
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)

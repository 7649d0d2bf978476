"""Reliability as one list: what befalls a session that no run foresees, each by real processes and real file systems.

* runs started and cancelled, 200 of them by WORKBENCH_SOAK, leave no thread, process, file or port: test_soak.py
* SIGKILL of a kernel in the middle of a run: here; at any moment, also while it writes: tests/house/test_records.py
* two kernels at once on one history: here
* a home that cannot be written: here, a read-only mount (a folder below a file where nothing may be mounted); in the
  dashboard: tests/panels/test_dashboard.py; on the command line: tests/house/test_cli.py
* a full disk: here, a small file system in memory (a limit on the size of files where nothing may be mounted); CAKE's
  store: tests/cake/test_store.py; a file of any kind: tests/house/test_aside.py
* no network: here, all seven systems, as two kernels that share one history; every connection beyond this machine is
  refused and told by each process of Python, and where namespaces may be made, there is none and Linux counts who asks

The kernels are fresh processes that run tiny presets; for their time mm2 has fewer reads than that and LTE fewer steps.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from endings import alive, wait_for

from workbench import records, runner
from workbench.system import NAMES

PATIENCE_S = 300.0  # of a kernel on a busy machine
pytestmark = pytest.mark.timeout(900)

KERNEL = """
import json, os, sys, time
from pathlib import Path
import workbench as wb
from workbench import records
SMALL = {"mm2": {"megabases": 0.05, "satellite_kbp": 0.0}, "lte": {"warm_steps": 3, "soft_steps": 4, "hard_steps": 3}}

def say(**said):
    print(json.dumps(said), flush=True)

def told(run, record):
    say(id=record and record.id, name=run.system.name, seed=run.config.seed, state=run.state, error=str(run.error),
        found=run.result and run.result.fingerprint(), unrecorded=run.unrecorded)

def ran(name, seed=0, **changes):
    run = wb.start(name, preset="tiny", seed=seed, **SMALL.get(name, {}), **changes).wait(250)
    told(run, run.record)
    return run
"""

OFFLINE = """
import os, socket, sys

def beyond(host):
    host = host.decode() if isinstance(host, bytes) else host
    return isinstance(host, str) and host not in ("", "localhost", "::1") and not host.startswith("127.")

def watch(event, args):
    if event not in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"):
        return
    host = args[0] if event == "socket.getaddrinfo" else args[1]
    host = host[0] if isinstance(host, tuple) else host if event == "socket.getaddrinfo" else None
    if beyond(host):
        with open(os.environ["ASKED"], "a") as asked:
            asked.write(f"{event} {host} by {sys.argv}\\n")
        raise OSError(101, "Network is unreachable")

sys.addaudithook(watch)
"""
LOOPBACK = """
import fcntl, socket, struct
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS: up
"""
ASK = """
import ctypes, socket, struct

def unrouted():  # packets and connections that had no way out of this network namespace
    pairs = Path("/proc/net/snmp").read_text().splitlines()
    found = [dict(zip(a.split(), b.split())) for a, b in zip(pairs[::2], pairs[1::2])]
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(next(f for f in found if "OutNoRoutes" in f)["OutNoRoutes"]) + int(six.get("Ip6OutNoRoutes", 0))

def ask():  # 192.0.2.1 is no one's: once as Python does it, once as a library would
    try:
        socket.create_connection(("192.0.2.1", 9), 1)
    except OSError as error:
        say(refused=error.strerror)
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 9, socket.inet_aton("192.0.2.1"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        ctypes.CDLL(None).connect(one.fileno(), address, len(address))
"""
COUNT = """
say(unrouted=unrouted())
ask()
say(unrouted=unrouted())
"""


def apart(*flags, prove):
    """The command before one that runs in namespaces of its own, [] where the `prove` command fails in them."""
    if shutil.which("unshare"):
        for user in ([], ["--map-root-user"]):
            command = ["unshare", *user, *flags]
            if subprocess.run([*command, *prove], capture_output=True, timeout=60).returncode == 0:
                return command
    return []


def mounted(script, folder):
    """The command before one that runs where `script` has mounted something at `folder`, its $0; [] if that fails."""
    inside = ["sh", "-ec", f'{script}; exec "$@"', str(folder)]
    found = apart("--mount", prove=[*inside, "true"])
    return [*found, *inside] if found else []


class Kernel:
    """A process that runs `code` after KERNEL; what it says are lines of JSON."""

    def __init__(self, code, before=(), **environment):
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", KERNEL + code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={name: str(value) for name, value in (os.environ | environment).items() if value is not None},
        )  # fmt: skip

    def line(self):
        return json.loads(self.process.stdout.readline() or self.fail())

    def fail(self):
        raise AssertionError(f"the kernel ended: {self.process.communicate(timeout=60)[1][-3000:]}")

    def rest(self):
        """What it says until its end, and what stands on its stderr."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, err[-3000:]
        return [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def kernel():
    started = []

    def start(code, **environment):
        started.append(Kernel(code, **environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate(timeout=60)


def lost(told):
    """What is wrong with the history in which all these runs should be: lost, damaged, or not what was told of it."""
    there = records.history()
    by_id, wrong = {record.id: record for record in there}, list(there.skipped)
    for run in told:
        record = by_id.get(run["id"])
        if record is None:
            wrong.append(f"{run['id']} is not there")
            continue
        try:
            found = record.result()
            if (record.system, found.config.seed, found.fingerprint()) != (run["name"], run["seed"], run["found"]):
                wrong.append(f"{run['id']} is another run's")
            if record.config() != found.config or not record.events() or record.frame().empty:
                wrong.append(f"{run['id']} is not whole")
            record.headline()
        except ValueError as error:
            wrong.append(str(error))
    return wrong


KILLED = """
import psutil, subprocess
ran("rlboost", 1)
ran("rlboost", 2)
loose = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
run = wb.start("foundry", preset="tiny", reuse=False)
while not (held := [p.pid for p in psutil.Process().children(True) if "workbench.foundry.child" in p.cmdline()]):
    time.sleep(0.01)
say(held=held, loose=loose.pid)
run.wait(250)
say(over=True)
"""


def test_a_killed_kernel_loses_no_finished_run_and_leaves_no_process(kernel):
    one = kernel(KILLED)
    finished, ours = [one.line(), one.line()], one.line()
    assert all(map(alive, ours["held"]))
    one.process.send_signal(signal.SIGKILL)
    out, _ = one.process.communicate(timeout=60)
    assert (out, one.process.returncode) == ("", -signal.SIGKILL)  # in the middle of the run
    assert wait_for(lambda: not any(map(alive, ours["held"])))
    assert alive(ours["loose"])  # the control: nobody ended what was on no leash
    os.kill(ours["loose"], signal.SIGKILL)
    assert lost(finished) == []
    after = runner.start("rlboost", preset="tiny", seed=3).wait(PATIENCE_S)
    assert [r.id for r in records.history()] == [after.record.id, finished[1]["id"], finished[0]["id"]]
    assert records.history()[0].result() == after.result


TOGETHER = """
sys.stdin.readline()
run = ran("rlboost", SEED)
for _ in range(12):  # both write, and neither waits
    told(run, records.save(run, "done", time.time()))
for name in SYSTEMS:
    ran(name, SEED)
"""
SHARES = (("hetermoe", "mm2"), ("foundry", "cake", "plato", "lte"))  # beside rlboost, in both; one imports no torch
WRITTEN = 2 * 13 + sum(map(len, SHARES))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Two kernels on one history, without a network: its place, what they told, and each connection that was asked for.

    `cut` is whether they had network namespaces. HF_HUB_OFFLINE, which all other tests have, is not set.
    """
    folder = tmp_path_factory.mktemp("together")
    (folder / "sitecustomize.py").write_text(OFFLINE)
    cut = apart("--net", prove=[sys.executable, "-c", LOOPBACK])
    kernels = [
        Kernel(
            (LOOPBACK if cut else "") + ASK + f"SEED, SYSTEMS = {seed}, {systems}" + TOGETHER + COUNT,
            before=cut, WORKBENCH_HOME=folder / "home", ASKED=folder / "asked", PYTHONPATH=folder, HF_HUB_OFFLINE=None,
        )
        for seed, systems in enumerate(SHARES)
    ]  # fmt: skip
    try:
        for one in kernels:
            one.process.stdin.write("go\n")
            one.process.stdin.flush()
        said = [line for one in kernels for line in one.rest()[0]]
    finally:
        for one in kernels:
            one.process.kill()
    return {"home": folder / "home", "said": said, "asked": (folder / "asked").read_text().splitlines(), "cut": cut}


def test_two_kernels_write_one_history(together, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(together["home"]))
    told = [line for line in together["said"] if "id" in line]
    assert [line for line in told if line["state"] != "done"] == []
    assert len({line["id"] for line in told}) == len(told) == WRITTEN
    assert lost(told) == []
    assert len(records.history()) == WRITTEN
    assert len({line["found"] for line in told if line["name"] == "rlboost"}) == 2  # one a seed


def test_all_systems_run_without_a_network(together):
    assert {line["name"] for line in together["said"] if line.get("state") == "done"} == set(NAMES)
    control, others = [
        [line for line in together["asked"] if ("192.0.2.1" in line) is is_it] for is_it in (True, False)
    ]
    assert others == []
    assert len(control) == len(SHARES)  # what Python asks for is seen and refused
    assert [line["refused"] for line in together["said"] if "refused" in line] == ["Network is unreachable"] * 2
    if together["cut"]:
        counts = [line["unrouted"] for line in together["said"] if "unrouted" in line]
        assert counts == [0, 1] * len(SHARES)  # nothing asked; then the control's, which Python does not know of


def test_what_is_lost_or_mixed_would_be_seen(together, tmp_path, monkeypatch):
    """The control of `lost`."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    told = [line for line in together["said"] if line.get("name") == "rlboost"]
    one, other = (next(line for line in told if line["seed"] == seed) for seed in (0, 1))
    for run in (one, other):
        shutil.copytree(together["home"] / "runs" / "rlboost" / run["id"], records.home() / "rlboost" / run["id"])
    assert lost([one, other]) == []
    mine, theirs = (records.home() / "rlboost" / run["id"] / "result.json" for run in (one, other))
    kept = mine.read_bytes()
    mine.write_bytes(theirs.read_bytes())
    assert lost([one, other]) == [f"{one['id']} is another run's", f"{one['id']} is not whole"]
    mine.write_bytes(kept[: len(kept) // 2])
    assert "not a rlboost result" in lost([one, other])[0]
    shutil.rmtree(mine.parent)
    assert lost([one, other]) == [f"{one['id']} is not there"]


READ_ONLY = """
import psutil
from workbench.system import Note
try:
    (Path.home() / "x").touch()
except OSError as error:
    say(refused=error.strerror)
result = wb.run("rlboost", preset="tiny")
say(sentence=result.sentence(), kept=len(wb.history()), skipped=wb.history().skipped)
run = wb.start("foundry", preset="tiny")  # it keeps archives from run to run, and what torch compiles
while not (children := psutil.Process().children(True)) and run.state in ("ready", "running"):
    time.sleep(0.01)
run.cancel()
run.wait(60)
say(said=[e.text for _, e in run.events if isinstance(e, Note)], captures=bool(children), error=str(run.error))
"""


def test_a_home_that_is_read_only_costs_no_result(kernel, tmp_path):
    before = mounted('mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"', tmp_path)
    (tmp_path / "file").touch()
    home = tmp_path if before else tmp_path / "file"
    gone = dict.fromkeys(("WORKBENCH_HOME", "WORKBENCH_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"))
    said, err = kernel(READ_ONLY, before=before, HOME=home, **gone).rest()
    cause = "Read-only file system" if before else "Not a directory"
    assert said[0] == {"refused": cause}
    assert said[1]["sentence"].endswith(".")
    assert (said[1]["kept"], said[1]["skipped"]) == (0, [])
    assert f"RuntimeWarning: not recorded: {home}" in err
    assert f" cannot be written: {cause}; {records.WAY_OUT}" in err
    assert said[2]["captures"], said[2]["error"]
    assert cause in said[2]["said"][0]
    assert "set WORKBENCH_CACHE" in said[2]["said"][0]


FULL = """
import resource, shutil
HOME, DISK = Path(os.environ["WORKBENCH_HOME"]), os.environ["DISK"] == "own"

def leave(size):  # so many bytes can be written from now on: on this disk, or to each file; None for no end
    if not DISK:
        most = resource.RLIM_INFINITY if size is None else size
        return resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    (HOME / "fill").unlink(missing_ok=True)
    if size is not None:
        with open(HOME / "fill", "wb", 0) as fill:
            try:
                while True:
                    fill.write(bytes(4096))
            except OSError:
                fill.truncate(fill.tell() - -(-size // 4096) * 4096)

run = ran("rlboost", 1)
size = sum(file.stat().st_size for file in run.record.path.iterdir())
for tenth in range(13):
    leave(size * tenth // 10)
    try:
        told(run, records.save(run, "done", time.time()))
    except OSError as error:
        say(refused=error.strerror)
leave(0)
say(sentence=wb.run("rlboost", preset="tiny").sentence())
leave(None)
ran("rlboost", 2)
shutil.copytree(HOME / "runs", os.environ["OUT"])
"""


def test_a_full_disk_costs_no_result_and_damages_no_record(kernel, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    before = mounted('mount -t tmpfs -o size=16m none "$0"', tmp_path / "disk")
    where = {"WORKBENCH_HOME": tmp_path / "disk", "OUT": tmp_path / "out" / "runs", "DISK": "own" if before else "not"}
    said, err = kernel(FULL, before=before, **where).rest()
    refused = [line["refused"] for line in said if "refused" in line]
    kept = [line for line in said if "id" in line]
    assert len(refused) >= 5
    assert len(kept) >= 3  # where there is room it is kept: before, with just enough, and after
    cause = "No space left on device" if before else "File too large"
    assert [line for line in refused if cause not in line or records.WAY_OUT not in line] == []
    assert [line["sentence"][-1] for line in said if "sentence" in line] == ["."]
    assert f"RuntimeWarning: not recorded: {tmp_path}" in err
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "out"))
    assert lost(kept) == []
    assert sorted(path.name for path in (tmp_path / "out" / "runs" / "rlboost").iterdir()) == sorted(
        line["id"] for line in kept
    )

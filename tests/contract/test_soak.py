"""Runs over all systems, each cancelled at some moment, in one process: nothing of them is left.

Seventy in every run of the tests; WORKBENCH_SOAK=200 does more, in two minutes.
"""

import gc
import os
import random
from collections import Counter

import contract_checks as checks
import psutil
import pytest

from workbench import records
from workbench.system import NAMES, system

CYCLES, SEED = int(os.environ.get("WORKBENCH_SOAK", "70")), 7
LATEST = 12  # events after which it may be cancelled: most of what can be held is held by then
PATIENCE_S = 30.0  # a run that is cancelled while torch is imported ends after that
GROWN_MB = 300.0  # of memory since the first round: caches fill, leaks grow with the runs


def held():
    """What a process keeps of the system: open files and sockets, ports that it listens on, memory in MB."""
    me = psutil.Process()
    ports = {c.laddr.port for c in me.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
    return me.num_fds(), ports, me.memory_info().rss / 1e6


@pytest.mark.timeout(900)
def test_cancelled_runs_leave_nothing():
    draw = random.Random(SEED)
    order = [NAMES[at % len(NAMES)] for at in range(CYCLES)]
    before, took = None, Counter()
    for at, name in enumerate(order):
        if at == 2 * len(NAMES):  # imports, pools and caches of a process are there now
            before = held()
            gc.freeze()  # what is there stays: each run's own is what is looked through
        seconds, left = checks._cancelled(system(name), draw.randrange(LATEST), PATIENCE_S)
        took[name] = max(took[name], seconds)
        assert not left, f"run {at}, {name}: {left}"
    gc.unfreeze()
    files, ports, mb = held()
    assert files <= before[0] + 3, f"{files - before[0]} more open files after {CYCLES} runs"
    assert ports == before[1]
    assert mb - before[2] < GROWN_MB, f"{mb - before[2]:.0f} MB more after {CYCLES} runs"
    assert max(took.values()) < 30.0, took  # a hang, not a slow machine
    states = Counter(record.state for record in records.history())
    assert states["cancelled"] + states["done"] == CYCLES  # each is in the history

"""Beyond a limit a kernel drops what its reader is late for; once a panel is made it keeps it."""

import contextlib
import queue

import pytest
from jupyter_client.manager import start_new_kernel

from workbench.ui.iopub import keep_all

SENT = 10_000  # of 4 kB: far beyond 1,000 at either end and what TCP holds between them
FLOOD = f"""\
kernel = get_ipython().kernel
for at in range({SENT}):
    kernel.session.send(kernel.iopub_socket, "comm_msg", {{"at": at, "pad": "x" * 4000}})"""
PANEL = "from workbench.ui.panel import Panel; from workbench.system import system; panel = Panel(system('mm2'))"


@pytest.fixture
def client():
    manager, client = start_new_kernel(startup_timeout=120)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def answered(client, code):
    """Run code and wait for its reply, and read no other channel."""
    asked = client.execute(code)
    while (reply := client.get_shell_msg(timeout=120))["parent_header"]["msg_id"] != asked:
        pass  # a late answer to "are you there"
    assert reply["content"]["status"] == "ok", reply["content"]


def drained(client, quiet_s):
    """How many messages of the flood arrive until all have, or none does for `quiet_s`."""
    found = 0
    with contextlib.suppress(queue.Empty):
        while found < SENT:
            message = client.get_iopub_msg(timeout=quiet_s)
            found += message["msg_type"] == "comm_msg" and "pad" in message["content"]
    return found


def test_late_reader(client):
    """The control first: as the kernel starts, it loses some."""
    answered(client, FLOOD)
    assert drained(client, 5) < SENT
    answered(client, PANEL)
    answered(client, FLOOD)
    assert drained(client, 60) == SENT


def test_no_kernel():
    keep_all()

"""A kernel whose reader is late drops messages beyond ZeroMQ's limit; once a panel is made it keeps them."""

import time

import pytest
from jupyter_client.manager import start_new_kernel

from workbench.ui.iopub import keep_all

SENT = 10_000  # of 4 kB: far beyond 1,000 at either end and what TCP holds between them
FLOOD = f"""\
kernel = get_ipython().kernel
for at in range({SENT}):
    kernel.session.send(kernel.iopub_socket, "comm_msg", {{"at": at, "pad": "x" * 4000}})
done = True"""
PANEL = "from workbench.ui.panel import Panel; from workbench.system import system; panel = Panel(system('mm2'))"


@pytest.fixture
def client():
    manager, client = start_new_kernel(startup_timeout=120)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def answered(client, code):
    """Run code and wait for its reply, and read nothing else."""
    asked = client.execute(code)
    reply = client.get_shell_msg(timeout=120)
    assert reply["parent_header"]["msg_id"] == asked
    assert reply["content"]["status"] == "ok", reply["content"]
    return asked


def drained(client):
    """How many messages of the flood arrive."""
    found, until = 0, time.monotonic() + 120
    asked = None
    while time.monotonic() < until:
        if asked is None and not client.iopub_channel.socket.poll(2000):
            asked = answered(client, "0")  # all that was kept is read: what comes now is the end
        message = client.get_iopub_msg(timeout=60)
        found += message["msg_type"] == "comm_msg" and "pad" in message["content"]
        idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
        if asked is not None and idle and message["parent_header"]["msg_id"] == asked:
            return found
    pytest.fail(f"the kernel's messages did not end within 120 s; {found} of the flood came")


@pytest.mark.parametrize("panel", [True, False], ids=["panel", "control"])
def test_late_reader(client, panel):
    if panel:
        answered(client, PANEL)
    answered(client, FLOOD)
    arrived = drained(client)
    assert arrived == SENT if panel else arrived < SENT


def test_no_kernel():
    keep_all()

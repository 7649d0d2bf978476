"""What the kernel tells the page arrives, all of it, though the server between them is slow for a while.

A panel is some 700 models of widgets, each a message on the kernel's IOPub socket. ZeroMQ keeps 1,000 of them for a
reader that is late and drops the rest (ZMQ_SNDHWM, zmq_setsockopt(3)); where several panels were opened at once on a
busy machine, that cost a panel its model, and its cell said "Error displaying widget: model not found".
"""

from __future__ import annotations

from typing import Any

import zmq
from IPython import get_ipython

KEPT = 100_000  # messages for a late reader; a panel has up to a thousand, a long run's events some ten thousand


def keep_all() -> None:
    """Have the kernel of this process keep up to KEPT messages for its reader. Nothing is done where there is none."""
    thread: Any = getattr(getattr(get_ipython(), "kernel", None), "iopub_thread", None)
    if thread is not None and isinstance(thread.socket, zmq.Socket) and not thread.socket.closed:
        # a socket is its thread's alone; the limit holds for readers that are connected already, too
        thread.schedule(lambda: thread.socket.setsockopt(zmq.SNDHWM, KEPT))

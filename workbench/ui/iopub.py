"""What the kernel tells the page arrives, all of it, though the server between them is slow for a while.

A panel is some 700 models of widgets, each a message on the kernel's IOPub socket. ZeroMQ keeps 1,000 of them for a
reader that is late and drops the rest (ZMQ_SNDHWM, zmq_setsockopt(3)); where several panels were opened at once on a
busy machine, that cost a panel its model, and its cell said "Error displaying widget: model not found".
"""

from __future__ import annotations

import sys

KEPT = 100_000  # messages for a reader that is late; a panel has a thousand, a long run's events some ten thousand


def keep_all() -> None:
    """Have the kernel of this process keep up to KEPT messages for its reader. Nothing is done where there is none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    thread = getattr(getattr(shell, "kernel", None), "iopub_thread", None)
    if thread is None:
        return
    import zmq

    socket = thread.socket
    if isinstance(socket, zmq.Socket) and not socket.closed:
        # a socket is its thread's alone; the limit holds for readers that are connected already, too
        thread.schedule(lambda: socket.setsockopt(zmq.SNDHWM, KEPT))

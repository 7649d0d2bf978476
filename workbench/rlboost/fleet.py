"""Machines that come and go, for real: Ray nodes on this machine, or a Ray cluster that is already there.

    with Fleet() as fleet:                       a cluster of its own: a head and, per spot instance, a raylet
        fleet.add("spot-1")
        fleet.drain("spot-1", 30); fleet.kill("spot-1")      the notice, and the end (SIGKILL of the raylet)
    Fleet(address="auto")                        a cluster of yours, whose nodes come and go by themselves

What is started here is stopped here: `close`, the end of the block, or the end of the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import socket
import threading
import time
from typing import Any, Self

START_S = 120.0  # for a raylet on a busy machine
LOOK_S = 5.0  # for Ray's answer to who is draining
STORE_BYTES = 80_000_000  # of shared memory per node
QUIET = {"include_dashboard": False, "include_log_monitor": False}  # helpers of Ray that nobody looks at here
AGENT = "--dashboard_agent_command="
ANSWER_S = 5.0  # until a cluster's address answers
SPOT = "spot"  # the resource that an instance has one of: its engine


class FleetError(RuntimeError):
    """Ray or a node did not start, or a node is not there; the message says which and what to try."""


class Fleet:
    """Nodes by name. Local unless `address` names a cluster; only local nodes can be added and killed from here."""

    def __init__(self, address: str | None = None) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # of a cluster of one's own, on this machine alone
        os.environ.setdefault("RAY_raylet_start_wait_time_s", str(int(START_S)))
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about GPUs
        os.environ.setdefault("RAY_worker_niceness", "0")  # engines are the work here: at Ray's 15 they starve
        self.cluster: Any = None
        self._gcs: Any = None
        self.nodes: dict[str, Any] = {}
        self.killed: set[str] = set()
        self._others = _of_ray()
        self._start(address)
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, address: str | None) -> None:
        import ray

        if address is not None:
            _answers(address)
        if ray.is_initialized():
            raise FleetError("this process is in a Ray cluster already: ray.shutdown() first")
        last: Exception | None = None
        for _ in range(2):  # one retry: a busy machine now and then is too slow for a raylet
            try:
                if address is None:
                    self._own()
                else:
                    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
                return
            except Exception as error:  # noqa: BLE001  Ray raises a bare Exception for a raylet that is late
                last = error
                self._stop()
        way = (
            "is it running? `ray status` tells" if address else "see /tmp/ray/session_latest/logs; `ray stop` cleans up"
        )
        raise FleetError(f"Ray did not start, twice ({type(last).__name__}: {last}); {way}") from last

    def _own(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        _signals_need_no_main_thread()
        _deaths_are_told_elsewhere()
        _agents_may_be_late()
        head = {
            "num_cpus": 2,
            "num_gpus": 0,
            "object_store_memory": STORE_BYTES,
            "no_monitor": True,
            **QUIET,
            **_ports(),
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def add(self, name: str) -> None:
        """One more spot node. FleetError: the name is taken, the cluster is not ours, or the raylet did not start."""
        if self.cluster is None:
            raise FleetError("nodes of a cluster that was started elsewhere come from there, not from here")
        if name in self.nodes:
            raise FleetError(f"a node called {name} is there already")
        last: Exception | None = None
        for _ in range(2):  # a busy machine now and then is too slow for a raylet
            before = set(self.cluster.worker_nodes)
            try:
                self.nodes[name] = self.cluster.add_node(
                    wait=True,
                    num_cpus=1,
                    num_gpus=0,
                    resources={SPOT: 1, name: 1},
                    object_store_memory=STORE_BYTES,
                    **QUIET,
                    **_ports(),
                )
                return
            except Exception as error:  # noqa: BLE001  Ray raises a bare Exception for a raylet that is late
                last = error
                for late in set(self.cluster.worker_nodes) - before:  # or two nodes would go by one name
                    with contextlib.suppress(Exception):
                        self.cluster.remove_node(late, allow_graceful=False)
        raise FleetError(f"no raylet for {name}, twice: {last}; is the machine out of memory or processes?") from last

    def node_id(self, name: str) -> str:
        """Ray's hexadecimal id."""
        return str(self._node(name).node_id)

    def kill(self, name: str) -> None:
        """The node vanishes: raylet and everything on it, by SIGKILL."""
        self.cluster.remove_node(self._node(name), allow_graceful=False)
        del self.nodes[name]
        self.killed.add(name)

    def fallen(self) -> list[str]:
        """Nodes started here whose raylet has ended by itself: Ray takes 15 s to miss them, and leaves them to us."""
        return [n for n, node in self.nodes.items() if any(kind == "raylet" for kind, _ in node.dead_processes())]

    def drain(self, name: str, notice_s: float) -> None:
        """Say to Ray that the node will be preempted in notice_s: no new actors go there, running ones go on."""
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of the compiled part
        from ray.core.generated import autoscaler_pb2

        client = GcsClient(address=ray.get_runtime_context().gcs_address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + notice_s) * 1000)
        accepted, why = client.drain_node(self.node_id(name), reason, "preemption notice", deadline_ms)
        if not accepted:
            raise FleetError(f"Ray refused to drain {name}: {why}")

    def draining(self) -> set[str]:
        """Ids of nodes that Ray knows to be about to go: where a cloud's notice, or `drain`, has reached it."""
        import ray
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of the compiled part

        if self._gcs is None:
            self._gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
        try:
            found = self._gcs.get_draining_nodes(timeout=LOOK_S)
        except Exception:  # noqa: BLE001  Ray was busy: the next look tells, and a node that goes is noticed anyway
            return set()
        return {one if isinstance(one, str) else one.hex() for one in found}

    def actor(self, kind: type, name: str | None, *args: Any, concurrency: int = 8) -> Any:
        """An actor of this class: on the named node, or (None) beside the driver. It is not restarted."""
        import ray

        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": concurrency}
        if name is not None:
            options["resources"] = {SPOT: 1} if self.cluster is None else {SPOT: 1, name: 1}
        else:  # without a word Ray may put it on a spot node, and it vanishes with that
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        return ray.remote(kind).options(**options).remote(*args)

    def _node(self, name: str) -> Any:
        if name not in self.nodes:
            there = ", ".join(self.nodes) or "none"
            raise FleetError(f"no node is called {name}; there are {there}")
        return self.nodes[name]

    def close(self) -> None:
        """Stop what was started here. May be called again."""
        atexit.unregister(self.close)
        self._stop()

    def _stop(self) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.shutdown()
        if self.cluster is not None:
            with contextlib.suppress(Exception):
                self.cluster.shutdown()
        self.cluster, self.nodes, self._gcs = None, {}, None
        _end(_of_ray() - self._others)


def _answers(address: str) -> None:
    """FleetError where nobody listens at host:port: Ray itself would try for minutes. Other addresses are Ray's."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise FleetError(
            f"nothing answers at {address} ({error}): is the cluster up, and this its address? `ray status` there tells"
        ) from None


def _ports() -> dict[str, int]:
    """Ports of a node's helpers. A raylet that has to learn them dies of waiting (15 s) on a busy machine."""
    names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port", "metrics_export_port")
    with contextlib.ExitStack() as open_:
        sockets = [open_.enter_context(socket.socket()) for _ in names]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}


def _signals_need_no_main_thread() -> None:
    """Ray handles SIGTERM for each node that it starts, which Python allows on the main thread alone: elsewhere it is
    left out. Its reaper and our own `close` end the nodes all the same.
    """
    from ray._private import utils

    plain = utils.set_sigterm_handler
    if getattr(plain, "of_fleet", False):
        return

    def only_on_main(handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            plain(handler)

    only_on_main.of_fleet = True  # type: ignore[attr-defined]
    utils.set_sigterm_handler = only_on_main


def _agents_may_be_late() -> None:
    """A raylet is told the port that its dashboard agent listens on, which Ray tells the agent alone: else it waits for
    the agent to start, and dies after 15 s, which a busy machine takes. The agent leaves out what nobody asks it here.
    """
    from ray._private import services

    plain = services.start_ray_process
    if getattr(plain, "of_fleet", False):
        return

    def told(command: list[str], process_type: str, *given: Any, **named: Any) -> Any:
        agent = next((at for at, word in enumerate(command) if word.startswith(AGENT)), None)
        port = None if agent is None else re.search(r"--listen-port=(\d+)", command[agent])
        if agent is not None and port is not None:
            command = [*command, f"--dashboard_agent_listen_port={port[1]}"]
            command[agent] += "" if "--minimal" in command[agent] else " --minimal"
        return plain(command, process_type, *given, **named)

    told.of_fleet = True  # type: ignore[attr-defined]
    services.start_ray_process = told


def _deaths_are_told_elsewhere() -> None:
    """Ray prints pages of a raylet's log when it is killed, as it is here on purpose: the run's own events say it."""
    from ray._private import worker

    plain = worker.print_to_stdstream
    if getattr(plain, "of_fleet", False):
        return

    def without_raylets(data: dict[str, Any], ignore_prefix: bool) -> None:
        if data.get("pid") != "raylet":
            plain(data, ignore_prefix)

    without_raylets.of_fleet = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = without_raylets


def _of_ray() -> set[Any]:
    """Processes of Ray that descend from this one."""
    import psutil

    found = set()
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("/ray/" in part or part.startswith("ray::") for part in each.cmdline()):
                found.add(each)
    return found


def _end(processes: set[Any]) -> None:
    """A start that failed leaves half a cluster behind: end it."""
    import psutil

    for each in processes:
        with contextlib.suppress(psutil.Error):
            each.kill()
    psutil.wait_procs(processes, timeout=10)

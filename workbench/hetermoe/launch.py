"""Start the ranks of a job on this machine and watch them: whoever dies, fails or hangs ends the run, by name.

    python -m workbench.hetermoe.launch FD < job.json       JSON lines on FD; train.py starts it

This process imports torch once and forks the ranks, so that seven start as fast as one. They meet at a file, or at a
port where one is asked for. Lines: {"is": "up"}, {"is": "step", "rank", ...} from each rank, {"is": "beat"}, at last
{"is": "done"} or {"is": "failed", "kind", "text"}. When its stdin closes, when it is told to end, or when it is killed,
the ranks end too.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Say = Callable[[dict[str, Any]], None]
# of every process that computes
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
GRACE_S = 2.0  # who lost a partner may say so before the partner's death is seen
BEAT_S = 1.0
LOOK_S = 0.05
MARGIN_S = 30.0  # beyond a collective's own timeout, for a rank that computes
_PIECE = 1 << 20


class RankFailed(RuntimeError):
    """A process of the run died, failed or fell silent; the message names it and its step."""


class PortTaken(RuntimeError):
    """The port that was asked for is another program's."""


@dataclass
class Forked:
    """A rank's process. doing: what it did last, in words."""

    rank: int
    pid: int
    pipe: int
    role: str = ""
    doing: str = "starting"
    heard_s: float = field(default_factory=time.monotonic)
    kept: bytes = b""
    done: bool = False

    @property
    def name(self) -> str:
        """For errors."""
        return f"rank {self.rank}" + (f" ({self.role})" if self.role else "")


def fork_ranks(roles: Sequence[str], body: Callable[[int, Say], None]) -> list[Forked]:
    """A process for each role, forked from this one, which must have no threads and have run nothing of torch yet.

    `body(rank, say)` runs in it; its end and its errors are told by themselves. When this process is gone they end.
    """
    assert threading.active_count() == 1, "a process is forked before there are threads in it"
    life, hold = os.pipe()
    ranks: list[Forked] = []
    for rank, role in enumerate(roles):
        ours, theirs = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(hold)
            os.close(ours)
            for other in ranks:
                os.close(other.pipe)
            _be(rank, body, theirs, life)
        os.close(theirs)
        os.set_blocking(ours, False)
        ranks += [Forked(rank, pid, ours, role)]
    os.close(life)
    return ranks


def _be(rank: int, body: Callable[[int, Say], None], pipe: int, life: int) -> None:
    """A rank's life; it does not return."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

        def outlive() -> None:
            os.read(life, 1)
            os._exit(1)

        threading.Thread(target=outlive, daemon=True).start()

        def say(told: dict[str, Any]) -> None:
            left = memoryview((json.dumps(told) + "\n").encode())
            while left:
                left = left[os.write(pipe, left) :]

        try:
            body(rank, say)
            say({"is": "done"})
            code = 0
        except BaseException as error:
            traceback.print_exc()  # before the end below
            say({"is": "error", "kind": type(error).__name__, "text": str(error)})
            raise
    finally:
        os._exit(code)  # gloo's threads are not worth waiting for


def watch(ranks: Sequence[Forked], timeout_s: float, stdin: int | None = None) -> Iterator[dict[str, Any]]:
    """What the ranks say, with "rank", until all are done; {"is": "beat"} now and then.

    RankFailed names who failed first, and is an error's own kind in `kind`. All are ended then and at the end.
    """
    try:
        beat = time.monotonic()
        while not all(r.done for r in ranks):
            for rank, told in _heard(ranks, stdin):
                if told["is"] == "error":
                    raise _failed(ranks, rank, told)
                if told["is"] != "done":
                    yield {"rank": rank.rank, **told}
            _check_silence(ranks, timeout_s)
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                yield {"is": "beat"}
    finally:
        end(ranks)


def end(ranks: Sequence[Forked]) -> None:
    """Kill what is left of them; none is when this returns."""
    for rank in ranks:
        if rank.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.pid, signal.SIGKILL)
    for rank in ranks:
        if rank.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(rank.pid, 0)
            os.close(rank.pipe)
            rank.pid = 0


def _heard(ranks: Sequence[Forked], stdin: int | None) -> list[tuple[Forked, dict[str, Any]]]:
    """Lines since the last call, waiting LOOK_S for the first. A pipe that ends before its rank is done is a death."""
    by_pipe = {r.pipe: r for r in ranks if not r.done}
    ready, _, _ = select.select([*by_pipe, *([] if stdin is None else [stdin])], [], [], LOOK_S)
    if stdin in ready and not os.read(stdin or 0, _PIECE):
        raise Closed
    found: list[tuple[Forked, dict[str, Any]]] = []
    for pipe in ready:
        if pipe == stdin:
            continue
        rank = by_pipe[pipe]
        part = os.read(pipe, _PIECE)
        if not part:
            raise _died(rank)
        rank.heard_s = time.monotonic()
        *lines, rank.kept = (rank.kept + part).split(b"\n")
        for line in lines:
            told = json.loads(line)
            rank.done |= told["is"] == "done"
            rank.doing = told.get("doing", rank.doing)
            found += [(rank, told)]
    return found


class Closed(Exception):
    """Whoever started this is gone or wants no more."""


def _died(rank: Forked) -> RankFailed:
    """A rank's pipe has ended without a word."""
    deadline, status = time.monotonic() + GRACE_S, None
    while status is None and time.monotonic() < deadline:
        pid, code = os.waitpid(rank.pid, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(code)
            os.close(rank.pipe)
            rank.pid = 0
        else:
            time.sleep(0.01)
    if status is None:
        how = "closed its pipe and goes on"
    elif status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
    else:
        how = f"ended with code {status}"
    return RankFailed(f"{rank.name} {how} at '{rank.doing}'")


def _failed(ranks: Sequence[Forked], first: Forked, told: dict[str, Any]) -> RankFailed:
    """The cause: a death or an error of its own goes before a lost partner, which is only what follows from it."""
    told_by = {first.rank: told}
    deadline = time.monotonic() + GRACE_S
    first.done = True
    while _is_lost(told_by.values()) and time.monotonic() < deadline and not all(r.done for r in ranks):
        try:
            for rank, more in _heard(ranks, None):
                if more["is"] == "error":
                    rank.done, told_by[rank.rank] = True, more
        except RankFailed as died:
            return died
    number, cause = next(((n, t) for n, t in told_by.items() if t["kind"] != "PeerLost"), (first.rank, told))
    by = {r.rank: r for r in ranks}
    text = f"{by[number].name} failed after '{by[number].doing}': {cause['text']}"
    silent = [r.name for r in ranks if not r.done]
    if cause["kind"] == "PeerLost" and silent:
        text += f". Nothing was heard of {', '.join(silent)}"
    failed = RankFailed(text)
    failed.kind = cause["kind"]  # type: ignore[attr-defined]
    return failed


def _is_lost(told: Any) -> bool:
    return all(t["kind"] == "PeerLost" for t in told)


def _check_silence(ranks: Sequence[Forked], timeout_s: float) -> None:
    """A rank alone has no partner that would miss it."""
    going = [r for r in ranks if not r.done]
    if going and all(time.monotonic() - r.heard_s > timeout_s + MARGIN_S for r in going):
        names = ", ".join(r.name for r in going)
        raise RankFailed(
            f"{names} said nothing for {timeout_s + MARGIN_S:.0f} s: raise timeout_s if a step takes longer"
        )


def free_port(port: int) -> str:
    """The address to meet at. PortTaken when another program listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(
                f"port {port} cannot be taken ({error.strerror}): name another, or none, and the ranks meet at a file"
            ) from None
    return f"tcp://127.0.0.1:{port}"


def main() -> None:
    """Read the job, fork its ranks, pass on what they say."""
    answer(_serve)


def answer(serve: Callable[[dict[str, Any], Say, int], None]) -> None:
    """A child's main: serve(what stdin's first line asks, how to say something, stdin); failures are told."""
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := source.read(1)):
            return
        line += piece
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as out:

        def say(told: dict[str, Any]) -> None:
            out.write(json.dumps(told) + "\n")
            out.flush()

        try:
            serve(json.loads(line), say, source.fileno())
        except Closed:
            return
        except Exception as error:
            say({"is": "failed", "kind": getattr(error, "kind", type(error).__name__), "text": str(error)})
            raise


def _serve(asked: dict[str, Any], say: Say, stdin: int) -> None:
    from workbench.hetermoe.job import Job

    job = Job.from_json(asked["job"])
    meet = free_port(asked["port"]) if asked["port"] else f"file://{asked['store']}"
    body = _body(asked, job, meet)
    roles = [job.role(rank) for rank in range(job.world)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ranks = fork_ranks(roles, body)
    say({"is": "up", "pids": [r.pid for r in ranks]})
    for told in watch(ranks, job.timeout_s, stdin):
        say(told)
    say({"is": "done"})


def _body(asked: dict[str, Any], job: Any, meet: str) -> Callable[[int, Say], None]:
    """What a rank does; the modules are imported here, before the fork."""
    if asked.get("engine") == "deepspeed":
        from workbench.hetermoe.deepspeed import run_rank

        return lambda rank, say: run_rank(job, rank, meet, say)
    from workbench.hetermoe.rank import process, run

    def ours(rank: int, say: Say) -> None:
        with process(job, rank, meet) as layout:
            say({"is": "connected", "doing": "step 0"})
            for told in run(job, layout):
                say({"is": "step", "doing": f"step {told.step + 1}", **vars(told)})

    return ours


if __name__ == "__main__":
    main()

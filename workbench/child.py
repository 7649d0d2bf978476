"""A process of ours that does the work beside: JSON lines to its stdin, JSON lines back on a pipe, its log in a file.

    child = Child([sys.executable, "-m", "workbench.some_system.bench"], folder, environment, name="vLLM")
    child.send({"op": "start"})
    for fields in child.read(0.05): ...        # [] when nothing came; ChildDied names what it was doing and its log
    child.end()                                # it, and all that it started

The number of the pipe is the last word of its command. `serve` is the other side's main; `serve_lines` alone is its
reading end: what it started is ended when this side is gone, however that went.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from workbench import leash

END_S = 1.0  # a process whose pipe has ended gets so long to end itself
SEND_S = 30.0  # for the other side to take a line
FIRST_S = 60.0  # in the child: until its first line has come
_PIECE = 1 << 20
Lines = queue.SimpleQueue[dict[str, Any]]
Say = Callable[[Mapping[str, Any]], None]


class ChildDied(RuntimeError):
    """The process ended, hung or failed; the message says how and when, with the end of its log."""


class Child:
    """A running process. `doing` is what it is said to do in errors; what it prints goes to log.txt in `folder`."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], name: str) -> None:
        self.name, self.doing, self.log = name, f"starting {name}", folder / "log.txt"
        self._heard_s, self._kept = time.monotonic(), b""
        ours, theirs = os.pipe()
        self._pipe = ours
        try:
            with self.log.open("wb") as out:
                self.process = subprocess.Popen(
                    [*command, str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=os.environ | dict(environment) | {"TMPDIR": str(folder)},
                    pass_fds=[theirs],
                    start_new_session=True,
                )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        assert self.process.stdin is not None
        self._stdin = self.process.stdin.fileno()
        os.set_blocking(ours, False)
        os.set_blocking(self._stdin, False)
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(ours, selectors.EVENT_READ)

    def send(self, fields: Mapping[str, Any], last: bool = False) -> None:
        """One line to its stdin, which `last` closes. A dead process is named by the next read, not here.

        ChildDied when it takes nothing for SEND_S.
        """
        self.send_text(json.dumps(fields) + "\n", last)

    def send_text(self, text: str, last: bool = False) -> None:
        """As `send`, of text that is JSON already."""
        left, deadline = memoryview(text.encode()), time.monotonic() + SEND_S
        with contextlib.suppress(BrokenPipeError), selectors.DefaultSelector() as room:
            room.register(self._stdin, selectors.EVENT_WRITE)
            while left:
                if room.select(max(0.0, deadline - time.monotonic())):
                    left = left[os.write(self._stdin, left[:4096]) :]
                elif time.monotonic() >= deadline:
                    raise ChildDied(f"{self.name} took no input for {SEND_S:.0f} s at '{self.doing}'. {self.tail()}")
        if last:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def read(self, wait_s: float) -> list[dict[str, Any]]:
        """What it has said since, waiting at most `wait_s` for the first line. ChildDied when it has ended."""
        if not self._waiting.select(wait_s):
            if self.process.poll() is not None and not self._waiting.select(0):  # something it started holds the pipe
                raise self._ended()
            return []
        part = os.read(self._pipe, _PIECE)
        if not part:
            raise self._ended()
        *whole, self._kept = (self._kept + part).split(b"\n")
        if whole:
            self._heard_s = time.monotonic()
        return [json.loads(line) for line in whole if line]

    def check_silence(self, patience_s: float) -> None:
        """ChildDied when it has said nothing for longer than that."""
        if time.monotonic() - self._heard_s > patience_s:
            raise ChildDied(f"{self.name} said nothing for {patience_s:.0f} s at '{self.doing}'. {self.tail()}")

    def expect(self) -> None:
        """Count its silence from now: it has just been asked something."""
        self._heard_s = time.monotonic()

    def _ended(self) -> ChildDied:
        code: object = "unknown: it goes on without a word"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(END_S)
        return ChildDied(f"the {self.name} process ended with code {code} at '{self.doing}'. {self.tail()}")

    def tail(self) -> str:
        """The last lines of its log, for an error."""
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return "Its log ends: " + " | ".join(lines[-4:])[-1500:]
        return "It logged nothing."

    def end(self) -> None:
        """Kill it and everything that it started; nothing is left when this returns. Twice is no error."""
        leash.end(self.process)
        if self._pipe >= 0:
            self._waiting.close()
            os.close(self._pipe)
            self._pipe = -1
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()


def serve_lines(source: int, take: Callable[[dict[str, Any]], None]) -> threading.Thread:
    """In the child: a thread that hands each line of a file descriptor to `take`.

    When the other side hangs up, what this process started is killed and the process ends. It reads the descriptor and
    not sys.stdin, whose lock a process forked meanwhile would find taken for ever.
    """

    def listen() -> None:
        kept = b""
        while part := os.read(source, _PIECE):
            *whole, kept = (kept + part).split(b"\n")
            for line in whole:
                take(json.loads(line))
        for one in psutil.Process().children():
            leash.end(one)
        os._exit(0)

    thread = threading.Thread(target=listen, name="lines", daemon=True)
    thread.start()
    return thread


def serve(go: Callable[[dict[str, Any], Lines, Say], None]) -> NoReturn:
    """In the child: its main, `go(first line, those after it, say)`; `say` sends a line to the other side.

    What `go` raises is logged and said as {"is": "error", "text"}. Then everything that this process started is ended
    and it ends itself, without the seconds that an engine's threads and memory would take to be given back.
    """
    lines: Lines = queue.SimpleQueue()
    serve_lines(0, lines.put)
    with os.fdopen(int(sys.argv[-1]), "w", encoding="utf-8") as pipe:

        def say(fields: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(fields) + "\n")
            pipe.flush()

        code = 0
        try:
            go(_first(lines), lines, say)
        except Exception as error:  # noqa: BLE001  all that can be done is to say it
            import traceback

            code = 1
            traceback.print_exc()
            say({"is": "error", "text": f"{type(error).__name__}: {error}"})
        for one in psutil.Process().children():
            leash.end(one)
    os._exit(code)


def _first(lines: Lines) -> dict[str, Any]:
    try:
        return lines.get(timeout=FIRST_S)
    except queue.Empty:
        raise TimeoutError(f"no settings came within {FIRST_S:.0f} s") from None

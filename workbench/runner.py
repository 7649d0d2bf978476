"""A run: one config worked through on a thread of its own, with a state, a cancel flag and a record on disk.

generator -> thread -> events with their times -> state, result or error -> record
"""

from __future__ import annotations

import ast
import contextlib
import json
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Literal

from workbench import records
from workbench.offers import Desk, NotOffered
from workbench.system import Act, Config, Event, Offer, Progress, Result, System, Work, system

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["ready", "running", "done", "cancelled", "failed"]
FINAL: tuple[State, ...] = ("done", "cancelled", "failed")
STOP_S = 30.0  # what a cancelled run gets to free its processes and files before its caller goes on without it


class Cancelled(RuntimeError):
    """The run was cancelled before it had a result."""


class Run:
    """One run of one system. The thread starts in `start()`, never here."""

    def __init__(self, system: System, config: Config, *, record: bool = True) -> None:
        self.system, self.config = system, config
        self.state: State = "ready"
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.events: list[tuple[float, Event]] = []  # (seconds since start, event); only ever appended to
        self.progress = Progress(0, 1)
        self.record: records.Record | None = None
        self.unrecorded = ""  # why there is no record, in words
        self._keep = record
        self._desk = Desk(f"this run of {system.name}")
        self._start = threading.Lock()  # held for good by the first start
        self._cancel = threading.Event()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._drain, name=f"workbench-{system.name}", daemon=True)

    def start(self) -> Run:
        """Begin; a run starts once. RuntimeError on a second start."""
        if not self._start.acquire(blocking=False):
            raise RuntimeError(f"this run of {self.system.name} was started before; make another one")
        self._begun = time.time()
        self._clock = time.perf_counter()
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Ask the run to stop at its next event. Harmless when it has ended."""
        self._cancel.set()

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What may be done in the run now, by `act`."""
        return self._desk.free

    @property
    def waiting(self) -> frozenset[str]:
        """Names of the offers that were chosen and that the run has not answered yet."""
        return self._desk.waiting

    def act(self, name: str) -> None:
        """Choose what the run offers as `name`, from any thread; it hears of it at its next event, recorded as an Act.

        NotOffered, a ValueError, says why it cannot be: no such offer now, chosen before, not started, ended. A choice
        that comes too late, because the run ends or takes it back before it hears, is told by a Note.
        """
        if self._cancel.is_set():
            raise NotOffered(f"this run of {self.system.name} was cancelled: nothing can be done in it any more")
        if not self._start.locked():
            raise NotOffered(f"this run of {self.system.name} was not started: it offers nothing")
        self._desk.choose(name)

    def wait(self, timeout_s: float | None = None) -> Run:
        """Block until the run has ended and is on disk.

        TimeoutError names the run and what it was doing; RuntimeError says that it was never started.
        """
        if not self._start.locked():
            raise RuntimeError(f"this run of {self.system.name} was not started: call start() first")
        if not self._finished.wait(timeout_s):
            raise TimeoutError(f"{self.system.name} is still at '{self.progress.note}' after {timeout_s} s")
        self._thread.join()
        return self

    @property
    def seconds(self) -> float:
        """Seconds from start to the last event."""
        return self.events[-1][0] if self.events else 0.0

    def __repr__(self) -> str:
        return f"Run({self.system.name!r}, {self.state})"

    def _drain(self) -> None:
        self.state = "running"
        state: State = "failed"
        try:
            work: Work = self.system.work(self.config)
            while not self._cancel.is_set():
                self._hear(self._step(work))
            work.close()  # its `finally` frees processes, files and threads, on this thread
            state = "cancelled"
        except StopIteration as stop:
            if isinstance(stop.value, self.system.result):
                self.result, state = stop.value, "done"
            else:
                made, due = type(stop.value).__name__, self.system.result.__name__
                self.error = TypeError(f"the work of {self.system.name} returned a {made}, not a {due}")
        except BaseException as error:  # noqa: BLE001  a run never takes the kernel down: the error is kept and shown
            self.error = error
        for late in self._desk.close(f"has ended ({state})"):
            self._hear(late)
        if self._keep:
            self._write(state)
        self.state = state
        self._finished.set()

    def _step(self, work: Work) -> Event:
        """The next event of the work, which is handed what was chosen, where it can take it; else it is kept."""
        if not self.events or not _takes(work):
            return next(work)
        said = self._desk.fetch()
        for each in said:
            self._hear(each)
        return work.send(tuple(act.name for act in said if isinstance(act, Act)))

    def _hear(self, event: Event) -> None:
        self._desk.take(event)
        self.events.append((time.perf_counter() - self._clock, event))
        if isinstance(event, Progress):
            self.progress = event

    def _write(self, state: State) -> None:
        try:
            self.record = records.save(self, state, self._begun)
        except OSError as error:  # read-only home, full disk: the result is still here
            self.unrecorded = f"not recorded: {error.strerror or error}"
        except Exception as error:  # noqa: BLE001  an event or a table that cannot be stored must not leave a run without end
            self.unrecorded = f"not recorded, by a fault in {self.system.name}: {type(error).__name__}: {error}"


def _takes(work: Work) -> bool:
    """Whether what yields now can be sent something: a list or a map that is yielded from cannot."""
    inner: Any = work
    while (further := getattr(inner, "gi_yieldfrom", None)) is not None:
        inner = further
    return hasattr(inner, "send")


def start(name: str, config: Config | None = None, *, preset: str | None = None, **changes: Any) -> Run:
    """Start a run in the background: `start("cake", preset="small", link_mb_s=30)` or `start("cake", config)`."""
    return Run(system(name), _config(name, config, preset, changes)).start()


def run(
    name: str,
    config: Config | None = None,
    *,
    preset: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    **changes: Any,
) -> Result:
    """Run and return the result, with a progress bar on stderr. Raises what the run raised.

    Ctrl-C, and an `on_event` that raises, cancel the run and come out of here once it has ended. A result that is not
    on disk comes with a warning that says why.
    """
    going = start(name, config, preset=preset, **changes)
    result = follow(going, on_event)
    if going.unrecorded:
        warnings.warn(going.unrecorded, RuntimeWarning, stacklevel=2)
    return result


def follow(going: Run, on_event: Callable[[Event], None] | None = None) -> Result:
    """Wait for a run with a progress bar on stderr and return its result; otherwise as `run`."""
    try:
        _draw(going, on_event)
    except BaseException:  # Ctrl-C, or an `on_event` that fails: nobody waits for the result any more
        going.cancel()
        with contextlib.suppress(TimeoutError):  # what came first is what is told
            going.wait(STOP_S)
        raise
    if going.error is not None:
        raise going.error
    if going.result is None:
        raise Cancelled(f"{going.system.name} was cancelled")
    return going.result


def _draw(going: Run, on_event: Callable[[Event], None] | None) -> None:
    """Draw progress, hand on events, until the run has ended."""
    from workbench.bar import bar

    seen, ended = 0, False
    with contextlib.closing(bar(going.system.name)) as shown:
        while not ended:
            ended = going._finished.wait(0.1)
            for _, event in going.events[seen:]:
                seen += 1
                if on_event is not None:
                    on_event(event)
            shown.update(min(1.0, going.progress.done / max(going.progress.total, 1e-9)), going.progress.note)
    going.wait()


def _config(name: str, config: Config | None, preset: str | None, changes: dict[str, Any]) -> Config:
    target = system(name)
    if config is None:
        return target.make(preset or "small", **changes)
    if preset is not None:
        raise ValueError("give a config or a preset, not both")
    if not isinstance(config, target.config):
        raise TypeError(f"{name} takes a {target.config.__name__}, not a {type(config).__name__}")
    return target.make(None, **(config.model_dump() | changes))


def to_code(target: System, config: Config, verb: str = "run") -> str:
    """The shortest call that makes this config: the preset nearest to it and what differs from that."""
    wanted = config.model_dump()
    best: tuple[str, dict[str, Any]] | None = None
    for preset, base in target.presets.items():
        differs = {k: v for k, v in wanted.items() if base.model_dump()[k] != v}
        if best is None or len(differs) < len(best[1]):
            best = preset, differs
    if best is None:
        raise ValueError(f"{target.name} has no presets")
    changes = "".join(f", {k}={_literal(v)}" for k, v in best[1].items())
    return f'wb.{verb}("{target.name}", preset="{best[0]}"{changes})'


def _literal(value: Any) -> str:
    """As one writes it: text in double quotes, as the call's other words."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def from_code(code: str) -> tuple[System, Config]:
    """The system and config of a call made by `to_code`. ValueError says what is wrong with other text.

    Nothing is executed: the call is parsed and its arguments must be plain values.
    """
    try:
        call = ast.parse(code.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or len(call.args) != 1 or not isinstance(call.func, ast.Attribute):
            raise ValueError("expected one call")
        if call.func.attr not in ("run", "start", "open"):
            raise ValueError(f"wb.{call.func.attr} takes no config")
        name = ast.literal_eval(call.args[0])
        given = _keywords(call)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f'not a call like wb.run("cake", preset="small"): {error}') from error
    try:
        target = system(name)
    except (KeyError, TypeError) as error:
        raise ValueError(str(error.args[0])) from error
    preset = given.pop("preset", "small")
    if not isinstance(preset, str):
        raise ValueError(f"preset: must be a name of {', '.join(target.presets)}, not {preset!r}")
    return target, target.make(preset, **given)


def _keywords(call: ast.Call) -> dict[str, Any]:
    """Arguments by name as plain values. ValueError names one that is spread from a mapping or given twice."""
    given: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(f"write the arguments out, instead of **{ast.unparse(keyword.value)}")
        if keyword.arg in given:
            raise ValueError(f"{keyword.arg} is given twice")
        given[keyword.arg] = ast.literal_eval(keyword.value)
    return given

"""vLLM behind the conductor: AsyncLLM in a child process, its prefix cache as the shared trunk.

    engine = open_vllm("smollm2", "bfloat16", say, stop)            # 20 s on an idle core; phases are said
    engine = VllmEngine(folder_of_any_model, dtype="bfloat16")      # the same with a model of your own

A prefix is shared by whole blocks: what stands in the last, unfilled block of a prompt is computed again. vLLM steps
for every token, also where a grammar leaves no choice, so nothing is `forced`; a sequence with `share=False` has cache
keys of its own (vLLM's cache salt).
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import vllm_process
from workbench.lm.tiny_folder import write_tiny
from workbench.lm.tokenizer import FileTokenizer
from workbench.plato.engine import Ask, Constraint, ContextOverflow, Counts, EngineError, Out, Words
from workbench.plato.matcher import Matcher
from workbench.pump import Stopped
from workbench.system import Event, Note, Progress
from workbench.vllm_process import BLOCK, START_S, VllmProcess

SILENCE_S = 120.0  # while something runs
FORGET_S = 60.0
ROOM, ROWS, STEP_TOKENS = 4096, 16, 1024
KV_GB = 1


@dataclass
class _Running:
    """A sequence that vLLM decodes."""

    number: int
    ask: Ask
    gained: tuple[int, ...] = ()
    told: bool = False  # how much of its prompt was reused


class VllmEngine(Words):
    """workbench.plato.engine.Engine over vLLM. `phases` are the seconds that starting took, by what they went into.

    `model` is a folder as vLLM takes it, with a tokenizer.json; None is a tiny one with random weights, for tests.
    BackendUnavailable without vLLM; EngineError, which quotes vLLM's log, when it does not start.
    """

    def __init__(
        self,
        model: Path | None,
        *,
        dtype: str = "bfloat16",
        room: int = ROOM,
        block: int = BLOCK,
        temperature: float = 0.0,
        seed: int = 0,
        kv_bytes: int | None = None,
        arguments: Mapping[str, Any] | None = None,
        on_phase: Callable[[str, float], None] = lambda _name, _seconds: None,
        stop: threading.Event | None = None,
    ) -> None:
        on_cpu = vllm_process.build()
        self.counts, self.phases, self.preempted = Counts(), dict[str, float](), 0
        self.temperature, self.seed = temperature, seed
        self._began, self._count = time.monotonic(), 0
        self._running: dict[str, _Running] = {}
        self._names: dict[int, str] = {}
        self._come = deque[dict[str, Any]]()  # steps that have come and were not looked at
        given = {
            "dtype": dtype,
            "seed": seed,
            "max_model_len": room,
            "max_num_seqs": ROWS,
            "max_num_batched_tokens": STEP_TOKENS,
            **vllm_process.arguments(on_cpu, KV_GB << 30, block),
            **({} if kv_bytes is None else {"kv_cache_memory_bytes": kv_bytes}),
            **(arguments or {}),
        }
        self._child = VllmProcess("workbench.plato.vllm_child", on_cpu, EngineError, self._told)
        try:
            model = model or write_tiny(self._child.folder / "tiny", tokenizer=True)
            self.tokenizer = FileTokenizer(model)
            self._child.ask({"arguments": {"model": str(model), **given}})
            self._about = self._start(on_phase, stop)
        except BaseException:
            self.close()
            raise

    def _start(self, on_phase: Callable[[str, float], None], stop: threading.Event | None) -> dict[str, Any]:
        self._child.doing = "starting"
        while True:
            if stop is not None and stop.is_set():
                raise Stopped("the run was cancelled while vLLM started")
            for fields in self._child.heard(START_S):
                if fields["is"] == "ready":
                    self._child.doing = "serving"
                    return fields
                self.phases[fields["name"]] = fields["seconds"]
                self._child.doing = f"starting, after {fields['name']}"
                on_phase(fields["name"], fields["seconds"])

    @property
    def about(self) -> dict[str, Any]:
        """version, device, room, block (tokens), kv_tokens: as vLLM itself says."""
        return {k: v for k, v in self._about.items() if k != "is"}

    # -- text ------------------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._began

    def room(self) -> int:
        return int(self._about["room"])

    # -- sequences -------------------------------------------------------------------------------------------------

    def start(self, ask: Ask) -> None:
        """Hand a sequence to vLLM. ContextOverflow, or the matcher's error for a grammar or script that is wrong."""
        if ask.name in self._running:
            raise EngineError(f"{ask.name} is still running: a name is free again once its sequence has ended")
        needed = len(ask.ids) + max(ask.budget, 1)
        if needed > self.room():
            raise ContextOverflow(
                f"{ask.name} needs {needed} positions, prompt and answer, where this engine was opened with "
                f"{self.room()}: shorten the query, or give parts fewer tokens"
            )
        script: list[int] = []
        if ask.constraint is not None:
            Matcher(self.tokenizer, ask.constraint)
            script = self.encode(ask.constraint.script)
        self._count += 1
        self._running[ask.name] = _Running(self._count, ask)
        self._names[self._count] = ask.name
        fields = {
            "op": "start",
            "id": self._count,
            "ids": list(ask.ids),
            "budget": ask.budget,
            "whole": ask.whole,
            "stop": [] if ask.whole else list(ask.stop),
            "share": ask.share,
            "lark": ask.constraint.lark if ask.constraint else "",
            "script": script,
            "temperature": self.temperature,
            # the same name draws the same numbers, siblings draw others
            "seed": zlib.crc32(f"{self.seed} {ask.name}".encode()) if self.temperature > 0 else None,
        }
        self._child.expect()
        self._child.ask(fields)

    def running(self) -> list[str]:
        return list(self._running)

    def stop(self, name: str) -> None:
        """Abort it: vLLM frees its blocks before its next step."""
        if (one := self._running.pop(name, None)) is not None:
            del self._names[one.number]
            self._child.ask({"op": "stop", "id": one.number})

    def step(self) -> list[Out]:
        """The next of vLLM's steps, after one look. EngineError when vLLM is gone or silent for SILENCE_S.

        One at a time, however many have come: what one of them makes possible starts before the next is looked at.
        """
        if not self._running:
            return []
        if not self._come:
            self._come += [fields for fields in self._child.heard(SILENCE_S) if fields["is"] == "step"]
        return self._take(self._come.popleft()) if self._come else []

    def forget(self) -> None:
        """Stop what runs and empty the prefix cache; counts begin anew. EngineError when that takes too long."""
        for name in self.running():
            self.stop(name)
        self._child.doing = "emptying the prefix cache"
        self._child.expect()
        self._child.ask({"op": "forget"})
        while not any(fields["is"] == "forgot" for fields in self._child.heard(FORGET_S)):
            pass
        self._come.clear()
        self._child.doing = "serving"
        self.counts, self.preempted = Counts(), 0

    def close(self) -> None:
        """End the child and everything below it; nothing is left. Twice is no error."""
        self._running.clear()
        self._names.clear()
        self._child.end()

    # -- the child -------------------------------------------------------------------------------------------------

    def _told(self, text: str) -> str:
        """Of an error: what was done, and the cause."""
        return f"{self._child.doing}: {_first_error(self._child.log) or text}"

    def _take(self, fields: dict[str, Any]) -> list[Out]:
        """The outs of one line, without those of sequences that were stopped meanwhile."""
        stats, c = fields["stats"], self.counts
        c.steps, c.decoded = stats["steps"], stats["decoded"]
        c.prefilled, c.reused = stats["prefilled"], stats["reused"]
        c.widths += stats["widths"]
        c.tokens += stats["tokens"]
        self.preempted = stats["preempted"]
        return [self._out(one) for one in fields["outs"] if one["id"] in self._names]

    def _out(self, one: dict[str, Any]) -> Out:
        name = self._names[one["id"]]
        running = self._running[name]
        ids = tuple(one["ids"])
        running.gained += ids
        reused = prefilled = 0
        if not running.told and one.get("cached") is not None:
            running.told, reused = True, one["cached"]
            prefilled = len(running.ask.ids) - reused
        dropped = 0
        if one["ended"]:
            del self._running[name], self._names[one["id"]]
            if one["ended"] == "stop" and running.ask.stop:
                dropped = self._beyond(running)
        return Out(name, ids, one["ended"], one.get("said", ""), reused, prefilled, dropped)

    def _beyond(self, running: _Running) -> int:
        """Tokens at the end that are not wholly before the first stop text."""
        text = self.decode(running.gained)
        found = [at for stop in running.ask.stop if (at := text.find(stop)) >= 0]
        if not found:
            return 0
        kept = len(running.gained)
        while kept and len(self.decode(running.gained[:kept])) > min(found):
            kept -= 1
        return len(running.gained) - kept


def open_vllm(model: str, dtype: str, say: Callable[[Event], None], stop: threading.Event, **more: Any) -> VllmEngine:
    """An engine for "smollm2", for "tiny" (random weights) or for a model folder; what starting took is said.

    Errors as VllmEngine's, and Stopped when `stop` is set meanwhile; `more` are arguments of VllmEngine.
    """
    say(Progress(0, 1, "starting vLLM"))

    def told(name: str, seconds: float) -> None:
        say(Progress(0, 1, f"starting vLLM: {name} took {seconds:.0f} s"))

    engine = VllmEngine(_folder(model, stop), dtype=dtype, on_phase=told, stop=stop, **more)
    try:
        words = tuple(engine.encode("The first pass costs more than others."))
        _first(engine, "first pass", Ask("first", words, 2), stop)
        word = Constraint("start: /[a-z]{1,8}/")  # both sides make their view of the vocabulary when it is needed
        _first(engine, "first grammar", Ask("first", tuple(engine.encode("A word: ")), 2, word), stop)
        engine.forget()
        say(Note("vLLM started: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in engine.phases.items())))
    except BaseException:
        engine.close()
        raise
    return engine


def _first(engine: VllmEngine, name: str, ask: Ask, stop: threading.Event) -> None:
    """What is paid once is paid before anything is measured, and named."""
    began = engine.now_s()
    engine.start(ask)
    while engine.running():
        if stop.is_set():
            raise Stopped("the run was cancelled")
        for out in engine.step():
            if out.ended == "failed":
                raise EngineError(f"vLLM's {name} failed: {out.said}")
    engine.phases[name] = engine.now_s() - began


def _folder(model: str, stop: threading.Event) -> Path | None:
    if model == "tiny":
        return None
    if model != "smollm2":
        return Path(model)
    from workbench import lm
    from workbench.pump import Stopped

    def watch(_done: float, _total: float, _note: str) -> None:
        if stop.is_set():
            raise Stopped("the run was cancelled while the model was fetched")

    return lm.path("smollm2", progress=watch)


def _first_error(log: Path) -> str:
    """The error that its core logged; what the other process says of it only points there, and may come after it."""
    said = re.findall(r"(?:^|\] )(\w+Error: .+)$", log.read_text(errors="replace"), re.MULTILINE)
    return next(
        (line.strip() for line in said if not line.startswith("EngineDeadError") and "core proc" not in line), ""
    )

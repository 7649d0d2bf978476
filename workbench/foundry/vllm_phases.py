"""What vLLM's own start is made of, phase by phase: measured in a fresh process of the real engine. Nothing is ours.

    timeline = measure(lm.path("smollm2"), compiling=True)
    timeline.seconds, timeline.total_s, timeline.tokens           # {"import torch": 4.1, ...} until the first token
    timeline.graphable_s                                          # the most that graphs from an archive could spare

vLLM marks the parts of its start for tracing; the child (vllm_phases_child.py) is the tracer. A moment belongs to the
innermost part around it, so phases are disjoint and add up to the whole. With `compiling`, vLLM compiles as it does by
default; without, as with `--enforce-eager`, there is no such phase. On a GPU the same marks exist, graph capture among
them; there it was never run.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import backends
from workbench.child import Child, ChildDied
from workbench.pump import Stopped
from workbench.system import Progress, Span

COMMAND = (sys.executable, "-m", "workbench.foundry.vllm_phases_child")
SILENCE_S = 400.0  # compiling a model says nothing until it is done
LIMIT_S = 900.0
WAIT_S = 0.05
FIRST, COMPILE, LOAD, OTHER = "first token", "compile", "load compiled code", "other"
PHASES: Mapping[str, str] = {  # the mark of a part -> phase; parts that are not here belong to what is around them
    "interpreter": "interpreter",
    "import torch": "import torch",
    "import vLLM": "import vLLM",
    "configure": "configure",
    "engine": "engine",
    FIRST: FIRST,
    "compilation": COMPILE,
    "load compiled code": LOAD,
    # vLLM's own names from here on
    "Executor init": "workers",
    "Worker init": "workers",
    "Init device": "workers",
    "Initialize model": "build the model",
    "Loading (CPU)": "build the model",
    "Loading (GPU)": "build the model",
    "Load weights": "load weights",
    "Load model": "pack weights",  # beside the two above: what is done to weights after they were read
    "Prepare model": "KV cache",
    "Allocate KV cache": "KV cache",
    "Warmup (CPU)": "warm-up",
    "Warmup (GPU)": "warm-up",
    "Compile graph": COMPILE,
    "Inductor compilation": COMPILE,
    "Capture model": "graph capture",
}
EXPECTED = ("Load weights", "Allocate KV cache")
COMPILED = ("compilation", "load compiled code")  # one of them, where it compiles
GRAPHABLE = (COMPILE, LOAD, "warm-up", "graph capture")
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, so that one clock sees all of it
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class StartFailed(RuntimeError):
    """vLLM did not come up; the message says at which phase and what it said."""


@dataclass(frozen=True)
class Part:
    """A part as it was marked, seconds since the process was asked for. Parts may lie within each other."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Phase:
    """A stretch of one phase; a phase may have several."""

    name: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end_s - self.start_s


def flatten(parts: Sequence[Part]) -> tuple[Phase, ...]:
    """Disjoint phases from 0 to the last end: each moment is of the innermost part that is in PHASES, else "other"."""
    known = [part for part in parts if part.name in PHASES and part.end_s > part.start_s]
    marks = sorted({0.0, *(part.start_s for part in known), *(part.end_s for part in known)})
    made: list[Phase] = []
    for start_s, end_s in itertools.pairwise(marks):
        around = [part for part in known if part.start_s <= start_s and end_s <= part.end_s]
        inner = max(around, key=lambda part: (part.start_s, -part.end_s), default=None)
        name = PHASES[inner.name] if inner else OTHER
        if made and made[-1].name == name:
            made[-1] = Phase(name, made[-1].start_s, end_s)
        else:
            made.append(Phase(name, start_s, end_s))
    return tuple(made)


@dataclass(frozen=True)
class Timeline:
    """One start until its first token, and a few steps after it. Measured.

    about: version, device, threads, dtype, mode, and keeps_bytecode: without it every start may compile vLLM's modules
    anew, which importing then takes. tokens: what the model said, greedily. steps_s: the tokens after the first.
    """

    model: str
    compiling: bool
    kept_caches: bool
    phases: tuple[Phase, ...]
    tokens: tuple[int, ...]
    steps_s: tuple[float, ...]
    about: Mapping[str, Any]
    parts: tuple[Part, ...] = field(repr=False)

    @property
    def total_s(self) -> float:
        """From asking for the process to the first token."""
        return self.phases[-1].end_s

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, in the order of their longest stretches; they add up to the whole."""
        longest: dict[str, Phase] = {}
        for phase in self.phases:
            if phase.name not in longest or phase.seconds > longest[phase.name].seconds:
                longest[phase.name] = phase
        order = sorted(longest, key=lambda name: longest[name].start_s)
        return {name: sum(phase.seconds for phase in self.phases if phase.name == name) for name in order}

    @property
    def graphable_s(self) -> float:
        """Seconds of compiling or loading what was compiled, warm-up and capture: the most that graphs could spare."""
        return sum(self.seconds.get(name, 0.0) for name in GRAPHABLE)

    def spans(self) -> list[Span]:
        """One lane for a timeline."""
        lane = "vLLM" if self.compiling else "vLLM, eager"
        return [Span(lane, p.start_s, p.end_s, p.name, p.name, {"seconds": round(p.seconds, 2)}) for p in self.phases]


def starting(
    model: Path,
    *,
    compiling: bool = False,
    prompt: Sequence[int] = (1, 2, 3, 4),
    tokens: int = 4,
    dtype: str = "auto",
    caches: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    limit_s: float | None = None,
) -> Generator[Progress, object, Timeline]:
    """Start vLLM on a model folder, say which phase it is in, return the timeline; closing it ends vLLM.

    caches: a folder for all that vLLM keeps between starts, so that a second start finds it; it begins empty. None:
    what was compiled before is not used, what vLLM knows of model classes is. Weights may be in the page cache.
    limit_s: longest that it may take, LIMIT_S when None.
    BackendUnavailable without vLLM; StartFailed, with the end of its log, when it does not come up.
    """
    backends.need("vllm")
    if not (model / "config.json").is_file():
        raise ValueError(f"{model} is no model folder: it has no config.json")
    if tokens < 1 or not prompt:
        raise ValueError("a start ends with its first token: ask for 1 or more, after a prompt of 1 or more")
    how = {"enforce_eager": not compiling, "max_model_len": 512, "max_num_seqs": 8, "max_num_batched_tokens": 512,
           "kv_cache_memory_bytes": 256 << 20, "block_size": 32}  # fmt: skip
    settings = {
        "compiling": compiling,
        "prompt": list(prompt),
        "tokens": tokens,
        "arguments": {"model": str(model), "dtype": dtype, **how, **(arguments or {})},
    }
    with tempfile.TemporaryDirectory(prefix="workbench-vllm-") as folder:
        environment = _environment(compiling, caches)
        began = time.monotonic()  # one clock for all processes of a machine
        child = Child(COMMAND, Path(folder), environment, "vLLM")
        try:
            child.send(settings | {"began": began})
            done = yield from _until_done(child, began, LIMIT_S if limit_s is None else limit_s)
        except ChildDied as error:
            raise StartFailed(f"{error}") from None
        finally:
            child.end()
    parts = tuple(Part(*each) for each in done["parts"])
    names = {part.name for part in parts}
    lacking = [name for name in EXPECTED if name not in names]
    if compiling and not names & set(COMPILED):
        lacking.append(COMPILED[0])
    if lacking:
        version = done["about"]["version"]
        raise StartFailed(f"vLLM {version} marks its start differently, without {', '.join(lacking)}: 0.32 is known")
    return Timeline(
        model.name, compiling, caches is not None, flatten(parts), tuple(done["tokens"]), tuple(done["steps_s"]),
        done["about"], parts,
    )  # fmt: skip


def _environment(compiling: bool, caches: Path | None) -> dict[str, str]:
    made = ENVIRONMENT | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if not compiling:
        made["TORCHDYNAMO_DISABLE"] = "1"  # else helpers of the sampler are compiled all the same
    if caches is None:  # Inductor's own is in the child's folder
        return made | {"VLLM_DISABLE_COMPILE_CACHE": "1"}
    return made | {"VLLM_CACHE_ROOT": str(caches / "vllm"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}


def _until_done(child: Child, began: float, limit_s: float) -> Generator[Progress, object, dict[str, Any]]:
    """What the child says last. StartFailed when it says an error, or nothing for too long."""
    said = Progress(0, 1, "starting vLLM")
    while True:
        lines = child.read(WAIT_S)
        if not lines:
            child.check_silence(SILENCE_S)
        for fields in lines:
            if fields["is"] == "done":
                return fields
            if fields["is"] == "error":
                raise StartFailed(f"vLLM failed while {child.doing}: {fields['text']}. {child.tail()}")
            child.doing = f"starting, in {fields['name']}"
            said = Progress(0, 1, f"vLLM starts: {fields['name']}, {time.monotonic() - began:.0f} s so far")
        if time.monotonic() - began > limit_s:
            raise StartFailed(f"vLLM did not come up within {limit_s:.0f} s, {child.doing}. {child.tail()}")
        yield said


def measure(model: Path, stop: threading.Event | None = None, **how: Any) -> Timeline:
    """`starting` to its end, with its arguments and errors; Stopped when `stop` is set meanwhile."""
    going = starting(model, **how)
    try:
        while True:
            next(going)
            if stop is not None and stop.is_set():
                raise Stopped("the run was cancelled while vLLM started")
    except StopIteration as end:
        made: Timeline = end.value
        return made
    finally:
        going.close()

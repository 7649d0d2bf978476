"""vLLM's own start beside ours: the real engine on the same first layers of the same checkpoint, and what it then says.

    one = started(config, "eager", folder, tell=print, stop=flag, ours=tokens)
    one.total_s, one.seconds["import vLLM"], one.tokens            # until the first token; measured

An engine and a ladder of decode steps are not the same thing: vLLM brings a scheduler, sampling and an API, ours only
the steps. Both begin with starting a process and end when the model has spoken, and both must say the same tokens.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event as Flag
from typing import Any, Literal

from workbench import backends, lm
from workbench.foundry import vllm_phases
from workbench.foundry.config import LAYERS, FoundryConfig
from workbench.foundry.parts import Engine
from workbench.foundry.vllm_phases import Timeline
from workbench.held import Held
from workbench.pump import Stopped
from workbench.system import Event, Progress

Mode = Literal["eager", "compiled"]
MODES: Mapping[str, tuple[Mode, ...]] = {
    "no": (), "eager": ("eager",), "compiled": ("compiled",), "both": ("eager", "compiled"),
}  # fmt: skip
PROMPT, SAID = 6, 6  # tokens that both are given, and that both say
KINDS = {  # phase of vLLM's start -> kind of its span
    "interpreter": "wait", "import torch": "import", "import vLLM": "import", "configure": "plan", "workers": "plan",
    "engine": "plan", "other": "plan", "build the model": "load", "load weights": "load", "pack weights": "load",
    "KV cache": "transfer", "compile": "compile", "load compiled code": "load", "warm-up": "run",
    "graph capture": "capture", "first token": "decode",
}  # fmt: skip


def check(config: FoundryConfig) -> None:
    """BackendUnavailable where a run wants vLLM and it is not there: said before anything is captured."""
    if config.vllm != "no":
        backends.need("vllm", "or take vllm='no'")


def prompt(seed: int, vocab: int) -> list[int]:
    """PROMPT tokens drawn from the seed."""
    draw = random.Random(f"prompt {seed}")
    return [draw.randrange(vocab) for _ in range(PROMPT)]


def first_layers(whole: Path, layers: int, into: Path) -> Path:
    """A model folder with the first `layers` of another: its config and the same bytes of weights; returns it.

    ValueError when the folder is no Llama of one safetensors file or has fewer layers.
    """
    config = json.loads((whole / "config.json").read_text())
    if config["num_hidden_layers"] < layers:
        raise ValueError(f"{whole.name} has {config['num_hidden_layers']} layers, not {layers}")
    into.mkdir(parents=True, exist_ok=True)
    (into / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with (whole / "model.safetensors").open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        about: dict[str, Any] = json.loads(source.read(length))
        start, kept, end = 8 + length, {"__metadata__": about.pop("__metadata__", {})}, 0
        wanted = {name: one for name, one in about.items() if _layer(name) < layers}
        for name, one in wanted.items():
            nbytes = one["data_offsets"][1] - one["data_offsets"][0]
            kept[name] = one | {"data_offsets": [end, end + nbytes]}
            end += nbytes
        head = json.dumps(kept).encode()
        head += b" " * (-len(head) % 8)
        with (into / "model.safetensors").open("wb") as out:
            out.write(struct.pack("<Q", len(head)) + head)
            for one in wanted.values():
                source.seek(start + one["data_offsets"][0])
                out.write(source.read(one["data_offsets"][1] - one["data_offsets"][0]))
    return into


def _layer(name: str) -> int:
    """Which layer a tensor is of, -1 for those of none."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] else -1


def started(
    config: FoundryConfig, mode: Mode, folder: Path, *, tell: Callable[[str], None], stop: Flag, ours: list[int]
) -> Engine:
    """One start of vLLM on the config's layers, in float32. `ours`: what our steps said to the same prompt.

    Errors are those of vllm_phases.starting; Stopped when `stop` is set.
    """
    whole = lm.path(config.model)
    layers, vocab = config.depth, json.loads((whole / "config.json").read_text())["vocab_size"]
    place = folder / "model"
    model = whole if layers == LAYERS[config.model] else first_layers(whole, layers, place)
    going = vllm_phases.starting(
        model, compiling=mode == "compiled", prompt=prompt(config.seed, vocab), tokens=SAID, dtype="float32",
        limit_s=config.patience_s,
    )  # fmt: skip
    try:
        while True:
            tell(next(going).note)
            if stop.is_set():
                raise Stopped("the run was cancelled while vLLM started")
    except StopIteration as end:
        found: Timeline = end.value
    finally:
        going.close()
        shutil.rmtree(place, ignore_errors=True)
    return engine(found, mode, layers, ours)


def engine(found: Timeline, mode: Mode, layers: int, ours: list[int]) -> Engine:
    """A timeline as a result holds it."""
    return Engine(
        lane=f"vLLM {found.about['version']}, {mode}", mode=mode, layers=layers, total_s=found.total_s,
        graphable_s=found.graphable_s, phases=[(p.name, p.start_s, p.end_s) for p in found.phases],
        tokens=list(found.tokens), ours=ours, steps_s=list(found.steps_s),
        about={name: str(value) for name, value in found.about.items()},
    )  # fmt: skip


def held(one: Engine, began_s: float) -> list[Held]:
    """Its phases as spans, `began_s` seconds after the run began."""
    return [
        Held(
            lane=one.lane, start_s=began_s + start_s, end_s=began_s + end_s, label=name, kind=KINDS.get(name, "run"),
            why={"engine": "vLLM"},
        )
        for name, start_s, end_s in one.phases
    ]  # fmt: skip


def starts(
    config: FoundryConfig, folder: Path, ours: list[int], *, say: Callable[[Event], None], stop: Flag, began: float,
    done: float,
) -> tuple[list[Engine], list[Held]]:  # fmt: skip
    """The starts that a config asks for, one after the other, told as they go on. `began`: time.monotonic() of the run.

    `ours`: what our steps said to the same prompt; `done`: where the bar stands meanwhile, per cent.
    """
    found, spans = list[Engine](), list[Held]()
    for mode in MODES[config.vllm]:
        at_s = time.monotonic() - began
        one = started(config, mode, folder, tell=lambda note: say(Progress(done, 100, note)), stop=stop, ours=ours)
        for each in held(one, at_s):
            spans.append(each)
            say(each.span())
        found.append(one)
    return found, spans

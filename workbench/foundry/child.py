"""A process that does one job and tells how far it is: `python -m workbench.foundry.child FD`, for procs.py.

One JSON object on stdin, and where the job says "stay", {"size"} a line for a timed step each; on the pipe FD a JSON
object a line:

    {"is": "at", "what", "at_s", "done", "total"}  what it does from now on, seconds since its parent started it
    {"is": "refused", "cause", "why", "at_s"}      an archive that is not used
    {"is": "answer", "answer": ...}                to the job, or to a further line
    {"is": "error", "text"}                        instead of it

Nothing heavy is imported before the job asks for it: imports are part of what is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from workbench.child import serve_lines
from workbench.foundry import probe
from workbench.foundry.archive import Refused
from workbench.foundry.load import Runner, load

if TYPE_CHECKING:
    from workbench.foundry.capture import Compiled, Place

ROUNDS = 3  # steps of each size that are asked for: a later one attends to what an earlier one wrote
HEAVY = ("torch", "numpy", "pydantic")


class Job:
    """What was asked, and the line back."""

    def __init__(self, fields: dict[str, Any], pipe: int) -> None:
        self.fields = fields
        self._out = os.fdopen(pipe, "w", encoding="utf-8", buffering=1)
        self.turn: Callable[[int], float] | None = None  # seconds of one step of a size, where the job leaves one

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def now(self) -> float:
        """Seconds since the parent started this process."""
        return time.time() - float(self.fields["started"])

    def say(self, **said: Any) -> None:
        """One line."""
        self._out.write(json.dumps(said) + "\n")

    def at(self, what: str, done: int = 0, total: int = 0) -> None:
        """What is done from now on."""
        self.say(**{"is": "at", "what": what, "at_s": self.now(), "done": done, "total": total})


def main(do: Mapping[str, Callable[[Job], dict[str, Any]]] | None = None) -> None:
    """The job of stdin, one of `do`: this module's when None."""
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()
    serve_lines(0, asked.put)
    job = Job(asked.get(), int(sys.argv[1]))
    try:
        job.say(**{"is": "answer", "answer": (do or DO)[job["do"]](job)})
        while job.turn is not None and job["stay"]:  # until the other side hangs up
            job.say(**{"is": "answer", "answer": {"us": 1e6 * job.turn(asked.get()["size"])}})
    except Exception as error:  # noqa: BLE001  told to the parent, which raises it
        job.say(**{"is": "error", "text": f"{type(error).__name__}: {error}"})


def capture(job: Job) -> dict[str, Any]:
    """Capture, and what torch.compile says to other inputs than the probe's. Times leave the latter out.

    "cold": a folder. Torch's caches are empty, and before anything is captured this process is the way "cold": its
    numbers are in the answer, what it compiled is in the folder for "mega", and its steps are timed by turns.
    """
    job.at("import torch")
    import torch

    from workbench.foundry.capture import capture as captured
    from workbench.foundry.step import decode_step, loaded

    imported = job.now()
    torch.set_num_threads(job["threads"])
    job.at("load the model")
    model = loaded(job["model"], job["layers"], job["seed"])
    answer: dict[str, Any] = {}
    said: dict[int, list[Any]] = {}
    drift: list[float] = []
    asking = [0.0]

    def cold(compiled: Compiled, place: Place) -> None:
        from workbench.foundry.ready import Ready
        from workbench.foundry.torch_step import keep_artifacts

        out: dict[int, Any] = {}

        def inputs(size: int) -> Callable[[], Any]:
            place.probe(size)
            call = compiled.prepared(place, size)
            return lambda: out.__setitem__(size, call())

        def outcome(size: int) -> str:
            left = [memoryview(t.numpy()).cast("B") for t in out[size]]
            return probe.outcome(place.arena.view, place.tensors, left, size)

        ready = Ready("cold", float(job["started"]), imported, 0.0, inputs, outcome)
        answer["cold"], job.turn = ready.first_runs(job["sizes"], job.at), ready.turn
        keep_artifacts(Path(job["cold"]))

    def witness(compiled: Compiled, place: Place) -> None:
        start = job.now()
        job.at("ask torch.compile")
        for size in job["sizes"]:
            w, ids, positions, k, v = place.arguments(size, False)
            for each in (*k, *v):
                each.zero_()
            said[size] = []
            for step in range(ROUNDS):
                drawn = probe.drawn(job["seed"], size, step, compiled.shape.vocab, compiled.shape.capacity)
                ids[:], positions[:] = (torch.tensor(each) for each in drawn)
                kept = ([t.clone() for t in k], [t.clone() for t in v]) if not drift else None
                logits, tokens = compiled.run(place, size)
                said[size].append([sha256(logits.numpy().tobytes()).hexdigest()[:16], tokens.tolist()])
                if kept is not None:
                    eager, _ = decode_step(compiled.shape, w, ids, positions, *kept)
                    drift.append(float((eager - logits).abs().max() / logits.abs().max()))
        asking[0] = job.now() - start

    captured(
        model,
        job["sizes"],
        job["path"],
        capacity=job["capacity"],
        layers=job["layers"],
        dynamic=job["dynamic"],
        said=lambda done, total, what: job.at(what, done, total),
        first_runs=cold if job["cold"] else None,
        witness=witness,
    )
    return answer | {"seconds": job.now() - asking[0], "said": said, "drift": drift[0]}


def rebuild(job: Job) -> dict[str, Any]:
    """Load, answer the same inputs, and answer them wrongly with one weight changed. Refused: told, and captured again.

    `taken`: the place of the arena is occupied first. `again`: the fields of a capture, {} where there is none.
    """
    from workbench.kernels.replay import Arena

    occupied = Arena(int(job["taken"]), 1 << 16) if job["taken"] else None
    phases: dict[str, float] = {}
    job.at("load")
    start, recaptured_s = job.now(), 0.0
    try:
        runner = load(job["path"], verify=job["verify"], phase=phases.__setitem__)
    except Refused as error:
        job.say(**{"is": "refused", "cause": error.cause, "why": str(error), "at_s": job.now()})
        if not job["again"]:
            return {"refused_s": job.now() - start}
        since = job.now()
        again = Job.__new__(Job)
        again.__dict__ = {**job.__dict__, "fields": {**job.fields, **job["again"], "path": job["path"]}}
        capture(again)
        recaptured_s = job.now() - since
        job.at("load the new one")
        runner = load(job["path"], verify=job["verify"], phase=phases.__setitem__)
    answer: dict[str, Any] = {"phases": phases, "load_s": job.now(), "recaptured_s": recaptured_s}
    heavy = [name for name in HEAVY if name in sys.modules]
    job.at("answer")
    if job["prompt"]:
        answer["spoken"] = spoken(runner, job["prompt"], job["tokens"])
    said = {size: answers(runner, size, job["seed"]) for size in sorted(runner.capture.graphs)}
    job.at("the control")
    weight = runner.view("0.down")
    weight[3] ^= 0x40  # the exponent of the first weight of a layer
    control = {size: answers(runner, size, job["seed"]) for size in said}
    weight[3] ^= 0x40
    smallest = min(said)
    back = answers(runner, smallest, job["seed"]) == said[smallest]
    return answer | {
        "said": said, "control": control, "back": back, "heavy": heavy, "relocated": runner.arena.relocated,
        "held": occupied is not None, "verified": sorted(runner.verified),
    }  # fmt: skip


def answers(runner: Runner, size: int, seed: int) -> list[Any]:
    """[digest of the logits, tokens] of ROUNDS steps of `size` sequences, from an empty KV cache."""
    _empty(runner, size)
    said = []
    for step in range(ROUNDS):
        logits, tokens = runner.step(*probe.drawn(seed, size, step, runner.shape.vocab, runner.shape.capacity))
        said.append([sha256(logits.tobytes()).hexdigest()[:16], tokens])
    return said


def spoken(runner: Runner, prompt: list[int], tokens: int) -> list[int]:
    """What the rebuilt steps say to a prompt, greedily: the smallest batch, all of its sequences alike."""
    size, said = min(runner.capture.graphs), list[int]()
    _empty(runner, size)
    for position in range(len(prompt) + tokens - 1):
        token = prompt[position] if position < len(prompt) else said[-1]
        _, following = runner.step([token] * size, [position] * size)
        said += following[:1] if position >= len(prompt) - 1 else []
    return said


def _empty(runner: Runner, size: int) -> None:
    """Zero the KV of the first sequences."""
    for each in runner.capture.tensors:
        if each.role == "state":
            view = runner.view(each.name)
            used = each.nbytes * size // each.shape[0]
            view[:used] = bytes(used)


def way(job: Job) -> dict[str, Any]:
    """One way, measured until it is ready; its steps are timed when it is their turn."""
    from workbench.foundry.ready import measured

    place, started = Path(job["place"]), float(job["started"])
    answer, job.turn = measured(job["way"], job["archive"], place, started, job["keep"], job.at)
    return answer


def make(job: Job) -> dict[str, Any]:
    """What another way loads."""
    from workbench.foundry.ready import made

    start = time.time()
    made(job["way"], job["archive"], Path(job["place"]), job.at)
    return {"seconds": time.time() - start}


DO: dict[str, Callable[[Job], dict[str, Any]]] = {"capture": capture, "rebuild": rebuild, "way": way, "make": make}

if __name__ == "__main__":
    main()

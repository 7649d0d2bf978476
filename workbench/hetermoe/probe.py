"""What one device of each kind takes, timed with the stages that ranks run: `python -m workbench.hetermoe.probe FD`.

Reads a job from stdin (see measure.py), says {"is": "point", ...} after each round, {"is": "profile", ...} last. Kinds
take turns, round after round, each on its processors, so that what else the machine does falls on all alike; a point is
the median of its rounds. Stages are timed on one process; a message is one between two ranks on gloo, with the share of
a core that it takes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.fx.experimental.symbolic_shapes  # what a first backward imports is no part of its time
from torch import Tensor

from workbench.hetermoe import routing
from workbench.hetermoe.data import Markov
from workbench.hetermoe.exchange import Link, Stream, Trip
from workbench.hetermoe.launch import Say, fork_ranks, watch
from workbench.hetermoe.model import DTYPES, MoE, MoEConfig, attention_side
from workbench.hetermoe.profile import Curve, Device, Memory, Profile, Surface
from workbench.hetermoe.spans import Spans
from workbench.hetermoe.stages import AttentionStages, ExpertStages, Kept
from workbench.hetermoe.update import Adam, State, adamw

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"cpu": time.thread_time, "wall": time.perf_counter}
UPDATE_NUMBERS = 1 << 18
MESSAGE_ROUNDS = 9  # a message is short, and what else the machine does is not


class Probe:
    """The stages of a model on one kind of device. seconds(...) are of the clock, once."""

    def __init__(self, config: MoEConfig, kernel: Any, clock: Clock) -> None:
        self.config, self.clock = config, clock
        shallow = MoEConfig(**{**vars(config), "layers": 2, "experts": config.experts})
        self.model = MoE(shallow, kernel, held=[(0,), ()])
        self.stages = AttentionStages(self.model, [range(config.experts)] * 2)
        self.experts = ExpertStages(self.model, [(0,), ()])

    def attention(self, length: int, tokens: int) -> tuple[float, float]:
        """Forward and backward of an attention stage over `tokens` in sequences of `length`."""
        before, outputs = self._before(length, tokens)
        start = self.clock()
        kept = self.stages.forward(1, before.inputs[0], before, outputs)
        middle = self.clock()
        ahead = [torch.ones_like(t) for t in (kept.h, kept.w, kept.rows)]
        begun = self.clock()
        torch.autograd.backward(kept.graph or (), ahead)
        return middle - start, self.clock() - begun

    def expert(self, tokens: int) -> tuple[float, float]:
        """One expert over `tokens`."""
        rows = torch.randn(tokens, self.config.hidden, dtype=DTYPES[self.config.dtype])
        trip = Trip([0], [tokens], torch.tensor([[tokens]]), rows)
        start = self.clock()
        out = self.experts.forward(0, 0, trip)
        middle = self.clock()
        self.experts.backward(0, 0, torch.ones_like(out))
        return middle - start, self.clock() - middle

    def head(self, length: int, tokens: int) -> tuple[float, float]:
        """Last stage: forward by itself, and what both together take beyond it."""
        before, outputs = self._before(length, tokens)
        start = self.clock()
        with torch.no_grad():
            self.model.loss(before.h, before.inputs[0], tokens)
        middle = self.clock()
        self.stages.last(before, outputs, before.inputs[0], tokens)
        return middle - start, max(self.clock() - middle - (middle - start), 0.0)

    def update(self) -> float:
        """AdamW, seconds for a byte of weights."""
        state = State.of(torch.zeros(UPDATE_NUMBERS, dtype=DTYPES[self.config.dtype]))
        gradient = torch.ones_like(state.value)
        start = self.clock()
        adamw(state, gradient, 1, Adam())
        return (self.clock() - start) / (gradient.numel() * gradient.element_size())

    def kept_bytes(self, length: int, tokens: int) -> tuple[float, float]:
        """Bytes that autograd keeps for the backward, per token of an attention stage, and per token of an expert."""
        before, outputs = self._before(length, tokens)
        rows = torch.randn(tokens, self.config.hidden, dtype=DTYPES[self.config.dtype], requires_grad=True)
        stage = _saved(lambda: self.stages.forward(1, before.inputs[0], before, outputs), self.model)
        return stage / tokens, _saved(lambda: self.model.expert(0, 0)(rows), self.model) / tokens

    def _before(self, length: int, tokens: int) -> tuple[Kept, Tensor]:
        ids = torch.randint(self.config.vocab, (max(tokens // length, 1), length))
        with torch.no_grad():
            kept = self.stages.forward(0, ids, None, None)
        return Kept((ids,), kept.picked, kept.order, kept.h, kept.w, kept.rows, None), torch.randn_like(kept.rows)


def _saved(run: Callable[[], object], model: MoE) -> int:
    """Bytes of distinct storages that a forward saves, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = run()  # alive while counted, so that no address comes twice
    del kept
    return sum(found.values())


@dataclass(frozen=True)
class Messages:
    """points: (bytes, seconds), rising in both. core_share: processor time over time, of the rank that has more."""

    points: tuple[tuple[float, float], ...]
    core_share: float


def message_seconds(job: Mapping[str, Any], sizes: Sequence[int]) -> Messages:
    """A dispatch between two ranks on gloo, counts included: medians of the slower rank, and what it takes of a core.

    More bytes take no less time: medians that say otherwise are pooled (isotonic regression), so that a line through
    the last two points never falls.
    """
    config = MoEConfig(**job["model"])
    dtype = DTYPES[config.dtype]
    token_bytes = config.hidden * torch.empty(0, dtype=dtype).element_size()
    cores = [kind["cores"] for kind in job["kinds"].values()]
    with tempfile.TemporaryDirectory() as folder:

        def body(rank: int, say: Say) -> None:
            _pin(cores[rank % len(cores)])
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
            )
            link = Link([[(), (0,)]], rank, (Stream(dist.group.WORLD, "dispatch", Spans()),) * 2, config.hidden, dtype)
            for _ in range(max(job["rounds"], MESSAGE_ROUNDS) + 1):
                for size in sizes:
                    tokens = max(size // token_bytes, 1)
                    rows = torch.zeros(tokens, config.hidden, dtype=dtype)
                    dist.barrier()
                    start, cpu = time.perf_counter(), time.process_time()  # all threads: torch's carry it too
                    link.dispatch(0, 0, *((rows, torch.tensor([tokens])) if rank == 0 else ())).result()
                    used, seconds = time.process_time() - cpu, time.perf_counter() - start
                    say({"is": "time", "bytes": tokens * token_bytes, "seconds": seconds, "cpu": used})

        taken: dict[int, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for told in watch(fork_ranks(["", ""], body), 60.0):
            if told["is"] == "time":
                taken[told["bytes"]][told["rank"]] += [(told["seconds"], told["cpu"])]
    return messages_of(taken)


def messages_of(taken: Mapping[int, Mapping[int, Sequence[tuple[float, float]]]]) -> Messages:
    """From (seconds, processor seconds) by bytes and rank, the first of each warming up."""
    from scipy.optimize import isotonic_regression

    sizes = sorted(taken)
    slower = [max(median(s for s, _ in times[1:]) for times in taken[size].values()) for size in sizes]
    largest = taken[sizes[-1]].values()
    share = max(sum(cpu for _, cpu in times[1:]) / sum(s for s, _ in times[1:]) for times in largest)
    rising = isotonic_regression(slower).x
    return Messages(tuple((float(size), float(s)) for size, s in zip(sizes, rising)), min(share, 1.0))


def first_routing(config: MoEConfig, seed: int, rows: int, tokens: int) -> list[list[float]]:
    """Part of the assignments that each expert of each layer gets from the untrained model on the first batch."""
    model, shares = MoE(config), list[list[float]]()
    with torch.no_grad():
        x = model.embed(Markov(config.vocab, seed).batch(0, rows, tokens)[:, :-1])
        for layer, block in enumerate(model.blocks):
            h, y, logits = block(x)
            picked = routing.choose(logits, config.top_k)
            order = routing.Order.of(picked, range(config.experts))
            parts = order.sort(routing.copies(y.flatten(0, 1), config.top_k)).split_with_sizes(order.counts.tolist())
            out = torch.cat([model.expert(layer, number)(part) for number, part in enumerate(parts)])
            x = h + routing.mixed(order.unsort(out), routing.weigh(logits, picked)).view_as(h)
            counts = [int(count) for count in order.counts]
            shares.append([count / sum(counts) for count in counts])
    return shares


def measure(job: Mapping[str, Any], say: Say, message: Messages | None = None) -> Profile:
    """The profile of a job: model, kinds {name: {kernel, cores, capacity_bytes}}, lengths, tokens, rounds, clock.

    message: what `message_seconds` gave, where that was timed before.
    """
    config = MoEConfig(**job["model"])
    if message is None:  # first: ranks are forked before anything was computed
        message = message_seconds(job, job["message_bytes"])
    torch.set_num_threads(1)
    clock = CLOCKS[job["clock"]]
    probes = {name: Probe(config, kind["kernel"], clock) for name, kind in job["kinds"].items()}
    taken: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
    for number in range(job["rounds"] + 1):  # the first warms up
        for name, probe in probes.items():
            _pin(job["kinds"][name]["cores"])
            for key, seconds in _points(probe, job):
                if number:
                    taken[name, *key] += [seconds]
        say({"is": "point", "done": number + 1, "total": job["rounds"] + 1})
    devices = tuple(_device(name, kind, job, taken) for name, kind in job["kinds"].items())
    token_bytes = config.hidden * torch.empty(0, dtype=DTYPES[config.dtype]).element_size()
    note = f"{job['clock']} seconds, medians of {job['rounds']} rounds, one thread, gloo on this machine"
    memory = _memory(config, probes, job)
    return Profile(
        config.key, devices, Curve(message.points), token_bytes, memory, "measured", note,
        core_share=message.core_share,
    )  # fmt: skip


def _points(probe: Probe, job: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], tuple[float, float]]]:
    """Everything that is timed of a kind, once: key, (forward, backward)."""
    for length in job["lengths"]:
        for tokens in job["tokens"]:
            if tokens >= length:
                yield ("attention", str(length), str(tokens)), probe.attention(length, tokens)
    for tokens in job["tokens"]:
        yield ("expert", str(tokens)), probe.expert(tokens)
        yield ("head", str(tokens)), probe.head(min(tokens, job["lengths"][0]), tokens)
    yield ("update",), (probe.update(), 0.0)


def _device(
    name: str, kind: Mapping[str, Any], job: Mapping[str, Any], taken: Mapping[tuple[str, ...], list[Any]]
) -> Device:
    def curve(*key: str, of: int = 0) -> Curve:
        points = [(float(k[-1]), median(pair[of] for pair in t)) for k, t in taken.items() if k[:-1] == (name, *key)]
        return Curve(tuple(sorted(points)))

    def factor(what: str) -> float:
        """Backward over forward: medians of each point, summed, so that what takes long decides."""
        points = [t for k, t in taken.items() if k[:2] == (name, what)]
        forward, backward = (sum(median(pair[at] for pair in t) for t in points) for at in (0, 1))
        return backward / max(forward, 1e-12)

    lengths = [n for n in job["lengths"] if any(tokens >= n for tokens in job["tokens"])]
    forward, backward = (
        Surface(tuple(lengths), tuple(curve("attention", str(n), of=at) for n in lengths)) for at in (0, 1)
    )
    return Device(
        name,
        forward,
        curve("expert"),
        curve("head"),
        float(kind.get("capacity_bytes") or "inf"),
        factor("attention"),
        factor("expert"),
        factor("head"),
        median(f for f, _ in taken[name, "update"]),
        backward,
    )


def _memory(config: MoEConfig, probes: Mapping[str, Probe], job: Mapping[str, Any]) -> Memory:
    """Bytes: weights of the shapes, activations as autograd keeps them on the kind that keeps most."""
    whole = MoE(MoEConfig(**{**vars(config), "layers": 1}), held=[(0,)])
    size = next(whole.parameters()).element_size()
    expert = sum(p.numel() for p in whole.expert(0, 0).parameters()) * size
    block = sum(p.numel() for p in whole.blocks.parameters()) * size
    shared = sum(p.numel() for _, p in attention_side(whole)) * size + block * (config.layers - 1)
    kept = [probe.kept_bytes(job["lengths"][0], max(job["tokens"])) for probe in probes.values()]
    return Memory(expert, shared, 4.0, max(a for a, _ in kept) * config.layers, max(e for _, e in kept))


def _pin(cores: Sequence[int]) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main() -> None:
    """Read the job, measure, say the profile."""
    job = json.loads(sys.stdin.readline())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as out:

        def say(told: dict[str, Any]) -> None:
            out.write(json.dumps(told) + "\n")
            out.flush()

        try:
            say({"is": "profile", "profile": measure(job, say).to_json()})
        except Exception as error:
            say({"is": "failed", "text": f"{type(error).__name__}: {error}"})
            raise


if __name__ == "__main__":
    main()

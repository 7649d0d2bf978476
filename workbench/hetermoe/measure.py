"""Timings of this machine for the planner, and what a run measured beside what was predicted.

    profile = yield from profiling(config, {"new": Kind("fused", (0,)), "old": Kind("naive", (1,))}, lengths=(256,))
    found = measured(run_rows, warm=1)           tokens_per_s, busy by rank, the step in the middle with its spans

A kind of device is a processor with an attention kernel: the old one has no fused kernel, as GPUs before Ampere have no
FlashAttention-2 (section 2 of the paper). Nothing is slowed down by waiting.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from workbench.child import Child, ChildDied
from workbench.hetermoe.launch import ENVIRONMENT
from workbench.hetermoe.model import Kernel, MoEConfig
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Profile
from workbench.hetermoe.rows import Row
from workbench.hetermoe.sim import Slot, Stage, Stream
from workbench.hetermoe.spans import PACE

PATIENCE_S = 300.0  # imports, and one round of the slowest machine
BEAT_S = 0.05
_SLOTS: dict[str, tuple[Stream, Stage]] = {
    "attention": ("compute", "attention"), "head": ("compute", "head"), "expert": ("compute", "expert"),
    "offload": ("compute", "expert"), "update": ("compute", "update"), "dispatch": ("dispatch", "dispatch"),
    "peers out": ("dispatch", "dispatch"), "combine": ("combine", "combine"), "peers back": ("combine", "combine"),
}  # fmt: skip
MESSAGE_BYTES = (1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 22)


class ProbeFailed(RuntimeError):
    """The process that times stages died or failed; the message says how."""


@dataclass(frozen=True)
class Kind:
    """A kind of device. cores: processors it is pinned to, none for any. capacity_bytes: its memory, 0 for no limit."""

    kernel: Kernel
    cores: tuple[int, ...] = ()
    capacity_bytes: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A run in numbers, medians over its steps. row: the step whose time is the median, with its spans."""

    tokens_per_s: float
    step_s: float
    busy: Mapping[int, float]
    row: Row


def profiling(
    config: MoEConfig,
    kinds: Mapping[str, Kind],
    lengths: Sequence[int],
    tokens: Sequence[int] = (64, 256, 1024),
    rounds: int = 5,
    clock: str = "cpu",
    message_bytes: Sequence[int] = MESSAGE_BYTES,
) -> Generator[float | None, None, Profile]:
    """Time every stage on every kind, in a process of its own; yields the share that is done, or None meanwhile.

    lengths: of sequences. tokens: of a micro-batch, and of what an expert gets. clock: "cpu" counts only the time that
    the process had, which a shared machine does not distort; "wall" all of it. PlanError, ProbeFailed.
    """
    if not kinds or not lengths or not tokens or rounds < 1 or min(*lengths, *tokens, *message_bytes) < 1:
        raise PlanError("a profile needs a kind of device, a length, a number of tokens and a round, each from 1")
    if max(tokens) < min(lengths):
        raise PlanError(f"{max(tokens)} tokens are less than one sequence of {min(lengths)}: measure more tokens")
    if clock not in {"cpu", "wall"}:
        raise PlanError(f"clock is cpu or wall, not {clock!r}")
    job = {
        "model": asdict(config), "kinds": {name: asdict(kind) for name, kind in kinds.items()},
        "lengths": sorted(set(lengths)), "tokens": sorted(set(tokens)), "rounds": rounds, "clock": clock,
        "message_bytes": sorted(set(message_bytes)),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="workbench-hetermoe-probe-") as folder:
        child = Child([sys.executable, "-m", "workbench.hetermoe.probe"], Path(folder), ENVIRONMENT, "probe")
        try:
            child.send(job, last=True)
            return (yield from _heard(child))
        except ChildDied as died:
            raise ProbeFailed(str(died)) from died
        finally:
            child.end()


def _heard(child: Child) -> Generator[float | None, None, Profile]:
    while True:
        for told in child.read(BEAT_S):
            if told["is"] == "profile":
                return Profile.from_json(told["profile"])
            if told["is"] == "failed":
                raise ProbeFailed(f"timing failed: {told['text']}")
            child.doing = f"round {told['done']} of {told['total']}"
            yield told["done"] / told["total"]
        child.check_silence(PATIENCE_S)
        yield None


def slots(row: Row) -> tuple[Slot, ...]:
    """A measured step as the simulator's spans, seconds from the start of the step: one picture for both.

    A message counts from when its stream took it up, so it includes waiting for its partners. The stage after the last
    layer is one slot, forward and backward. Sums of gradients, which run beside the backward, are left out. A paced
    rank's stage is as long as it is with what was paid after it, as in the simulator; its lane says that it is paced.
    """
    return tuple(
        Slot(rank, stream, stage, s.layer, s.micro_batch, s.way == "backward", max(s.start_s - row.start_s, 0.0),
             paid.get(s.end_s, s.end_s) - row.start_s)
        for rank, spans in row.spans.items()
        for paid in [{s.start_s: s.end_s for s in spans if s.kind == PACE}]
        for s in spans
        if s.kind in _SLOTS
        for stream, stage in [_SLOTS[s.kind]]
    )  # fmt: skip


def measured(rows: Sequence[Row], warm: int = 1) -> Measured:
    """Numbers of the steps after the first `warm`. ValueError where none is left."""
    kept = sorted(rows[warm:], key=lambda row: row.seconds)
    if not kept:
        raise ValueError(f"{len(rows)} steps, of which {warm} warm up: run more of them")
    row = kept[(len(kept) - 1) // 2]
    share = {rank: median(r.busy[rank] for r in kept) for rank in row.spans}
    return Measured(row.tokens_per_s, row.seconds, share, row)

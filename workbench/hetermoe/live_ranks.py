"""What a rank of the measured run does: ways take turns on the same processes, a byte on its pipe begins a turn.

Each way is a run of its own (rank.py) that stands still between two of its turns, with its weights, moments and process
groups. So all are measured within seconds of one another on the same two processes, and torch is imported once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.hetermoe.job import Job
from workbench.hetermoe.launch import Say

PER_TURN = 2  # steps: one warms up what the others pushed out of the caches, one is measured
THEIRS = "deepspeed"


@dataclass(frozen=True)
class Turns:
    """jobs: by way, in the order in which groups are made. sequence: ways turn by turn. wait: a pipe for each rank.

    proof: job that is proved before, and the folder for its control. meets: of our ranks, and of DeepSpeed's.
    """

    jobs: Mapping[str, Job]
    sequence: Sequence[str]
    wait: Sequence[int]
    meets: tuple[str, str]
    proof: Job | None = None
    control: str = ""

    @property
    def world(self) -> int:
        """Ranks of one engine."""
        return next(iter(self.jobs.values())).world

    def of(self, engine: str) -> list[str]:
        """The engine's turns."""
        return [way for way in self.sequence if (way == THEIRS) == (engine == THEIRS)]


def body(turns: Turns) -> Callable[[int, Say], None]:
    """For fork_ranks: our ranks first, then as many of DeepSpeed."""

    def be(rank: int, say: Say) -> None:
        if rank < turns.world:
            ours(turns, rank, say)
        else:
            theirs(turns, rank, say)

    return be


def ours(turns: Turns, rank: int, say: Say) -> None:
    """All turns of a rank of ours."""
    from workbench.hetermoe.layout import Layout
    from workbench.hetermoe.rank import process, run

    own = {way: job for way, job in turns.jobs.items() if way != THEIRS}
    with process(next(iter(own.values())), rank, turns.meets[0]):
        if turns.proof is not None:
            _prove(turns, turns.proof, rank, say)
        say({"is": "connected", "doing": "waiting for its turn"})
        going = {way: run(job, Layout(job.plan, 1, rank)) for way, job in own.items()}
        for way in turns.of("workbench"):
            os.read(turns.wait[rank], 1)
            for _ in range(PER_TURN):
                told = next(going[way])
                say({"is": "step", "way": way, "doing": f"{way}, step {told.step + 1}", **vars(told)})
        for one in going.values():
            one.close()


def _prove(turns: Turns, job: Job, rank: int, say: Say) -> None:
    """Both trainings on all ranks, then one process of it: rank 0's."""
    import torch.distributed as dist

    from workbench.hetermoe import proof
    from workbench.hetermoe.layout import Layout
    from workbench.hetermoe.rank import run

    layout = Layout(job.plan, 1, rank)
    sound, broken = Path(job.out), Path(turns.control)
    for _ in run(job, layout):
        pass
    with proof.without_gate_path():
        for _ in run(_to(job, broken), layout):
            pass
    dist.barrier()
    if rank == 0:
        say({"is": "proof", "doing": "the same in one process", **proof.compare(sound, broken, job)})


def _to(job: Job, folder: Path) -> Job:
    from dataclasses import replace

    return replace(job, out=str(folder))


def theirs(turns: Turns, rank: int, say: Say) -> None:
    """DeepSpeed's steps, held up before each turn."""
    from workbench.hetermoe.deepspeed import run_rank

    done = 0

    def held(told: dict[str, Any]) -> None:
        nonlocal done
        at_turn = told["is"] == "connected"
        if told["is"] == "step":
            done += 1
            at_turn = done % PER_TURN == 0 and done < PER_TURN * len(turns.of(THEIRS))
            told = {"way": THEIRS, **told, "doing": f"DeepSpeed-MoE, step {done}"}
        say(told)
        if at_turn:
            os.read(turns.wait[rank], 1)

    run_rank(turns.jobs[THEIRS], rank - turns.world, turns.meets[1], held)

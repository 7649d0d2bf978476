"""The measured run's processes: `python -m workbench.hetermoe.live_child FD < asked.json`; live.py starts it.

It imports torch and DeepSpeed once and forks everything: two processes that time a message, one that times stages on
each kind of core, then the ranks. Lines: "doing", "note", "profile", "proof", "row" of each step, "end" or "failed".
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.hetermoe.arms import Arm
from workbench.hetermoe.baselines import Model
from workbench.hetermoe.config import HeterMoEConfig
from workbench.hetermoe.launch import Say, answer, end, fork_ranks, free_port, watch
from workbench.hetermoe.pace import factors
from workbench.hetermoe.plan import PlanError
from workbench.hetermoe.profile import Profile
from workbench.hetermoe.setting import NEW, OLD, limited, of_profile, old_of, profile_of
from workbench.hetermoe.simulate import measurable

SIZES = (1 << 12, 1 << 16, 1 << 18, 1 << 20, 1 << 22)  # of messages, bytes
PROBES = 3  # rounds of the profiler
LR = 1e-5  # so small that the routing stays what was planned for; a step takes as long with any


def main() -> None:
    """Read what is asked, do it, say how it went."""
    answer(_serve)


def _serve(asked: dict[str, Any], say: Say, stdin: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    serve(HeterMoEConfig.model_validate(asked["config"]), Path(asked["folder"]), asked["cores"], say, stdin)


def serve(config: HeterMoEConfig, folder: Path, cores: Sequence[int], say: Say, stdin: int) -> None:
    """The whole run."""
    meet = free_port(config.port) if config.port else f"file://{folder / 'ours'}"  # before anything dear
    from workbench.hetermoe.model import MoEConfig

    model = MoEConfig(
        hidden=config.hidden, layers=config.layers, heads=config.heads, experts=config.experts, top_k=config.top_k,
        ffn=config.ffn, seed=config.seed,
    )  # fmt: skip
    import workbench.hetermoe.rank

    if config.deepspeed:
        say({"is": "doing", "text": "importing DeepSpeed", "share": 0.06})
        import workbench.hetermoe.deepspeed  # noqa: F401
    profile, shares = _profile(config, model, cores, say, stdin)
    say({"is": "profile", "profile": profile.to_json(), "shares": shares})
    setting = of_profile(config, profile, Model(config.layers, config.experts, config.top_k, model.key), shares)
    found = measurable(config, setting)
    if config.old_pace:
        say({"is": "note", "text": told_of_pace(config.old_pace), "level": "warning"})
    jobs = jobs_of(config, model, found, cores, say)
    _measure(config, found, jobs, folder, meet, say, stdin)


def _profile(
    config: HeterMoEConfig, model: Any, cores: Sequence[int], say: Say, stdin: int
) -> tuple[Profile, list[list[float]]]:  # fmt: skip
    """Profile, timed or from its file, and the untrained model's routing. Messages first: nothing may be computed
    before a fork.
    """
    from workbench.hetermoe.probe import first_routing, measure, message_seconds

    known = profile_of(Path(config.profile_file).expanduser(), model.key) if config.profile_file else None
    sizes = message_sizes(config)
    job = {
        "model": vars(model), "rounds": PROBES, "clock": "cpu", "message_bytes": sizes, **points(config),
        "kinds": {
            NEW: {"kernel": "fused", "cores": cores[:1], "capacity_bytes": 0},
            OLD: {"kernel": "naive", "cores": cores[1:2] or cores[:1], "capacity_bytes": 0},
        },
    }  # fmt: skip
    message: Any = None
    if known is None:
        say({"is": "doing", "text": "timing messages", "share": 0.12})
        message = message_seconds(job, sizes)

    kinds = list(job["kinds"])

    def body(rank: int, tell: Say) -> None:
        if rank == 0:
            rows = max(1, min(4, 4096 // config.tokens_of_sequence))
            tell({"is": "routing", "shares": first_routing(model, config.seed, rows, config.tokens_of_sequence)})
        if known is None:
            own = job | {"kinds": {kinds[rank]: job["kinds"][kinds[rank]]}}
            tell({"is": "profile", "profile": measure(own, tell, message).to_json()})

    parts, shares = dict[int, Profile](), list[list[float]]()
    for told in watch(fork_ranks([f"profiler of {kind}" for kind in kinds], body), config.timeout_s, stdin):
        if told["is"] == "routing":
            shares = told["shares"]
        elif told["is"] == "profile":
            parts[told["rank"]] = Profile.from_json(told["profile"])
        elif told["is"] == "point" and told["rank"] == len(kinds) - 1:
            share = 0.14 + 0.2 * told["done"] / told["total"]
            say({"is": "doing", "text": f"timing stages, round {told['done']} of {told['total']}", "share": share})
    found = known or joined([parts[rank] for rank in range(len(kinds))])
    return found if config.old_share is None else limited(found, OLD, config.old_share), shares


def joined(parts: Sequence[Profile]) -> Profile:
    """One profile of kinds that were timed at once, each on its core, as they will run: cores that share caches, or are
    threads of one, are slower together than alone.
    """
    memory = max((part.memory for part in parts), key=lambda memory: memory.activation)
    return replace(parts[0], devices=tuple(device for part in parts for device in part.devices), memory=memory)


def points(config: HeterMoEConfig) -> dict[str, list[int]]:
    """Lengths and token counts that are timed: this run's own, a shorter and a longer length for the crossovers."""
    here = config.tokens_of_sequence
    batch = config.sequences * here
    micro = max(here, batch // (config.attention * config.micro_batches))
    share = max(16, batch * config.top_k // (config.experts * config.micro_batches))  # of an expert
    lengths = sorted({max(64, here // 4), here})
    # also one sequence, as EP's ranks may have: naive scores of two of them no longer fit the caches, and take longer
    return {"lengths": lengths, "tokens": sorted({share, micro, here, max(16, min(share, micro) // 4)})}


def message_sizes(config: HeterMoEConfig) -> list[int]:
    """Bytes of messages that are timed: up to all rows of a batch, which DistEP sends in one, and a micro-batch's."""
    whole = 4 * config.hidden * config.sequences * config.tokens_of_sequence * config.top_k
    return sorted({*(size for size in SIZES if size < whole), whole // config.micro_batches, whole})


def jobs_of(
    config: HeterMoEConfig, model: Any, found: Mapping[str, Arm], cores: Sequence[int], say: Say
) -> dict[str, Any]:  # fmt: skip
    """A job for each way, all of the same batches. What DeepSpeed-MoE cannot run is left out and said."""
    from workbench.hetermoe.baseline import suits
    from workbench.hetermoe.job import Job
    from workbench.hetermoe.live_ranks import PER_TURN, THEIRS
    from workbench.hetermoe.update import Adam

    pinned = tuple((cores[rank % len(cores)],) for rank in range(config.attention + config.expert))

    def job(arm: Arm) -> Job:
        kinds = arm.load.kind_of(arm.plan)[: arm.plan.attention]
        return Job(
            model, arm.plan, PER_TURN * config.rounds, config.sequences, config.tokens_of_sequence,
            kernels=tuple("fused" if kind == NEW else "naive" for kind in kinds), data_seed=config.seed, cores=pinned,
            adam=Adam(lr=LR),
            timeout_s=config.timeout_s, pace=pace_of(config, arm), transport="gloo",
        )  # fmt: skip

    jobs = {way: job(arm) for way, arm in found.items() if way != THEIRS or config.deepspeed}
    if THEIRS in jobs:
        try:
            suits(jobs[THEIRS])
        except PlanError as error:
            del jobs[THEIRS]
            say({"is": "note", "text": f"without DeepSpeed-MoE: {error}", "level": "warning"})
    return jobs


def pace_of(config: HeterMoEConfig, arm: Arm) -> tuple[float, ...]:
    """Of each rank; empty where none is paced."""
    by_kind = {NEW: 1.0, old_of(config): config.old_pace or 1.0}
    return factors({rank: by_kind[kind] for rank, kind in enumerate(arm.load.kind_of(arm.plan))}, arm.plan.world)


def told_of_pace(factor: float) -> str:
    """For the run's notes."""
    return (
        f"the old kind is paced, not slow: after each of its stages products of matrices go on for {factor - 1:g} "
        "times as long and are thrown away. Its boxes are drawn with that, and its share of work is without"
    )


def order(ways_: Sequence[str], rounds: int) -> list[str]:
    """All ways in each round, another one first each time."""
    return [ways_[(at + number) % len(ways_)] for number in range(rounds) for at in range(len(ways_))]


def _measure(
    config: HeterMoEConfig, found: Mapping[str, Arm], jobs: Mapping[str, Any], folder: Path, meet: str, say: Say,
    stdin: int,
) -> None:  # fmt: skip
    """Fork the ranks, prove, and go through the turns."""
    from workbench.hetermoe import proof
    from workbench.hetermoe.live_ranks import THEIRS, Turns, body
    from workbench.hetermoe.live_rows import Told
    from workbench.hetermoe.quota import Quota

    say({"is": "doing", "text": "starting the ranks", "share": 0.36})
    world, zebra = config.attention + config.expert, jobs["zebra"]
    proved = None
    if config.proof:
        for name in ("sound", "broken"):
            (folder / name).mkdir()
        proved = proof.job_of(zebra.plan, zebra.kernels, config.seed, folder / "sound")
    pipes = [os.pipe() for _ in range(world * (2 if THEIRS in jobs else 1))]
    turns = Turns(
        jobs, order(list(jobs), config.rounds), [a for a, _ in pipes], (meet, f"file://{folder / 'theirs'}"), proved,
        str(folder / "broken"),
    )  # fmt: skip
    roles = [zebra.role(rank) for rank in range(world)]
    roles += [f"DeepSpeed {rank}" for rank in range(len(pipes) - world)]
    with ExitStack() as limits:
        ranks = fork_ranks(roles, body(turns))
        try:
            for rank in ranks:
                if config.old_share is not None and rank.rank % world >= config.attention:
                    limits.enter_context(Quota(config.old_share)).take(rank.pid)
            told = Told(found, turns, zebra.rows * zebra.tokens, config.rounds, say)
            told.follow(watch(ranks, config.timeout_s, stdin), lambda rank: os.write(pipes[rank][1], b"t"))
        finally:
            end(ranks)
    told.finish()


if __name__ == "__main__":
    main()

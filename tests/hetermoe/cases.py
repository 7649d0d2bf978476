"""Runs of ranks for test_equality.py: `python cases.py FOLDER < cases.json`, one import of torch for all.

A case: name, model, plan, job (fields of Job), late, sabotage ("" or a function below). It leaves trained parameters in
FOLDER/NAME/rankN.safetensors, and losses.json.
"""

import contextlib
import json
import os
import socket
import sys
from itertools import groupby
from pathlib import Path

from workbench.hetermoe import stages
from workbench.hetermoe.job import Job, kernels_of
from workbench.hetermoe.launch import fork_ranks, watch
from workbench.hetermoe.model import MoEConfig
from workbench.hetermoe.plan import Plan, zebra
from workbench.hetermoe.rank import process, run
from workbench.hetermoe.training import main as main_of_train
from workbench.hetermoe.update import Adam


def job_of(case, folder):
    plan = Plan.from_json(case["plan"])
    given = {"steps": 3, "rows": 14, "tokens": 6, "timeout_s": 60.0, **case["job"]}
    given["adam"] = Adam(**given.get("adam", {}))
    kernels = kernels_of(given.pop("kernels", "fused"), plan.attention * given.get("groups", 1))
    return Job(MoEConfig(**case["model"]), plan, kernels=kernels, out=str(folder / case["name"]), **given)


def no_gate_path():
    """The gate's weights get no gradient from the stage after."""
    whole = stages._gradients
    stages._gradients = lambda inputs: stages.Gradients(*(g * f for g, f in zip(_three(whole(inputs)), (1, 0, 1))))


def no_expert_path():
    whole = stages.ExpertStages.backward
    stages.ExpertStages.backward = lambda self, *at: whole(self, *at) * 0


def shifted_owner():
    """Expert e's rows are computed, and its gradient made, by the next expert of the same rank."""
    whole = stages.ExpertStages._run

    def run(self, layer, rows, counts):
        held, self.held = self.held, [row[1:] + row[:1] for row in self.held]
        try:
            return whole(self, layer, rows, counts)
        finally:
            self.held = held

    stages.ExpertStages._run = run


def gradient_of_the_next():
    """Outputs are right, and the gradient of an expert goes to the next one of its rank."""
    whole = stages.ExpertStages.backward

    def backward(self, layer, j, gradient):
        named = [self.model.expert(layer, e) for e in self.held[layer]]
        before = [[p.grad for p in e.parameters()] for e in named]
        for e in named:
            for p in e.parameters():
                p.grad = None
        rows = whole(self, layer, j, gradient)
        fresh = [[p.grad for p in e.parameters()] for e in named]
        for e, olds, news in zip(named, before, fresh[1:] + fresh[:1]):
            for p, old, new in zip(e.parameters(), olds, news):
                p.grad = new if old is None else old if new is None else old + new
        return rows

    stages.ExpertStages.backward = backward


def no_peer_sum():
    """Attention ranks keep their own gradients."""
    from workbench.hetermoe.exchange import Sum

    Sum._sum = lambda self, tensors: None


def by_environment(folder):
    """The command as torchrun starts it: who and where in the environment. Its lines go to FOLDER/torchrun.txt."""
    plan = zebra(1, 1, 2, 3, 7, 2).with_offload((1, 0, 2))
    (folder / "plan.json").write_text(plan.to_json())
    (folder / "model.json").write_text(json.dumps({"vocab": 24, "hidden": 16, "ffn": 12, "gate_bias": True}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def body(rank, say):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with open(folder / f"torchrun{rank}.txt", "w") as out, contextlib.redirect_stdout(out):
            main_of_train([str(folder / "plan.json"), "--model", str(folder / "model.json"), "--steps", "3",
                           "--rows", "14", "--tokens", "6"])  # fmt: skip

    for _ in watch(fork_ranks(["attention", "expert"], body), 60.0):
        pass


def _three(g):
    return g.h, g.w, g.o


def _forks(job):
    """Cases that share their processes, in the order in which they run; late: after all others."""
    return job[0]["sabotage"], job[0]["late"], job[1].world


def main(folder):
    cases = json.loads(sys.stdin.read())
    jobs = [(case, job_of(case, folder)) for case in cases]
    by_environment(folder)
    jobs.sort(key=_forks)
    for (sabotage, _, world), group in groupby(jobs, key=_forks):
        mine = list(group)

        def body(rank, say, mine=mine, sabotage=sabotage):
            if sabotage:
                globals()[sabotage]()
            for case, job in mine:
                own = folder / case["name"]
                own.mkdir(exist_ok=True)
                losses = []
                with process(job, rank, f"file://{own}/store") as layout:
                    for told in run(job, layout):
                        losses.append(told.loss)
                        if not sabotage:
                            say({"is": "step", "doing": f"{case['name']}, step {told.step}"})
                if rank == 0:
                    (own / "losses.json").write_text(json.dumps(losses))

        for _ in watch(fork_ranks([""] * world, body), 60.0):
            pass
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

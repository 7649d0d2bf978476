"""Training over ranks equals training in one process: losses and every parameter, bit for bit; and what must not."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.hetermoe.checkpoint import CheckpointError, meta
from workbench.hetermoe.data import Markov, shards
from workbench.hetermoe.job import Job
from workbench.hetermoe.model import MoE, MoEConfig
from workbench.hetermoe.plan import distep, expert_parallel, zebra
from workbench.hetermoe.single import Single
from workbench.hetermoe.update import Adam

pytestmark = [pytest.mark.timeout(300)]

SMALL = MoEConfig(vocab=24, hidden=16, layers=3, heads=2, experts=7, top_k=2, ffn=12, gate_bias=True)
STEPS, ROWS, TOKENS = 3, 14, 6
LOAD = {"vocab": 24}
EMPTY = {1: -50.0, 4: -50.0}  # biases of gates: these experts get no token
SKEWED = {0: 50.0, 5: 1.0}  # expert 0 gets every token


def z(m, n, r=2, offload=(), config=SMALL):
    plan = zebra(m, n, r, config.layers, config.experts, config.top_k, config.key)
    return plan.with_offload(offload) if offload else plan


def case(name, plan, model=SMALL, bias=None, sabotage="", late=False, **job):
    return {
        "name": name, "plan": plan, "model": model, "bias": bias or {}, "sabotage": sabotage, "late": late, "job": job,
    }  # fmt: skip


DOUBLE = MoEConfig(**{**asdict(SMALL), "dtype": "float64"})
ONE = MoEConfig(**{**asdict(SMALL), "top_k": 1, "tied": False})
CASES = [
    case("1:1", z(1, 1)),
    case("1:1, Asym-EA", z(1, 1, 3, (2, 0, 3)), kernels="naive"),
    case("1:2", z(1, 2)),
    case("1:2, Asym-EA, recomputed", z(1, 2, 2, (1, 3, 2)), recompute=True),
    case("2:1", z(2, 1), kernels=("fused", "naive")),
    case("2:1, Asym-EA, skewed", z(2, 1, 2, (3, 1, 2)), bias=SKEWED),
    case("2:2, empty", z(2, 2, 3), bias=EMPTY, recompute=True),
    case("2:2, Asym-EA, empty", z(2, 2, 2, (2, 7, 1)), bias=EMPTY, rows=15),
    case("2:2, ZeRO", z(2, 2, 2, (1, 0, 2)), zero=True),
    case("2 groups of 1:1", z(1, 1, 2, (3, 0, 1)), groups=2),
    case("4:3", z(4, 3)),
    case("4:3, Asym-EA, skewed", z(4, 3, 2, (2, 5, 1)), bias=SKEWED, rows=17),
    case("expert parallelism", expert_parallel(2, 3, 7, 2, 2, SMALL.key)),
    case("DistEP", distep(1, 2, 3, 7, 2, SMALL.key)),
    case("top-1, untied", z(2, 1, 2, (2, 0, 1), ONE), ONE),
    case("float64, 2:2", z(2, 2, 2, (2, 0, 1), DOUBLE), DOUBLE),
    case("float64, 4:3", z(4, 3, 2, (), DOUBLE), DOUBLE),
]
FULL = z(2, 2, 2, (2, 0, 1))
KEPT = {"every": 2, "adam": {"lr": 3e-3}}
CHECKPOINTS = [  # in this order; each folder is that of the one before it, but for the first
    case("not interrupted", FULL, steps=4, **KEPT, folder="whole"),
    case("two steps", FULL, steps=2, **KEPT, folder="half"),
    case("went on", FULL, steps=4, **KEPT, folder="half"),
    case("two steps, ZeRO", FULL, steps=2, zero=True, **KEPT, folder="zero"),
    case("went on without ZeRO", FULL, steps=4, **KEPT, folder="zero"),
    case("two steps, again", FULL, steps=2, **KEPT, folder="other"),
    case("went on with ZeRO under 1:1", z(1, 1, 2, (3, 0, 1)), steps=4, zero=True, **KEPT, folder="other", late=True),
]
BROKEN = [
    case("no gate path", z(1, 1), sabotage="no_gate_path"),
    case("no expert path", z(1, 1), sabotage="no_expert_path"),
    case("rows of the next expert", z(1, 1), sabotage="shifted_owner"),
    case("gradient of the next expert", z(1, 1), sabotage="gradient_of_the_next"),
    case("no sum over attention ranks", z(2, 1), sabotage="no_peer_sum"),
]


def start(asked):
    """The model that both sides begin with."""
    model = MoE(asked["model"])
    with torch.no_grad():
        for block in model.blocks:
            for expert, bias in asked["bias"].items():
                block.gate.bias[expert] = bias
    return model


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Every case on its ranks: folder by name."""
    folder = tmp_path_factory.mktemp("equality")
    told = []
    for asked in CASES + CHECKPOINTS + BROKEN:
        weights = folder / f"{asked['name']} start.safetensors"
        save_file({n: p.detach() for n, p in start(asked).parameters_by_name().items()}, weights)
        job = {"rows": ROWS, "tokens": TOKENS, "steps": STEPS, **asked["job"], "weights": str(weights)}
        if "folder" in job:
            job["folder"] = str(folder / job["folder"])
        told.append({**asked, "plan": asked["plan"].to_json(), "model": asdict(asked["model"]), "job": job})
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("cases.py"), folder],
        input=json.dumps(told), text=True, capture_output=True, timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def alone(asked, **changes):
    """(losses, parameters) of the case in this process, sums in the order of its ranks unless told otherwise."""
    plan, job = asked["plan"], asked["job"]
    groups = job.get("groups", 1)
    attention = plan.attention * groups
    kernels = job.get("kernels", "fused")
    kernels = [kernels] * attention if isinstance(kernels, str) else kernels
    order = {"micro_batches": plan.micro_batches, "ranks": plan.attention, "groups": groups, "kernels": kernels}
    single = Single(start(asked), **{**order, **changes})
    data = Markov(asked["model"].vocab)
    losses = [single.step(data.batch(step, job.get("rows", ROWS), TOKENS)) for step in range(STEPS)]
    return losses, {n: p.detach() for n, p in single.parameters.items()}


def trained(folder, asked):
    """(losses, parameters by name from all ranks), and that ranks which share one agree."""
    own, found = folder / asked["name"], {}
    world = asked["plan"].world * asked["job"].get("groups", 1)
    for rank in range(world):
        for name, value in load_file(own / f"rank{rank}.safetensors").items():
            assert name not in found or torch.equal(found[name], value), f"{name} of rank {rank} differs"
            found[name] = value
    return json.loads((own / "losses.json").read_text()), found


def apart(found, wanted):
    """Largest difference of a parameter, as a share of its largest value."""
    assert set(found) == set(wanted)
    return max(float((found[n] - w).abs().max() / w.abs().max().clamp_min(1e-30)) for n, w in wanted.items())


@pytest.mark.parametrize("asked", [c for c in CASES if "float64" not in c["name"]], ids=lambda c: c["name"])
def test_every_bit_is_that_of_one_process(ranks, asked):
    losses, found = trained(ranks, asked)
    wanted_losses, wanted = alone(asked)
    assert losses == wanted_losses
    different = [name for name, value in wanted.items() if not torch.equal(found[name], value)]
    assert not different, f"{different[:4]}: {apart(found, wanted)}"
    begun = start(asked).parameters_by_name()
    moved = {n for n, p in begun.items() if not torch.equal(found[n], p)}
    assert moved == set(begun)  # gates and norms too, and by weight decay experts without a token


@pytest.mark.parametrize("asked", [c for c in CASES if "float64" in c["name"]], ids=lambda c: c["name"])
def test_equals_plain_training_of_whole_batches(ranks, asked):
    """No shards, no micro-batches: sums have another order, and in float64 that is all the difference there is."""
    losses, found = trained(ranks, asked)
    wanted_losses, wanted = alone(asked, micro_batches=1, ranks=1, groups=1, kernels=["fused"])
    assert losses == pytest.approx(wanted_losses, rel=1e-12)
    assert apart(found, wanted) < 1e-9


@pytest.mark.parametrize("asked", BROKEN, ids=lambda c: c["name"])
def test_what_is_left_out_shows(ranks, asked):
    """Controls: a path, an owner or a sum less, and parameters are far from those of one process."""
    world = asked["plan"].world
    files = [load_file(ranks / asked["name"] / f"rank{rank}.safetensors") for rank in range(world)]
    _, wanted = alone(asked)
    found = {n: v for file in reversed(files) for n, v in file.items()}
    assert apart(found, wanted) > 1e-4


def test_gates_learn_through_their_own_path(ranks):
    """Without it the gates' weights keep their direction: only weight decay moves them."""
    asked = BROKEN[0]
    file = load_file(ranks / asked["name"] / "rank0.safetensors")
    begun = start(asked).parameters_by_name()
    name = "blocks.0.gate.weight"
    decayed = begun[name] * (1 - 1e-3 * 0.01) ** STEPS
    torch.testing.assert_close(file[name], decayed, rtol=1e-5, atol=0)


def test_torchrun_does_the_steps_of_one_process(ranks):
    """Started as torchrun starts it; rank 0 says the steps, the others nothing."""
    losses = [json.loads(line)["loss"] for line in (ranks / "torchrun0.txt").read_text().splitlines()]
    assert losses == alone(case("", z(1, 1)))[0]
    assert not (ranks / "torchrun1.txt").read_text()


def test_resumed_runs_have_the_bits_of_one_that_was_not_interrupted(ranks):
    """Also with ZeRO before and not after; under another plan the sums' order differs and little else."""
    named = {asked["name"]: trained(ranks, asked) for asked in CHECKPOINTS}
    losses, wanted = named["not interrupted"]
    for name in ("went on", "went on without ZeRO"):
        assert named[name][0] == losses[2:]
        assert apart(named[name][1], wanted) == 0
    assert apart(named["two steps"][1], wanted) > 1e-3
    assert named["went on with ZeRO under 1:1"][0] == pytest.approx(losses[2:], rel=1e-6)
    assert apart(named["went on with ZeRO under 1:1"][1], wanted) < 1e-2


def test_folders_of_another_run_are_refused(ranks, tmp_path):
    job = {"steps": 9, "rows": ROWS, "tokens": TOKENS, "kernels": ("fused",), "folder": str(ranks / "half")}
    one = expert_parallel(1, 3, 7, 2)
    assert meta(Job(SMALL, one, **job, adam=Adam(lr=3e-3)))["steps"] == 4
    with pytest.raises(CheckpointError, match=r"is of a run with .*0.003.*choose another folder"):
        meta(Job(SMALL, one, **job))
    with pytest.raises(CheckpointError, match="is of another model"):
        meta(Job(ONE, expert_parallel(1, 3, 7, 1), **job))
    assert meta(Job(SMALL, one, **{**job, "folder": str(tmp_path)})) is None
    (tmp_path / "latest").write_text("step000002")
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read"):
        meta(Job(SMALL, one, **{**job, "folder": str(tmp_path)}))
    assert sorted(p.name for p in (ranks / "half").iterdir()) == ["latest", "step000002", "step000004"]


def test_shards_hold_every_row_once():
    for rows, r, m in ((14, 2, 4), (17, 2, 4), (4, 4, 1)):
        cut = shards(rows, r, m)
        assert [i for row in cut for s in row for i in range(rows)[s]] == list(range(rows))
    with pytest.raises(ValueError, match="a batch of 7 rows cannot feed 2 micro-batches on 4 attention ranks"):
        shards(7, 2, 4)

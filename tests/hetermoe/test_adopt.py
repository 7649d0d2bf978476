"""A model with DeepSpeed's MoE layers under plans, against DeepSpeed's own engine on the same batches; refusals."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workbench.hetermoe.plan import expert_parallel, zebra
from workbench.hetermoe.turns import ENDED, Stuck, Turn, here

pytestmark = [pytest.mark.timeout(300)]

EXACT = {"drop_tokens": False, "top2_2nd_expert_sampling": False}
FULL = {"drop_tokens": True, "use_rts": False, "min_capacity": 1, "top2_2nd_expert_sampling": False}
OF = {  # what the model's MoE layers are given
    "top-2": {"k": 2, **EXACT},
    "top-1, dropped": {"k": 1, "capacity_factor": 0.75, **FULL},
    "top-2, dropped, residual": {"k": 2, "capacity_factor": 0.6, "use_residual": True, **FULL},
    "top-3": {"k": 3, **EXACT},
}
PLANS = {
    "top-2": zebra(1, 1, 2, 3, 4, 2).with_offload((1, 0, 2)),
    "top-1, dropped": zebra(2, 1, 2, 3, 4, 1).with_offload((0, 2, 1)),
    "top-2, dropped, residual": expert_parallel(2, 3, 4, 2, 2),
    "top-3": zebra(1, 2, 2, 3, 4, 3),
}
CONTROLS = {"all fit": ("top-1, dropped", "all_fit"), "no gradient": ("top-2", "no_expert_gradient")}


def case(name, of, sabotage=""):
    plan = PLANS[of]
    shards = plan.attention * plan.micro_batches
    return {"name": name, "of": rival(of), "settings": OF[of], "plan": plan.to_json(), "shards": shards,
            "sabotage": sabotage}  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: make setup")
    folder = tmp_path_factory.mktemp("adopted")
    cases = [case(of, of) for of in OF] + [case(name, *control) for name, control in CONTROLS.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("adopted_cases.py")), str(folder)],
        input=json.dumps(cases), text=True, capture_output=True, env=environment, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def rival(of):
    return f"{of} by DeepSpeed"


def apart(folder, name, of):
    """Largest difference of a parameter, as a share of its largest value; all of DeepSpeed's names must be there."""
    import torch
    from safetensors.torch import load_file

    wanted, found = torch.load(folder / rival(of) / "trained.pt"), {}
    for file in sorted((folder / name).glob("rank*.safetensors")):
        found |= load_file(file)
    assert set(found) == set(wanted)
    return max(float((found[n] - w).abs().max() / w.abs().max().clamp_min(1e-30)) for n, w in wanted.items())


def told(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("of", OF)
def test_losses_and_parameters_are_deepspeeds(ran, of):
    """Three steps of AdamW; the loss has the gates' auxiliary losses in it, and two of the models drop tokens."""
    by_deepspeed = told(ran, f"{rival(of)}/told.json")
    assert told(ran, f"{of}/told0.json")["losses"] == pytest.approx(by_deepspeed["losses"], rel=1e-5)
    assert apart(ran, of, of) < 1e-4
    assert (by_deepspeed["dropped"] > 10) == ("dropped" in of)
    plan = PLANS[of]
    for rank in range(plan.world):
        losses = told(ran, f"{of}/told{rank}.json")["losses"]
        assert all((loss is None) == (rank >= plan.attention) for loss in losses)


@pytest.mark.parametrize("name", CONTROLS)
def test_what_is_left_out_shows(ran, name):
    """Capacities that are ignored, and experts that get no gradient."""
    of, _ = CONTROLS[name]
    assert apart(ran, name, of) > 1e-2
    losses = told(ran, f"{name}/told0.json")["losses"]
    assert losses[-1] != pytest.approx(told(ran, f"{rival(of)}/told.json")["losses"][-1], rel=1e-5)


def test_stages_go_in_the_order_of_theorem_1(ran):
    """Somebody else's forward and backward, cut at its MoE layers, with the experts that were moved in between."""
    spans = told(ran, "top-2/told0.json")["spans"]
    stages = [(kind, way, layer, j) for kind, way, layer, j in spans if kind in {"attention", "head"}]
    forward = [("attention", "forward", layer, j) for layer in range(3) for j in range(2)]
    back = [("attention", "backward", layer, j) for layer in (2, 1, 0) for j in range(2)]
    assert [tuple(s) for s in stages] == [*forward, ("head", "", 3, 0), ("head", "", 3, 1), *back]
    moved = {(layer, way) for kind, way, layer, _ in spans if kind == "offload"}
    assert moved == {(0, "forward"), (0, "backward"), (2, "forward"), (2, "backward")}
    assert {kind for kind, *_ in told(ran, "top-2/told1.json")["spans"]} >= {"expert", "dispatch", "combine", "update"}


@pytest.mark.parametrize("of", ["top-2", "top-3"])
def test_routed_copies_are_those_of_one_step(ran, of):
    """Of 8 rows of 6 tokens, nothing dropped; three steps have been made."""
    assert told(ran, f"{of}/told0.json")["routed"] == [8 * 6 * PLANS[of].top_k] * 3


REFUSED = {
    "none": "no deepspeed.moe.layer.MoE in this model",
    "part": "blocks.1.moe has 2 of 4 experts in it (ep_size 2): build the model with ep_size=1",
    "fewer": "blocks.2.moe has experts 2, blocks.0.moe 4",
    "tied": "blocks.1.moe, expert 2, 0.weight is the same tensor as blocks.1.moe, expert 0, 0.weight",
    "shared": "head.bias is the same tensor as blocks.0.moe, expert 1, 2.bias",
    "normed": "blocks.0.moe, expert 3 has a BatchNorm1d",
    "half": "is torch.bfloat16 on cpu: a plan runs models of float32 or float64",
    "sampled": "blocks.0.moe: top2_2nd_expert_sampling",
    "rts": "blocks.2.moe: use_rts, which tokens are dropped. Turn it off, or give a seed",
    "jitter": "blocks.0.moe: noisy_gate_policy Jitter",
    "dropout": "blocks.1.attention: dropout 0.1",
    "tutel": "blocks.0.moe: use_tutel",
    "gate": "blocks.0.moe: its gate is Linear",
    "tensor": "blocks.0.moe: enable_expert_tensor_parallelism",
    "plan": "the plan has experts 6, the model 4",
    "key": "this plan was made for model other",
    "world": "the plan has 2 ranks, 1 were started",
    "twice": "micro-batch 0 came to MoE layer 0, forward where MoE layer 2, backward was due",
    "never": "micro-batch 0 came to its end where MoE layer 0, forward was due",
    "unused": "micro-batch 0 came to its end where MoE layer 2, backward was due",
    "broken": "by the caller",
    "rows": "3 rows do not divide by 1 attention ranks times 2 micro-batches",
    "no batch": "an attention rank's step needs the batch",
    "outside": "blocks.0.moe: this model is under a plan and runs in its trainer's step",
}


def test_what_no_plan_can_run_is_refused_by_name(ran):
    said = told(ran, "refused.json")
    assert said.pop("threads") == []  # none is left of the steps that failed
    assert set(said) == set(REFUSED)
    for name, text in REFUSED.items():
        assert text in said[name], name


def test_sampled_gates_follow_their_seed(ran):
    first, again, other = told(ran, "sampled.json")
    assert first == again
    assert first != other


def test_turns_run_one_at_a_time_and_end():
    """In the order of the calls; errors go to who gave the turn; threads that wait end when told."""
    seen = []

    def body(turn):
        assert here() is turn
        for at in range(2):
            seen.append((turn.name, at, turn.hand(at)))

    a, b = Turn("a", body), Turn("b", body)
    assert [a.go(), b.go(), b.go("x"), a.go("y"), a.go("z")] == [0, 0, 1, 1, ENDED]
    assert seen == [("b", 0, "x"), ("a", 0, "y"), ("a", 1, "z")]
    b.end()
    assert here() is None

    def fails(turn):
        raise LookupError(turn.name)

    with pytest.raises(LookupError, match="c"):
        Turn("c", fails).go()
    with pytest.raises(Stuck, match="d has computed for 0 s without reaching"):
        Turn("d", lambda turn: time.sleep(0.3), patience_s=0.01).go()
    deadline = time.monotonic() + 10
    while any(t.name in "abcd" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [t.name for t in threading.enumerate() if t.name in "abcd"]

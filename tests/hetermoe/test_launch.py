"""A run from a notebook and under torchrun: rows with spans, kills, hangs, cancel, ports, what is refused."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import psutil
import pytest
import torch

import workbench.hetermoe
from workbench.hetermoe.data import Markov
from workbench.hetermoe.job import Job
from workbench.hetermoe.launch import PortTaken, RankFailed
from workbench.hetermoe.measure import slots
from workbench.hetermoe.model import MoE, MoEConfig
from workbench.hetermoe.plan import PlanError, distep, expert_parallel, zebra
from workbench.hetermoe.rank import Diverged, process
from workbench.hetermoe.rank import run as run_rank
from workbench.hetermoe.single import Single
from workbench.hetermoe.spans import COMPUTE
from workbench.hetermoe.training import Cancelled, main, train
from workbench.hetermoe.update import Adam

pytestmark = [pytest.mark.timeout(300)]

CONFIG = MoEConfig(vocab=24, hidden=16, layers=2, experts=4, ffn=16)
PLAN = zebra(1, 1, 2, 2, 4, 2, CONFIG.key).with_offload((1, 0))


def start(steps=100_000, plan=PLAN, model=CONFIG, **changes):
    return train(model, plan, **{"steps": steps, "rows": 4, "tokens": 8, "timeout_s": 30.0, **changes})


def left():
    """Processes of a run that are still there."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "hetermoe" in " ".join(p.cmdline())]


def gone(pids):
    """Whether none of them is there after a while: who is killed may take a moment to vanish."""
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


def drive(run, step, act):
    """All steps, with `act` after one of them."""
    for row in run:
        if row.step == step:
            act()


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def finished(port):
    """A whole run of a caller's model and tokens, at a port; what the model was before, who listened where."""
    model = MoE(CONFIG)
    before = {n: p.detach().clone() for n, p in model.parameters_by_name().items()}
    ids = torch.arange(17).repeat(8, 1) % 12 + torch.arange(8)[:, None]
    asked = {"steps": 30, "rows": 8, "tokens": 16, "timeout_s": 30.0, "port": port}
    run = workbench.hetermoe.train(model, PLAN, ids=ids, adam=Adam(lr=1e-2), **asked)
    rows, listening = [], set()
    for row in run:
        rows += [row]
        with contextlib.suppress(psutil.Error):
            listening |= {
                c.laddr.port for p in run.pids for c in psutil.Process(p).net_connections() if c.status == "LISTEN"
            }
    return rows, run, model, before, listening


def test_rows_tell_of_every_rank_and_the_model_learns(finished):
    rows, run, model, before, _ = finished
    assert [row.step for row in rows] == list(range(30))
    assert rows[-1].loss < rows[0].loss / 2  # a task that can be learned
    assert run.result.rows == tuple(rows)
    assert run.roles == ("attention", "expert")
    for name, p in model.parameters_by_name().items():
        assert torch.equal(p, run.result.parameters[name]), name
        assert not torch.equal(p, before[name]), name
    assert gone(run.pids)
    assert [sum(layer) for layer in rows[4].routed] == [8 * 16 * 2] * 2  # every token, to two experts
    assert [sum(layer) for layer in rows[4].shares] == pytest.approx([1, 1])
    assert rows[4].routed != rows[29].routed  # routing drifts
    assert all(0 < share <= 1 for row in rows for share in row.busy.values())
    assert rows[5].tokens_per_s == rows[5].tokens / (rows[5].end_s - rows[5].start_s) > 0


def test_spans_are_those_of_theorem_1(finished):
    """Order of stages on both sides, nothing at once on a compute thread, messages where there is something to send."""
    row = finished[0][3]
    attention, expert = ([s for s in row.spans[rank] if s.kind in COMPUTE] for rank in (0, 1))
    assert [(s.kind, s.way[:1], s.layer, s.micro_batch) for s in attention] == [
        ("attention", "f", 0, 0), ("attention", "f", 0, 1), ("offload", "f", 0, 0), ("offload", "f", 0, 1),
        ("attention", "f", 1, 0), ("attention", "f", 1, 1),
        ("head", "", 2, 0), ("head", "", 2, 1),
        ("attention", "b", 1, 0), ("attention", "b", 1, 1), ("offload", "b", 0, 0), ("offload", "b", 0, 1),
        ("attention", "b", 0, 0), ("attention", "b", 0, 1), ("update", "", -1, -1),
    ]  # fmt: skip
    assert [(s.way[:1], s.layer, s.micro_batch) for s in expert] == [
        ("f", 0, 0), ("f", 0, 1), ("f", 1, 0), ("f", 1, 1), ("b", 1, 0), ("b", 1, 1), ("b", 0, 0), ("b", 0, 1),
        ("", -1, -1),
    ]  # fmt: skip
    for spans in (attention, expert):
        assert all(a.end_s <= b.start_s for a, b in pairwise(spans))
    told = [s for s in slots(row) if s.rank == 0 and s.stream == "compute"]
    assert [s.stage for s in told] == [{"offload": "expert"}.get(s.kind, s.kind) for s in attention]
    assert told[0].start_s >= 0
    assert told[-1].end_s <= row.seconds
    for kind in ("dispatch", "combine"):
        assert sum(s.kind == kind for s in row.spans[1]) == 8


def test_a_killed_rank_ends_the_run_by_name_and_it_goes_on(tmp_path):
    """With the bits of a run that was not interrupted; the first four lines of this are all that a user writes."""
    asked = {"folder": tmp_path, "checkpoint_every": 2}
    run = start(**asked)
    with pytest.raises(
        RankFailed, match=r"rank 1 \(expert\) was killed by SIGKILL at 'step \d+'.* goes on from the last"
    ):
        drive(run, 4, lambda: os.kill(run.pids[1], signal.SIGKILL))
    assert gone(run.pids)
    assert not left()
    again = start(10, **asked)
    assert [row.step for row in again][-1] == 9
    assert again.result.rows[0].step % 2 == 0 < again.result.rows[0].step
    torch.set_num_threads(1)
    single, data = Single(MoE(CONFIG), micro_batches=2), Markov(24)
    losses = [single.step(data.batch(step, 4, 8)) for step in range(10)]
    assert [row.loss for row in again.result.rows] == losses[again.result.rows[0].step :]
    for name, p in single.parameters.items():
        assert torch.equal(again.result.parameters[name], p), name


def test_a_rank_that_hangs_is_named():
    """It answers no collective: who waits says which, and who was silent."""
    run = start(timeout_s=4.0)
    with pytest.raises(RankFailed, match=r"rank 0 \(attention\) failed after 'step \d+': .* heard of rank 1"):
        drive(run, 1, lambda: os.kill(run.pids[1], signal.SIGSTOP))
    assert gone(run.pids)


def test_cancel_and_close_leave_nothing():
    """Also before the ranks are up; how ranks end is the same as in the runs above."""
    run = start()
    assert next(run.ticks()) is None
    assert left()
    run.cancel()
    with pytest.raises(Cancelled, match="after 0 steps"):
        list(run)
    assert not left()
    run = start()
    assert next(run.ticks()) is None
    run.close()
    assert not left()
    assert list(run) == []


def test_a_port_is_used_when_asked_for_and_a_taken_one_named(finished, port):
    assert port in finished[4]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))  # nobody is left on it
        taken.listen()
        with pytest.raises(PortTaken, match=f"port {port} cannot be taken .* name another, or none"):
            start(port=port)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    plan = expert_parallel(1, 2, 4, 2)
    job = Job(CONFIG, plan, 9, 4, 8, kernels=("fused",), adam=Adam(lr=1e30))
    with (
        process(job, 0, f"file://{tmp_path}/store") as layout,
        pytest.raises(Diverged, match=r"the loss of step \d+ is (nan|inf): lower lr"),
    ):
        list(run_rank(job, layout))


def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    (tmp_path / "plan.json").write_text(PLAN.to_json())
    with pytest.raises(SystemExit):
        main([str(tmp_path / "plan.json"), "--tokens", "0", "--model", str(tmp_path / "none.json")])
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "model.json").write_text(json.dumps({"vocab": 24, "hidden": 16, "ffn": 16}))
    asked = [str(tmp_path / "plan.json"), "--model", str(tmp_path / "model.json")]
    with pytest.raises(SystemExit):
        main([*asked, "--tokens", "0"])
    assert "tokens is a whole number from 1, not 0" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit):
        main(asked)
    assert "the plan has 2 ranks, torchrun started 3" in capsys.readouterr().err


def watched(body, stdin="None", lines=""):
    """What `watch` says of forked ranks, without torch: a script that ends with how it went and who is left."""
    code = (
        "import os, signal, sys, time\n"
        "from workbench.hetermoe.launch import *\n"
        f"{textwrap.dedent(body)}\n"
        "ranks = fork_ranks(['attention', 'expert'], body)\n"
        "pids = [r.pid for r in ranks]\n"
        "try:\n"
        f"    for told in watch(ranks, 30.0, {stdin}): print(told, flush=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print('left', [p for p in pids if os.path.exists(f'/proc/{p}')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("left []\n"), done.stdout + done.stderr
    assert "torch" not in done.stderr.replace("import torch", "")
    return done.stdout


def test_the_cause_goes_before_what_follows_from_it():
    """A lost partner is told first, the death or the error that made it later."""
    told = watched("""
        class PeerLost(Exception): pass
        def body(rank, say):
            say({"is": "step", "doing": f"step {rank}"})
            if rank == 0: raise PeerLost("dispatch failed")
            time.sleep(0.3)
            raise ValueError("too large")
    """)
    assert "RankFailed rank 1 (expert) failed after 'step 1': too large" in told
    told = watched("""
        class PeerLost(Exception): pass
        def body(rank, say):
            if rank == 0: raise PeerLost("dispatch failed")
            time.sleep(0.3)
            os._exit(3)
    """)
    assert "RankFailed rank 1 (expert) ended with code 3 at 'starting'" in told


def test_ranks_end_when_nobody_listens_any_more():
    told = watched("def body(rank, say): time.sleep(60)", stdin="0")
    assert "Closed" in told


def test_ranks_end_with_a_launcher_that_was_killed():
    """It can end nobody: they see a pipe end."""
    code = (
        "import os, signal, time\nfrom workbench.hetermoe.launch import fork_ranks\n"
        "print(*[r.pid for r in fork_ranks(['', ''], lambda rank, say: time.sleep(60))], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert gone(pids)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 1}, "a batch of 1 rows cannot feed 2 micro-batches on 1 attention ranks"),
        ({"plan": zebra(1, 1, 2, 2, 4, 2, "another")}, "this plan was made for model another, not for"),
        ({"plan": zebra(1, 1, 2, 3, 4, 2)}, "the plan has layers 3, the model 2"),
        ({"attention_kernel": "flash"}, "attention_kernel is fused or naive, not 'flash'"),
        ({"attention_kernel": ("fused", "naive")}, "2 attention kernels for 1 attention ranks"),
        ({"cores": [[0]]}, "cores are named for 1 of 2 ranks"),
        ({"checkpoint_every": 2}, "checkpoints need a folder"),
        ({"ids": torch.zeros(4, 8, dtype=torch.int64)}, "rows of 8 ids are too short for 8 tokens"),
        ({"ids": torch.full((4, 9), 24)}, "token ids go from 0 to 23, here 24 to 24"),
        ({"engine": "deepspeed"}, "DeepSpeed-MoE is expert parallelism: give it a plan of kind ep, not zebra"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(changes, said):
    with pytest.raises(PlanError, match=said):
        start(**changes)


def test_models_that_cannot_be():
    with pytest.raises(PlanError, match="top-5 of 4 experts"):
        MoEConfig(top_k=5)
    with pytest.raises(PlanError, match="hidden 30 is not 2 heads of an even width"):
        MoEConfig(hidden=30)
    with pytest.raises(PlanError, match="needs an expert rank, there are 0"):
        distep(1, 0, 2, 4, 2)

"""The run as users start it: measured on the tiny model, simulated, and refused where it must be."""

import threading
from itertools import pairwise
from time import sleep

import pytest

import workbench as wb
from workbench import lm
from workbench.cake import SYSTEM, model_time, paper, summed
from workbench.cake.config import SHARES, CakeConfig
from workbench.cake.engine import probe_read_s
from workbench.cake.store import TokenBucket

TINY = SYSTEM.presets["tiny"].model_dump()


def run(**changes):
    return wb.run("cake", SYSTEM.config(**(TINY | changes)))


@pytest.fixture(scope="module")
def measured():
    return run(rounds=2, sweep_points=2)


def test_summary_has_what_a_table_needs(measured):
    s = measured.summary()
    wanted = "ttft_s compute_only_ttft_s load_only_ttft_s oracle_ttft_s speedup_vs_best_single ratio_to_oracle"
    assert set(wanted.split()) | {"meeting_token", "prompt_tokens", "exact"} <= set(s)
    assert s["exact"] == 1.0 and s["prompt_tokens"] == 1601
    assert set(measured.provenance.badges) == set(s)
    assert measured.provenance.badges["ttft_s"] == "measured"
    assert measured.provenance.badges["oracle_ttft_s"] == "modelled"


def test_every_mode_was_measured_in_every_round(measured):
    frame = measured.to_frame()
    at_link = frame[frame["mode"].isin(["compute", "load", "cake"])]
    assert at_link[at_link.link_mb_s.isin([0.0, 40.0])].groupby("mode").size().to_dict() == {
        "cake": 2,
        "compute": 2,
        "load": 2,
    }
    assert {"raw load", "raw cake"} <= set(frame["mode"])
    far = frame[frame["mode"].isin(["load", "cake"]) & ~frame.link_mb_s.isin([40.0])]
    assert far.groupby("link_mb_s")["mode"].apply(sorted).to_dict() == {10.0: ["cake", "load"], 160.0: ["cake", "load"]}
    assert frame[frame.throttled]["mode"].isin(["load", "cake"]).all()
    assert frame.throttled.sum() == 8 and not frame[frame["mode"].str.startswith("raw")].throttled.any()
    assert (frame[frame["mode"] == "load"].loaded_tokens == 1600).all()


def test_exact_means_something(measured):
    """Control: corrupted KV is far outside the tolerance, and a result whose control did not fail is not exact."""
    assert measured.control_max_abs_diff > 10 * measured.tolerance
    assert not measured.model_copy(update={"control_max_abs_diff": 0.0}).exact
    wrong = [r.model_copy(update={"same_tokens": False}) for r in measured.rows[-1:]]
    assert not measured.model_copy(update={"rows": measured.rows[:-1] + wrong}).exact


def test_the_trace_covers_the_prompt_once():
    """Without hedging: a late read would be in the trace beside the pass that took its grain over."""
    positions = sorted((k.first_token, k.last_token) for k in run(hedge=False).strokes)
    assert positions[0][0] == 0 and positions[-1][1] == 1601
    assert all(a[1] == b[0] for a, b in pairwise(positions))


def test_balance_point_is_set_and_said():
    said = []
    result = wb.run("cake", SYSTEM.config(**(TINY | {"link_mb_s": None})), on_event=said.append)
    s = result.summary()
    assert any("link set to" in getattr(e, "text", "") for e in said)
    assert 0.3 < s["load_only_ttft_s"] / s["compute_only_ttft_s"] < 3


@pytest.mark.parametrize("policy", ["compute", "load"])
def test_a_baseline_is_the_same_run_with_another_policy(policy):
    result = run(policy=policy)
    s = result.summary()
    assert s["ttft_s"] == s[f"{policy}_only_ttft_s"] and s["exact"] == 1.0
    assert s["meeting_token"] == {"compute": 1600, "load": 0}[policy]
    assert result.claims() == []  # the paper's speed-ups are CAKE's


@pytest.mark.parametrize(
    "changes", [{"prompt_tokens": 300}, {"prompt_tokens": 129}, {"grain": 1024, "prompt_tokens": 3000}]
)
def test_a_prompt_of_few_passes(changes):
    """Shorter than the usual pass, the least there is, a grain longer than the usual pass."""
    result = run(step=None, **changes)
    s = result.summary()
    assert s["exact"] == 1.0 and s["prompt_tokens"] == changes["prompt_tokens"]
    assert (
        max(k.last_token - k.first_token for k in result.strokes if k.lane == "compute") <= changes["prompt_tokens"] / 2
    )


@pytest.mark.parametrize("batch", ["fifo", "mean", "makespan"])
def test_several_requests(batch):
    result = run(requests=3, batch=batch)
    assert result.summary()["exact"] == 1.0
    assert result.summary()["makespan_s"] >= result.summary()["ttft_s"]
    assert 0 < result.summary()["lower_bound_ttft_s"] <= result.summary()["oracle_ttft_s"]
    assert "best order found" in result.sentence()


def test_fifo_serves_the_first_prompt_first_and_mean_the_shortest():
    """The order of the passes on the real engine; the control is that the two differ."""

    def first_done(batch):
        ends = {}
        for k in run(requests=3, batch=batch, prompt_tokens=3001, link_mb_s=10.0).strokes:
            if k.lane == "compute":
                ends[k.request] = k.end_s
        return min(ends, key=ends.get)

    assert first_done("fifo") == 0
    assert first_done("mean") == 2


class Stored:
    """A prompt of eight stored grains, each of whose reads takes its time."""

    def __init__(self, delay_s):
        self.stored, self.delay_s = [True] * 8, delay_s

    def read(self, grain):
        sleep(self.delay_s)


def test_the_fixed_cost_of_a_read_is_probed():
    """Reads side by side wait together, so what one alone takes is its fixed cost; an instant store has none."""
    assert 0.04 <= probe_read_s(Stored(0.08), TokenBucket(None)) <= 0.12
    assert probe_read_s(Stored(0.0), TokenBucket(None)) < 0.02
    assert probe_read_s(Stored(0.0), TokenBucket(None, latency_s=0.08)) >= 0.04


def test_a_delay_that_was_asked_for_is_the_read_cost():
    assert run(link_mb_s=400.0, link_latency_ms=30.0).model.load_request_s == pytest.approx(0.03)


@pytest.mark.model
@pytest.mark.parametrize("dtype", sorted({"float32", lm.fast_dtype()}))
def test_exact_on_the_real_model(dtype):
    """The tolerance holds with room on SmolLM2, and noise in one grain is far outside it."""
    config = SYSTEM.make("small", prompt_tokens=901, seed=2, step=200, grain=64, sweep_points=0, rounds=1, dtype=dtype)
    result = wb.run("cake", config)
    largest = max(row.logits_max_abs_diff for row in result.rows)
    assert result.summary()["exact"] == 1.0
    assert largest < result.tolerance / 2
    assert result.control_max_abs_diff > 10 * result.tolerance


@pytest.mark.parametrize("policy", ["cake", "load"])
def test_a_damaged_store_gives_the_same_answer(policy, monkeypatch):
    """A third of the grains is damaged on disk: all are found, computed instead, and the answer is exact."""
    said, known = [], []
    of_gaps = summed.bounds
    monkeypatch.setattr(summed, "bounds", lambda *args: known.append(args[-1]) or of_gaps(*args))
    config = SYSTEM.make("tiny", damage_pct=33, policy=policy)
    result = wb.run("cake", config, on_event=said.append)
    assert any("damaged on purpose" in getattr(e, "text", "") for e in said)
    loads = [r for r in result.rows if r.mode == "load"]
    assert result.summary()["exact"] == 1.0 and loads[0].loaded_tokens <= 0.7 * 1600
    assert loads[0].failed_grains > 0
    assert known[0].count(False) == round(25 * 0.33)  # the oracle knows what cannot be loaded
    assert result.bound_s <= result.oracle_s
    assert set(result.provenance.badges) == set(result.summary())


@pytest.mark.parametrize(("eviction", "met"), [("head-last", 0), ("head-first", 800)])
def test_a_store_with_room_for_half(eviction, met):
    """Head-last keeps the front, head-first the end; both answer exactly, with half loaded."""
    half_mb = (64 * 768 + 4096) * 12.5 / 1e6
    result = run(store_limit_mb=half_mb, eviction=eviction)
    load = next(r for r in result.rows if r.mode == "load")
    assert result.summary()["exact"] == 1.0 and load.loaded_tokens == 12 * 64
    assert load.meeting_token == (0 if met == 0 else 1600 - 12 * 64)


@pytest.mark.parametrize("broken", [{"damage_pct": 100}, {"store_limit_mb": 0.01}])
def test_a_store_that_gives_nothing(broken):
    """All is computed, exactly; what no grain came from has no bandwidth."""
    result = run(**broken)
    assert result.summary()["exact"] == 1.0
    assert all(r.loaded_tokens == 0 for r in result.rows)
    raw = [r for r in result.rows if r.mode.startswith("raw")]
    assert raw
    assert all(r.link_mb_s == 0 for r in raw)


def test_passes_are_whole_grains():
    """Else two passes would compute parts of one grain, and the oracle would count only one of them."""
    for grain, step in ((96, None), (128, 300), (64, 256), (128, 128)):
        config = SYSTEM.make("tiny", grain=grain, step=step)
        assert config.pass_tokens % grain == 0
        assert grain <= config.pass_tokens <= (step or 512)


def test_own_text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("A line of my own. " * 200)
    result = run(prompt_file=str(path), prompt_tokens=900)
    assert result.summary()["exact"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_file": "/nowhere/x.txt"}, "prompt_file: /nowhere/x.txt cannot be read"),
        ({"prompt_file": "/bin/sh"}, "prompt_file: /bin/sh cannot be read as text"),
        ({"prompt_file": "~nobody-here/x.txt"}, "prompt_file: ~nobody-here/x.txt cannot be read"),
    ],
)
@pytest.mark.parametrize("engine", ["embedded", "vllm"])
def test_wrong_input_at_run_time_is_named(changes, message, engine, monkeypatch):
    """Before a model or an engine is loaded."""
    monkeypatch.setattr("workbench.lm.load", lambda *_, **__: pytest.fail("the model was loaded first"))
    monkeypatch.setattr("workbench.cake.vllm_work.measured_vllm", lambda _: pytest.fail("vLLM was started first"))
    with pytest.raises(ValueError, match=message):
        run(engine=engine, **changes)


def test_settings_that_mean_nothing_to_a_run_are_named():
    said = []
    wb.run("cake", SYSTEM.make("paper", engine="vllm", store="lmcache-ram"), on_event=said.append)
    assert "a simulated run does not use engine, store" in [getattr(e, "text", "") for e in said]
    said.clear()
    wb.run("cake", SYSTEM.make("tiny", sim_device="H100"), on_event=said.append)
    assert "a measured run does not use sim_device" in [getattr(e, "text", "") for e in said]
    said.clear()
    wb.run("cake", SYSTEM.make("tiny"), on_event=said.append)  # the control
    assert not any("does not use" in getattr(e, "text", "") for e in said)


def test_the_config_knows_the_rows_of_the_papers_table():
    assert {(h, float(s)) for h, shares in SHARES.items() for s in shares} == set(paper.TABLE_3)


def test_a_simulation_of_many_long_prompts_can_be_cancelled():
    """The bandwidth curve takes a minute: cancel is seen between two of its simulations."""
    going = wb.start("cake", SYSTEM.make("paper", requests=8, link_mb_s=None))
    while "curve" not in going.progress.note and going.state in ("ready", "running"):
        sleep(0.01)
    going.cancel()
    assert going.wait(3).state == "cancelled"


def test_batch_aims():
    """ "makespan" is judged by the last prompt, "mean" by the mean; each by the best order for it."""
    runs = {aim: wb.run("cake", SYSTEM.make("paper", requests=3, batch=aim)) for aim in ("mean", "makespan")}
    for aim, result in runs.items():
        s = result.summary()
        assert s["lower_bound_ttft_s"] <= s["oracle_ttft_s"] * (1 + 1e-9)
        assert s["ratio_to_oracle"] == pytest.approx(1.0, abs=0.02)
        assert ("the last of 3 prompts" in result.sentence()) == (aim == "makespan")
    assert runs["makespan"].summary()["ttft_s"] == runs["makespan"].summary()["makespan_s"]
    assert runs["mean"].summary()["ttft_s"] < runs["mean"].summary()["makespan_s"]


def test_own_text_that_is_too_short(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("short")
    with pytest.raises(ValueError, match="ask for fewer"):
        run(prompt_file=str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": 9000, "model": "smollm2"}, "8192 positions"),
        ({"prompt_tokens": 128}, "more than two grains of 64 tokens: at least 129"),
        ({"backend": "sim", "link_mb_s": 0.0}, "link_mb_s: the raw disk cannot be simulated"),
        ({"backend": "sim", "sim_device": "H100", "sim_share": "12.5"}, "sim_share: the paper's table 3 has H100"),
        ({"engine": "vllm", "damage_pct": 5}, "damage_pct: limits and damage"),
        ({"step": 32, "grain": 64}, "at least one grain"),
        ({"engine": "vllm", "requests": 2}, "one prompt at a time"),
        ({"grain": 100}, "multiple of 16"),
        ({"engine": "vllm", "threads": 2}, "one thread"),
        ({"store": "lmcache-ram", "damage_pct": 5}, "store='disk'"),
        ({"backend": "sim", "store_limit_mb": 5}, "store='disk'"),
    ],
)
def test_wrong_config_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        CakeConfig(**(TINY | changes))


def test_cuda_is_not_silently_replaced():
    with pytest.raises(ValueError, match="backend"):
        run(backend="cuda")


def test_cancel_leaves_no_thread_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    going = wb.start("cake", SYSTEM.config(**(TINY | {"link_mb_s": 0.5, "policy": "load"})))
    while not any("load" in getattr(e, "note", "") for _, e in going.events):
        threading.Event().wait(0.02)
        assert going.state != "failed", going.error
    going.cancel()
    going.wait(10)
    assert going.state == "cancelled" and list(tmp_path.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith(("cake", "workbench"))]


def test_simulated_run_is_deterministic_and_says_modelled():
    one, two = (wb.run("cake", preset="paper") for _ in range(2))
    assert one.decided() == two.decided()
    settings = {"prompt_tokens": "set", "link_mb_s": "set"}
    assert one.provenance.badges == dict.fromkeys(one.summary(), "modelled") | settings
    assert "exact" not in one.summary()
    assert len(one.claims()) > 2 * len(paper.TABLE_3)


def test_the_paper_table_is_reproduced_by_its_ratios():
    """Every cell of table 3 within 16 %, half of them within 6 %; calibrated on the quotient of each row alone."""
    errors = []
    for cell, load, compute in model_time.table_3():
        errors += [abs(load / cell.over_load - 1), abs(compute / cell.over_compute - 1)]
    assert max(errors) < 0.16 and sorted(errors)[len(errors) // 2] < 0.06


def test_the_table_is_not_a_fit_of_anything():
    """Control: half the bandwidth everywhere misses the same cells."""
    missed = 0
    for cell in paper.cells():
        costs = paper.costs_at(cell.hardware, cell.share, cell.gbps / 2)
        _, load_s = model_time.single_s(costs, paper.TOKENS, paper.GRAIN, paper.STEP, 1)
        from workbench.cake.policy import Policy
        from workbench.cake.sim import ttft

        cake_s = ttft(Policy(costs, paper.STEP, 1), paper.TOKENS, paper.GRAIN)
        missed += abs(load_s / cake_s / cell.over_load - 1) > 0.16
    assert missed > len(paper.cells()) / 3


def test_cancel_while_the_model_is_fetched(monkeypatch):
    """The fetch is told at its next step; without that it would go on for minutes."""
    steps = []

    def load(name, *, dtype, progress):
        for i in range(1000):
            steps.append(i)
            progress(i, 1000, "downloading")
            sleep(0.01)
        raise AssertionError("not reached: the fetch was to be stopped")

    monkeypatch.setattr("workbench.lm.load", load)
    going = wb.start("cake", preset="small")
    while not steps:
        sleep(0.01)
    sleep(0.2)
    assert "downloading" in going.progress.note
    going.cancel()
    assert going.wait(2).state == "cancelled"
    sleep(0.1)
    seen = len(steps)
    sleep(0.1)
    assert len(steps) == seen

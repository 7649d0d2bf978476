"""CAKE on real vLLM, one process: equal to computing alone to the last bit, whatever happens to the store.

Tokens and log-probabilities are compared. Every "equal" stands beside a control that must differ.
"""

import itertools
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")
sys.path.insert(0, str(Path(__file__).parent))

from engine_child import Ask, Engine, draw_ids

from workbench.cake.store import DiskStore
from workbench.lm.tiny_folder import write_tiny

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

GRAIN, TOKENS = 128, 2100
LOADABLE = (TOKENS - 1) // GRAIN * GRAIN
LINK = 20.0  # MB/s: 16 grains of 196 kB take about 0.16 s, about as long as computing them
SLOW = 3.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def engine(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "kv"
    # A pass is one grain in every mode, so that the arithmetic is done in one order and bits can be compared.
    how = {"skip_tokenizer_init": True, "max_model_len": 4096, "max_num_batched_tokens": GRAIN}
    with Engine(tiny, folder, {"stall_s": 2.0}, **how) as engine:
        engine.folder = folder
        yield engine


@pytest.fixture(scope="module")
def ids():
    return draw_ids(TOKENS)


@pytest.fixture(scope="module")
def alone(engine, ids):
    """Compute-only, which also fills the store."""
    answer = engine.one(ids, cut=True)
    assert answer.cake["loaded_tokens"] == 0
    assert engine.call("flush")["saved"] == TOKENS // GRAIN
    return answer


@pytest.fixture
def full(engine, alone, tmp_path):
    """The filled store; put back as it was after the test, and the engine left clean."""
    shutil.copytree(engine.folder, tmp_path / "kept")
    yield engine.folder
    engine.call("mend")
    engine.call("flush")
    shutil.rmtree(engine.folder, ignore_errors=True)
    shutil.copytree(tmp_path / "kept", engine.folder)
    state = engine.call("state")
    assert (state["jobs"], state["draining"], state["segments"]) == (0, 0, [])


def store_of(engine):
    state = engine.call("state")
    return DiskStore(engine.folder, state["layout"], state["fingerprint"])


def files_of(engine, ids):
    store = store_of(engine)
    return [store.path(key) for key in store.prompt(ids).keys]


def put_noise(engine, ids, grains):
    """Other KV of the same size under a valid checksum: what no check can find."""
    prompt = store_of(engine).prompt(ids)
    for grain in grains:
        kv = prompt.read(grain)
        prompt.write(grain, torch.randn_like(kv) * kv.std())


def equal(answer, alone):
    return answer.tokens == alone.tokens and answer.logprobs == alone.logprobs and answer.top == alone.top


@pytest.mark.parametrize("mode", ["cake", "load"])
@pytest.mark.parametrize("link", [0.0, LINK])
def test_loaded_kv_gives_the_same_bits_as_computed_kv(engine, full, ids, alone, mode, link):
    answer = engine.one(ids, mode, link_mb_s=link, cut=True)
    assert equal(answer, alone)
    assert answer.cake["loaded_tokens"] > 0
    assert answer.cake["grains_failed"] == 0
    if mode == "load":
        assert answer.cake["meeting_token"] == 0
        assert answer.cake["loaded_bytes"] == LOADABLE * 3 * 2 * 2 * 32 * 4
    if mode == "cake" and link:
        assert 0 < answer.cake["meeting_token"] < LOADABLE


def test_without_a_cut_the_last_pass_is_another_and_equal_to_rounding(engine, full, ids, alone):
    plain = engine.one(ids)
    assert plain.tokens == alone.tokens
    assert max(abs(plain.top[t] - alone.top[t]) for t in alone.top) < 1e-4


def test_corrupted_kv_that_passes_every_check_changes_the_output(engine, full, ids, alone):
    put_noise(engine, ids, [LOADABLE // GRAIN - 1])
    for mode in ("load", "cake"):
        answer = engine.one(ids, mode, link_mb_s=LINK, cut=True)
        assert not equal(answer, alone)
        assert max(abs(answer.logprobs[0] - alone.logprobs[0]), 0) > 1e-3 or answer.tokens != alone.tokens


@pytest.mark.parametrize("mode", ["cake", "load"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "missing", "foreign"])
def test_a_damaged_grain_is_computed_and_repaired(engine, full, ids, alone, mode, damage):
    files = files_of(engine, ids)
    at = 15 if mode == "cake" else 4
    if damage == "truncated":
        files[at].write_bytes(files[at].read_bytes()[:5000])
    elif damage == "corrupt":
        content = bytearray(files[at].read_bytes())
        content[-1] ^= 1
        files[at].write_bytes(content)
    elif damage == "foreign":
        shutil.copyfile(files[at - 1], files[at])
    else:
        files[at].unlink()
    answer = engine.one(ids, mode, link_mb_s=LINK, cut=True)
    assert equal(answer, alone)
    if damage != "missing":  # that one is never looked for
        assert answer.cake["failures"] == {damage: 1}
    engine.call("flush")
    store_of(engine).prompt(ids).read(at)


def test_a_store_deleted_under_the_run(engine, full, ids, alone):
    engine.start([Ask(ids, "load", {"link_mb_s": SLOW, "cut": True})])
    time.sleep(0.2)
    shutil.rmtree(full)
    (answer,) = engine.told()
    assert equal(answer, alone)
    assert answer.cake["failures"].get("missing", 0) > 0


def test_a_prefix_that_diverges_inside_a_grain(engine, full, ids):
    other = ids[:300] + draw_ids(TOKENS - 300, 1)
    answer = engine.one(other, "load", cut=True)
    assert answer.cake["loaded_tokens"] == 256
    engine.call("flush")
    assert equal(answer, engine.one(other, cut=True))


def test_requests_that_share_a_prefix_restore_together(engine, full, ids, alone):
    other = ids[: 8 * GRAIN] + draw_ids(700, 2)
    wanted = engine.one(other, cut=True)
    how = {"link_mb_s": 2 * LINK, "cut": True}
    answers = engine.run([Ask(ids, "cake", how), Ask(other, "cake", how), Ask(ids, "load", how), Ask(ids, "compute")])
    assert [a.tokens for a in answers] == [alone.tokens, wanted.tokens, alone.tokens, alone.tokens]
    for answer, to in zip(answers, (alone, wanted, alone, alone), strict=True):
        assert max(abs(a - b) for a, b in zip(answer.logprobs, to.logprobs, strict=True)) < 1e-4


def test_the_prefix_cache_keeps_what_was_loaded_and_nothing_else(engine, full, ids, alone):
    put_noise(engine, ids, [LOADABLE // GRAIN - 1])
    engine.one(ids, "load", cut=True)
    poisoned = engine.run([Ask(ids, "compute", {"cut": True})], keep=True)[0]
    assert poisoned.cake["prefix_cache_tokens"] == LOADABLE  # the control: loaded blocks are served again
    assert not equal(poisoned, alone)
    files = files_of(engine, ids)
    files[3].write_bytes(b"")  # refused: must not be in the cache, nor what comes after it before it is computed
    engine.start([Ask(ids, "load", {"link_mb_s": SLOW, "cut": True}, abort_after_s=0.2)])
    engine.told()
    after = engine.run([Ask(ids, "compute", {"cut": True})], keep=True)[0]
    assert after.cake["prefix_cache_tokens"] == 0
    assert equal(after, alone)


def test_the_prefix_cache_and_the_store_work_together(engine, full, ids, alone):
    engine.one(ids[: 5 * GRAIN + 1], max_tokens=1)
    answer = engine.run([Ask(ids, "cake", {"link_mb_s": LINK, "cut": True})], keep=True)[0]
    assert answer.cake["prefix_cache_tokens"] == 5 * GRAIN
    assert answer.cake["loaded_tokens"] > 0
    assert equal(answer, alone)


def test_a_store_too_slow_to_help_costs_nothing_but_time(engine, full, ids, alone):
    """Compute reaches the end of the hit before a load was worth claiming; nothing deadlocks."""
    answer = engine.one(ids, "cake", link_mb_s=0.05, cut=True)
    assert equal(answer, alone)
    assert answer.cake["meeting_token"] == LOADABLE


def test_a_loader_that_dies_leaves_the_rest_to_compute(engine, full, ids, alone):
    for mode in ("cake", "load"):
        engine.call("fault", "loader dies", 3)
        answer = engine.one(ids, mode, link_mb_s=LINK, cut=True)
        engine.call("mend")
        assert equal(answer, alone)
        assert answer.cake["loaded_tokens"] == 3 * GRAIN
    assert "the loader died of SystemExit: killed by the test" in engine.output()
    assert equal(engine.one(ids, "load", cut=True), alone)  # and the next request has a new one


def test_a_read_that_hangs_is_hedged_or_given_up(engine, full, ids, alone):
    engine.call("fault", "read hangs", 5.0)
    hedged = engine.one(ids, "cake", link_mb_s=LINK, cut=True)
    assert equal(hedged, alone)
    assert hedged.cake["meeting_token"] == LOADABLE
    given_up = engine.one(ids, "load", cut=True)  # load-only never hedges; stall_s ends it
    assert equal(given_up, alone)
    assert "nothing was loaded for 2 s" in engine.output()
    time.sleep(5.0)  # the sleeping thread must find its jobs closed


def test_waiting_for_loads_takes_few_steps(engine, full, ids):
    before = engine.call("state")["steps"]
    answer = engine.one(ids, "load", link_mb_s=SLOW, max_tokens=1)
    steps = engine.call("state")["steps"] - before
    assert steps < 3 * (answer.ttft_s / 0.02 + LOADABLE / GRAIN)  # a loop that spins takes thousands a second


def test_a_trace_shows_both_lanes(engine, full, ids):
    spans = engine.one(ids, "cake", link_mb_s=LINK, trace=True).cake["spans"]
    assert {s["lane"] for s in spans} == {"compute", "load"}
    for lane in ("compute", "load"):
        times = sorted((s["start_s"], s["end_s"]) for s in spans if s["lane"] == lane)
        assert all(a < b for a, b in times)
        assert all(one[1] <= two[0] + 1e-6 for one, two in itertools.pairwise(times))
    covered = sorted((s["first_token"], s["last_token"]) for s in spans)
    assert covered[0][0] == 0
    assert all(one[1] == two[0] for one, two in itertools.pairwise(covered))
    assert all(s["why"]["reason"] for s in spans)


def test_a_request_that_asks_for_nonsense_is_served_all_the_same(engine, full, ids, alone):
    assert engine.one(ids, "cake?").tokens == alone.tokens
    assert "cake: Input should be 'cake', 'compute' or 'load'" in engine.output()


def test_requests_whose_kv_is_not_in_the_keys_stay_out_of_the_store(engine, full, ids):
    answer = engine.one(ids, "load", sampling={"prompt_logprobs": 0})  # needs every position computed
    assert answer.cake["loaded_tokens"] == 0
    plain = engine.one(ids, "plain")  # without parameters the engine's own mode holds
    assert plain.cake["mode"] == "cake"


def test_changed_weights_find_nothing_of_the_old_ones(engine, full, ids):
    engine.call("reset_connector")
    answer = engine.one(ids, "load")
    assert answer.cake["loaded_tokens"] == 0
    engine.call("flush")
    assert engine.one(ids, "load").cake["loaded_tokens"] == LOADABLE
    engine.call("restore_epoch")


def test_threads_do_not_pile_up(engine, full, ids):
    for _ in range(3):
        engine.one(ids, "load", max_tokens=1)
    assert engine.call("state")["threads"] == ["cake-load", "cake-save"]
    assert threading.active_count() < 10

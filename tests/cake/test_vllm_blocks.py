"""Whose are the blocks? Preemption, abort and reuse on an engine with few blocks, small blocks and no prefix cache."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")
sys.path.insert(0, str(Path(__file__).parent))

from engine_child import Ask, Engine, draw_ids

from workbench.cake.store import DiskStore
from workbench.lm.tiny_folder import write_tiny

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

BLOCK, GRAIN, TOKENS, BLOCKS = 32, 64, 1500, 64
SLOW = 3.0  # MB/s: a grain of 98 kB takes 33 ms, the prompt 0.75 s


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """64 blocks of 32 tokens: one prompt fits and little more; what one request leaves, the next one gets."""
    model = write_tiny(tmp_path_factory.mktemp("model") / "tiny")
    folder = tmp_path_factory.mktemp("store") / "kv"
    how = {
        "skip_tokenizer_init": True,
        "max_model_len": 2000,
        "max_num_batched_tokens": 256,
        "block_size": BLOCK,
        "num_gpu_blocks_override": BLOCKS,
        "enable_prefix_caching": False,
    }
    with Engine(model, folder, {"grain": GRAIN}, **how) as engine:
        engine.folder = folder
        yield engine


@pytest.fixture(scope="module")
def ids():
    return draw_ids(TOKENS)


@pytest.fixture(scope="module")
def alone(engine, ids):
    answer = engine.one(ids, cut=True)
    assert engine.call("flush")["saved"] == TOKENS // GRAIN
    return answer


@pytest.fixture(scope="module")
def bad(engine, alone):
    """Another prompt whose stored KV is noise: wherever it is written, it shows."""
    ids = draw_ids(TOKENS, 5)
    engine.one(ids)
    engine.call("flush")
    state = engine.call("state")
    prompt = DiskStore(engine.folder, state["layout"], state["fingerprint"]).prompt(ids)
    for grain, there in enumerate(prompt.stored):
        assert there
        kv = prompt.read(grain)
        prompt.write(grain, 5 * torch.randn_like(kv) * kv.std())
    return ids


@pytest.fixture(autouse=True)
def whole(engine):
    yield
    engine.call("mend")
    state = engine.call("state")
    assert state["free_blocks"] == BLOCKS - 1  # one is vLLM's null block
    assert (state["jobs"], state["draining"], state["segments"]) == (0, 0, [])


def same(answer, to):
    near = max(abs(a - b) for a, b in zip(answer.logprobs, to.logprobs, strict=True)) < 1e-4
    return answer.tokens == to.tokens and near


@pytest.mark.parametrize("mode", ["cake", "load"])
def test_small_blocks_several_to_a_grain(engine, ids, alone, mode):
    answer = engine.one(ids, mode, link_mb_s=20.0, cut=True)
    assert same(answer, alone)
    assert answer.cake["loaded_tokens"] > 0


def test_load_only_with_the_same_last_pass_is_equal_to_the_bit(engine, ids, alone):
    answer = engine.one(ids, "load", cut=True)
    assert (answer.tokens, answer.logprobs, answer.top) == (alone.tokens, alone.logprobs, alone.top)


def abort_and_reuse(engine, bad, ids, tokens=40):
    """Abort a prompt in the middle of its loads; the next request gets its blocks and computes."""
    aborted = Ask(bad, "load", {"link_mb_s": SLOW}, abort_after_s=0.15)
    answers = engine.run([aborted, Ask(ids, "compute", {"cut": True}, max_tokens=tokens)])
    assert answers[0] is None
    return answers[1]


def test_an_aborted_request_never_writes_to_blocks_it_had(engine, ids, alone, bad):
    wanted = engine.one(ids, cut=True, max_tokens=40)
    assert same(abort_and_reuse(engine, bad, ids), wanted)
    engine.call("fault", "no close")  # the control: without the ledger's close the noise does land in them
    assert not same(abort_and_reuse(engine, bad, ids), wanted)
    engine.call("mend")
    engine.call("stop_loads")


def test_a_write_under_way_is_waited_for(engine, ids, alone, bad):
    """Each copy takes 0.4 s: an abort falls into one, and the blocks are given away only after it."""
    wanted = engine.one(ids, cut=True, max_tokens=200)
    engine.call("fault", "slow write", 0.4)
    assert same(abort_and_reuse(engine, bad, ids, 200), wanted)
    engine.call("mend")
    engine.call("fault", "no wait")  # the control: without the wait the copy ends in the next request's blocks,
    engine.call("fault", "late write", 40)  # while that decodes
    assert not same(abort_and_reuse(engine, bad, ids, 200), wanted)


def test_a_write_that_takes_longer_than_the_wait_keeps_its_blocks(engine, ids, alone, bad):
    wanted = engine.one(ids, cut=True, max_tokens=40)
    engine.call("fault", "slow write", 1.6)
    assert same(abort_and_reuse(engine, bad, ids), wanted)
    assert engine.call("drain")  # the blocks come back: `whole` counts them


@pytest.mark.parametrize("mode", ["cake", "load"])
def test_a_preempted_request_starts_again(engine, ids, alone, mode):
    before = engine.call("state")["preempted"]
    (answer,) = engine.run([Ask(ids, mode, {"link_mb_s": SLOW, "cut": True})], preempt_after=[1, 4])
    assert engine.call("state")["preempted"] == before + 2
    assert same(answer, alone)


def test_preempted_by_want_of_blocks_while_decoding(engine, ids, alone):
    """Two requests fit as prompts and not with their answers: vLLM preempts one, which restores again."""
    short = ids[:900]
    how = {"link_mb_s": 10.0}
    tokens = 400  # the first is not at its end when the second wants the blocks, however much later that began
    wanted = engine.one(short, max_tokens=tokens)
    before = engine.call("state")["preempted"]
    answers = engine.run([Ask(short, "cake", how, tokens), Ask(short, "load", how, tokens)])
    assert engine.call("state")["preempted"] > before
    assert all(same(answer, wanted) for answer in answers)


def test_more_requests_than_blocks_wait_their_turn(engine, ids, alone):
    how = {"link_mb_s": 20.0, "cut": True}
    answers = engine.run([Ask(ids, mode, how) for mode in ("cake", "load", "compute", "cake")])
    assert all(same(answer, alone) for answer in answers)


def test_an_aborted_waiting_request_leaves_nothing(engine, ids, alone):
    first = Ask(ids, "load", {"link_mb_s": SLOW, "cut": True})
    waiting = Ask(ids, "cake", {"link_mb_s": SLOW}, abort_after_s=0.1)
    answers = engine.run([first, waiting])
    assert same(answers[0], alone)
    assert answers[1] is None

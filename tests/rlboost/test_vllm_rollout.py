"""vLLM as a rollout engine: in fp32 the embedded engine's tokens, alone, in company, moved, and after new weights.

One engine for the file, a tiny random Llama whose KV cache holds 2,048 tokens, and it is killed at the end; another
start for weights that are no numbers, which end an engine.
"""

import json
import os
import signal
import time
from dataclasses import replace

import psutil
import pytest
import torch
from rolled import (
    DRAWN,
    GREEDY,
    KV_TOKENS,
    LONG,
    MOST,
    ROOM,
    SHAPED,
    TOKEN_BYTES,
    asks,
    caught,
    driven,
    embedded,
    run,
    same,
    write_tied,
)
from safetensors.torch import load_file

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")

from workbench.backends import BackendUnavailable
from workbench.lm.model import LM, LMConfig
from workbench.lm.sampler import Sampler
from workbench.lm.tokenizer import ByteTokenizer
from workbench.rlboost import vllm_rollout
from workbench.rlboost.rollout import Ask
from workbench.rlboost.vllm_rollout import VllmGone, VllmRollouts
from workbench.rlboost.weights import Pull, WeightStore

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models of one shape: the one that vLLM starts with, and the one that is loaded later."""
    root = tmp_path_factory.mktemp("model")
    return [write_tied(root / f"tied-{seed}", seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def models(folders):
    """The same two, for the embedded engine."""
    found = []
    for folder in folders:
        config = LMConfig.from_llama(json.loads((folder / "config.json").read_text()))
        weights = load_file(folder / "model.safetensors")
        found.append(LM(folder.name, config, weights, torch.float32, ByteTokenizer(), folder.name))
    return found


@pytest.fixture(scope="module")
def opened(folders):
    engine = VllmRollouts(folders[0], GREEDY, 4, room=ROOM, kv_bytes=KV_TOKENS * TOKEN_BYTES)
    yield engine
    engine.close()


@pytest.fixture
def engine(opened, folders):
    """With the first weights, greedy and idle."""
    for request in list(opened.running):
        opened.take(request)
    opened.sampler = GREEDY
    if opened.version != 0:
        opened.load(0, load_file(folders[0] / "model.safetensors"))
    return opened


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_it_says_what_it_is(opened):
    about = {"device": "cpu", "room": ROOM, "block": 32, "kv_tokens": KV_TOKENS}
    assert {name: opened.about[name] for name in about} == about


@pytest.mark.parametrize("sampler", [GREEDY, DRAWN, SHAPED], ids=["greedy", "drawn", "top-k and top-p"])
def test_its_tokens_are_the_embedded_engines(engine, models, sampler):
    """More responses than slots, prompts of unequal length."""
    engine.sampler = sampler
    found, expected = run(engine, asks(7)), embedded(models[0], asks(7), sampler)
    assert same(found, expected)
    for request, entry in found.items():
        assert entry.ended == expected[request].ended
        assert entry.logprobs == pytest.approx(expected[request].logprobs, abs=1e-4)
    assert (engine.running, engine.held()) == ({}, (0, 0.0))
    assert not same(embedded(models[1], asks(7), sampler), expected)  # the control: other weights


def test_drawn_tokens_depend_on_seed_and_name_alone(engine):
    engine.sampler = DRAWN
    together, given = run(engine, asks(4)), asks(4)
    alone = run(engine, [given[2]])["r2"]
    assert alone.ids == together["r2"].ids
    renamed = run(engine, [Ask("other", given[2].prompt, (), MOST)])["other"]
    engine.sampler = Sampler(1.0, seed=4)
    reseeded = run(engine, [given[2]])["r2"]
    assert len({tuple(e.ids) for e in (alone, renamed, reseeded)}) == 3


def test_a_stop_token_ends_a_response_and_belongs_to_it(engine, models):
    """As the embedded engine has it; one of many draws ends by itself."""
    engine.sampler = Sampler(3.0, seed=1)  # flat: 1 of 512 tokens is the end
    given = [Ask(f"s{n}", (40 + n,), (), 300) for n in range(4)]
    found = run(engine, given)
    assert same(found, embedded(models[0], given, engine.sampler))
    ended = {e.ended for e in found.values()}
    assert "stop" in ended, "the draws have no end: take another seed"
    for entry in found.values():
        assert (entry.ids[-1] in engine.stop_ids) == (entry.ended == "stop")
        assert not set(entry.ids[:-1]) & set(engine.stop_ids)


def test_tokens_are_told_as_they_come(engine):
    engine.give(Ask("long", (40, 41), (), 200))
    pieces = []
    while engine.running:
        pieces += engine.step()
    assert len(pieces) > 100
    assert [p.start for p in pieces] == list(range(0, sum(len(p.ids) for p in pieces), 1))
    assert all(not p.ended for p in pieces[:-1])


# -- migration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_response_that_moves_says_the_same(engine, models, sampler):
    """Cut at token k and gone on here, from here to the embedded engine, and from there to here."""
    engine.sampler = sampler
    ask = asks(4)[3]
    whole = run(engine, [ask])["r3"].ids
    for k in (1, 7, len(whole) - 1):
        rest = Ask(ask.request, ask.prompt, tuple(whole[:k]), MOST)
        assert run(engine, [rest])["r3"].ids == whole
        assert embedded(models[0], [rest], sampler)["r3"].ids == whole
    changed = Ask(ask.request, ask.prompt, ((whole[0] + 1) % 200, *whole[1:7]), MOST)  # the control
    assert run(engine, [changed])["r3"].ids[7:] != whole[7:]


def test_taken_in_the_middle_it_goes_on_elsewhere(engine, models):
    """What was told before it was given up is a prefix, and the embedded engine ends it."""
    engine.sampler = DRAWN
    given = asks(3, most=LONG)
    expected = embedded(models[0], given, DRAWN)

    def attempt():
        part = run(engine, given, until=lambda ledger: all(len(e.ids) > 5 for e in ledger.entries.values()))
        assert all(engine.take(request) for request in list(engine.running))
        left = [a for a in given if not part[a.request].ended]
        return [Ask(a.request, a.prompt, tuple(part[a.request].ids), LONG) for a in left] or None

    rest = caught(attempt)
    assert all(5 < len(a.done) < LONG for a in rest)
    ended = embedded(models[0], rest, DRAWN)
    assert all(ended[a.request].ids == expected[a.request].ids for a in rest)
    assert engine.step() == []


def test_an_aborted_response_is_freed_and_its_name_is_free(engine):
    def attempt():
        engine.give(Ask("a", tuple(range(40, 140)), (), LONG))
        while not engine.step():
            pass
        responses, kv = engine.held()
        if responses:
            return responses, kv
        while engine.running:  # it has ended, and says so
            engine.step()
        return None

    responses, kv = caught(attempt)
    assert responses == 1
    assert kv >= 100 / KV_TOKENS
    assert engine.take("a")
    assert not engine.take("a")
    assert engine.held() == (0, 0.0)
    again = run(engine, [Ask("a", (50, 51), (), 5)])["a"]
    assert len(again.ids) == 5


def test_it_is_driven_as_the_embedded_engine_is(engine, models):
    """In SpotEngine's place: queue, stream, and `gone` behind the last token of what moves."""
    given = asks(4, most=60)
    given[1] = replace(given[1], most=LONG)  # the one that is asked to move
    ledger = caught(lambda: driven(engine, given))
    done = ledger.unfinished()["r1"].ids
    assert 0 < len(done) < LONG
    rest = [Ask("r1", given[1].prompt, tuple(done), LONG)]
    found = {n: e for n, e in ledger.entries.items() if n != "r1"} | run(engine, rest)
    assert same(found, embedded(models[0], given))


# -- weights ---------------------------------------------------------------------------------------------------------


def pulled(version, weights):
    """As they come over the link."""
    store = WeightStore(chunk_bytes=1 << 16)
    store.publish(version, weights)
    pull = Pull(store.manifest())
    for n in pull.missing():
        pull.take(n, store.chunk(version, n))
    return pull.weights()


def test_new_weights_change_what_is_said_and_nothing_else_does(engine, models, folders):
    """Prompts are in vLLM's prefix cache by then: KV of the old weights would show."""
    first, second = (load_file(f / "model.safetensors") for f in folders)
    given = asks(5)
    before, after = embedded(models[0], given), embedded(models[1], given)
    assert same(run(engine, given), before)
    assert same(run(engine, given), before)  # the control: no update
    engine.load(1, pulled(1, first))
    assert engine.version == 1
    assert same(run(engine, given), before)  # the control: an update with the same weights
    engine.load(2, pulled(2, second))
    assert engine.version == 2
    assert same(run(engine, given), after)
    assert not any(before[n].ids == after[n].ids for n in before)
    one = {n: w.clone() for n, w in second.items()}
    one["model.layers.1.self_attn.k_proj.weight"] *= 1.5  # one part of a matrix that vLLM has fused with two others
    engine.load(3, one)
    third = run(engine, given)
    assert not same(third, after)
    changed = LM("one", models[0].config, one, torch.float32, ByteTokenizer(), "one")
    assert same(third, embedded(changed, given))


def test_weights_that_do_not_fit_are_refused_and_nothing_changes(engine, models, folders):
    weights = load_file(folders[1] / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"weights of tied-0 are missing: {name}"):
        engine.load(1, {n: w for n, w in weights.items() if n != name})
    with pytest.raises(ValueError, match=f"have another shape: {name}"):
        engine.load(1, weights | {name: torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"are not the model's: lm_head\.weight"):
        engine.load(1, weights | {"lm_head.weight": torch.ones(2, 2)})
    engine.give(asks(1)[0])
    with pytest.raises(ValueError, match="1 responses are here: hand them on first"):
        engine.load(1, weights)
    assert engine.take("r0")
    assert engine.version == 0
    assert same(run(engine, asks(3)), embedded(models[0], asks(3)))


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_what_cannot_be_asked(engine):
    engine.give(asks(1)[0])
    with pytest.raises(ValueError, match="r0 is here already"):
        engine.give(asks(1)[0])
    with pytest.raises(ValueError, match=r"1 tokens of prompt and 600 of response exceed the 512 positions"):
        engine.give(Ask("far", (1,), (), 600))
    with pytest.raises(ValueError, match="token 512 is not one of the model's 512"):
        engine.give(Ask("strange", (1, 512), (), 4))
    assert list(engine.running) == ["r0"]


def test_without_vllm_or_with_a_model_that_it_cannot_serve_it_says_so(monkeypatch, folders, tmp_path):
    for model, says in {
        "tiny": "'tiny' is neither: for 'tiny' use the embedded engine",
        tmp_path / "none": "is neither",
        other(folders[0], tmp_path / "heads", head_dim=16): "has heads of 16, where vLLM on a CPU takes 32",
        other(folders[0], tmp_path / "bert", architectures=["BertModel"]): "BertModel.*those of a Llama",
    }.items():
        with pytest.raises(ValueError, match=says):
            VllmRollouts(model, GREEDY)
    with pytest.raises(ValueError, match="slots"):
        VllmRollouts(folders[0], GREEDY, 0)
    monkeypatch.setattr("workbench.backends.version", lambda _: "")
    with pytest.raises(BackendUnavailable, match=r"engine 'vllm' is not available: not installed.*make setup"):
        VllmRollouts(folders[0], GREEDY)


def other(folder, to, **config):
    """The same model, said to be another."""
    to.mkdir()
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (to / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    return to


def test_weights_that_are_no_numbers_end_the_engine_by_name(folders, models):
    broken = load_file(folders[0] / "model.safetensors")
    broken["model.norm.weight"][0] = float("nan")
    with VllmRollouts(folders[0], GREEDY, 4, room=ROOM, kv_bytes=KV_TOKENS * TOKEN_BYTES) as engine:
        process = psutil.Process(engine._child.process.pid)
        assert same(run(engine, asks(2)), embedded(models[0], asks(2)))
        engine.load(7, broken)
        with pytest.raises(
            VllmGone, match=r"failed while rolling out with weights 7: RuntimeError: r\d, position 0: .*NaN"
        ):
            run(engine, asks(2))
    assert not alive(process)


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def step_on(engine):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        engine.step()


def test_silence_is_named(engine, monkeypatch):
    """The process is stopped in its tracks, as a hang would."""
    process = psutil.Process(engine._child.process.pid)
    process.suspend()
    try:
        engine.give(asks(1)[0])
        monkeypatch.setattr(vllm_rollout, "SILENCE_S", 0.5)
        with pytest.raises(VllmGone, match=r"vLLM said nothing for 0 s at 'rolling out'.*Open the engine again"):
            step_on(engine)
    finally:
        process.resume()
    monkeypatch.undo()
    while engine.running:
        engine.step()


def test_a_dead_engine_is_named_and_nothing_is_left(opened):
    """The last test of the file: it kills the engine."""
    process, folder = psutil.Process(opened._child.process.pid), opened._child.log.parent
    opened.give(asks(1, most=400)[0])
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(VllmGone, match=r"the vLLM process ended with code -9 at 'rolling out'.*Open the engine again"):
        step_on(opened)
    with pytest.raises(VllmGone, match="ended with code -9"):
        opened.held()
    opened.close()
    opened.close()
    assert not alive(process)
    assert not folder.exists()

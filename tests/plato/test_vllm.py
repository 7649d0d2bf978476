"""Plato on real vLLM: its own tokens, its own counts of cached prefixes, grammars, and every end leaves nothing.

One engine for the file, a tiny random Llama in float32 whose KV cache holds 1,536 tokens; it is killed at the end.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")
sys.path.insert(0, str(Path(__file__).parent))

from endings import alive
from vllm_tools import PLAN, QUERY, answer, drain, ids_of, one

from workbench.lm.tiny_folder import write_tiny
from workbench.plato import vllm_engine
from workbench.plato.conductor import conduct
from workbench.plato.engine import Ask, Constraint, ContextOverflow, EngineError
from workbench.plato.grammar import plan_lark
from workbench.plato.happen import Settings
from workbench.plato.layout import Layout
from workbench.plato.matcher import ConstraintError
from workbench.plato.parse import PlanReader
from workbench.plato.planner import Given, Written
from workbench.plato.vllm_engine import open_vllm
from workbench.system import Note, Progress

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

BLOCK, ROOM, KV_TOKENS = 32, 1024, 1536
TOKEN_BYTES = 2 * 3 * 2 * 32 * 4  # K and V, layers, heads, their size, float32


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny", tokenizer=True)


@pytest.fixture(scope="module")
def own(tiny):
    """vLLM by itself, in a process that starts beside the engine."""
    command = [sys.executable, str(Path(__file__).with_name("vllm_own.py")), str(tiny)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(prompts):
        print(json.dumps(prompts), file=process.stdin, flush=True)
        return [tuple(ids) for ids in json.loads(process.stdout.readline())]

    yield ask
    process.kill()
    process.wait(10)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def opened(tiny, own, said):
    how = {"room": ROOM, "block": BLOCK, "kv_bytes": KV_TOKENS * TOKEN_BYTES}
    engine = open_vllm(str(tiny), "float32", said.append, threading.Event(), **how)
    yield engine
    engine.close()


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_starting_is_told_by_its_phases(opened, said):
    notes = [event.text for event in said if isinstance(event, Note)]
    assert next(event.note for event in said if isinstance(event, Progress)) == "starting vLLM"
    assert list(opened.phases) == ["importing vLLM", "building the engine", "first pass", "first grammar"]
    assert len(notes) == 1
    assert all(f"{name} {seconds:.1f} s" in notes[0] for name, seconds in opened.phases.items())
    assert opened.about == {
        "version": opened.about["version"], "device": "cpu", "room": ROOM, "block": BLOCK, "kv_tokens": KV_TOKENS,
    }  # fmt: skip


@pytest.mark.parametrize("way", ["plato", "plain", "sot", "independent", "nodes"])
def test_every_token_is_vllms_own(engine, own, way):
    """What a part says in the graph, with a shared prefix and others beside it, vLLM says alone to the same prompt."""
    _, outcome = answer(engine, way)
    parts = [part for part in outcome.parts if part.kind in ("node", "plain")]
    assert len(parts) == (1 if way == "plain" else len(PLAN))
    assert sum(len(part.ids) for part in parts) == PLAN.tokens
    assert own([(part.prompt, len(part.ids)) for part in parts]) == [part.ids for part in parts]
    assert engine.running() == []
    if way != "plain":  # the control: another prompt, other tokens
        last = parts[-1]
        assert own([(last.prompt[:-1], len(last.ids))]) != [last.ids]


def test_parts_are_decoded_together(engine):
    for _ in range(20):  # asked one after another, a part is at its end first where this process waits for a core
        _, outcome = answer(engine, script=Given(PLAN))
        counts = outcome.counts
        assert counts.steps == len(counts.widths) == len(counts.tokens)
        assert counts.decoded == PLAN.tokens + sum(p.kind == "trunk" for p in outcome.parts)  # a token drops there
        assert counts.forced == 0
        engine.forget()
        if max(counts.widths) >= 2:
            break
    assert max(counts.widths) >= 2
    _, alone = answer(engine, "nodes")
    assert set(alone.counts.widths) == {1}  # the control
    assert alone.counts.steps > counts.steps


def test_it_streams(engine):
    happened, _ = answer(engine)
    grew = [h.part.name for h in happened if h.kind == "grew"]
    assert grew.count("plan") > 20
    started = next(at for at, h in enumerate(happened) if h.kind == "started" and h.part.kind == "node")
    planned = next(at for at, h in enumerate(happened) if h.kind == "planned")
    assert started < planned  # a part runs while the plan is still written


def test_drawn_tokens_depend_on_the_seed_and_the_name(engine, monkeypatch):
    greedy = one(engine, ids_of(40), 12, whole=True)["ids"]
    monkeypatch.setattr(engine, "temperature", 1.0)
    first = drain(engine, *(Ask(name, ids_of(40), 12, whole=True) for name in "ab"))
    again = drain(engine, *(Ask(name, ids_of(40), 12, whole=True) for name in "ba"))
    monkeypatch.setattr(engine, "seed", 7)
    other = drain(engine, Ask("a", ids_of(40), 12, whole=True))
    assert first["a"]["ids"] == again["a"]["ids"]
    assert len({greedy, first["a"]["ids"], first["b"]["ids"], other["a"]["ids"]}) == 4


# -- the prefix cache -----------------------------------------------------------------------------------------------


def test_a_prefix_is_computed_once_and_its_whole_blocks_are_reused(engine):
    front = ids_of(200)
    assert one(engine, front, 0) == {"ids": (), "ended": "budget", "reused": 0, "prefilled": 200, "said": ""}
    found = drain(engine, Ask("a", front + ids_of(9, 1), 4, whole=True), Ask("b", front + ids_of(17, 2), 4, whole=True))
    assert [found[name]["reused"] for name in "ab"] == [192, 192]
    assert [found[name]["prefilled"] for name in "ab"] == [17, 25]
    assert (engine.counts.reused, engine.counts.prefilled) == (384, 242)  # vLLM's own metrics, not our sums


def test_nothing_is_reused_after_forget_or_without_sharing(engine):
    """The negative controls of the test above."""
    front = ids_of(200)
    first = one(engine, front, 6, whole=True)
    alone = one(engine, front, 6, whole=True, share=False)
    again = one(engine, front, 6, whole=True)
    assert (first["reused"], alone["reused"], again["reused"]) == (0, 0, 192)
    assert first["ids"] == alone["ids"] == again["ids"]
    secret = ids_of(200, 5)
    one(engine, secret, 0, share=False)
    assert one(engine, secret, 0)["reused"] == 0  # nor does anybody get what an unshared one computed
    engine.forget()
    assert engine.counts.steps == engine.counts.reused == 0
    assert one(engine, front, 6, whole=True)["reused"] == 0


def test_ways_differ_in_what_they_compute(engine):
    """Plato computes what it appends, independent parts compute the whole front each."""
    query = " ".join(f"Item {i} of the list." for i in range(20))
    _, plato = answer(engine, query=query, script=Given(PLAN))
    reused, prefilled = plato.counts.reused, plato.counts.prefilled
    front = len(Layout(engine, query).front)
    engine.forget()
    _, independent = answer(engine, "independent", query=query, script=Given(PLAN))
    assert reused > 3 * front // BLOCK * BLOCK
    assert independent.counts.prefilled >= 4 * front
    assert prefilled < independent.counts.prefilled
    nodes = [part for part in independent.parts if part.kind == "node"]
    assert [part.reused for part in nodes] == [0] * len(PLAN)
    assert all(part.reused + part.prefilled == len(part.prompt) for part in (*nodes, *plato.parts) if part.prompt)


def test_a_full_kv_cache_takes_turns(engine):
    """Five sequences need more than the cache holds: vLLM preempts, and what they say does not change."""
    asks = [Ask(f"{i}", ids_of(150, i), 300, whole=True) for i in range(5)]
    together = drain(engine, *asks)
    assert engine.preempted > 0
    assert {found["ended"] for found in together.values()} == {"budget"}
    engine.forget()
    assert engine.preempted == 0
    for ask in asks[3:]:
        assert drain(engine, ask)[ask.name]["ids"] == together[ask.name]["ids"]


# -- what may be said -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_under_the_grammar_always_parses(engine, seed):
    """Even random weights can only write plans; without the grammar they write none."""
    front, lark = ids_of(64, seed), plan_lark(4, 2, 24)
    written = one(engine, front, 400, constraint=Constraint(lark))
    assert written["ended"] == "constraint", written
    reader = PlanReader(4, 2)
    reader.feed(engine.decode(written["ids"]))
    plan = reader.finish()
    assert 2 <= len(plan) <= 4
    assert reader.repairs == []
    free = PlanReader(4, 2)
    free.feed(engine.decode(one(engine, front, 60)["ids"]))
    assert not free.funnel().parses


def test_a_grammar_that_is_cut_off_says_so(engine):
    assert one(engine, ids_of(40), 5, constraint=Constraint(plan_lark()))["ended"] == "budget"


def test_a_script_is_written_token_by_token(engine):
    text = "1: What is ä?\n2 <- 1: And 🧬?\n\n"
    found = one(engine, ids_of(40), 500, constraint=Constraint(plan_lark(), script=text))
    assert (found["ids"], found["ended"]) == (tuple(engine.encode(text)), "constraint")
    assert engine.counts.steps == len(found["ids"])  # each costs its step, and no step more for an end token
    with pytest.raises(ConstraintError, match="no text of the grammar"):
        engine.start(Ask("wrong", ids_of(40), 500, Constraint(plan_lark(), script="1 <- 2: What?\n\n")))
    with pytest.raises(ConstraintError, match="grammar cannot be used"):
        engine.start(Ask("wrong", ids_of(40), 500, Constraint("start: (")))
    assert engine.running() == []


def test_stop_texts_end_an_answer_and_are_no_part_of_it(engine):
    front = ids_of(40, 3)
    whole = one(engine, front, 60, whole=True)["ids"]
    text = engine.decode(whole)
    at = next(i for i in range(10, len(text) - 3) if text.find(text[i : i + 3]) == i and text[i] not in "<>")
    stop = text[at : at + 3]
    found = one(engine, front, 60, stop=("never said", stop))
    assert (found["ended"], engine.decode(found["ids"])) == ("stop", text[: text.find(stop)])
    assert one(engine, front, 60, stop=(stop,), whole=True)["ids"] == whole  # the control


def test_the_models_own_end_is_no_part_of_an_answer(engine):
    ended = next(found for seed in range(60) if (found := one(engine, ids_of(20, seed), 60))["ended"] == "stop")
    eos = engine.tokenizer.encode("<eos>")[0]
    assert eos not in ended["ids"]
    assert len(ended["ids"]) < 60


# -- ends -----------------------------------------------------------------------------------------------------------


def test_a_stopped_sequence_is_heard_of_no_more_and_its_name_is_free(engine):
    engine.start(Ask("long", ids_of(100), 800, whole=True))
    while not engine.step():
        pass
    with pytest.raises(EngineError, match="long is still running"):
        engine.start(Ask("long", ids_of(10), 1))
    engine.stop("long")
    engine.stop("long")
    assert (engine.running(), engine.step()) == ([], [])
    found = drain(engine, Ask("long", ids_of(40, 7), 5, whole=True))["long"]
    assert len(found["ids"]) == 5
    steps = engine.counts.steps
    time.sleep(0.5)
    drain(engine, Ask("next", ids_of(40, 7), 1))
    assert engine.counts.steps - steps <= 3  # nothing of the stopped one was decoded meanwhile


def test_closing_a_conduct_stops_its_sequences(engine):
    going = conduct(engine, Layout(engine, QUERY), Written("script", PLAN), Settings("plato", whole=True))
    for happening in going:
        if happening.kind == "started" and happening.part.kind == "node":
            break
    assert len(engine.running()) > 1
    going.close()
    assert engine.running() == []


def test_what_does_not_fit_is_refused_before_any_work(engine):
    with pytest.raises(ContextOverflow, match=r"needs 1025 positions, prompt and answer, where .* 1024: shorten"):
        engine.start(Ask("big", ids_of(1000), 25))
    assert one(engine, ids_of(1000), 24, whole=True)["ended"] == "budget"
    assert engine.running() == []


def test_a_request_that_vllm_refuses_fails_alone(engine):
    found = drain(engine, Ask("bad", (99_999,), 4), Ask("good", ids_of(40), 4, whole=True))
    assert found["bad"]["ended"] == "failed"
    assert "99999" in found["bad"]["said"] or "vocabulary" in found["bad"]["said"]
    assert found["good"]["ended"] == "budget"
    with pytest.raises(EngineError, match="failed: "):
        list(conduct(engine, Layout(engine, QUERY), BadScript(), Settings("plato")))


class BadScript(Written):
    def ask(self, layout, outline):
        return Ask("plan", (99_999,), 4)


@pytest.mark.parametrize("text", ["ünï · 中文 · 🧬", "\x00\x1f", "e\u0301 \u202e"])
def test_unicode(engine, text):
    assert engine.decode(engine.encode(text)) == text
    _, outcome = answer(engine, query=text + ".", script=Given(PLAN))
    assert outcome.answer_tokens == PLAN.tokens
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        engine.chat("You help.", text + "\ud800")


def step_on(engine, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        engine.step()


def test_silence_is_named(engine, monkeypatch):
    """The core is stopped in its tracks, as a hang would."""
    monkeypatch.setattr(vllm_engine, "SILENCE_S", 0.5)
    core = psutil.Process(engine._child.process.pid).children()[0]
    core.suspend()
    try:
        engine.start(Ask("hung", ids_of(40), 4, whole=True))
        with pytest.raises(EngineError, match=r"vLLM said nothing for 0 s at 'serving'.*Open the engine again"):
            step_on(engine, 20)
    finally:
        core.resume()
    monkeypatch.setattr(vllm_engine, "SILENCE_S", 120.0)
    while engine.running():
        engine.step()


def test_a_dead_core_is_named_and_nothing_is_left(opened):
    """The last test of the file: it kills the engine."""
    opened.forget()
    child = psutil.Process(opened._child.process.pid)
    pids = [child.pid, *(p.pid for p in child.children(recursive=True))]
    assert len(pids) == 2
    opened.start(Ask("a", ids_of(40), 900, whole=True))
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(EngineError, match=r"vLLM failed while serving: .*core"):
        step_on(opened, 60)
    folder = opened._child.folder
    opened.close()
    opened.close()
    assert not any(map(alive, pids))
    assert not folder.exists()

"""The endpoint engine against vLLM's real OpenAI server with SmolLM2: plans under its grammar, cached prefixes, exact
lengths, scripts, and errors in the server's own words."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from endings import drained

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")

from workbench import lm
from workbench.plato.conductor import conduct
from workbench.plato.endpoint import open_endpoint
from workbench.plato.engine import Ask, Constraint, EngineError
from workbench.plato.examples import EXAMPLES
from workbench.plato.happen import Settings
from workbench.plato.layout import Layout
from workbench.plato.parse import PlanReader
from workbench.plato.planner import Written
from workbench.vllm_process import ENVIRONMENT, ON_CPU

pytestmark = [pytest.mark.vllm, pytest.mark.model, pytest.mark.timeout(700)]

START_S, ROOM = 480, 2048  # a minute on an idle machine
KEY, SECRET = "PLATO_TEST_KEY", "sk-of-the-test"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(lm.path("smollm2"))]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "smollm2", "--api-key", SECRET]
    command += ["--dtype", lm.fast_dtype(), "--enforce-eager", "--max-model-len", str(ROOM), "--max-num-seqs", "8"]
    command += ["--enable-prompt-tokens-details", "--block-size", "32"]
    env = os.environ | ENVIRONMENT | ON_CPU | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while not _healthy(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"not up in {START_S} s: {log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def engine(url, monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    opened = open_endpoint(url, "", KEY, 120)
    yield opened
    opened.close()


def drain(engine, *asks):
    for ask in asks:
        engine.start(ask)
    found = {}
    while engine.running():
        for out in engine.step():
            assert out.ended != "failed", out.said
            found.setdefault(out.name, []).append(out)
    return found


def said(engine, outs):
    return engine.decode([i for out in outs for i in out.ids])


def test_what_the_server_says_of_itself(engine):
    assert engine.server.vllm
    assert engine.server.model == "smollm2"
    assert engine.room() == ROOM * 4 // 5
    assert engine.form == "lines"


def test_exact_lengths_and_the_same_words_again(engine):
    front = tuple(engine.chat("You are a careful assistant.", "Count the days of the week."))
    outs = drain(engine, Ask("a", front, 24, whole=True), Ask("b", front, 7, whole=True))
    assert sum(len(o.ids) for o in outs["a"]) == 24
    assert sum(len(o.ids) for o in outs["b"]) == 7
    assert said(engine, outs["a"]).startswith(said(engine, outs["b"]).rstrip("\ufffd"))
    assert outs["a"][-1].ended == "budget"


def test_a_prefix_is_computed_once(engine):
    front = tuple(engine.chat("You are a careful assistant.", "Tell me of the sea. " * 30))
    drain(engine, Ask("trunk", front, 0))
    computed = engine.counts.prefilled
    assert engine.counts.reused == 0
    header = tuple(engine.encode("Part 1: What colour is it?\n"))
    drain(engine, *(Ask(f"n{k}", front + header + tuple(engine.encode(f"{k}")), 4) for k in range(3)))
    assert engine.counts.reused > 3 * 0.8 * computed
    cold = engine.counts.prefilled
    drain(engine, Ask("alone", front + header, 4, share=False))  # the control: a cache of its own
    assert engine.counts.prefilled - cold > 0.9 * computed
    engine.forget()
    drain(engine, Ask("again", front + header, 4))
    assert engine.counts.reused == 0


def test_an_answer_is_continued(engine):
    """What stands behind the question is the answer's beginning, not a second question."""
    front = tuple(engine.chat("You are a careful assistant.", "Count to ten."))
    begun = tuple(engine.encode("One, two, three, four,"))
    assert "five" in said(engine, drain(engine, Ask("a", front + begun, 6))["a"])


def test_plans_of_the_real_planner_are_always_plans(engine):
    layout = Layout(engine, EXAMPLES["join"].query)
    script = Written("model", most=4)
    outs = drain(engine, script.ask(layout, False))["plan"]
    assert outs[-1].ended == "constraint"
    script.feed(said(engine, outs))
    script.finish()
    funnel = script.funnel()
    assert funnel.parses
    assert funnel.in_form
    assert funnel.ids
    assert funnel.needs
    assert funnel.count


def test_a_script_is_written_as_it_is(engine):
    plan = EXAMPLES["diamond"].plan()
    script = Written("script", plan)
    outs = drain(engine, script.ask(Layout(engine, EXAMPLES["diamond"].query), False))["plan"]
    assert said(engine, outs).strip() == script.ask(Layout(engine, "x"), False).constraint.script.strip()
    script.feed(said(engine, outs))
    assert script.finish() == plan


def test_a_schema_will_do_where_a_grammar_is_refused(engine):
    engine._without.add("structured_outputs")
    script = Written("model", most=3, form="json")
    text = said(engine, drain(engine, script.ask(Layout(engine, EXAMPLES["wide"].query), False))["plan"])
    reader = PlanReader()
    reader.feed(text)
    assert 1 <= len(reader.finish()) <= 3
    assert text.lstrip().startswith("{")


def test_a_whole_query(engine):
    plan = EXAMPLES["diamond"].plan(12)

    def answer(way):
        layout, settings = Layout(engine, EXAMPLES["diamond"].query), Settings(way, whole=True)
        engine.forget()
        return drained(conduct(engine, layout, Written("script", plan), settings))[1]

    shared, alone = answer("plato"), answer("independent")
    for outcome in (shared, alone):
        assert outcome.plan == plan
        assert outcome.answer_tokens == plan.tokens
    assert shared.order == (1, 2, 3, 4)
    reused = [sum(p.reused for p in outcome.parts if p.kind == "node") for outcome in (shared, alone)]
    assert reused[0] >= 4 * 32  # at least a block of each part's prompt
    assert reused[1] == 0  # the control: caches of their own


def test_the_servers_own_words_for_what_it_refuses(engine, url, monkeypatch):
    engine.start(Ask("a", tuple(engine.chat("s", "q")), 5, Constraint("start: nobody")))
    outs = []
    while engine.running():
        outs += engine.step()
    assert outs[-1].ended == "failed"
    assert "nobody" in outs[-1].said  # the name that its grammar does not define
    wide = tuple(engine.chat("s", "漢字 " * 700))  # more tokens than pieces
    engine.start(Ask("b", wide, 5))
    while engine.running():
        outs += engine.step()
    assert outs[-1].ended == "failed"
    assert "shorten the query" in outs[-1].said
    monkeypatch.setenv(KEY, "sk-wrong")
    with pytest.raises(EngineError, match=r"wants another key \(401\)") as error:
        open_endpoint(url, "", KEY)
    assert "sk-wrong" not in str(error.value)

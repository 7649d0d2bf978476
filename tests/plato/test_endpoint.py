"""An endpoint as an engine: what goes over the wire, and every way a server can fail, as one clear error each."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from endings import drained

sys.path.insert(0, str(Path(__file__).parent))

from bad_server import ANSWER, KEY, SECRET

from workbench.plato.conductor import conduct
from workbench.plato.endpoint import open_endpoint
from workbench.plato.engine import Ask, Constraint, ContextOverflow, EngineError
from workbench.plato.examples import EXAMPLES
from workbench.plato.happen import Settings
from workbench.plato.layout import Layout
from workbench.plato.pieces import NOTHING
from workbench.plato.planner import Given, Written


@pytest.fixture
def opened(server, monkeypatch):
    """Endpoints by the model's name; all closed at the end, with nothing left."""
    monkeypatch.setenv(KEY, SECRET)
    engines = []

    def open_(model="good", timeout_s=5.0, url=None):
        server.models = None if model != "good" else ("good",)
        engines.append(open_endpoint(url or server.url, model, KEY, timeout_s))
        return engines[-1]

    yield open_
    for engine in engines:
        engine.close()
        engine.close()  # twice is no error
    assert not [t for t in threading.enumerate() if t.name == "plato-endpoint"]


def drain(engine, limit_s=20):
    """Outs by name, joined."""
    outs, deadline = {}, time.monotonic() + limit_s
    while engine.running():
        assert time.monotonic() < deadline
        for out in engine.step():
            outs.setdefault(out.name, []).append(out)
    return outs


def ask(engine, name="node 1", budget=64, **more):
    return Ask(name, tuple(engine.chat("Be brief.", "Tell a tale")), budget, **more)


def said(engine, outs):
    return engine.decode([i for out in outs for i in out.ids])


# -- what works ------------------------------------------------------------------------------------------------------


def test_text_to_ids_and_back(opened):
    engine = opened()
    for text in ("", " a  b\n\nPart 12: was für ein größeres 漢字漢字漢字漢字?! ", "x" * 50):
        ids = engine.encode(text)
        assert engine.decode(ids) == text
        assert engine.encode(text) == ids
    one, two = engine.chat("s", "q"), engine.chat("s", "other")
    assert one[:3] == two[:3]
    assert engine.decode(one) == "sq"


def test_an_answer(opened, server):
    engine = opened()
    assert repr(engine) == f"Endpoint('{server.url}', model='good')"
    engine.start(ask(engine))
    outs = drain(engine)["node 1"]
    assert said(engine, outs) == ANSWER
    assert outs[-1].ended == "stop"
    assert sum(o.reused for o in outs) == engine.counts.reused == 16
    assert sum(o.prefilled for o in outs) == engine.counts.prefilled == 24
    assert engine.counts.decoded == len(ANSWER.split())
    body = server.seen[-1]
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["max_tokens"] == 64
    assert body["temperature"] == 0
    assert not {"structured_outputs", "ignore_eos", "cache_salt", "continue_final_message"} & set(body)
    assert server.headers["Authorization"] == f"Bearer {SECRET}"


def test_budgets_and_whole_parts(opened, server):
    engine = opened()
    engine.start(ask(engine, budget=3))
    outs = drain(engine)["node 1"]
    assert said(engine, outs) == "It is a "
    assert outs[-1].ended == "budget"
    engine.start(ask(engine, budget=0))
    before = len(server.seen)
    assert [o.ended for o in drain(engine)["node 1"]] == ["budget"]
    assert len(server.seen) == before  # nothing is asked where nothing can be gained


def test_a_server_that_goes_on_is_cut_off(opened, server):
    engine = opened("endless")
    engine.start(ask(engine, budget=5))
    outs = drain(engine)["node 1"]
    assert said(engine, outs) == "x " * 5
    assert outs[-1].ended == "budget"
    wait_for(lambda: server.cut == 1)


def test_stop_texts_that_come_in_pieces(opened):
    engine = opened("stops")
    engine.start(ask(engine, stop=("\n\n", "\nPart ")))
    outs = drain(engine)["node 1"]
    assert said(engine, outs) == "One."
    assert outs[-1].ended == "stop"
    engine.start(ask(engine, stop=("\n\n\n", "more and")))  # the control: nothing that only begins like a stop is lost
    assert said(engine, drain(engine)["node 1"]) == "One.\n\nPart 2: more"


def test_halves_of_a_character_are_joined_and_what_has_no_other_half_is_no_end(opened):
    """Such text could not be sent back as part of the next prompt."""
    engine = opened("halves")
    for stop in ((), ("\n\n",)):
        engine.start(ask(engine, stop=stop))
        outs = drain(engine)["node 1"]
        assert said(engine, outs) == "A \U0001f600 and \ufffd\ufffd"
        assert outs[-1].ended == "stop"
    with pytest.raises(ValueError, match="character 2 is half of a surrogate pair"):
        engine.chat("s", "q \ud83d")


def test_tokens_that_come_together_are_counted(opened):
    engine = opened("pairs")
    engine.start(ask(engine))
    outs = drain(engine)["node 1"]
    ids = [i for out in outs for i in out.ids]
    assert len(ids) == len(ANSWER.split()) + 2
    assert ids[-2:] == [NOTHING, NOTHING]
    assert engine.decode(ids) == ANSWER


@pytest.mark.parametrize("kind", ["no stream", "no usage", "no finish", "no done", "odd", "busy once"])
def test_what_servers_leave_out_does_no_harm(opened, kind):
    engine = opened(kind)
    engine.start(ask(engine))
    outs = drain(engine)["node 1"]
    assert said(engine, outs) == ANSWER
    assert outs[-1].ended == "stop"


@pytest.mark.parametrize("name", ["response_format", "temperature", "max_tokens", "stop"])
def test_what_a_server_refuses_is_left_out_from_then_on(opened, server, name):
    engine = opened(f"no {name}")
    constraint = Constraint("start: /a*/", schema='{"type": "object"}')
    for _ in range(2):
        engine.start(ask(engine, constraint=constraint, stop=("\n\n",)))
        assert drain(engine)["node 1"][-1].ended == "constraint"
    assert [name in body for body in server.seen] == [True, False, False]
    assert ("max_completion_tokens" in server.seen[-1]) == (name == "max_tokens")


def test_vllm_is_asked_for_more(server, monkeypatch):
    server.owner, server.room = "vllm", 500
    engine = open_endpoint(server.url, "", KEY)
    try:
        assert engine.form == "lines"
        assert engine.room() == 400
        prompt = (*engine.chat("s", "q"), *engine.encode("Part 1: Why?\n"))
        engine.start(Ask("a", prompt, 5, whole=True))
        engine.start(Ask("b", prompt, 5, Constraint("start: /x+/")))
        engine.start(Ask("c", prompt, 5, Constraint("start: /x+/", script="xx"), share=False))
        engine.start(Ask("d", prompt, 0))
        drain(engine)
        bodies = {json.dumps(b.get("structured_outputs")) + str(b["max_tokens"]): b for b in server.seen}
        whole, grammar, script, warm = (
            bodies[k] for k in ("null5", '{"grammar": "start: /x+/"}5', '{"choice": ["xx"]}42', "null1")
        )
        assert whole["min_tokens"] == 5
        assert whole["ignore_eos"]
        assert whole["messages"][-1] == {"role": "assistant", "content": "Part 1: Why?\n"}
        assert whole["continue_final_message"]
        assert whole["cache_salt"] == grammar["cache_salt"] == warm["cache_salt"] != script["cache_salt"]
        engine.forget()
        engine.start(Ask("e", prompt, 5))
        drain(engine)
        assert server.seen[-1]["cache_salt"] != whole["cache_salt"]
        with pytest.raises(ContextOverflow, match="shorten the query"):
            engine.start(Ask("f", prompt, 500))
    finally:
        engine.close()


def test_only_vllm_can_be_made_to_write_a_script(opened):
    engine = opened()
    with pytest.raises(EngineError, match="cannot be made to write a given plan"):
        engine.start(ask(engine, constraint=Constraint("start: /x+/", script="xx")))


# -- what goes wrong ---------------------------------------------------------------------------------------------------

FAILURES = {
    "error500": "failed (500): look into its log",
    "error401": "wants another key (401)",
    "error404": "no such path, or no model 'error404'",
    "error400": "refuses the request (400)",
    "busy": "is busy (429) and stays so",
    "too long": "shorten the query",
    "html": "no JSON object",
    "cut": "was cut after",
    "reset": "cut after|closed the connection",
    "broken": "no JSON object",
    "error": "broke off: out of memory",
    "filter": "withheld the answer",
    "no line end": "an event without an end",
    "silent": "was silent for 1 s",
    "pings": "was silent for 1 s",
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_one_out_that_names_its_cause(opened, kind):
    engine = opened(kind, timeout_s=1.0)
    engine.start(ask(engine))
    outs = drain(engine)["node 1"]
    assert [o.ended for o in outs][-1] == "failed"
    assert any(cause in outs[-1].said for cause in FAILURES[kind].split("|")), outs[-1].said
    assert SECRET not in outs[-1].said
    assert "\n" not in outs[-1].said
    assert engine.running() == []


def test_a_failure_ends_the_query_as_one_error(opened):
    engine = opened("cut")
    plan = EXAMPLES["wide"].plan()
    with pytest.raises(EngineError, match=r"node \d failed: the stream .* was cut"):
        list(conduct(engine, Layout(engine, "q"), Given(plan), Settings("plato")))
    assert engine.running() == []


def test_no_server_at_all(opened, monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    for url, cause in (
        ("http://127.0.0.1:9/v1", "no server answers at http://127.0.0.1:9/v1"),
        ("http://", "cannot be asked"),
        ("http://no.such.host.invalid/v1", "no server answers"),
    ):
        with pytest.raises(EngineError, match=cause):
            open_endpoint(url, "m", KEY, 2.0)


def test_a_server_that_lists_nothing(server):
    server.models = ()
    with pytest.raises(EngineError, match="lists no model"):
        open_endpoint(server.url)
    server.models = None
    with pytest.raises(EngineError, match="404"):
        open_endpoint(server.url)
    open_endpoint(server.url, "good").close()  # the control: named, it will do
    server.models, server.owner = ("a", "b"), "vllm"
    with pytest.raises(EngineError, match="has no model 'c': it has a, b"):
        open_endpoint(server.url, "c")


def wait_for(condition, limit_s=5):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stop_closes_the_request(opened, server):
    engine = opened("endless")
    engine.start(ask(engine, "a", budget=10_000))
    engine.start(ask(engine, "b", budget=10_000))
    seen = set()
    while seen != {"a", "b"}:
        seen |= {out.name for out in engine.step() if out.ids}
    engine.stop("a")
    engine.stop("nobody")
    wait_for(lambda: server.cut == 1)
    assert engine.running() == ["b"]
    engine.start(ask(engine, "a", budget=3))  # its name is free, and nothing of the old one comes
    outs = []
    while "a" in engine.running():
        outs += [out for out in engine.step() if out.name == "a"]
    assert said(engine, outs) == "x " * 3
    engine.stop("b")
    wait_for(lambda: server.cut >= 2)
    assert engine.step() == []


def test_a_dead_connection_thread_is_named(opened):
    engine = opened()
    engine._loop.call_soon_threadsafe(engine._loop.stop)
    engine._thread.join(5)
    with pytest.raises(EngineError, match="open the endpoint again"):
        engine.step()


# -- a whole query ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["plato", "sot", "independent", "plain", "nodes"])
def test_a_query_by_every_way(opened, server, way):
    engine = opened()
    script = Given(EXAMPLES["diamond"].plan()) if way == "nodes" else Written("model")
    outcome = run(conduct(engine, Layout(engine, "Tell of the harbour"), script, Settings(way)))
    assert outcome.plan_error == ""
    if way == "plain":
        assert outcome.answer == ANSWER
        return
    assert outcome.answer == "\n\n".join([ANSWER] * len(outcome.plan))
    if way == "plato":
        assert outcome.plan.edges == ((1, 3), (2, 3))
        last = server.seen[-1]["messages"][-1]["content"]
        asks = {1: "Who?", 2: "Why?"}
        trunk = "".join(f"Part {n}: {asks[n]}\n{ANSWER}\n\n" for n in outcome.order[:2])  # as the two finished
        assert last.endswith(f"\n\n{trunk}Part 3: So?\n")
        assert "response_format" in server.seen[0]
    if way == "independent":
        assert all(ANSWER not in json.dumps(body) for body in server.seen)  # nobody sees anybody's answer


def run(going):
    return drained(going)[1]


def test_a_server_without_schemas_plans_all_the_same(opened, server):
    engine = opened("no response_format")
    outcome = run(conduct(engine, Layout(engine, "Tell of the harbour"), Written("model"), Settings("plato")))
    assert len(outcome.plan) == 3


def test_a_broken_plan_gives_way_to_the_plain_answer(opened):
    engine = opened()
    free = Written("free", form="lines")
    free._instructions = lambda *_: "Just talk.\n"
    outcome = run(conduct(engine, Layout(engine, "Tell of the harbour"), free, Settings("plato")))
    assert outcome.plan is None
    assert "wrote no plan: it begins 'It is a long" in outcome.plan_error
    assert outcome.answer == ANSWER


def test_the_key_is_written_nowhere(opened, server):
    engine = opened()
    engine.start(ask(engine))
    drain(engine)
    assert SECRET not in repr(engine) + repr(engine.server) + json.dumps(server.seen)
    assert os.environ[KEY] == SECRET


def test_a_run_where_the_server_cannot_write_the_given_plan_lets_its_model_plan(server):
    import workbench as wb

    asked = {"engine": "endpoint", "endpoint_url": server.url, "endpoint_model": "good", "rounds": 1, "node_tokens": 8}
    said = []
    result = wb.run("plato", on_event=said.append, judge=True, refuse=False, temperature=0.5, **asked)
    assert server.seen[-1]["temperature"] == 0.5
    assert any("compare answer_tokens" in note for note in result.notes)  # it cannot be told exact lengths
    assert result.judged.swayed  # this one takes whatever stands first
    assert result.summary()["judge_prefers_it"] == 0
    assert type(result).model_validate_json(result.to_json()).judged == result.judged
    assert any("its model plans instead" in getattr(e, "text", "") for e in said)
    assert any("its model plans instead" in note for note in result.notes)
    assert result.planned.planner == "model"
    given = wb.run("plato", planner="given", **asked)
    assert given.planned.planner == "given"
    assert not any("its model plans" in note for note in given.notes)
    assert given.judged is None

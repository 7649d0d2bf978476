"""The conductor on the built-in engine with the tiny model: every way and every switch."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conduct_tools import BRANCHES, PLAN, QUERY, go, starts

from workbench.plato.engine import EngineError
from workbench.plato.graph import plan_of
from workbench.plato.happen import Settings
from workbench.plato.layout import STOPS, Layout
from workbench.plato.planner import Given, Written

# -- the ways ------------------------------------------------------------------------------------------------------


def test_plain_decodes_its_budget_and_plans_nothing(engine):
    found, happened = go(engine, way="plain", plain_tokens=30)
    assert starts(happened) == ["plain"]
    assert (found.answer_tokens, found.counts.decoded, found.counts.steps) == (30, 30, 30 + 1)  # a prompt of two pieces
    assert (found.plan, found.order) == (None, ())
    assert found.counts.prefilled == len(Layout(engine, QUERY).front)


def test_nodes_run_one_after_the_other_and_each_sees_all_before(engine):
    found, happened = go(engine, way="nodes")
    assert starts(happened) == ["node 1", "node 2", "node 3", "node 4"]
    assert [found.part(n).saw for n in (1, 2, 3, 4)] == [(), (1,), (1, 2), (1, 2, 3)]
    assert max(found.counts.widths) == 1
    assert found.counts.decoded == PLAN.tokens


def test_plato_starts_a_part_when_what_it_needs_is_done(engine):
    found, happened = go(engine, way="plato")
    assert starts(happened) == ["node 1", "node 2", "node 3", "node 4"]
    one, two, three, four = (found.part(n) for n in (1, 2, 3, 4))
    assert max(one.start_s, two.start_s) < min(one.end_s, two.end_s)  # together
    assert three.start_s >= one.end_s
    assert four.start_s >= max(two.end_s, three.end_s)
    assert (three.saw, four.saw) == ((1, 2), (1, 2, 3))  # 2 is not needed by 3, but it was done
    assert found.order == (1, 2, 3, 4)
    assert found.counts.decoded == PLAN.tokens
    bound = PLAN.critical_tokens()
    assert bound <= found.counts.steps <= bound + 8  # what is above it: prompts that take a step of their own


def test_sot_writes_an_outline_and_expands_all_at_once(engine):
    found, happened = go(engine, way="sot", script=Written("script", PLAN))
    assert starts(happened)[0] == "plan"
    nodes = [found.part(n) for n in (1, 2, 3, 4)]
    plan = next(p for p in found.parts if p.kind == "plan")
    assert all(p.start_s >= plan.end_s for p in nodes)
    assert max(p.start_s for p in nodes) < min(p.end_s for p in nodes)
    assert all(p.saw == () for p in nodes)
    front = Layout(engine, QUERY).front
    for part in nodes:  # each stands below the outline, and none below another's answer
        assert part.prompt[: len(front) + len(plan.ids)] == front + plan.ids
        assert len(part.prompt) < len(front) + len(plan.ids) + 40


def test_independent_parts_share_nothing(engine):
    found, _ = go(engine, way="independent", script=Written("script", PLAN))
    nodes = [found.part(n) for n in (1, 2, 3, 4)]
    front = Layout(engine, QUERY).front
    assert all(p.reused == 0 and p.prefilled == len(p.prompt) for p in nodes)
    assert all(p.prompt[: len(front)] == front for p in nodes)
    engine.forget()
    shared, _ = go(engine, way="plato", script=Written("script", PLAN))
    assert shared.counts.prefilled + len(front) < found.counts.prefilled


@pytest.mark.parametrize("way", BRANCHES)
@pytest.mark.parametrize("whole", [True, False])
def test_every_way_answers_every_part_in_the_plans_order(engine, way, whole):
    found, happened = go(engine, way=way, whole=whole, script=Written("script", PLAN))
    nodes = [found.part(n) for n in (1, 2, 3, 4)]
    assert all(p.ended == "budget" and len(p.ids) == 8 for p in nodes) or not whole
    assert found.answer == "\n\n".join(p.text.strip() for p in nodes)
    assert found.answer_tokens == sum(len(p.ids) for p in nodes)
    assert sorted(found.order) == [1, 2, 3, 4]
    assert engine.running() == []
    for part in found.parts:  # what was streamed is what it said
        said = "".join(h.added for h in happened if h.kind == "grew" and h.part is part)
        assert said == part.text or part.ended == "stop"


def test_what_happens_is_in_order(engine):
    found, happened = go(engine, script=Written("script", PLAN))
    kinds = [(h.kind, h.part.name if h.part else h.node.id if h.node else "") for h in happened]
    for n in (1, 2, 3, 4):
        known, started = kinds.index(("known", n)), kinds.index(("started", f"node {n}"))
        assert known < started < kinds.index(("ended", f"node {n}"))
    assert [h.at_s for h in happened] == sorted(h.at_s for h in happened)
    assert 0 < found.first_s < found.total_s


# -- pipeline, context, known answers ------------------------------------------------------------------------------


def test_with_the_pipeline_parts_start_while_the_plan_is_written(engine):
    script = lambda: Written("script", PLAN)  # noqa: E731
    found, _ = go(engine, script=script())
    plan = next(p for p in found.parts if p.kind == "plan")
    assert found.part(1).start_s < plan.end_s
    assert found.part(1).ids
    engine.forget()
    waited, _ = go(engine, script=script(), pipeline=False)
    plan = next(p for p in waited.parts if p.kind == "plan")
    assert min(waited.part(n).start_s for n in (1, 2, 3, 4)) >= plan.end_s
    assert found.counts.steps < waited.counts.steps


def test_needs_alone_are_seen_in_that_context(engine):
    found, _ = go(engine, context="needs")
    assert [found.part(n).saw for n in (1, 2, 3, 4)] == [(), (), (1,), (2, 3)]
    lay, parts = Layout(engine, QUERY), {n: found.part(n) for n in (1, 2, 3, 4)}
    blocks = {n: lay.block(PLAN.nodes[n - 1], parts[n].ids) for n in (1, 2, 3)}
    assert parts[3].prompt == lay.front + blocks[1] + lay.header(PLAN.nodes[2])
    assert parts[4].prompt == lay.front + blocks[2] + blocks[3] + lay.header(PLAN.nodes[3])
    engine.forget()
    growing, _ = go(engine)
    assert growing.part(4).prompt == lay.front + blocks[1] + blocks[2] + lay.block(
        PLAN.nodes[2], growing.part(3).ids
    ) + lay.header(PLAN.nodes[3])


@pytest.mark.parametrize("context", ["growing", "needs"])
def test_parts_that_start_together_compute_what_they_share_once(engine, context):
    wide = plan_of([(f"What is {c}?", ()) for c in "abcd"], budget=5)
    found, _ = go(engine, script=Given(wide), context=context)
    front = len(Layout(engine, QUERY).front)
    headers = sum(len(found.part(n).prompt) - front for n in (1, 2, 3, 4))
    assert found.counts.prefilled == front + headers
    assert all(found.part(n).reused == front for n in (1, 2, 3, 4))


def test_a_chain_computes_nothing_twice(engine):
    """Of each part: the last token before it, which was said and never read, the separator, and its header."""
    chain = PLAN.chain()
    found, _ = go(engine, script=Given(chain))
    lay = Layout(engine, QUERY)
    between = len(engine.encode("\n\n"))
    for n in (1, 2, 3, 4):
        header, part = len(lay.header(chain.nodes[n - 1])), found.part(n)
        assert part.prefilled == (len(lay.front) + header if n == 1 else 1 + between + header)
        assert part.reused + part.prefilled == len(part.prompt)
    assert not any(p.kind == "trunk" for p in found.parts)


def test_an_engine_that_does_not_say_what_it_reused_is_warmed_once(engine, monkeypatch):
    """A server's counts may be unknown: the trunk counts as computed when its sequence has ended."""
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: [replace(out, reused=0, prefilled=0) for out in step()])
    wide = plan_of([(f"What is {c}?", ()) for c in "abcd"], budget=5)
    found, happened = go(engine, script=Given(wide))
    assert sum(h.kind == "started" and h.part.kind == "trunk" for h in happened) == 1
    assert sorted(found.order) == [1, 2, 3, 4]


def test_without_sharing_everything_is_computed_again(engine, monkeypatch):
    """The control of the two above: the same chain with reuse switched off."""
    start = engine.start
    monkeypatch.setattr(engine, "start", lambda ask: start(replace(ask, share=False)))
    found, _ = go(engine, script=Given(PLAN.chain()))
    assert found.counts.reused == 0
    assert found.counts.prefilled == sum(len(found.part(n).prompt) for n in (1, 2, 3, 4))


def test_known_answers_are_not_decoded_again(engine):
    first, _ = go(engine)
    engine.forget()
    one, happened = go(engine, known={1: first.part(1).ids})
    assert starts(happened) == ["node 2", "node 3", "node 4"] or starts(happened) == ["node 3", "node 2", "node 4"]
    assert one.part(2).ids != ()
    known = {n: first.part(n).ids for n in (1, 2)}
    engine.forget()
    found, happened = go(engine, known=known)
    assert starts(happened) == ["node 3", "node 4"]
    assert found.part(3).prompt == first.part(3).prompt
    assert found.part(3).ids == first.part(3).ids
    assert found.part(4).ids == first.part(4).ids
    assert found.counts.decoded == 16
    assert sorted(found.order) == [1, 2, 3, 4]
    other, _ = go(engine, known={1: known[2], 2: known[1]})  # other answers before it: another answer
    assert other.part(3).ids != first.part(3).ids


def test_all_known_decodes_nothing(engine):
    first, _ = go(engine)
    engine.forget()
    found, happened = go(engine, known={n: first.part(n).ids for n in (1, 2, 3, 4)})
    assert starts(happened) == []
    assert found.counts.steps == 0


def test_no_more_run_than_may(engine):
    wide = plan_of([(f"What is {c}?", ()) for c in "abcdef"], budget=5)
    found, _ = go(engine, script=Given(wide), most_running=2)
    assert max(found.counts.widths) == 2
    assert sorted(found.order) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="most_running"):
        Settings(most_running=0)


def test_an_answer_stops_where_the_next_part_would_begin(engine):
    asks = []
    start, engine.start = engine.start, lambda ask: (asks.append(ask), start(ask))
    try:
        go(engine, whole=False)
        go(engine, whole=True)
    finally:
        del engine.start
    nodes = [ask for ask in asks if ask.name.startswith("node")]
    assert {ask.stop for ask in nodes[:4]} == {STOPS}
    assert {ask.stop for ask in nodes[4:]} == {()}
    assert all(ask.whole for ask in nodes[4:])


def test_the_same_seed_gives_the_same_answer(engine):
    runs = []
    for _ in range(2):
        engine.forget()
        found, _ = go(engine, script=Written("script", PLAN))
        runs.append(([p.ids for p in found.parts], found.order, found.counts.widths, found.counts.tokens))
    assert runs[0] == runs[1]


def test_an_engine_that_falls_silent_is_named(engine, monkeypatch):
    """A step that gives nothing, again and again, ends the answer on the engine's own clock; a slow one does not."""
    from workbench.plato import conductor

    now, real = [0.0], type(engine).step

    def silent(self):
        now[0] += 100.0
        return []

    def slow(self):
        now[0] += 100.0
        return real(self)

    monkeypatch.setattr(type(engine), "now_s", lambda self: now[0])
    monkeypatch.setattr(type(engine), "step", silent)
    with pytest.raises(EngineError, match=r"nothing came from the engine for 300 s while it had trunk to answer"):
        go(engine)
    assert engine.running() == []
    assert now[0] <= conductor.SILENCE_S + 200
    monkeypatch.setattr(type(engine), "patience_s", 910.0, raising=False)  # as long as it says itself, where it does
    now[0] = 0.0
    with pytest.raises(EngineError, match=r"nothing came from the engine for 910 s while it had trunk to answer"):
        go(engine)
    assert 910 < now[0] <= 910 + 200
    monkeypatch.setattr(type(engine), "patience_s", 5.0)  # a hasty one is not hurried
    with pytest.raises(EngineError, match="for 300 s"):
        go(engine)
    monkeypatch.setattr(type(engine), "step", slow)
    found, _ = go(engine)
    assert sorted(found.order) == [1, 2, 3, 4]

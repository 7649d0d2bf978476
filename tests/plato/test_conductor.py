"""The conductor on the built-in engine with the tiny model: every way and switch, and what happens when it fails."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from loop_tools import Toy, answer

from workbench import lm
from workbench.plato.conductor import conduct
from workbench.plato.embedded import EmbeddedEngine
from workbench.plato.engine import Ask, ContextOverflow, EngineError
from workbench.plato.graph import Node, Plan, PlanError, plan_of
from workbench.plato.happen import Settings, Verdict
from workbench.plato.layout import STOPS, Layout
from workbench.plato.planner import Given, Written

QUERY = "Tell me of a, b and c."
PLAN = plan_of([("What is a?", ()), ("What is b?", ()), ("What is c?", (1,)), ("What now?", (2, 3))], budget=8)
BRANCHES = ("plato", "sot", "independent")


@pytest.fixture(scope="module")
def engine():
    """One for all tests; each conducts from a cold start."""
    made = EmbeddedEngine(lm.load("tiny"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def cold(engine):
    engine.forget()


def go(engine, settings=None, script=None, judge=None, query=QUERY, **more):
    return answer(engine, query, script or Given(PLAN), replace(settings or Settings(whole=True), **more), judge)


def starts(happened):
    """Names in the order they were started, without the trunk."""
    return [h.part.name for h in happened if h.kind == "started" and h.part.kind != "trunk"]


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


# -- hedge and verdict ---------------------------------------------------------------------------------------------


def says(branch, seen=None):
    def judge(standing):
        if seen is not None:
            seen.append(standing)
        return Verdict(branch, 1.0, 2.0, "as the test says")

    return judge


def test_a_verdict_for_the_graph_stops_the_plain_answer(engine):
    seen = []
    found, happened = go(
        engine, script=Written("script", PLAN), hedge=True, plain_tokens=200, judge=says(True, seen), pipeline=True
    )
    plain = next(p for p in found.parts if p.kind == "plain")
    assert (plain.ended, found.verdict.branch) == ("cancelled", True)
    assert 0 < len(plain.ids) < 200
    assert seen[0].plan == found.plan
    assert (seen[0].plain_done, seen[0].plain_total) == (len(plain.ids), 200)
    assert sum(h.kind == "verdict" for h in happened) == 1
    assert found.answer_tokens == PLAN.tokens
    assert plain.ids not in [p.ids for p in found.parts if p.kind == "node"]


def test_a_verdict_for_the_plain_answer_stops_the_graph(engine):
    found, _ = go(engine, script=Written("script", PLAN), hedge=True, plain_tokens=90, judge=says(False))
    nodes = [p for p in found.parts if p.kind == "node"]
    assert all(p.ended in ("cancelled", "budget") for p in nodes)
    assert found.answer_tokens == 90
    engine.forget()
    alone, _ = go(engine, way="plain", plain_tokens=90)
    assert found.answer == alone.answer  # and it is the answer that it would have been alone


def test_a_refused_plan_without_a_hedge_starts_the_plain_answer(engine):
    found, happened = go(engine, judge=says(False), plain_tokens=20)
    assert starts(happened) == ["plain"]
    assert (found.answer_tokens, found.plan) == (20, PLAN)


def test_a_plain_answer_that_ends_first_wins(engine):
    found, _ = go(engine, script=Written("script", PLAN), hedge=True, plain_tokens=3, judge=says(True))
    assert not found.verdict.branch
    assert "done before the plan" in found.verdict.why
    assert found.answer_tokens == 3
    assert next(p for p in found.parts if p.kind == "plan").ended == "cancelled"


def test_a_hedge_without_a_judge_is_stopped_when_the_parts_are_done(engine):
    found, _ = go(engine, script=Written("script", PLAN), hedge=True, plain_tokens=300)
    assert next(p for p in found.parts if p.kind == "plain").ended == "cancelled"
    assert found.answer_tokens == PLAN.tokens


# -- what goes wrong -----------------------------------------------------------------------------------------------


class Broken:
    """A planner that writes what no plan can be made of, after some good lines."""

    def __init__(self, good=()):
        self.repairs, self._good = [], list(good)

    def ask(self, layout, outline):
        return Ask("plan", layout.front, 6, whole=True)

    def feed(self, text):
        return [self._good.pop(0)] if self._good else []

    def finish(self):
        raise PlanError("no line of it is a part")


@pytest.mark.parametrize("hedge", [False, True])
@pytest.mark.parametrize("way", BRANCHES)
def test_a_plan_that_cannot_be_used_ends_in_one_plain_answer(engine, way, hedge):
    good = [Node(1, "What is a?", (), 30), Node(2, "What is b?", (), 2)]
    found, happened = go(engine, script=Broken(good), way=way, hedge=hedge, plain_tokens=25)
    assert found.plan_error == "no line of it is a part"
    assert starts(happened).count("plain") == 1
    assert found.answer_tokens == 25
    assert found.plan is None
    assert engine.running() == []
    engine.forget()
    assert found.answer == go(engine, way="plain", plain_tokens=25)[0].answer


def test_a_planner_that_cannot_plan_at_the_start_is_no_end(engine):
    class Empty(Broken):
        def ask(self, layout, outline):
            return None

    found, happened = go(engine, script=Empty(), plain_tokens=5)
    assert starts(happened) == ["plain"]
    assert (found.answer_tokens, bool(found.plan_error)) == (5, True)


def test_a_part_that_the_plan_drops_in_the_end_is_not_waited_for(engine):
    class Shrinks(Broken):
        def finish(self):
            return Plan(PLAN.nodes[:1])

    found, _ = go(engine, script=Shrinks([PLAN.nodes[0], Node(2, "What is b?", (), 100)]))
    assert len(found.part(1).ids) == 8
    assert found.answer == found.part(1).text.strip()
    assert next(p for p in found.parts if p.node == 2).ended == "cancelled"


def small(room, **more):
    made = EmbeddedEngine(lm.load("tiny"), **more)
    made.room = lambda: room
    return made


def test_parts_that_do_not_fit_are_trimmed_by_rule_to_what_they_need():
    front = len(Layout(small(999), QUERY).front)
    engine = small(front + 95)
    five = plan_of([(f"What is {c}?", ()) for c in "abcd"] + [("What now?", (2,))], budget=8)
    found, _ = go(engine, script=Given(five))
    assert found.part(5).saw == (2,)
    assert found.repairs == ["part 5 sees only the parts it needs: all finished ones do not fit"]
    assert len(found.part(5).prompt) + 8 <= front + 95
    assert not go(small(999), script=Given(five))[0].repairs


def test_what_cannot_fit_is_refused_by_name_and_leaves_nothing():
    front = len(Layout(small(999), QUERY).front)
    engine = small(front + 60)
    with pytest.raises(ContextOverflow, match=rf"part 4 does not fit: .* has {front + 60} positions"):
        go(engine)
    assert engine.running() == []
    with pytest.raises(ContextOverflow, match="plain needs"):
        go(engine, way="plain", plain_tokens=100)
    with pytest.raises(ContextOverflow, match="plan needs"):
        go(engine, script=Written("script", PLAN))


def test_a_failed_sequence_is_the_engines_error_and_leaves_nothing():
    toy = Toy(nan=("node 2",))
    toy.encode = lambda text: [ord(c) % 50 for c in text]
    with pytest.raises(EngineError, match="node 2 failed: its logits hold NaN"):
        go(toy)
    assert toy.running() == []


def test_a_closed_generator_leaves_nothing_running(engine):
    going = conduct(engine, Layout(engine, QUERY), Given(PLAN), Settings(whole=True))
    for _ in range(12):
        next(going)
    assert engine.running()
    going.close()
    assert engine.running() == []


@pytest.mark.parametrize("query", ["", "  \n "])
def test_an_empty_query_is_refused(engine, query):
    with pytest.raises(ValueError, match="query: is empty"):
        go(engine, query=query)


def test_unicode_and_half_characters_stream_as_text(engine):
    """The tiny model says bytes: halves of characters must not be shown before their other half."""
    found, happened = go(
        engine, query="Sag mir: \u00e4\u00f6\u00fc \U0001f600 \u4e2d\u6587?", plain_tokens=40, way="plain"
    )
    grown = "".join(h.added for h in happened if h.kind == "grew")
    assert grown == found.parts[0].text
    assert "\U0001f600" in engine.decode(found.parts[0].prompt)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        go(engine, query="broken \ud83d")

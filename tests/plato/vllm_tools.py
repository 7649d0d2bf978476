"""What the tests of Plato on vLLM share: a plan, asking the engine, conducting an answer."""

import random
import time

from endings import drained

from workbench.plato.conductor import conduct
from workbench.plato.engine import Ask
from workbench.plato.graph import plan_of
from workbench.plato.happen import Settings
from workbench.plato.layout import Layout
from workbench.plato.planner import Given, Written

PLAN = plan_of([("What is a?", ()), ("What is b?", ()), ("What is c?", (1,)), ("What now?", (2, 3))], budget=12)
QUERY = "Tell me of a, b and c."


def ids_of(tokens, seed=0):
    draw = random.Random(seed)
    return tuple(draw.randrange(32, 127) for _ in range(tokens))


def drain(engine, *asks):
    """Decode to the end; what each gained and how it ended."""
    for ask in asks:
        engine.start(ask)
    found = {ask.name: {"ids": (), "ended": "", "reused": 0, "prefilled": 0, "said": ""} for ask in asks}
    deadline = time.monotonic() + 120
    while engine.running() and time.monotonic() < deadline:
        for out in engine.step():
            one = found[out.name]
            one["ids"] = (one["ids"] + out.ids)[: len(one["ids"] + out.ids) - out.dropped]
            one["ended"], one["said"] = out.ended, out.said
            one["reused"] += out.reused
            one["prefilled"] += out.prefilled
    return found


def one(engine, *args, **more):
    return drain(engine, Ask("one", *args, **more))["one"]


def answer(engine, way="plato", script=None, query=QUERY, **settings):
    script = script or (Given(PLAN) if way == "nodes" else Written("script", PLAN))
    how = {"whole": True, "plain_tokens": PLAN.tokens} | settings
    return drained(conduct(engine, Layout(engine, query), script, Settings(way, **how)))

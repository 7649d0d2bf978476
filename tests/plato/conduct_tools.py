"""What the tests of the conductor share: a query, a plan, and a way to conduct them on the tiny model."""

from dataclasses import replace

from loop_tools import answer

from workbench import lm
from workbench.plato.embedded import EmbeddedEngine
from workbench.plato.graph import plan_of
from workbench.plato.happen import Settings
from workbench.plato.planner import Given

QUERY = "Tell me of a, b and c."
PLAN = plan_of([("What is a?", ()), ("What is b?", ()), ("What is c?", (1,)), ("What now?", (2, 3))], budget=8)
BRANCHES = ("plato", "sot", "independent")


def tiny_engine(room=None):
    made = EmbeddedEngine(lm.load("tiny"))
    if room is not None:
        made.room = lambda: room
    return made


def go(engine, settings=None, script=None, judge=None, query=QUERY, **more):
    return answer(engine, query, script or Given(PLAN), replace(settings or Settings(whole=True), **more), judge)


def starts(happened):
    """Names in the order they were started, without the trunk."""
    return [h.part.name for h in happened if h.kind == "started" and h.part.kind != "trunk"]

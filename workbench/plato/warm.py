"""What no query changes (the system prompt, the planner's instructions), computed before a query comes.

A server that caches prefixes has it from its second query on. Every way of answering gets it alike; with `warm=False` a
run measures the first query ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from workbench.plato.engine import Ask, Counts, Engine, EngineError
from workbench.plato.happen import Script, Way
from workbench.plato.held import common
from workbench.plato.layout import Layout

PROBES = ("A", "?")  # two queries that have no first letter in common


def stems(layout: Layout, script: Script, way: Way) -> list[tuple[int, ...]]:
    """Beginnings of the way's prompts that are the same for each query, token ids; of the front, and of the planner."""
    layouts = [layout, *(layout.asking(probe) for probe in PROBES)]
    prompts = [[one.front for one in layouts]]
    if way not in ("plain", "nodes"):
        asks = [script.ask(one, way == "sot") for one in layouts]
        prompts += [[ask.ids for ask in asks if ask is not None]] if asks[0] is not None else []
    found = []
    for own, *others in prompts:
        same = min(common(own, other) for other in others)
        found += [own[:same]] if same else []
    return list(dict.fromkeys(found))


def warm(engine: Engine, stems: list[tuple[int, ...]], stopped: Callable[[], None] = lambda: None) -> Counts:
    """Compute them, and give what had been counted by then. The engine's own errors and limits; `stopped` may raise."""
    for at, ids in enumerate(stems):
        engine.start(Ask(f"stem {at}", ids, 0))
        while engine.running():
            stopped()
            for out in engine.step():
                if out.ended == "failed":
                    raise EngineError(f"what all answers begin with could not be computed: {out.said}")
    c = engine.counts
    return replace(c, widths=list(c.widths), tokens=list(c.tokens))


def since(now: Counts, then: Counts) -> Counts:
    """What was counted after `then`."""
    return Counts(
        steps=now.steps - then.steps,
        decoded=now.decoded - then.decoded,
        forced=now.forced - then.forced,
        prefilled=now.prefilled - then.prefilled,
        reused=now.reused - then.reused,
        widths=now.widths[len(then.widths) :],
        tokens=now.tokens[len(then.tokens) :],
    )

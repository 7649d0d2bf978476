"""A small system with a graph, for tests: parts write letters side by side as soon as what they need is done."""

from __future__ import annotations

import time
from functools import partial

import toy
from pydantic import Field

from workbench import dag
from workbench.system import Progress, Provenance, Span, System, Text, Vertex, Work

PLAN = """1: What does the first source say about the harvest of 1840?
2: What does the second source say about it?
3 <- 1, 2 [24]: What do both agree on?
4 <- 1: Which numbers does only the first one give, and how were they had?
5 <- 3, 4: What follows for the price of bread?"""


class Graphed(toy.Toy):
    query: str = Field(
        "Why did bread\ncost so much?",
        max_length=2000,
        description="What is asked, in as many lines as it takes",
        json_schema_extra={"widget": "text"},
    )
    plan: str | None = Field(
        None,
        description="The parts and what each needs",
        json_schema_extra={"widget": "dag", "none": "the bundled plan"},
    )
    cut: int = Field(0, description="Part that is cut off half-way, 0 for none")


class GraphResult(toy.ToyResult):
    def spans(self) -> list[Span]:
        return [
            Span("3", 0.0, 0.0, "213 tokens reused", "reuse", {"reused_tokens": 213}),
            Span("3", 0.0, 0.4, "prefill", "prefill", {"tokens": 12}),
            Span("3", 0.4, 1.2, "decode", "decode", {"tokens": 24}),
        ]


def work(config: Graphed) -> Work:
    plan = dag.read(config.plan or PLAN)
    done: dict[int, int] = {}
    size = {v.id: v.weight or 12 for v in plan}
    ended: set[int] = set()
    for v in plan:
        for piece in v.line().split():
            yield Text("plan", piece + " ")
        yield Text("plan", "\n")
        yield told(v, "waiting", 0, size)
    total = sum(size.values())
    while len(ended) < len(plan):
        time.sleep(config.pause_s)
        for v in [v for v in plan if v.id not in ended and ended.issuperset(v.needs)]:
            done[v.id] = done.get(v.id, 0) + 1
            yield Text(str(v.id), f"word {done[v.id]} of {v.id} <&> ")
            over = done[v.id] >= size[v.id]
            state = "cut" if v.id == config.cut and done[v.id] * 2 >= size[v.id] else "done" if over else "running"
            ended |= {v.id} if state != "running" else set()
            yield told(v, state, done[v.id], size)
        yield Progress(sum(done.values()), total, f"{len(ended)} of {len(plan)} parts")
    yield Progress(total, total, "all parts written")
    badges = {"ttft_s": "measured", "speedup": "modelled", "chunks": "measured"}
    return GraphResult(
        config=config,
        provenance=Provenance(
            backend="cpu", device="a toy", commit="0" * 7, versions={"toy": "1"}, started_at="2026-01-01", badges=badges
        ),
        times=[1.0 + config.seed % 7],
    )


def told(v: dag.Vertex, state: str, done: int, size: dict[int, int]) -> Vertex:
    note = f"{done} of {size[v.id]} words" if done else ""
    needs = tuple(map(str, v.needs))
    return Vertex(str(v.id), v.label, needs, state, done / size[v.id], v.id in (1, 3, 5), note, v.weight)


SYSTEM = System(
    name="graph_toy",
    title="Toy: a graph fills",
    paper="Nobody, Nowhere 2026",
    about="Parts of an answer are written side by side.",
    config=Graphed,
    result=GraphResult,
    work=work,
    presets={
        "tiny": Graphed(),
        "small": Graphed(pause_s=0.02),
        "slow": Graphed(pause_s=0.4),
        "paper": Graphed(chunks=300),
    },
    baselines={"one by one": {"plan": "1: What is asked?\n2 <- 1: And then?"}},
    backends=frozenset({"cpu"}),
    columns={"chunk": "which chunk", "done_s": "when it was there (s)"},
)


install = partial(toy.install, one=SYSTEM)

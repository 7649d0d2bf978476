"""One query, start to end: planning and decoding at once, every node as soon as its line and its needs are there.

    outcome = yield from conduct(engine, Layout(engine, query), script, Settings("plato"), judge)

The same code drives real engines and the virtual clock (sim.py), and all ways of answering that are compared:

    plain         no plan: the answer is decoded token by token
    nodes         the plan's nodes one after the other, each seeing all before it; the plan costs nothing
    sot           Skeleton-of-Thought: the outline first, then all its points at once, none seeing another's answer
    independent   all nodes as their lines come, each with a prompt and KV of its own
    plato         the plan's graph; the trunk (finished nodes) grows in one fixed order, forked to those that start

Plato may hedge: the plain answer is decoded beside the planner, and when the plan is there the judge lets one of the
two go on. Source: Plato (arXiv 2402.12280) for pipelining and the growing trunk; what it does not say is ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from workbench.plato.engine import Ask, ContextOverflow, Engine, EngineError, Out
from workbench.plato.graph import Node, Plan, PlanError
from workbench.plato.happen import Conducting, Happening, Judge, Outcome, Part, Script, Settings, Standing, Verdict
from workbench.plato.layout import STOPS, Layout

PLAN, PLAIN, TRUNK = "plan", "plain", "trunk"
CHAIN = 3
SILENCE_S = 300.0  # an engine has limits of its own, and should have used them long before


def conduct(
    engine: Engine, layout: Layout, script: Script, settings: Settings, judge: Judge | None = None
) -> Conducting:
    """Answer a query, yielding what happens. Whatever ends it, no sequence is left running.

    EngineError when the engine fails, ContextOverflow when not even the needed parts fit; a plan that cannot be used
    is no error: the plain answer takes over, and the outcome says why.
    """
    run = _Run(engine, layout, script, settings, judge)
    try:
        yield from run.go()
        return run.outcome()
    finally:
        for name in engine.running():
            engine.stop(name)


class _Run:
    """The state of one query: what is known, what runs, what the trunk holds."""

    def __init__(self, engine: Engine, layout: Layout, script: Script, settings: Settings, judge: Judge | None) -> None:
        self.engine, self.layout, self.script, self.settings, self.judge = engine, layout, script, settings, judge
        self.began_s = engine.now_s()
        self.at = 0.0  # seconds since then: one time for all that a step gave
        self.nodes: dict[int, Node] = {}
        self.parts: dict[str, Part] = {}
        self.plan: Plan | None = None
        self.plan_error, self.repairs = "", list[str]()
        self.verdict: Verdict | None = None
        self.trunk = layout.front
        self.ready = 0  # tokens of the trunk whose KV somebody has computed
        self.waiting: list[Ask] = []  # what starts when the trunk is computed
        self.order: list[int] = []
        self.fresh: list[int] = []  # nodes that ended in this step
        self.sees: dict[int, tuple[int, ...]] = {}  # nodes in a node's prompt

    # -- the loop ------------------------------------------------------------------------------------------------

    def go(self) -> Iterator[Happening]:
        yield from self._open()
        self._append()
        heard_s = self.engine.now_s()
        while not self._over():
            yield from self._launch()
            if not self.engine.running():
                left = [n for n in self.nodes if f"node {n}" not in self.parts]
                raise EngineError(f"nothing runs, and parts {left} can never start: this is a defect of the conductor")
            outs = self.engine.step()
            self.at = self._now()
            heard_s = self._listened(heard_s, bool(outs))
            for out in outs:
                yield from self._take(out)
            self._append()
        for name in self.engine.running():
            self._stop(name)

    def _listened(self, heard_s: float, came: bool) -> float:
        """When something last came, on the engine's clock. EngineError after too long without anything."""
        now_s = self.engine.now_s()
        limit_s = max(SILENCE_S, getattr(self.engine, "patience_s", 0.0))
        if came or now_s - heard_s <= limit_s:
            return now_s if came else heard_s
        running = ", ".join(self.engine.running())
        raise EngineError(f"nothing came from the engine for {limit_s:.0f} s while it had {running} to answer")

    def _open(self) -> Iterator[Happening]:
        """Start the planner, or take the plan that is known; start the plain answer where it is wanted."""
        s = self.settings
        asks = []
        if s.way != "plain":
            writes = None if s.way == "nodes" else self.script.ask(self.layout, s.way == "sot")
            if writes is None:
                yield from self._planned()
            else:
                asks.append(writes)
        if s.way == "plain" or (s.hedge and asks):
            asks.append(self._plain())
        self.waiting += asks

    def _plain(self) -> Ask:
        return Ask(PLAIN, self.layout.front, self.settings.plain_tokens, whole=self.settings.whole)

    def _over(self) -> bool:
        if self.settings.way == "plain" or self.plan_error or (self.verdict and not self.verdict.branch):
            return self._ended(PLAIN)
        return self.plan is not None and {node.id for node in self.plan.nodes} <= set(self.order)

    def _ended(self, name: str) -> bool:
        return name in self.parts and bool(self.parts[name].ended)

    # -- what starts ---------------------------------------------------------------------------------------------

    def _launch(self) -> Iterator[Happening]:
        """Start what can start. Several at once first have the trunk computed, so that none does it twice."""
        if TRUNK in self.engine.running():
            return
        room = self.settings.most_running - len(self.engine.running())
        asks, self.waiting = self.waiting, []
        asks += [self._ask(node) for node in self._startable()]
        asks, self.waiting = asks[: max(room, 0)], [a for a in asks[max(room, 0) :] if not a.name.startswith("node")]
        stem = self._stem()
        if self.ready < len(stem) and sum(ask.share and ask.ids[: len(stem)] == stem for ask in asks) > 1:
            self.waiting += [ask for ask in asks if not ask.name.startswith("node")]  # nodes are asked for again
            yield from self._start(Ask(TRUNK, stem, 0))
            return
        for ask in asks:
            yield from self._start(ask)

    def _stem(self) -> tuple[int, ...]:
        """What prompts begin with."""
        needs_only = self.settings.way == "plato" and self.settings.context == "needs"
        return self.layout.front if needs_only else self.trunk

    def _startable(self) -> list[Node]:
        s = self.settings
        if self.plan_error or (self.verdict and not self.verdict.branch) or (s.way == "sot" and self.plan is None):
            return []
        given = {*s.known, *self.order}
        todo = [n for n in self.nodes.values() if f"node {n.id}" not in self.parts and n.id not in given]
        if s.way in ("sot", "independent"):
            return todo
        if s.way == "plato":
            can = [n for n in todo if set(n.needs) <= set(self.order)] if s.pipeline or self.plan else []
            begun = any(p.kind == "node" for p in self.parts.values())
            undecided = s.hedge and self.verdict is None and self.plan is None
            # beside a hedge one part alone gains nothing: until two can run the plan may still be a chain
            return can if begun or len(can) > 1 or not undecided else []
        return [n for n in todo if n.id - 1 in (0, *self.order)]  # nodes: one after the other

    def _ask(self, node: Node) -> Ask:
        """The node's prompt: what it sees, then its header. What does not fit is left out by rule."""
        s, header = self.settings, self.layout.header(node)
        front = self.layout.front
        all_seen = s.context == "growing" or s.way == "nodes"
        if s.way in ("sot", "independent"):  # nobody waits for what a part needs, so none of it is there
            seen = needed = self.trunk if s.way == "sot" else front
        else:
            needed = front + tuple(i for n in node.needs for i in self._block(n))
            seen = self.trunk if all_seen else needed
        room = self.engine.room() - len(header) - node.budget
        if len(seen) > room and len(needed) <= room:
            said = f"part {node.id} sees only the parts it needs: all finished ones do not fit"
            self.repairs += [said] if said not in self.repairs else []  # it may be asked for again
            seen, all_seen = needed, False
        self.sees[node.id] = tuple(self.order) if all_seen else node.needs
        ask = Ask(
            f"node {node.id}",
            seen + header,
            node.budget,
            whole=s.whole,
            stop=() if s.whole else STOPS,
            share=s.way != "independent",
        )
        if len(seen) > room:
            raise ContextOverflow(
                f"part {node.id} does not fit: {len(seen)} tokens before it and {node.budget} of its own, where the "
                f"model has {self.engine.room()} positions; shorten the query, or give parts fewer tokens"
            )
        return ask

    def _block(self, node: int) -> tuple[int, ...]:
        known = self.settings.known.get(node)
        return self.layout.block(self.nodes[node], self.parts[f"node {node}"].ids if known is None else known)

    def _start(self, ask: Ask) -> Iterator[Happening]:
        self.engine.start(ask)
        self.at = self._now()
        node = int(ask.name.removeprefix("node ")) if ask.name.startswith("node ") else 0
        kind = "node" if node else ask.name
        saw = self.sees.get(node, ()) if self.settings.way not in ("sot", "independent") else ()
        part = Part(ask.name, kind, node, start_s=self.at, saw=saw, prompt=ask.ids)  # type: ignore[arg-type]
        key = ask.name if ask.name not in self.parts else f"{ask.name} {len(self.parts)}"
        self.parts[key] = part
        yield Happening("started", part.start_s, part, self.nodes.get(node))

    # -- what comes ----------------------------------------------------------------------------------------------

    def _take(self, out: Out) -> Iterator[Happening]:
        part = next((p for p in reversed(self.parts.values()) if p.name == out.name and not p.ended), None)
        if part is None:
            return  # of a sequence that a verdict stopped in this very step
        if out.ended == "failed":
            raise EngineError(f"{out.name} failed: {out.said}")
        part.reused += out.reused
        part.prefilled += out.prefilled
        if out.reused + out.prefilled == len(part.prompt):
            self._computed(part.prompt)
        if out.ids and not part.ids:
            part.first_s = self.at
        part.ids += out.ids
        if out.dropped:
            part.ids = part.ids[: len(part.ids) - out.dropped]
        text = self.engine.decode(part.ids)
        if not out.ended:
            text = text.rstrip("\ufffd")  # half a character: its other bytes are still to come
        added, part.text = text[len(part.text) :], text
        if added:
            yield Happening("grew", self.at, part, self.nodes.get(part.node), added)
        if part.kind == "plan":
            for node in self.script.feed(added):
                yield from self._know(node)
            yield from self._early()
        if out.ended:
            part.end_s, part.ended = self.at, out.ended
            yield Happening("ended", self.at, part, self.nodes.get(part.node))
            yield from self._after(part)

    def _computed(self, prompt: tuple[int, ...]) -> None:
        """Somebody holds the KV of `prompt`: of the stem, as far as it goes."""
        stem = self._stem()
        if prompt[: len(stem)] == stem:
            self.ready = max(self.ready, len(stem))

    def _after(self, part: Part) -> Iterator[Happening]:
        if part.kind == "trunk":
            self._computed(part.prompt)  # also where the engine cannot say what it has
        elif part.kind == "node":
            self.fresh.append(part.node)
        elif part.kind == "plan":
            yield from self._planned()
        elif (
            part.kind == "plain"
            and self.plan is None
            and self.verdict is None
            and self.settings.way != "plain"
            and not self.plan_error
        ):
            self._settle(Verdict(False, float("inf"), 0.0, "the plain answer was done before the plan"))
            yield Happening("verdict", self.at, verdict=self.verdict)

    def _know(self, node: Node) -> Iterator[Happening]:
        self.nodes[node.id] = node
        yield Happening("known", self.at, node=node)
        if node.id in self.settings.known:
            self.fresh.append(node.id)

    def _planned(self) -> Iterator[Happening]:
        """The plan is whole, or there is none: then the plain answer takes over."""
        try:
            self.plan = self.script.finish()
        except PlanError as error:
            self.plan_error = str(error)
        self.repairs += self.script.repairs
        if self.plan is None:
            self._stop_nodes()
            if PLAIN not in self.parts and all(a.name != PLAIN for a in self.waiting):
                self.waiting.append(self._plain())
            yield Happening("planned", self.at)
            return
        for node in self.plan.nodes:
            if node.id not in self.nodes:
                yield from self._know(node)
        if self.settings.way == "sot" and PLAN in self.parts:  # its points are expanded below the outline
            self.trunk += self.parts[PLAN].ids
        yield Happening("planned", self.at)
        if self.judge is not None and self.settings.way == "plato":
            self._settle(self.judge(self._standing()))
            yield Happening("verdict", self.at, verdict=self.verdict)

    def _early(self) -> Iterator[Happening]:
        """A hedged plan whose first CHAIN lines each need the one before is refused without its rest.

        A line's needs stand before its question, so the last of them need not be written out.
        """
        hedged = self.settings.hedge and self.judge is not None and self.verdict is None and self.plan is None
        if not hedged or len(self.nodes) < CHAIN - 1:
            return
        opened = self.script.opened() if len(self.nodes) < CHAIN else None
        lines = [(n.id, n.needs) for n in self.nodes.values()] + ([opened] if opened else [])
        if len(lines) >= CHAIN and all(id - 1 in (0, *needs) for id, needs in lines):
            why = f"the plan's first {len(lines)} lines are a chain: nothing is parallel so far"
            self.plan = Plan(tuple(self.nodes.values()))  # as far as it was written
            self._settle(Verdict(False, float("inf"), 0.0, why))
            yield Happening("verdict", self.at, verdict=self.verdict)

    def _standing(self) -> Standing:
        assert self.plan is not None
        done = {p.node: len(p.ids) for p in self.parts.values() if p.kind == "node"}
        ended = frozenset(p.node for p in self.parts.values() if p.kind == "node" and p.ended) | set(
            self.settings.known
        )
        plain = len(self.parts[PLAIN].ids) if PLAIN in self.parts else 0
        total = self.settings.plain_tokens
        return Standing(self.plan, done, ended, plain, total, self.settings)

    def _settle(self, verdict: Verdict) -> None:
        """Stop whichever of the two the verdict is against."""
        self.verdict = verdict
        if not verdict.branch:
            self._stop_nodes()
            if PLAIN not in self.parts and all(a.name != PLAIN for a in self.waiting):
                self.waiting.append(self._plain())
        else:
            self._stop(PLAIN)
            self.waiting = [ask for ask in self.waiting if ask.name != PLAIN]

    def _stop_nodes(self) -> None:
        for name in self.engine.running():
            if name != PLAIN:
                self._stop(name)
        self.waiting = [ask for ask in self.waiting if ask.name == PLAIN]

    def _stop(self, name: str) -> None:
        self.engine.stop(name)
        part = next((p for p in self.parts.values() if p.name == name and not p.ended), None)
        if part is not None:
            part.end_s, part.ended = self.at, "cancelled"

    def _append(self) -> None:
        """What ended in this step joins the trunk, in the order of its ids: from here on it never moves."""
        for node in sorted(self.fresh):
            if self.settings.way not in ("sot", "independent"):
                self.trunk += self._block(node)
            self.order.append(node)
        self.fresh = []

    def _now(self) -> float:
        return self.engine.now_s() - self.began_s

    # -- the end -------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        plain = self.settings.way == "plain" or bool(self.plan_error) or bool(self.verdict and not self.verdict.branch)
        planned = {node.id for node in self.plan.nodes} if self.plan else set()
        nodes = [p for p in self.parts.values() if p.node in planned and p.ended not in ("", "cancelled")]
        kept = [self.parts[PLAIN]] if plain else sorted(nodes, key=lambda p: p.node)
        return Outcome(
            settings=self.settings,
            plan=self.plan,
            repairs=self.repairs,
            plan_error=self.plan_error,
            verdict=self.verdict,
            parts=list(self.parts.values()),
            total_s=self._now(),
            first_s=min((p.first_s for p in kept if p.ids), default=0.0),
            counts=self.engine.counts,
            answer="\n\n".join(p.text.strip() for p in kept),
            answer_tokens=sum(len(p.ids) for p in kept),
            order=tuple(self.order),
        )

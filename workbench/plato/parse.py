"""Read a plan while it is being written, whoever writes it, and mend it by named rules.

Lines as the grammar has them, looser ones (`**2)** Who built it? (needs 1)`), and JSON objects are read, with prose,
fences and a reasoning model's thoughts around them. A node is given as soon as its line or object is complete and is
final then, since it may already be decoding: so every rule looks back only, and cycles end where they point forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.plato.grammar import LEAST_ASK, one_line
from workbench.plato.graph import MOST_BUDGET, MOST_NODES, Node, Plan, PlanError
from workbench.plato.lines import Line, Lines, Name

MOST_ASK = 300  # characters of a question; what is longer is cut
SAID = 3  # repairs of one kind that get a sentence each: a small model may repeat itself to its last token


@dataclass(frozen=True)
class Funnel:
    """How far a planner's text came, before any repair: each step holds only if the text was read at all."""

    parses: bool = False  # at least one part could be read
    in_form: bool = False  # every line has the asked form, nothing stands around them
    ids: bool = False  # 1, 2, 3, ... without gaps
    needs: bool = False  # every need is an earlier part, named once
    count: bool = False  # as many parts as were allowed
    distinct: bool = False  # no question twice
    wide: bool = False  # some parts may run at the same time

    @property
    def valid(self) -> bool:
        """Usable as it is."""
        return self.parses and self.ids and self.needs and self.count and self.distinct


class PlanReader:
    """Text in pieces to nodes, at most `most` of them; `repairs` says in a sentence each what was mended.

    `budget` holds where neither `budgets` (by id) nor the text gives one. With `outline` needs are left out.
    """

    def __init__(
        self,
        most: int = MOST_NODES,
        least: int = 1,
        budget: int = 64,
        budgets: Mapping[int, int] | None = None,
        outline: bool = False,
    ) -> None:
        self.most, self.least, self.budget, self.budgets, self.outline = most, least, budget, budgets or {}, outline
        self.repairs: list[str] = []
        self._lines = Lines()
        self._nodes: list[Node] = []
        self._called: dict[Name, int] = {}  # what the text calls a part -> its id
        self._asked: dict[str, int] = {}  # a question, folded -> its id
        self._awaited: list[tuple[int, Name]] = []  # (id, what it needs that the text has not named yet)
        self._cut = self._came = self._merged = 0
        self._broken: set[str] = set()  # steps of the funnel that do not hold

    def feed(self, text: str) -> list[Node]:
        """Nodes that are complete after `text` more."""
        return [node for line in self._lines.feed(text) if (node := self._take(line)) is not None]

    def opened(self) -> tuple[int, tuple[int, ...]] | None:
        """(id, needs) of the line that is being written: known before its question is, where the line is clean."""
        if self.outline or (found := self._lines.opened()) is None or len(self._nodes) == self.most:
            return None
        called, needs = found
        if called != self._came + 1 or any(n not in self._called for n in needs):
            return None
        return len(self._nodes) + 1, tuple(sorted({self._called[n] for n in needs}))

    def finish(self) -> Plan:
        """The plan, when no more text comes; PlanError says why there is none."""
        for line in self._lines.finish():
            self._take(line)
        self._say_awaited()
        self.repairs += self._lines.said()
        if self._merged > SAID:
            self.repairs.append(f"{self._merged - SAID} more parts ask what others ask: merged into those")
            self._merged = 0
        if self._cut:
            self.repairs.append(f"at most {self.most} parts are decoded: {self._cut} more were cut")
            self._cut = 0
        if not self._nodes:
            raise PlanError(f"the planner wrote no plan: {self._lines.begins()}")
        if len(self._nodes) < self.least:
            raise PlanError(f"the planner wrote {len(self._nodes)} parts, where at least {self.least} are needed")
        return Plan(tuple(self._nodes))

    def funnel(self) -> Funnel:
        """How far the text came; to be asked after `finish`."""
        if not self._nodes:
            return Funnel()
        good = {name: name not in self._broken for name in ("ids", "needs", "count", "distinct")}
        good["count"] &= len(self._nodes) >= self.least
        plan = Plan(tuple(self._nodes))
        return Funnel(parses=True, in_form=self._lines.in_form, wide=plan.width > 1, **good)

    # -- one part -------------------------------------------------------------------------------------------------

    def _take(self, line: Line) -> Node | None:
        """The rules, in the order in which they are named in the repairs."""
        self._came += 1
        if line.id != self._came:
            self._broken.add("ids")
        ask = one_line(line.ask)
        if len(ask) < LEAST_ASK:
            self._mend("count", f"part {line.id} asks nothing: left out")
            return None
        if len(ask) > MOST_ASK:
            self._mend("", f"the question of part {line.id} has {len(ask)} characters: cut to {MOST_ASK}")
            ask = ask[:MOST_ASK].rstrip()
        folded = "".join(c for c in ask.casefold() if c.isalnum()) or ask
        if folded in self._asked:
            same = self._asked[folded]
            self._called.setdefault(line.id, same)
            self._broken.add("distinct")
            self._merged += 1
            if self._merged <= SAID:
                self.repairs.append(f"part {line.id} asks what part {same} asks: merged into it")
            return None
        if len(self._nodes) == self.most:
            self._cut += 1
            self._broken.add("count")
            return None
        id = len(self._nodes) + 1
        self._renumber(line.id, id)
        needs = () if self.outline else self._needs(line, id)
        node = Node(id, ask, needs, self._budget(line, id))
        self._asked[folded] = id
        self._nodes.append(node)
        return node

    def _renumber(self, called: Name, part: int) -> None:
        if called != part:
            self.repairs.append(f"part {called} stands at place {part}: it is called {part}")
        self._called.setdefault(called, part)

    def _needs(self, line: Line, part: int) -> tuple[int, ...]:
        """What it builds on, by part."""
        known: list[int] = []
        for called in dict.fromkeys(line.needs):
            if called == line.id:
                self._mend("needs", f"part {part} needs itself: left out")
            elif called not in self._called:
                self._awaited.append((part, called))
                self._broken.add("needs")
            else:
                known.append(self._called[called])
        if len(set(line.needs)) < len(line.needs) or len(set(known)) < len(known):
            self._mend("needs", f"part {part} names a need twice: once will do")
        return tuple(sorted(set(known)))

    def _budget(self, line: Line, part: int) -> int:
        if part in self.budgets:
            return self.budgets[part]
        if line.budget is None:
            return self.budget
        if not 1 <= line.budget <= MOST_BUDGET:
            kept = min(max(line.budget, 1), MOST_BUDGET)
            self._mend("", f"part {part} asks for {line.budget} tokens: it gets {kept}")
            return kept
        return line.budget

    def _say_awaited(self) -> None:
        """Needs that pointed forward, now that it is known whether their part ever came."""
        by_id: dict[int, list[Name]] = {}
        for id, called in self._awaited:
            by_id.setdefault(id, []).append(called)
        self._awaited = []
        for id, names in by_id.items():
            later = sorted({self._called[name] for name in names if name in self._called} - {id})
            circle = [other for other in later if self._leads(id, other)]
            straight = [other for other in later if other not in circle]
            if nowhere := [name for name in names if name not in self._called]:
                self.repairs.append(f"part {id} needs {_list(nowhere)}, which nobody wrote: left out")
            if circle:
                self.repairs.append(f"part {id} and {_list(circle)} need each other: {id} goes first")
            if straight:
                self.repairs.append(f"part {id} needs {_list(straight)}, which comes later: left out")

    def _leads(self, first: int, last: int) -> bool:
        """Whether part `last` builds on part `first`, through others too."""
        return last in Plan(tuple(self._nodes)).descendants(first)

    def _mend(self, step: str, said: str) -> None:
        self._broken.add(step)
        self.repairs.append(said)


def read_plan(text: str, most: int = MOST_NODES, least: int = 1, budget: int = 64) -> tuple[Plan, list[str]]:
    """(plan, repairs) of a whole text. PlanError when there is none in it."""
    reader = PlanReader(most, least, budget)
    reader.feed(text)
    return reader.finish(), reader.repairs


def _list(ids: Sequence[Name]) -> str:
    """As words: parts 1, 2 and 3 more."""
    shown = ", ".join(map(str, ids[:4])) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
    return f"{'part' if len(ids) == 1 else 'parts'} {shown}"

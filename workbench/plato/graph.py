"""A plan: questions and which of them need the answers of which others. Always acyclic, as needs point backwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

MOST_NODES = 16
PART_TOKENS = 64  # of a part, where nobody says it
MOST_BUDGET = 2048  # tokens of a part, whatever a plan says


class PlanError(ValueError):
    """A plan that cannot be decoded; the message names the node and the rule."""


@dataclass(frozen=True)
class Node:
    """A part of the answer. id counts from 1; needs: ids of the parts it builds on; budget: most tokens of it."""

    id: int
    ask: str
    needs: tuple[int, ...] = ()
    budget: int = PART_TOKENS


@dataclass(frozen=True)
class Plan:
    """Nodes in the order of the answer, ids 1 to n, every need smaller than its own id. PlanError otherwise."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise PlanError("a plan has at least one node")
        if len(self.nodes) > MOST_NODES:
            raise PlanError(f"a plan has at most {MOST_NODES} nodes, not {len(self.nodes)}")
        for at, node in enumerate(self.nodes, 1):
            if node.id != at:
                raise PlanError(f"node {node.id} stands at place {at}: ids count from 1 without gaps")
            if bad := [n for n in node.needs if not 1 <= n < node.id]:
                raise PlanError(f"node {node.id} needs {bad[0]}: only earlier nodes can be needed")
            if not node.ask.strip():
                raise PlanError(f"node {node.id} asks nothing")
            if node.budget < 1:
                raise PlanError(f"node {node.id} has a budget of {node.budget} tokens: at least 1")

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(needed, needing), ordered."""
        return tuple(sorted((need, node.id) for node in self.nodes for need in node.needs))

    @property
    def tokens(self) -> int:
        """Sum of the budgets."""
        return sum(node.budget for node in self.nodes)

    def levels(self) -> list[list[int]]:
        """Ids by the longest way that leads to them: level 0 needs nothing."""
        level: dict[int, int] = {}
        for node in self.nodes:
            level[node.id] = 1 + max((level[n] for n in node.needs), default=-1)
        return [[i for i, at in level.items() if at == k] for k in range(max(level.values()) + 1)]

    @property
    def width(self) -> int:
        """Most nodes of one level."""
        return max(len(level) for level in self.levels())

    @property
    def depth(self) -> int:
        """Nodes on the longest way."""
        return len(self.levels())

    def critical_path(self, tokens: Mapping[int, int] | None = None) -> list[int]:
        """Ids of the way that takes the most tokens (`tokens` by id; the budgets where not given), first to last.

        No schedule ends in fewer decode steps than these nodes have tokens.
        """
        cost = {node.id: (tokens or {}).get(node.id, node.budget) for node in self.nodes}
        best: dict[int, int] = {}
        came: dict[int, int] = {}
        for node in self.nodes:
            before = max(node.needs, key=lambda n: (best[n], -n), default=0)
            came[node.id] = before
            best[node.id] = cost[node.id] + (best[before] if before else 0)
        at = max(best, key=lambda i: (best[i], -i))
        way = []
        while at:
            way.append(at)
            at = came[at]
        return way[::-1]

    def critical_tokens(self, tokens: Mapping[int, int] | None = None) -> int:
        """Tokens on the critical path."""
        cost = {node.id: (tokens or {}).get(node.id, node.budget) for node in self.nodes}
        return sum(cost[i] for i in self.critical_path(tokens))

    def with_needs(self, needs: Mapping[int, Iterable[int]]) -> Plan:
        """The same questions with other edges; nodes that `needs` does not name keep theirs."""
        given = {i: tuple(sorted(set(n))) for i, n in needs.items()}
        return Plan(tuple(replace(node, needs=given.get(node.id, node.needs)) for node in self.nodes))

    def flat(self) -> Plan:
        """Without edges: what Skeleton-of-Thought assumes."""
        return self.with_needs({node.id: () for node in self.nodes})

    def chain(self) -> Plan:
        """Each node needs the one before: nothing is parallel."""
        return self.with_needs({node.id: (node.id - 1,) if node.id > 1 else () for node in self.nodes})

    def descendants(self, of: int) -> list[int]:
        """Ids of `of` and of all that build on it: what an edit of it makes stale."""
        stale = {of}
        for node in self.nodes:
            if stale.intersection(node.needs):
                stale.add(node.id)
        return sorted(stale)


def edge_scores(found: Plan, true: Plan) -> tuple[float, float, float]:
    """(precision, recall, F1) of the edges of `found`; each is 1 where neither plan has edges."""
    a, b = set(found.edges), set(true.edges)
    if not a and not b:
        return 1.0, 1.0, 1.0
    hit = len(a & b)
    precision, recall = (hit / len(a) if a else 0.0), (hit / len(b) if b else 0.0)
    return precision, recall, 2 * hit / (len(a) + len(b))


def plan_of(rows: Sequence[tuple[str, Sequence[int]]], budget: int = PART_TOKENS) -> Plan:
    """A plan from (question, needs) in order, each node with the same budget."""
    return Plan(tuple(Node(i, ask, tuple(sorted(set(needs))), budget) for i, (ask, needs) in enumerate(rows, 1)))

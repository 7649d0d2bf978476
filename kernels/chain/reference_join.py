"""The definition of the long join, one anchor at a time in plain Python: minimap2 2.24's mg_lchain_rmq.

Of all anchors in reach before an anchor the one of lowest -(score + gap/2 * (x + y)) is tried; unless it continues
without a gap, those within `join_inner_dist` follow, nearest on the read first. Of equal costs the one counts that
minimap2's balanced tree happens to give, so the tree is part of the definition.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.kernels.chain.reference import F32, Anchor, rough_log2, taken_apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

Key = tuple[int, int]  # position on the read, index


@dataclass(eq=False)
class Node:
    """`lowest`: node of lowest cost in this subtree, as of when it was last worked out. `deeper`: right minus left."""

    key: Key
    cost: float
    left: Node | None = None
    right: Node | None = None
    deeper: int = 0
    lowest: Node = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.lowest = self

    def weigh(self, first: Node | None, second: Node | None) -> None:
        """Of equals the lowest of `second` counts, then that of `first`, then the node itself."""
        self.lowest = self
        for below in (first, second):
            if below is not None and below.lowest.cost <= self.lowest.cost:
                self.lowest = below.lowest


class Tree:
    """An AVL tree that answers as krmq.h does. Nodes that a rotation lifts take over what they replace knew."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.keys: list[Key] = []  # all of them, in order

    def insert(self, key: Key, cost: float) -> None:
        """A new key. The lowest is worked out upwards only as far as the new node is it."""
        insort(self.keys, key)
        path, at, new = list[Node](), self.root, Node(key, cost)
        while at is not None:
            path.append(at)
            at = at.left if key < at.key else at.right
        self._hang(path, new, key)
        for node in reversed(path):
            node.weigh(node.left, node.right)
            if node.lowest is not new:
                break
        tilted = [depth for depth, node in enumerate(path) if node.deeper]
        pivot = tilted[-1] if tilted else 0
        for node in path[pivot:]:
            node.deeper += 1 if key > node.key else -1
        if path and abs(path[pivot].deeper) == 2:
            self._hang(path[:pivot], self._level(path[pivot])[0], path[pivot].key)

    def erase(self, key: Key) -> None:
        """A key that is there; the node after it takes its place. All on the way are worked out anew."""
        self.keys.remove(key)
        path, at = list[Node](), self.root
        while at is not None and at.key != key:
            path.append(at)
            at = at.left if key < at.key else at.right
        assert at is not None
        sides = [key > node.key for node in path]
        if at.right is None:
            self._hang(path, at.left, key)
        else:
            above, next_ = len(path), at.right
            path, sides = [*path, next_], [*sides, True]
            while next_.left is not None:
                path, sides, next_ = [*path, next_.left], [*sides, False], next_.left
            if next_ is not at.right:
                path[-2].left, next_.right = next_.right, at.right
            path = [*path[:above], next_, *path[above : len(path) - 1]]
            next_.left, next_.deeper = at.left, at.deeper
            self._hang(path[:above], next_, key)
        for node in reversed(path):
            node.weigh(node.left, node.right)
        for depth in range(len(path) - 1, -1, -1):
            node = path[depth]
            node.deeper += -1 if sides[depth] else 1
            if abs(node.deeper) == 1:
                return
            if abs(node.deeper) == 2:
                up, shorter = self._level(node)
                self._hang(path[:depth], up, node.key)
                if not shorter:
                    return

    def lowest_between(self, low: Key, high: Key) -> int | None:
        """Index of the key of lowest cost with low <= key <= high."""
        at = self.root
        while at is not None and not low <= at.key <= high:
            at = at.right if at.key < low else at.left
        if at is None:
            return None
        best = at
        for lower in (True, False):  # down to one end, then to the other: subtrees on the inside are within as a whole
            end, node = (low, at.left) if lower else (high, at.right)
            if at.key == end:
                continue
            while node is not None:
                inside = end <= node.key if lower else end >= node.key
                if inside:
                    inner = node.right if lower else node.left
                    for offered in (node, *([inner.lowest] if inner else [])):
                        best = offered if offered.cost < best.cost else best
                if node.key == end:
                    break
                node = node.left if inside == lower else node.right
        return best.key[1]

    def _hang(self, path: list[Node], node: Node | None, key: Key) -> None:
        """`node` under the end of `path`, where `key` is or was."""
        if not path:
            self.root = node
        elif key > path[-1].key:
            path[-1].right = node
        else:
            path[-1].left = node

    def _level(self, at: Node) -> tuple[Node, bool]:
        """Turns a node of which one side is two deeper; returns what came up, and whether the whole became shorter."""
        heavy = at.deeper // 2
        child = at.right if heavy > 0 else at.left
        assert child is not None
        if child.deeper == -heavy:
            return self._lift_grandchild(at, child, heavy), True
        lowest, inner = at.lowest, child.left if heavy > 0 else child.right
        at.weigh(at.left if heavy > 0 else at.right, inner)
        child.lowest = lowest
        if heavy > 0:
            at.right, child.left = inner, at
        else:
            at.left, child.right = inner, at
        shorter = child.deeper != 0
        at.deeper, child.deeper = (0, 0) if shorter else (heavy, -heavy)
        return child, shorter

    def _lift_grandchild(self, at: Node, child: Node, heavy: int) -> Node:
        up = child.left if heavy > 0 else child.right
        assert up is not None
        lowest = at.lowest
        to_at, to_child = (up.left, up.right) if heavy > 0 else (up.right, up.left)
        at.weigh(at.left if heavy > 0 else at.right, to_at)
        child.weigh(child.right if heavy > 0 else child.left, to_child)
        up.lowest = lowest
        if heavy > 0:
            at.right, child.left, up.left, up.right = to_at, to_child, at, child
        else:
            at.left, child.right, up.right, up.left = to_at, to_child, at, child
        at.deeper = -heavy if up.deeper == heavy else 0
        child.deeper = heavy if up.deeper == -heavy else 0
        up.deeper = 0
        return up


def gain(params: Any, to: Anchor, frm: Anchor) -> tuple[int, int, bool]:
    """What `to` adds to a chain that ended in `frm`; the gap between them; whether they touch without one."""
    dq, dr = to.query - frm.query, (to.x - frm.x + 2**31) % 2**32 - 2**31
    dd, dg = abs(dr - dq), min(dr, dq)
    per_gap, per_base = params.penalties
    score = min(frm.span, dg)
    if dd or dq > frm.span:
        linear = F32(F32(per_gap * F32(dd)) + F32(per_base * F32(dg)))
        score -= int(F32(linear + F32(F32(0.5) * (rough_log2(dd + 1) if dd else F32(0)))))
    return score, dd, dd == 0 and dg <= frm.span


def dp_rmq(anchors: NDArray[np.uint64], params: Any) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Score, predecessor and peak of every anchor, of anchors sorted by x."""
    at, reach = taken_apart(anchors), max(params.max_dist_y, params.bw_long)
    inner_reach = params.join_inner_dist if params.join_inner_dist < reach else 0
    f, p, v, seen_by = [0] * len(at), [-1] * len(at), [0] * len(at), [0] * len(at)
    wide, near, starts, admitted = Tree(), list[Key](), [0, 0], 0
    for i, own in enumerate(at):
        if at[admitted].x != own.x:  # anchors of one position become predecessors together
            for j in range(admitted, i):
                wide.insert((at[j].query, j), -(f[j] + 0.5 * float(params.penalties[0]) * (at[j].ref + at[j].query)))
                insort(near, (at[j].query, j))
            admitted = i
        for which, dist, keys in ((0, reach, wide.keys), (1, inner_reach, near)):
            while starts[which] < i:
                old = at[starts[which]]
                if old.x >> 32 == own.x >> 32 and own.x <= old.x + dist and len(keys) <= params.join_size_cap:
                    break
                key = (old.query, starts[which])
                if key in keys:
                    near.remove(key) if which else wide.erase(key)
                starts[which] += 1
        f[i] = own.span
        first = wide.lowest_between((own.query - reach, 2**31 - 1), (own.query, 0))
        if first is not None:
            score, width, seamless = gain(params, own, at[first])
            if width <= params.bw_long and score + f[first] > f[i]:
                f[i], p[i] = score + f[first], first
            if inner_reach and not seamless and own.query > 0:
                _try_near(params, at, i, near, inner_reach, f, p, seen_by)
        v[i] = max(f[i], v[p[i]]) if p[i] >= 0 else f[i]
    return np.array(f, np.int32), np.array(p, np.int64), np.array(v, np.int32)


def _try_near(
    params: Any, at: list[Anchor], i: int, near: list[Key], reach: int, f: list[int], p: list[int], seen_by: list[int]
) -> None:
    """Those before anchor i within `reach` on reference and read, from the nearest on the read."""
    limit, skips = len(at) if params.max_skip is None else params.max_skip, 0
    for query, j in reversed(near[: bisect_left(near, (at[i].query, 0))]):
        if query < at[i].query - reach:
            return
        score, width, _ = gain(params, at[i], at[j])
        if width > params.bw_long:
            continue
        if score + f[j] > f[i]:
            f[i], p[i], skips = score + f[j], j, max(skips - 1, 0)
        elif seen_by[j] == i:
            skips += 1
            if skips > limit:
                return
        if p[j] >= 0:
            seen_by[p[j]] = i

"""Is Theorem 1's order the best there is? An exact search over every order of every stream, for small cases.

    best = optimum(Case(layers=2, micro_batches=3, attention=1.0, expert=1.3, message=0.2))
    in_order(case, best.order) == best.seconds

What it finds: where all attention stages take alike, Theorem 1's premise, its order is the best in 226 of 229 cases
(1 to 4 layers, 2 or 3 micro-batches, experts of 0.3 to 3 attention stages, messages of 0 to 0.3), and 0.7 % from the
best in three. Where the last stage, the head, is far shorter or longer than the others, orders up to 10 % better exist.

Micro-batches are chains: attention, dispatch, expert, combine of each layer, head forward and backward, and back again.
Four streams each run one stage at a time and never interrupt it. Every schedule that matters places stages one by one,
each as soon as it can: the search goes through those placements level by level, drops a state that another one with
the same progress beats in every clock, and one whose lower bound already reaches the length to beat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

ATTENTION, DISPATCH, EXPERT, COMBINE = range(4)
EPS = 1e-9


@dataclass(frozen=True)
class Case:
    """One attention device and one expert device. Seconds of a micro-batch's stages, forward; back: factor of compute.

    message: of dispatch, and of combine, either way.
    """

    layers: int
    micro_batches: int
    attention: float
    expert: float
    message: float = 0.0
    head: float = 0.0
    back: float = 2.0

    @cached_property
    def chain(self) -> tuple[tuple[int, float], ...]:
        """(stream, seconds) of a micro-batch, in the order it must keep. Stages that take no time are left out."""
        a, e, c = (ATTENTION, self.attention), (EXPERT, self.expert), self.message
        there = [a, (DISPATCH, c), e, (COMBINE, c)] * self.layers
        head = [(ATTENTION, self.head), (ATTENTION, self.head * self.back)]
        a_back, e_back = (ATTENTION, self.attention * self.back), (EXPERT, self.expert * self.back)
        return tuple(s for s in (*there, *head, *[(DISPATCH, c), e_back, (COMBINE, c), a_back] * self.layers) if s[1])


@dataclass(frozen=True)
class Optimum:
    """Least seconds, and the micro-batch whose next stage is placed each time; empty where nothing beat the bound."""

    seconds: float
    order: tuple[int, ...]
    states: int


def theorem(case: Case) -> tuple[int, ...]:
    """Theorem 1 as placements: each stage of all micro-batches in turn, but the head's two of each adjacent."""
    steps = len(case.chain)
    there = (steps - 2) // 2 if case.head else steps // 2
    order = [micro for _ in range(there) for micro in range(case.micro_batches)]
    if case.head:
        order += [micro for micro in range(case.micro_batches) for _ in range(2)]
    return (*order, *(micro for _ in range(there) for micro in range(case.micro_batches)))


def one_by_one(case: Case) -> tuple[int, ...]:
    """A worse order: a micro-batch goes all the way before the next begins."""
    return tuple(micro for micro in range(case.micro_batches) for _ in case.chain)


def all_forward_first(case: Case) -> tuple[int, ...]:
    """Another: the head's forward of all micro-batches before the backward of any."""
    return tuple(micro for _ in case.chain for micro in range(case.micro_batches))


def in_order(case: Case, order: Sequence[int]) -> float:
    """Seconds when stages are placed in that order, each as soon as it can. ValueError for an incomplete one."""
    free, ready, at = [0.0] * 4, [0.0] * case.micro_batches, [0] * case.micro_batches
    for micro in order:
        stream, seconds = case.chain[at[micro]]
        ready[micro] = free[stream] = max(free[stream], ready[micro]) + seconds
        at[micro] += 1
    if set(at) != {len(case.chain)}:
        raise ValueError(f"an order places each of {len(case.chain)} stages of each micro-batch once")
    return max(ready)


State = tuple[tuple[float, ...], tuple[tuple[int, float], ...]]  # clocks of streams; of each micro-batch: stages, clock


def optimum(case: Case, bound: float | None = None, most: int = 2_000_000) -> Optimum:
    """The least seconds of any order, by exhaustion. bound: length to beat, Theorem 1's unless given.

    Where nothing beats the bound, `seconds` is it. ValueError past `most` states: the case is too large to prove.
    """
    bound = in_order(case, theorem(case)) if bound is None else bound
    left = _left(case)
    start: State = ((0.0,) * 4, ((0, 0.0),) * case.micro_batches)
    level: dict[State, tuple[int, ...]] = {start: ()}
    states, best = 1, Optimum(bound, (), 0)
    for _ in range(len(case.chain) * case.micro_batches):
        following: dict[State, tuple[int, ...]] = {}
        for state, order in level.items():
            for micro, new in _placements(case, state):
                if new not in following and _least(left, new) < best.seconds - EPS:
                    following[new] = (*order, micro)
        level = _undominated(following)
        states += len(level)
        if states > most:
            raise ValueError(f"more than {most} states: prove it for fewer layers or micro-batches")
    for state, order in level.items():
        length = max(clock for _, clock in state[1])
        if length < best.seconds - EPS:
            best = Optimum(length, order, 0)
    return Optimum(best.seconds, best.order, states)


def _left(case: Case) -> list[tuple[float, ...]]:
    """Seconds that a micro-batch still needs of each stream, and in all, after so many of its stages."""
    left: list[tuple[float, ...]] = [(0.0,) * 5]
    for stream, seconds in reversed(case.chain):
        last = left[-1]
        left.append(tuple(s + seconds * (at in {stream, 4}) for at, s in enumerate(last)))
    return left[::-1]


def _placements(case: Case, state: State) -> Iterator[tuple[int, State]]:
    """Each micro-batch's next stage placed. Two that stand alike are the same: only the first is tried."""
    free, micros = state
    for micro, (at, clock) in enumerate(micros):
        if at < len(case.chain) and (at, clock) not in micros[:micro]:
            stream, seconds = case.chain[at]
            end = round(max(free[stream], clock) + seconds, 9)
            clocks = (*free[:stream], end, *free[stream + 1 :])
            yield micro, (clocks, (*micros[:micro], (at + 1, end), *micros[micro + 1 :]))


def _least(left: list[tuple[float, ...]], state: State) -> float:
    """Lower bound: what each micro-batch needs alone, and each stream for all that is left on it."""
    free, micros = state
    alone = max(clock + left[at][4] for at, clock in micros)
    return max(alone, *(free[s] + sum(left[at][s] for at, _ in micros) for s in range(4)))


def _undominated(level: dict[State, tuple[int, ...]]) -> dict[State, tuple[int, ...]]:
    """States that no other of the same progress beats or equals in every clock."""
    groups: dict[tuple[int, ...], list[State]] = {}
    for state in level:
        groups.setdefault(tuple(at for at, _ in state[1]), []).append(state)
    kept: dict[State, tuple[int, ...]] = {}
    for group in groups.values():
        front: list[tuple[float, ...]] = []
        for clocks, state in sorted(((*state[0], *(clock for _, clock in state[1])), state) for state in group):
            if not any(all(a <= b for a, b in zip(other, clocks)) for other in front):
                front.append(clocks)
                kept[state] = level[state]
    return kept

"""A step where messages are work of the cores that compute, as on gloo: copying and sockets take a thread of the rank.

    seconds, busy = Shared(costs, emit).run()              costs.core_share above 0; sim.py calls it then

sim.py gives each rank streams of its own for messages, as a GPU has them (copy engines, a network card). On a CPU with
one core a rank, a message under way takes `core_share` of the core of every rank that sends or receives it. The thread
that carries it has slept before, so the system's scheduler lets it go first: what computes meanwhile is slowed down by
as much, and where two messages ask for more than the whole core they slow down one another. Orders and dependencies are
those of sim.py; with a share of 0 the step is the same, which a test shows. Events instead of its recurrence, since a
message now lengthens a stage that has begun.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from workbench.hetermoe.costs import Costs

    Ranks = tuple[int, ...]
    Stage = Literal["attention", "expert", "head", "dispatch", "combine", "update"]
    Stream = Literal["compute", "dispatch", "combine"]
    Emit = Callable[[Ranks, Stream, Stage, int, int, bool, float, float], None]
    Link = tuple[tuple[float, ...], list[int]]

DONE = 1e-12  # of a task's seconds: rounding


@dataclass(slots=True, eq=False)
class Task:
    """A stage of a part, or a message of some. waits: tasks that must end before; then: those that wait for it."""

    seconds: float
    stage: Stage
    layer: int
    micro: int
    back: bool
    parts: tuple[int, ...]
    message: bool
    waits: int = 0
    then: list[Task] = field(default_factory=list)
    left: float = 0.0
    start: float = 0.0

    def after(self, *tasks: Task) -> Task:
        """Itself, to begin after these."""
        self.waits += len(tasks)
        for task in tasks:
            task.then.append(self)
        return self


class Shared:
    """Tasks of a step and the clock that carries them out."""

    def __init__(self, costs: Costs, emit: Emit | None = None) -> None:
        self.costs, self.emit, self.share = costs, emit, costs.core_share
        self.layers, self.micro = costs.plan.layers, range(costs.plan.micro_batches)
        self.attends = [at for at, part in enumerate(costs.parts) if part.attends]
        away = [at for at, part in enumerate(costs.parts) if not part.attends]
        self.links: list[Link] = [(costs.across, away), (costs.peers, self.attends)]
        if costs.joined:
            self.links = [(costs.across, away + self.attends)]
        self.order: list[list[Task]] = [[] for _ in costs.parts]  # what a part computes, one after the other
        self.tasks: list[Task] = []
        self.busy = [0.0] * len(costs.parts)
        self.now = 0.0
        self._build()

    def _build(self) -> None:
        """All tasks, in Theorem 1's order."""
        before: list[list[Task]] = [[] for _ in self.micro]
        for layer in range(self.layers):
            before = self._experts(layer, [self._stage("attention", layer, j, False, before[j]) for j in self.micro])
        before = [self._stage("head", self.layers, j, False, before[j]) for j in self.micro]
        for layer in reversed(range(self.layers)):
            back = self._experts(layer, before, back=True)
            before = [self._stage("attention", layer, j, True, back[j]) for j in self.micro]
        for at, part in enumerate(self.costs.parts):
            if part.tail:
                self._compute(at, part.tail, "update", 0, 0, True, [])

    def _stage(self, stage: Stage, layer: int, micro: int, back: bool, before: list[Task]) -> list[Task]:
        """On all parts that attend; of the head forward and at once backward."""
        found = []
        for at in self.attends:
            part = self.costs.parts[at]
            if stage == "head":
                self._compute(at, part.head, stage, layer, micro, False, before)
                found.append(self._compute(at, part.head_back, stage, layer, micro, True, before))
            else:
                seconds = part.attention_back if back else part.attention
                found.append(self._compute(at, seconds, stage, layer, micro, back, before))
        return found

    def _experts(self, layer: int, ready: list[list[Task]], back: bool = False) -> list[list[Task]]:
        """Dispatch, compute and combine of each micro-batch on every link; what is waited for before its next stage."""
        came = [[self._message("dispatch", link, layer, j, back, ready[j]) for link in self.links] for j in self.micro]
        left: list[list[Task]] = [[] for _ in self.micro]
        for number, link in enumerate(self.links):
            for j in self.micro:
                done = [came[j][number]]
                for at in link[1]:
                    part = self.costs.parts[at]
                    if work := (part.expert_back if back else part.expert)[layer]:
                        done.append(self._compute(at, work, "expert", layer, j, back, [came[j][number]]))
                left[j].append(self._message("combine", link, layer, j, back, done))
        return left

    def _message(
        self, stage: Stage, link: Link, layer: int, micro: int, back: bool, before: list[Task]
    ) -> Task:  # fmt: skip
        parts = tuple(sorted({*self.attends, *link[1]}))
        return self._task(Task(link[0][layer], stage, layer, micro, back, parts, True), before)

    def _compute(
        self, at: int, seconds: float, stage: Stage, layer: int, micro: int, back: bool, before: list[Task]
    ) -> Task:  # fmt: skip
        task = self._task(Task(seconds, stage, layer, micro, back, (at,), False), before)
        self.order[at].append(task)
        return task

    def _task(self, task: Task, before: list[Task]) -> Task:
        task.left = task.seconds
        self.tasks.append(task)
        return task.after(*before)

    def run(self) -> tuple[float, list[float]]:
        """Seconds of the step, and of each part's compute in it but the update, slowed down as it was."""
        streams: dict[str, list[tuple[float, int, Task]]] = {"dispatch": [], "combine": []}
        under_way: dict[str, Task] = {}
        computing: list[Task | None] = [None] * len(self.order)
        place = [0] * len(self.order)
        self._count = 0
        for task in [task for task in self.tasks if task.message and not task.waits]:
            self._free(task, streams)
        while True:
            for stream, queue in streams.items():
                if queue and stream not in under_way:
                    under_way[stream] = heapq.heappop(queue)[2]
                    under_way[stream].start = self.now
            for at, order in enumerate(self.order):
                if computing[at] is None and place[at] < len(order) and not order[place[at]].waits:
                    computing[at], order[place[at]].start = order[place[at]], self.now
            running = [task for task in computing if task is not None]
            if not running and not under_way:
                return self.now, self.busy
            rates = self._rates(running, list(under_way.values()))
            gone = min(task.left / rate for task, rate in rates if rate)
            self.now += gone
            for task, rate in rates:
                task.left -= rate * gone
                if task.left > DONE * task.seconds:
                    continue
                if task.message:
                    del under_way[task.stage]
                else:
                    computing[task.parts[0]] = None
                    place[task.parts[0]] += 1
                self._end(task, streams)

    def _rates(self, running: list[Task], messages: list[Task]) -> list[tuple[Task, float]]:
        """Of what is under way: a core's compute gets what its messages leave of it."""
        asked = [0.0] * len(self.order)  # shares of each core
        for message in messages:
            for at in message.parts:
                asked[at] += self.share
        found = [(message, 1 / max(1.0, *(asked[at] for at in message.parts))) for message in messages]
        return found + [(task, max(0.0, 1.0 - asked[task.parts[0]])) for task in running]

    def _end(self, task: Task, streams: dict[str, list[tuple[float, int, Task]]]) -> None:
        """It is over: told, and what waited for it may be free."""
        part = self.costs.parts[task.parts[0]]
        if not task.message and task.stage != "update":
            self.busy[task.parts[0]] += self.now - task.start
        if self.emit is not None and task.seconds:
            ranks = tuple(range(self.costs.plan.world)) if task.message else part.ranks
            stream: Stream = "compute"
            if task.message:
                stream = "dispatch" if task.stage == "dispatch" else "combine"
            self.emit(ranks, stream, task.stage, task.layer, task.micro, task.back, task.start, self.now)
        for other in task.then:
            other.waits -= 1
            if not other.waits and other.message:
                self._free(other, streams)

    def _free(self, message: Task, streams: dict[str, list[tuple[float, int, Task]]]) -> None:
        """Into its stream's queue, who is ready first goes first; where nothing is sent, it is over at once."""
        if not message.seconds:
            message.start = self.now
            self._end(message, streams)
            return
        self._count += 1
        heapq.heappush(streams[message.stage], (self.now, self._count, message))

"""A small system that one acts in, for tests: workers do chunks; a worker can be sent home, another one called."""

from __future__ import annotations

import queue
import time
from collections import deque
from functools import partial

import toy
from pydantic import Field

from workbench.pump import listen, pump
from workbench.system import Offer, Progress, Provenance, Span, System, Work


class Staffed(toy.Toy):
    workers: int = Field(3, ge=1, le=8, description="Workers at the start")
    threaded: bool = Field(False, description="Work on a thread of its own")


class StaffedResult(toy.ToyResult):
    done_by: list[str]
    sent_home: list[str]

    def decided(self) -> dict[str, object]:
        return {"done_by": self.done_by, "sent_home": self.sent_home, "seed": self.config.seed}


class Staff:
    """Who is there, and what is on offer."""

    def __init__(self, workers: int) -> None:
        self.there = [f"w{at}" for at in range(workers)]
        self.home: list[str] = []
        self.called = workers

    def first(self) -> list[Offer]:
        return [*map(self.offer, self.there), Offer("call", "Call one more", "staff")]

    def offer(self, name: str, on: bool = True) -> Offer:
        return Offer(name, f"Send {name} home", "workers", "does a chunk <now>", on)

    def answer(self, name: str) -> list[Offer]:
        """Do it: its own offer is gone or is made anew, and that of a new worker is there."""
        if name == "call":
            new = f"w{self.called}"
            self.called += 1
            self.there.append(new)
            return [self.offer(new), Offer("call", "Call one more", "staff", f"{self.called} called so far")]
        self.there.remove(name)
        self.home.append(name)
        return [self.offer(name, on=False)]


def work(config: Staffed) -> Work:
    if config.threaded:
        asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        return (yield from pump(partial(_threaded, config, asked), asked.put))
    heard: deque[str] = deque()
    return (yield from listen(_steps(config, heard), heard.append))


def _threaded(config, asked, say, stop):
    waiting = deque()
    steps = _steps(config, waiting)
    while not stop.is_set():
        while not asked.empty():
            waiting.append(asked.get())
        try:
            say(next(steps))
        except StopIteration as end:
            return end.value
    raise RuntimeError("stopped")


def _steps(config: Staffed, heard: deque[str]) -> Work:
    staff = Staff(config.workers)
    done_by: list[str] = []
    yield from staff.first()  # a list takes nothing that is sent
    for at in range(config.chunks):
        yield Progress(at, config.chunks, f"chunk {at} of {config.chunks}, {len(staff.there)} workers")
        time.sleep(config.pause_s)
        while heard:
            yield from staff.answer(heard.popleft())
        who = staff.there[at % len(staff.there)] if staff.there else "nobody"
        done_by.append(who)
        yield Span(who, at * 0.1, at * 0.1 + 0.09, f"chunk {at}", who, {"choice": who})
    yield Progress(config.chunks, config.chunks, "all chunks done")
    badges = {"ttft_s": "measured", "speedup": "modelled", "chunks": "measured"}
    return StaffedResult(
        config=config,
        provenance=Provenance(
            backend="cpu", device="a toy", commit="0" * 7, versions={"toy": "1"}, started_at="2026-01-01", badges=badges
        ),
        times=[0.1 * at + 0.09 for at in range(config.chunks)],
        done_by=done_by,
        sent_home=staff.home,
    )


SYSTEM = System(
    name="acts_toy",
    title="Toy: workers that come and go",
    paper="Nobody, Nowhere 2026",
    about="Workers do chunks in turn until one sends them home.",
    config=Staffed,
    result=StaffedResult,
    work=work,
    presets={
        "tiny": Staffed(chunks=8),
        "small": Staffed(chunks=40, pause_s=0.02),
        "slow": Staffed(chunks=400, pause_s=0.05),
        "paper": Staffed(chunks=300),
    },
    baselines={"one worker": {"workers": 1}},
    backends=frozenset({"cpu"}),
    columns={"chunk": "which chunk", "done_s": "when it was there (s)"},
)


install = partial(toy.install, one=SYSTEM)

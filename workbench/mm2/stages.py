"""Reads to PAF a stage at a time over batches, as mm2-gb does it, with a span for each stage of each batch.

    seed every read of the batch -> chain every read -> join where needed -> choose hits

The stages are the Mapper's own, so the lines are those of `map_reads`; the order over a batch makes a stage one span.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import get_ident
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Any

from workbench.mm2.io import batches
from workbench.system import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.mm2.io import Record
    from workbench.mm2.mapper import Mapper
    from workbench.mm2.paf import Hit

STAGES = ("seed", "chain", "join", "hits")


@dataclass
class Batch:
    """What became of a batch: hits, anchors and number of chains of each read, and when each stage ran."""

    number: int
    records: list[Record]
    anchors: list[NDArray[np.uint64]] = field(default_factory=list)
    chains: list[int] = field(default_factory=list)
    hits: list[list[Hit]] = field(default_factory=list)
    times: dict[str, tuple[float, float]] = field(default_factory=dict)  # stage -> begin, end (time.monotonic)
    cpu_s: dict[str, float] = field(default_factory=dict)  # stage -> processor seconds of this thread; wall on a GPU
    joined: int = 0  # reads of which the anchors were chained a second time
    thread: int = 0

    @property
    def bases(self) -> int:
        """Of all its reads."""
        return sum(len(r.sequence) for r in self.records)

    def spans(self, began: float, lane: str) -> Iterator[Span]:
        """A span a stage, in seconds since `began`; lanes end in `lane`."""
        why: dict[str, float | str] = {
            "batch": self.number,
            "reads": len(self.records),
            "bases": self.bases,
            "anchors": sum(len(a) for a in self.anchors),
            "chains": sum(self.chains),
            "joined": self.joined,
        }
        for stage, (begin, end) in self.times.items():
            yield Span(stage + lane, begin - began, end - began, f"batch {self.number}", stage, why)


def run(mapper: Mapper, number: int, records: list[Record], stop: Flag) -> Batch:
    """One batch on this thread; what is not done when `stop` is set stays undone."""
    batch = Batch(number, records, thread=get_ident())
    seeds, found = list[Any](), list[Any]()

    def stage(name: str, items: Iterable[Any], do: Any) -> None:
        begin, worked = monotonic(), thread_time()
        for item in items:
            if stop.is_set():
                return
            do(*item)
        batch.times[name], batch.cpu_s[name] = (begin, monotonic()), thread_time() - worked

    def join(at: int) -> None:
        again = mapper.join(found[at], len(records[at].sequence))
        batch.joined += again is not found[at]
        found[at] = again

    stage("seed", ((r.sequence,) for r in records), lambda bases: seeds.append(mapper.seeds(bases)))
    parts = [seeds] if mapper.on_gpu else [[each] for each in seeds]  # a GPU takes all together, in one piece
    stage("chain", ((part,) for part in parts), lambda part: found.extend(mapper.chains_of(part)))
    if mapper.on_gpu and "chain" in batch.times:  # the thread only waits
        batch.cpu_s["chain"] = batch.times["chain"][1] - batch.times["chain"][0]
    batch.chains = [len(f) for f in found]
    stage("join", ((at,) for at in range(len(found))), join)
    stage("hits", zip(records, seeds, found), lambda *all_: batch.hits.append(mapper.hits(*all_)))
    batch.anchors = [s.anchors for s in seeds]
    return batch


def run_all(mapper: Mapper, records: Iterable[Record], threads: int, stop: Flag) -> Iterator[Batch]:
    """Every batch in order, at most `threads` + 1 under way; ends early and whole when `stop` is set."""
    work = enumerate(batches(records, mapper.batch))
    if threads == 1:
        for number, part in work:
            if stop.is_set():
                return
            yield run(mapper, number, part, stop)
        return
    under_way: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="mm2") as pool:
        for number, part in work:
            if stop.is_set():
                break
            under_way.append(pool.submit(run, mapper, number, part, stop))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way and not stop.is_set():
            yield under_way.popleft().result()

"""The policies, as generators: each yields for every request whether its page was missing.

miss: the page is not in memory; a full memory lets one go
    fifo    the one that came first
    lru     the one that was asked for longest ago
    opt     the one that is asked for again latest (Belady 1966, algorithm MIN): no policy misses less
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

ANOMALY = (1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5)  # Belady, Nelson and Shedler, CACM 12(6), 1969


def fifo(trace: Sequence[int], frames: int) -> Iterator[bool]:
    """Whether each request misses, first in, first out."""
    memory: OrderedDict[int, None] = OrderedDict()
    for page in trace:
        missing = page not in memory
        if missing:
            if len(memory) == frames:
                memory.popitem(last=False)
            memory[page] = None
        yield missing


def lru(trace: Sequence[int], frames: int) -> Iterator[bool]:
    """Whether each request misses, least recently used."""
    memory: OrderedDict[int, None] = OrderedDict()
    for page in trace:
        missing = page not in memory
        if missing and len(memory) == frames:
            memory.popitem(last=False)
        memory[page] = None
        memory.move_to_end(page)
        yield missing


def opt(trace: Sequence[int], frames: int) -> Iterator[bool]:
    """Whether each request misses when the future is known."""
    after: dict[int, int] = {}  # page -> when it is asked for next
    following = [0] * len(trace)
    for at in range(len(trace) - 1, -1, -1):
        following[at] = after.get(trace[at], len(trace))
        after[trace[at]] = at
    memory: dict[int, int] = {}
    latest: list[tuple[int, int]] = []  # heap of (-next use, page); an entry that memory contradicts is old
    for page, nxt in zip(trace, following, strict=True):
        missing = page not in memory
        if missing and len(memory) == frames:
            use, last = heappop(latest)
            while memory.get(last) != -use:
                use, last = heappop(latest)
            del memory[last]
        memory[page] = nxt
        heappush(latest, (-nxt, page))
        yield missing


POLICIES = {"fifo": fifo, "lru": lru, "opt": opt}

"""Who has which part of a prompt: the claim table of one request, its grain states, and what each side measured.

A grain is the unit of storage (a fixed number of tokens). Compute claims grains from the front, load from the
back, of one shared table (kernels/claim), so the two never do the same work and meet wherever they meet.

    FREE -> COMPUTING -> COMPUTED                       the front
    FREE -> LOADING -> COMMITTING -> LOADED             the back
            LOADING -> TAKEN -> COMPUTED                a late load, taken over by compute (hedge)
            LOADING -> HOLE -> COMPUTED                 a load that failed

COMMITTING is the short copy of verified bytes into the KV cache: only then does a loader write to it, and a grain
in that state cannot be taken, so exactly one side ever writes a grain.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from workbench.kernels.claim import claim_table, nbytes


class Grain(IntEnum):
    """State of a grain in the table."""

    FREE = 0
    COMPUTING = 1
    COMPUTED = 2
    LOADING = 3
    COMMITTING = 4
    LOADED = 5
    HOLE = 6
    TAKEN = 7


# plain integers: a byte of the table compares with them without making a Grain of it
_READY = frozenset({int(Grain.COMPUTED), int(Grain.LOADED)})
_MINE = frozenset({int(Grain.COMPUTING), int(Grain.TAKEN)})
_HOLES = frozenset({int(Grain.HOLE)})
_GAUGES = (
    "load_scale", "load_read_s", "load_began_s", "load_ended_s", "load_run", "compute_until_s", "compute_scale",
    "closed",
)  # fmt: skip
SMOOTH = 0.3  # weight of the newest measurement in the running averages
FADE_READS = 2.0  # a link that nobody reads from: half of what was measured of it is forgotten in so many reads' time


class Ledger:
    """Claims and states of one request; with a shared `buffer`, of one request seen from several processes.

    grains: number of grains that may be loaded; `stored[i]` False makes grain i one that must be computed.
    The gauges are single aligned doubles that one side writes and the other reads: estimates, never invariants.
    """

    def __init__(
        self,
        grains: int,
        stored: Sequence[bool] | None = None,
        buffer: Any = None,
        *,
        create: bool = True,
        backend: Any = "auto",
    ) -> None:
        memory = bytearray(self.nbytes(grains)) if buffer is None else buffer
        self.table = claim_table(grains, memory, create=create, backend=backend)
        at = self._gauges_at(grains)
        self._gauges = np.frombuffer(memory, dtype=np.float64, count=len(_GAUGES), offset=at)
        self.grains = grains
        self.changed = threading.Event()  # within this process: something was committed, failed or stopped
        if create:
            self._gauges[:] = 0.0
            for i in range(grains):
                if stored is not None and not stored[i]:
                    self.table.swap_state(i, Grain.FREE, Grain.HOLE)

    @staticmethod
    def _gauges_at(grains: int) -> int:
        return -(-nbytes(grains) // 8) * 8

    @classmethod
    def nbytes(cls, grains: int) -> int:
        """Size of the buffer for `grains` grains."""
        return cls._gauges_at(grains) + 8 * len(_GAUGES)

    def gauge(self, name: str) -> float:
        """Read a gauge; 0 until it was written."""
        return float(self._gauges[_GAUGES.index(name)])

    def set_gauge(self, name: str, value: float) -> None:
        """Write a gauge."""
        self._gauges[_GAUGES.index(name)] = value

    def state(self, grain: int) -> Grain:
        """State of one grain."""
        return Grain(self.table.get_state(grain))

    def states(self) -> list[Grain]:
        """States of all grains."""
        return [Grain(s) for s in self.table.states()]

    # -- the front -----------------------------------------------------------------------------------------------

    def claim_front(self, want: int) -> int:
        """Compute takes up to `want` grains; returns how many it got (they start at the table's former front)."""
        start, taken = self.table.claim_front(want)
        for i in range(start, start + taken):
            self.table.swap_state(i, Grain.FREE, Grain.COMPUTING)
        return taken

    def computed(self, start: int, count: int) -> None:
        """Grains [start, start + count) hold computed KV."""
        for i in range(start, start + count):
            for was in (Grain.COMPUTING, Grain.HOLE, Grain.TAKEN, Grain.FREE):
                if self.table.swap_state(i, was, Grain.COMPUTED):
                    break

    def take_late(self, grain: int) -> bool:
        """Take a grain that is being loaded away from the loader. False when it is too late for that."""
        return self.table.swap_state(grain, Grain.LOADING, Grain.TAKEN)

    def ready_run(self, grain: int) -> int:
        """How many grains from `grain` on are ready, computed or loaded."""
        return self._run(grain, _READY)

    def owned_run(self, grain: int, *, holes: bool) -> int:
        """How many grains from `grain` on are compute's to do: claimed, taken over, free after a close, holes."""
        mine = _MINE | (_HOLES if holes else frozenset()) | (_HOLES | {Grain.FREE} if self.closed else frozenset())
        return self._run(grain, mine)

    def _run(self, grain: int, of: frozenset[int]) -> int:
        states = self.table.states()
        end = grain
        while end < len(states) and states[end] in of:
            end += 1
        return end - grain

    def any_free(self, start: int, end: int) -> bool:
        """Whether anything in [start, end) could still be claimed and loaded."""
        return self.table.states().find(Grain.FREE, start, end) >= 0

    # -- the back ------------------------------------------------------------------------------------------------

    def claim_back(self, want: int, floor: int = 0) -> list[int]:
        """Load takes up to `want` grains; returns those of them that are stored, the last first."""
        start, taken = self.table.claim_back(want, floor)
        claimed = range(start + taken - 1, start - 1, -1)
        return [i for i in claimed if self.table.swap_state(i, Grain.FREE, Grain.LOADING)]

    def begin_commit(self, grain: int) -> bool:
        """The bytes are here and verified; may they be written? False: the grain was taken or the ledger closed.

        The order (state first, then `closed`) mirrors `close()` (closed first, then states): whichever comes
        second sees the other, so after `close()` and a wait for `writing()` to end nothing is ever written.
        """
        if not self.table.swap_state(grain, Grain.LOADING, Grain.COMMITTING):
            return False
        if self.closed:
            self.table.swap_state(grain, Grain.COMMITTING, Grain.HOLE)
            return False
        return True

    def loaded(self, grain: int) -> None:
        """The grain's KV is in the cache."""
        self.table.swap_state(grain, Grain.COMMITTING, Grain.LOADED)
        self.changed.set()

    def failed(self, grain: int) -> None:
        """The grain cannot be had: it becomes compute's."""
        for was in (Grain.LOADING, Grain.COMMITTING):
            if self.table.swap_state(grain, was, Grain.HOLE):
                break
        self.changed.set()

    # -- what it costs -------------------------------------------------------------------------------------------

    def learn_pass(self, believed: float | str | None, seconds: float) -> None:
        """A pass took `seconds`, the policy believed `believed` (the `compute_s` of its decision; else no change)."""
        if isinstance(believed, float) and believed > 0 and not math.isclose(seconds, believed, rel_tol=1e-6):
            self.set_gauge("compute_scale", self.compute_scale * (1 - SMOOTH + SMOOTH * seconds / believed))

    def learn_read(self, believed_s: float, seconds: float, now_s: float) -> None:
        """A read ended now after `seconds`; the cost model has `believed_s` for it.

        The first read counts fully, later ones by SMOOTH. Reads of which nothing arrived say nothing: leave them out.
        """
        if believed_s <= 0:
            return
        mean = real = seconds / believed_s
        if self.gauge("load_scale"):
            mean = (1 - SMOOTH) * self.load_scale(now_s - seconds) + SMOOTH * real
        self.set_gauge("load_scale", 1.0 if math.isclose(mean, 1.0, rel_tol=1e-6) else mean)
        self.set_gauge("load_read_s", believed_s)
        self.set_gauge("load_ended_s", now_s)

    @property
    def compute_scale(self) -> float:
        """Real over believed time of passes; 1 until one was measured."""
        return self.gauge("compute_scale") or 1.0

    def load_scale(self, now_s: float | None = None) -> float:
        """Real over believed time of reads; 1 until one was measured.

        With `now_s` it fades to 1 while nothing is read: one slow read must not be the last word on a link. While a
        read is under way it stays as it was when that began.
        """
        scale = self.gauge("load_scale") or 1.0
        if now_s is None or scale == 1.0:
            return scale
        until_s = self.gauge("load_began_s") if self.gauge("load_run") > 0 else now_s
        idle_s = max(0.0, until_s - self.gauge("load_ended_s"))
        return float(scale ** (0.5 ** (idle_s / (FADE_READS * self.gauge("load_read_s")))))

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """No more claims; loads that have not begun to write never will (the request ended or lost its blocks)."""
        self.set_gauge("closed", 1.0)
        self.table.stop()
        for i, state in enumerate(self.states()):
            if state is Grain.LOADING:
                self.take_late(i)
        self.changed.set()

    @property
    def closed(self) -> bool:
        """Whether `close()` was called, in any process."""
        return self.gauge("closed") > 0

    def writing(self) -> bool:
        """Whether a loader is copying into the cache at this moment."""
        return self.table.states().find(Grain.COMMITTING) >= 0

    def release(self) -> None:
        """Let go of the shared buffer."""
        self._gauges = np.zeros(len(_GAUGES))
        self.table.release()

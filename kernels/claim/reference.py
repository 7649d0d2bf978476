"""The definition of a claim table: a range eaten from both ends, and one state per grain, under a plain lock."""

from __future__ import annotations

from threading import Lock


class ClaimTable:
    """Hands out the grains of [0, `grains`): the front to one side, the back to the other, none twice.

    Same interface as the native table, for one process only (`buffer` is ignored).
    """

    def __init__(self, buffer: object = None, grains: int = 0, create: bool = True) -> None:
        self._lock, self._low, self._high, self._state = Lock(), 0, grains, bytearray(grains)

    def claim_front(self, want: int) -> tuple[int, int]:
        """Take up to `want` grains from the front: (first grain, number taken); 0 taken when the ends met."""
        with self._lock:
            start, take = self._low, min(want, self._high - self._low)
            self._low += take
            return start, take

    def claim_back(self, want: int, floor: int = 0) -> tuple[int, int]:
        """Take up to `want` grains from the back, none below `floor`: (first grain, number taken)."""
        with self._lock:
            take = max(0, min(want, self._high - max(self._low, floor)))
            self._high -= take
            return self._high, take

    def stop(self) -> None:
        """Leave nothing to claim."""
        with self._lock:
            self._high = self._low

    def swap_state(self, grain: int, expected: int, desired: int) -> bool:
        """Compare-and-swap of one grain's state; False (and no change) when it was not `expected`."""
        with self._lock:
            if self._state[grain] != expected:
                return False
            self._state[grain] = desired
            return True

    def get_state(self, grain: int) -> int:
        """State of one grain."""
        return self._state[grain]

    def states(self) -> bytes:
        """States of all grains."""
        return bytes(self._state)

    def release(self) -> None:
        """Nothing to give back here."""

    @property
    def front(self) -> int:
        """First grain that the front has not claimed."""
        return self._low

    @property
    def back(self) -> int:
        """One past the last grain that the back has not claimed."""
        return self._high

    def __len__(self) -> int:
        return len(self._state)

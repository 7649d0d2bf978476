"""One range of grains, claimed from both ends without a lock by threads or processes.

    while (start, n := table.claim_front(4))[1]: compute(start, n)        # one side
    while (start, n := table.claim_back(1))[1]:  load(start, n)           # the other side

Every grain is claimed exactly once. `backend="native"` works on any writable buffer, so that two processes
can share it; `"reference"` is the definition and serves one process.
"""

from __future__ import annotations

from typing import Literal, Protocol


class Table(Protocol):
    """What both versions offer; `reference.ClaimTable` documents each method."""

    front: int
    back: int

    def claim_front(self, want: int) -> tuple[int, int]: ...
    def claim_back(self, want: int, floor: int = 0) -> tuple[int, int]: ...
    def stop(self) -> None: ...
    def swap_state(self, grain: int, expected: int, desired: int) -> bool: ...
    def get_state(self, grain: int) -> int: ...
    def states(self) -> bytes: ...
    def release(self) -> None: ...
    def __len__(self) -> int: ...


def nbytes(grains: int) -> int:
    """Size of the buffer that a native table of `grains` grains needs."""
    return 64 + grains


def claim_table(
    grains: int,
    buffer: object = None,
    *,
    create: bool = True,
    backend: Literal["auto", "native", "reference"] = "auto",
) -> Table:
    """A table over `grains` grains; with `create=False`, a view of the one already in `buffer`.

    Raises ValueError when the buffer is too small, misaligned or holds no table of this version and size.
    """
    if backend == "reference":
        from workbench.kernels.claim.reference import ClaimTable as Reference

        return Reference(buffer, grains, create)
    from workbench.kernels.claim import _claim

    return _claim.ClaimTable(bytearray(nbytes(grains)) if buffer is None else buffer, grains, create)

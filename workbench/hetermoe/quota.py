"""A slower processor without pretending: the kernel's own limit on a process's share of a core, where that is allowed.

    denied()                          "" or, in words, why this machine does not let us
    with Quota(0.25) as quota: quota.take(pid)

A control group of its own with a CFS bandwidth limit (cgroup v1 `cpu.cfs_quota_us`, v2 `cpu.max`): the process computes
at full speed for its share of each period and is then stopped. What runs under it is said to be limited, never slow.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PERIOD_US = 20_000
ROOT = Path("/sys/fs/cgroup")


class QuotaDenied(RuntimeError):
    """This machine does not let us limit a process; the message says why."""


class Quota:
    """A control group with `share` of one core, above 0 and at most 1. QuotaDenied, ValueError."""

    def __init__(self, share: float, root: Path = ROOT) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"a quota is a share of one core above 0 and at most 1, not {share}")
        self.above, version = _own_group(root)
        try:
            if version == 2:
                (self.above / "cgroup.subtree_control").write_text("+cpu")
            self.path = Path(tempfile.mkdtemp(prefix="workbench-", dir=self.above))
            micros = max(int(share * PERIOD_US), 1000)  # the kernel takes no less
            if version == 2:
                (self.path / "cpu.max").write_text(f"{micros} {PERIOD_US}")
            else:
                (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (self.path / "cpu.cfs_quota_us").write_text(str(micros))
        except OSError as error:
            self.close()
            raise QuotaDenied(f"no processor quota here: {self.above} does not allow it ({error.strerror})") from None

    def take(self, pid: int) -> None:
        """Limit a process, all its threads. QuotaDenied where it cannot be moved."""
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise QuotaDenied(f"process {pid} cannot be limited: {error.strerror}") from None

    def close(self) -> None:
        """What is in it goes back to where this process is; the group is removed. Twice is no error."""
        path = getattr(self, "path", None)
        if path is None or not path.exists():
            return
        with contextlib.suppress(OSError):
            for pid in (path / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (self.above / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            path.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def denied(root: Path = ROOT) -> str:
    """Why processes cannot be limited here, or "" where they can: tried, not guessed."""
    try:
        with Quota(0.5, root):
            return ""
    except QuotaDenied as error:
        return str(error)


def _own_group(root: Path) -> tuple[Path, int]:
    """The control group that this process is in, and the version of its kind."""
    try:
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        raise QuotaDenied("no processor quota here: the system has no control groups") from None
    for _, names, path in lines:
        if "cpu" in names.split(",") and (root / "cpu").is_dir():
            return _nearest(root / "cpu", path), 1
    for number, names, path in lines:
        if number == "0" and not names and (root / "cgroup.controllers").is_file():
            return _nearest(root, path), 2
    raise QuotaDenied("no processor quota here: no control group of this process has the cpu controller")


def _nearest(root: Path, path: str) -> Path:
    """The group's folder; in a container it may be mounted as the root."""
    found = root / path.lstrip("/")
    return found if found.is_dir() and os.access(found, os.X_OK) else root

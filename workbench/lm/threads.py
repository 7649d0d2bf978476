"""How many compute threads torch takes, for as long as something is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Torch's compute threads inside are `count`, and afterwards what they were: the process is the caller's."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""The toy system stands in the catalogue, and no test leaves a thread."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy

from workbench.ui.panel import Panel


@pytest.fixture
def system(monkeypatch):
    yield from toy.installed(monkeypatch)


@pytest.fixture
def panel(system):
    return Panel(system)


def ours() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("workbench")]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    for thread in ours():
        thread.join(10)
    assert ours() == []

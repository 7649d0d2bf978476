"""What more than one file uses: the built-in engine with the tiny model, and a server that may be bad."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bad_server import BadServer

from workbench import lm
from workbench.plato.embedded import EmbeddedEngine


@pytest.fixture(scope="session")
def opened():
    made = EmbeddedEngine(lm.load("tiny"))
    yield made
    made.close()


@pytest.fixture
def engine(opened):
    """Cold."""
    opened.forget()
    return opened


@pytest.fixture
def server():
    started = BadServer()
    yield started
    started.close()

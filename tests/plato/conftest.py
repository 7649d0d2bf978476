"""The built-in engine with the tiny model, which more than one file conducts on; a file may open another one."""

import pytest

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

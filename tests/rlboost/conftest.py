"""One Ray for all tests here that need it: starting it takes ten seconds and more, and two at once are late."""

import sys
from pathlib import Path

import pytest

from workbench.rlboost.fleet import Fleet

sys.path.insert(0, str(Path(__file__).parent))  # of rolled.py


@pytest.fixture(scope="session")
def fleet():
    """Without spot nodes: a test adds those it needs, and takes them away."""
    with Fleet() as found:
        yield found

"""What several tests here share lies in lte_toys.py, next to this file."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lte_toys import tiny_sparse, toy


@pytest.fixture
def sparse():
    return tiny_sparse()


@pytest.fixture(scope="session")
def task():
    return toy()

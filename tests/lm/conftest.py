"""Models loaded once for all tests of the language model."""

import pytest
import torch

from workbench import lm


@pytest.fixture(scope="session")
def tiny():
    return lm.load("tiny")


@pytest.fixture(scope="session")
def prompt_ids(tiny):
    return torch.tensor(lm.prompt(tiny, 300, seed=7))


@pytest.fixture(scope="session")
def model_folder():
    try:
        return lm.path("smollm2")
    except lm.ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2(model_folder):
    return lm.load("smollm2")

"""The type of weights follows the processor, and a setting wins over it."""

import pytest

from workbench import backends, lm
from workbench.cake.config import CakeConfig
from workbench.plato.config import PlatoConfig


@pytest.mark.parametrize(
    ("level", "fast"),
    [("AVX-512 with bf16", "bfloat16"), ("AVX-512", "float32"), ("AVX2", "float32"), ("NEON", "float32")],
)
def test_auto_takes_what_the_processor_multiplies_fast(monkeypatch, level, fast):
    monkeypatch.setattr(backends, "vector_level", lambda: level)
    assert lm.fast_dtype() == fast
    for config in (CakeConfig, PlatoConfig):
        assert config().weights == fast
        assert config(dtype="float32").weights == "float32"
        assert config(dtype="bfloat16").weights == "bfloat16"


def test_a_simulated_run_does_not_ask_the_processor(monkeypatch):
    monkeypatch.setattr(backends, "vector_level", lambda: "AVX2")
    assert CakeConfig(backend="sim").weights == "bfloat16"
    assert CakeConfig(backend="sim", dtype="float32").weights == "float32"

"""Plato on vLLM: engines of their own that do not start, are cancelled, or hold SmolLM2."""

import inspect
import re
import sys
import threading
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")
sys.path.insert(0, str(Path(__file__).parent))

from endings import alive
from vllm_tools import answer, one

from workbench import lm
from workbench.backends import BackendUnavailable
from workbench.plato.engine import Ask, EngineError
from workbench.plato.planner import Written
from workbench.plato.vllm_engine import VllmEngine, open_vllm
from workbench.pump import Stopped

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


def test_without_vllm_it_says_so(monkeypatch):
    monkeypatch.setattr("workbench.backends.version", lambda _: "")
    with pytest.raises(BackendUnavailable, match=r"engine 'vllm' is not available: not installed.*make setup"):
        VllmEngine(None)


def test_the_lines_of_the_page_name_what_is_there():
    """Imports are made and the engine's arguments bound; what they do is tested above, with other models."""
    page = (Path(__file__).parents[2] / "docs/plato-vllm.md").read_text()
    lines = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1]
    there = {}
    exec("\n".join(line for line in lines.splitlines() if line.startswith(("import ", "from "))), there)
    call = re.search(r"VllmEngine\((.*)\)", lines)[1]
    bound = eval(f"signature(VllmEngine).bind({call})", there | {"signature": inspect.signature})
    assert bound.arguments == {"model": Path("my-model"), "room": 8192}


def children():
    return {p.pid for p in psutil.Process().children(recursive=True)}


def test_cancel_while_it_starts_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before, stop = children(), threading.Event()
    threading.Timer(2.0, stop.set).start()
    with pytest.raises(Stopped):
        open_vllm("tiny", "float32", lambda _: None, stop)
    assert children() == before
    assert list(tmp_path.iterdir()) == []


def test_an_engine_without_room_for_one_sequence_says_so():
    with pytest.raises(EngineError, match=r"vLLM failed while starting, after importing vLLM: ValueError: .*KV cache"):
        VllmEngine(None, dtype="float32", room=8192, kv_bytes=1 << 20)


@pytest.mark.model
def test_smollm2_plans_and_answers():
    """A smoke test of the real thing: it knows a capital, and its own plan under the grammar is decoded."""
    with_model = open_vllm("smollm2", lm.fast_dtype(), lambda _: None, threading.Event())
    try:
        capital = with_model.chat("You are a helpful assistant.", "What is the capital of France?")
        assert "Paris" in with_model.decode(one(with_model, tuple(capital), 16)["ids"])
        query = "Describe a cat, a dog and a bird, then say which of them is the best pet for a flat."
        script = Written("model", most=4, node_tokens=12)
        _, outcome = answer(with_model, script=script, query=query)
        assert (outcome.plan_error, outcome.repairs) == ("", [])
        assert 2 <= len(outcome.plan) <= 4
        assert outcome.answer_tokens == outcome.plan.tokens
        assert all(part.text.strip() for part in outcome.parts if part.kind == "node")
        assert sum(part.reused for part in outcome.parts) > 0
        with_model.start(Ask("left", tuple(capital), 500, whole=True))
        pids = [p.pid for p in psutil.Process(with_model._child.process.pid).children()]
    finally:
        with_model.close()
    assert len(pids) == 1
    assert not any(map(alive, pids))  # closed in the middle of an answer

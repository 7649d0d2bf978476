"""The start of vLLM as a part of a run: same layers, phases as spans, tokens compared. A script stands for vLLM."""

import json
import struct
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from vllm_stand_in import in_vllms_place

from workbench.backends import Backend, BackendUnavailable
from workbench.foundry import SYSTEM, engines
from workbench.foundry.vllm_phases import StartFailed
from workbench.pump import Stopped
from workbench.system import Progress, Span


@pytest.fixture
def whole(tmp_path):
    """A checkpoint of three layers, 8 bytes a tensor, its layers not in order."""
    folder = tmp_path / "whole"
    folder.mkdir()
    names = [
        "model.embed_tokens.weight",
        *(f"model.layers.{i}.mlp.up_proj.weight" for i in (2, 0, 1)),
        "model.norm.weight",
    ]
    about = {"__metadata__": {"format": "pt"}}
    about |= {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(names)}
    head = json.dumps(about).encode()
    raw = b"".join(struct.pack("<2f", i, -i) for i in range(len(names)))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + raw)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "vocab_size": 100}))
    return folder


def test_the_first_layers_of_a_checkpoint_keep_their_bytes(whole, tmp_path):
    from safetensors.numpy import load_file

    every = load_file(whole / "model.safetensors")
    made = engines.first_layers(whole, 2, tmp_path / "two")
    kept = load_file(made / "model.safetensors")
    assert set(every) - set(kept) == {"model.layers.2.mlp.up_proj.weight"}
    assert all((every[name] == kept[name]).all() for name in kept)
    assert json.loads((made / "config.json").read_text()) == {"num_hidden_layers": 2, "vocab_size": 100}
    with pytest.raises(ValueError, match="has 3 layers, not 4"):
        engines.first_layers(whole, 4, tmp_path / "four")


PARTS = [["interpreter", 0, 1], ["import vLLM", 1, 3], ["Load weights", 3, 4], ["Allocate KV cache", 4, 6],
         ["first token", 6, 7]]  # fmt: skip
SAYS = {"is": "done", "parts": PARTS, "tokens": [7, 8], "steps_s": [0.1], "about": {"version": "9.9"}}


@pytest.fixture
def child(whole, tmp_path, monkeypatch):
    """A process in vLLM's place that does what a script says with `say`."""
    monkeypatch.setattr(engines.lm, "path", lambda name: whole)
    return in_vllms_place(tmp_path, monkeypatch)


def begun(config, folder, stop=None, ours=(7, 8)):
    told = []
    stop = stop or threading.Event()
    found = engines.starts(config, folder, list(ours), say=told.append, stop=stop, began=time.monotonic() - 5, done=80)
    return found, told


def test_a_start_is_told_and_held_with_its_place_in_the_run(child, tmp_path):
    child(f"say(**{SAYS!r} | {{'about': asked | {{'version': '9.9'}}}})\ntime.sleep(60)")
    ((one,), held), told = begun(SYSTEM.make("vllm", layers=2, seed=3), tmp_path)
    assert (one.lane, one.layers, one.total_s, one.tokens == one.ours) == ("vLLM 9.9, eager", 2, 7.0, True)
    assert one.seconds == {"interpreter": 1, "import vLLM": 2, "load weights": 1, "KV cache": 2, "first token": 1}
    spans = [e for e in told if isinstance(e, Span)]
    assert spans == [h.span() for h in held]
    assert {s.lane for s in spans} == {one.lane}
    assert spans[0].start_s >= 5
    assert [round(s.end_s - s.start_s, 6) for s in spans] == [1, 2, 1, 2, 1]
    assert all(e.done == 80 for e in told if isinstance(e, Progress))
    assert engines.prompt(3, 100) == json.loads(one.about["prompt"])
    assert engines.prompt(3, 100) != engines.prompt(4, 100)
    assert "'enforce_eager': True" in one.about["arguments"]
    assert not (tmp_path / "model").exists()  # the checkpoint that was made for it


def test_cancelled_late_and_failed_starts_leave_nothing(child, tmp_path):
    before = set(psutil.Process().children())
    child("time.sleep(60)")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped, match="while vLLM started"):
        begun(SYSTEM.make("vllm"), tmp_path, stop)
    with pytest.raises(StartFailed, match="did not come up within 0 s, starting vLLM"):
        begun(SYSTEM.make("vllm").model_copy(update={"patience_s": 0.3}), tmp_path)
    child("say(**{'is': 'error', 'text': 'OSError: no'})\ntime.sleep(9)")
    with pytest.raises(StartFailed, match="OSError: no"):
        begun(SYSTEM.make("vllm"), tmp_path)
    assert set(psutil.Process().children()) == before
    assert not (tmp_path / "model").exists()


def test_without_vllm_a_run_that_wants_it_says_so_at_once(monkeypatch):
    monkeypatch.setattr(engines.backends, "backend", lambda name: Backend(name, False, "gone", "make setup"))
    with pytest.raises(BackendUnavailable, match="'vllm' is not available: gone; make setup; or take vllm='no'"):
        engines.check(SYSTEM.make("vllm"))
    engines.check(SYSTEM.make("small"))

"""backend="cuda" as a choice: refused in one sentence where there is no driver; the same path over doubles of one."""

import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from workbench import records, runner, theme
from workbench.backends import BackendUnavailable
from workbench.foundry import SYSTEM, cuda, cuda_run, driver_cuda
from workbench.foundry.config import FoundryConfig
from workbench.kernels import cupti
from workbench.system import Note, Point, Span

HERE = Path(__file__).parent


def test_without_a_driver_it_is_refused_in_one_sentence():
    if not driver_cuda.missing():
        pytest.skip("there is a driver")
    run = runner.Run(SYSTEM, SYSTEM.make("tiny", backend="cuda"), record=False).start().wait(60)
    assert isinstance(run.error, BackendUnavailable)
    said = str(run.error)
    assert said.count("\n") == 0
    for part in (
        "backend 'cuda' is not available: ",
        "take backend='cpu'",
        "make setup EXTRA=gpu",
        "never run",
        "double",
    ):
        assert part in said
    assert run.events == [] or not any(isinstance(e, Span) for _, e in run.events)


def test_a_torch_without_cuda_is_a_cause_too(monkeypatch):
    monkeypatch.setattr(driver_cuda, "missing", lambda: "")
    with pytest.raises(BackendUnavailable, match=r"built without CUDA; take backend='cpu'|no NVIDIA GPU"):
        cuda.check()


def test_settings_that_it_does_not_use_are_named(monkeypatch):
    said = []
    monkeypatch.setattr(cuda_run, "_Run", lambda *_: types.SimpleNamespace(run=lambda: "the result"))
    for rounds, told in ((3, ["a run on backend cuda does not use rounds"]), (1, [])):
        said.clear()
        config = FoundryConfig(backend="cuda", rounds=rounds)
        assert cuda_run.measured(config, said.append, threading.Event()) == "the result"
        assert [note.text for note in said[1:]] == told


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run whose processes have doubles of driver, torch.cuda and CUPTI."""
    pytest.importorskip("cuda.bindings")
    folder = tmp_path_factory.mktemp("cuda-run")
    flags = [f"-I{each}" for each in cupti.headers()]
    made = folder / "libcupti.so"
    call = [os.environ.get("CC", "cc"), "-shared", "-fPIC", *flags, HERE / "libcupti_double.c", "-o", made]
    subprocess.run(call, check=True, timeout=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CUPTI", str(made))
        patch.setenv("WORKBENCH_CACHE", str(folder))
        patch.setattr(cuda, "check", lambda: None)
        patch.setattr(cuda_run, "COMMAND", (sys.executable, str(HERE / "cuda_run_double.py")))
        config = SYSTEM.make("tiny", backend="cuda", batches="1,2,4,8", compare="eager", damage="bit")
        run = runner.Run(SYSTEM, config, record=False).start().wait(120)
    assert run.error is None, run.error
    return run


def test_a_run_over_the_doubles_leaves_the_captured_bits(ran):
    result = ran.result
    assert [s.size for s in result.sizes] == [1, 2, 4, 8]
    assert all(s.equal for s in result.sizes)
    assert all(s.control_differs for s in result.sizes)  # with one bit of one weight changed
    assert all(r.equal for r in result.rows if r.way == "foundry")
    assert result.exact
    assert [t.sizes for t in result.templates] == [[1, 2, 4], [8]]
    assert result.imported == []  # the process that rebuilt had no torch
    s = result.summary()
    assert s["load_s"] > 0
    assert s["capture_at_start_s"] > 0
    assert (s["graphs"], s["templates"], s["exact"]) == (4, 2, 1)


def test_it_says_what_it_is(ran):
    result = ran.result
    told = [event for _, event in ran.events]
    notes = " ".join(e.text for e in told if isinstance(e, Note))
    assert all(entry in notes for entry in cuda.NEVER_RAN)
    assert "does not use damage" in notes
    assert (result.provenance.backend, result.provenance.device) == ("cuda", "Double of a GPU, driver 13000")
    assert set(result.provenance.badges.values()) == {"measured"}
    assert {e.lane for e in told if isinstance(e, Span)} == {
        "capture", "fresh process", "Foundry", "torch.cuda graphs, captured at start", "steps, by turns",
    }  # fmt: skip
    assert len([e for e in told if isinstance(e, Point)]) == 8  # two ways, four sizes
    fig = result.figure()
    assert theme.problems(fig) == []
    assert "CUDA graphs on Double of a GPU" in fig.layout.title.text
    assert "analogue" not in fig.layout.title.text + result.sentence()
    assert repr(records.read_result(SYSTEM, result.to_json())) == repr(result)

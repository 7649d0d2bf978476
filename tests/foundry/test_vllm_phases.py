"""vLLM's start, phase by phase: how parts become phases, every way in which it fails, and one real start."""

import contextlib
import itertools
import sys
import threading
import time
import types
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from vllm_stand_in import in_vllms_place

from workbench.backends import Backend, BackendUnavailable
from workbench.foundry import vllm_phases
from workbench.foundry.vllm_phases import GRAPHABLE, Part, Phase, StartFailed, Timeline, flatten, measure, starting
from workbench.foundry.vllm_phases_child import Tracer
from workbench.pump import Stopped

# -- parts and phases ------------------------------------------------------------------------------------------------

PARTS = [
    Part("interpreter", 0.0, 1.0),
    Part("engine", 2.0, 20.0),
    Part("Overall Loading", 3.0, 19.0),  # not a phase of its own: the engine's
    Part("Load model", 4.0, 9.0),
    Part("Initialize model", 4.0, 5.0),
    Part("Load weights", 5.0, 8.0),
    Part("Prepare model", 10.0, 18.0),
    Part("Warmup (CPU)", 11.0, 16.0),
    Part("compilation", 12.0, 14.0),
    Part("compilation", 14.5, 15.0),
    Part("Allocate KV cache", 17.0, 18.0),
    Part("first token", 20.0, 22.0),
]


def timeline(parts=PARTS, **more):
    given = {"model": "m", "compiling": True, "kept_caches": False, "tokens": (1,), "steps_s": (), "about": {}} | more
    return Timeline(phases=flatten(parts), parts=tuple(parts), **given)


def test_a_moment_is_of_the_innermost_part():
    assert timeline().seconds == {
        "interpreter": 1.0, "other": 1.0, "engine": 2.0 + 1.0 + 2.0, "build the model": 1.0, "load weights": 3.0,
        "pack weights": 1.0, "KV cache": 1.0 + 1.0 + 1.0, "warm-up": 1.0 + 0.5 + 1.0, "compile": 2.5,
        "first token": 2.0,
    }  # fmt: skip
    assert timeline().total_s == 22.0 == sum(timeline().seconds.values())
    assert timeline().graphable_s == 5.0  # compile and warm-up
    assert [span.label for span in timeline().spans()][:4] == ["interpreter", "other", "engine", "build the model"]


def test_phases_neither_overlap_nor_leave_holes_nor_depend_on_the_order():
    made = flatten(PARTS)
    assert flatten(PARTS[::-1]) == made
    assert made[0].start_s == 0.0
    assert [a.end_s for a in made[:-1]] == [b.start_s for b in made[1:]]
    assert all(a.name != b.name for a, b in itertools.pairwise(made))
    assert all(phase.seconds > 0 for phase in made)


def test_nothing_is_no_phase_and_unknown_parts_are_others():
    assert flatten([]) == ()
    assert flatten([Part("whatever", 0, 1)]) == ()
    assert flatten([Part("engine", 1.0, 1.0)]) == ()
    assert flatten([Part("engine", 1.0, 2.0)]) == (Phase("other", 0.0, 1.0), Phase("engine", 1.0, 2.0))


# -- the tracer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def said():
    return []


@pytest.fixture
def tracer(said):
    return Tracer(time.monotonic(), said.append)


def test_a_decorated_function_is_a_part_also_when_it_raises(tracer, said):
    def inner(fails):
        if fails:
            raise KeyError("x")
        return 7

    inner = tracer.instrument(func=inner, span_name="Load weights", attributes=None, record_exception=True)
    outer = tracer.instrument(lambda fails: inner(fails), span_name="Load model")
    assert outer(False) == 7
    with pytest.raises(KeyError):
        outer(True)
    assert [name for name, _, _ in tracer.parts] == ["Load weights", "Load model"] * 2
    (_, inner_start, inner_end), (_, start, end) = tracer.parts[:2]
    assert 0 <= start <= inner_start <= inner_end <= end
    assert [line["name"] for line in said] == ["Load model", "Load weights"] * 2


def test_other_threads_and_coroutines_are_left_alone(tracer):
    traced = tracer.instrument(lambda: 3, span_name="Load weights")
    thread = threading.Thread(target=traced)
    thread.start()
    thread.join()

    async def later(): ...

    assert tracer.instrument(later, span_name="x") is later
    assert tracer.parts == []


def test_it_becomes_vllms_tracer_or_says_why_not(tracer, monkeypatch):
    tracing = types.SimpleNamespace(_REGISTERED_TRACING_BACKENDS={"otel": (None,) * 5})
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(__version__="9.9", tracing=tracing))
    tracer.install()
    is_available, *_, instrument, manual = tracing._REGISTERED_TRACING_BACKENDS["otel"]
    assert is_available()
    assert instrument == tracer.instrument
    assert manual("a", 1, end_time=2) is None
    for other in ({}, {"otel": (None,) * 4}, None):
        tracing._REGISTERED_TRACING_BACKENDS = other
        with pytest.raises(RuntimeError, match=r"vLLM 9\.9 registers tracers in another way"):
            tracer.install()


def test_compiling_is_told_from_loading_what_was_compiled(tracer, monkeypatch):
    """As vLLM monitors it, also where it was imported by name before, and what torch says it compiles besides."""

    @contextlib.contextmanager
    def monitored(config, announce_start=True):
        yield config

    callbacks = []
    monitor = types.SimpleNamespace(monitor_torch_compile=monitored)
    user = types.SimpleNamespace(monitor_torch_compile=monitored)
    hooks = {"on_compile_start": callbacks.append, "on_compile_end": callbacks.append}
    for name, module in {
        "vllm": {}, "vllm.compilation": {"monitor": monitor}, "torch": {}, "torch._dynamo": {},
        "torch._dynamo.callback": hooks,
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**module))
    monkeypatch.setitem(sys.modules, "vllm.compilation.decorators", user)
    tracer.watch_compiling()
    for module in (monitor, user):
        with module.monitor_torch_compile("config") as given:
            assert given == "config"
    with pytest.raises(OSError, match="no file"), user.monitor_torch_compile("config", announce_start=False):
        raise OSError("no file")
    began, ended = callbacks
    began(None)
    ended(None)
    ended(None)  # one that never began
    assert [name for name, _, _ in tracer.parts] == ["compilation"] * 2 + ["load compiled code", "compilation"]


# -- a child that fails ----------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A process in vLLM's place that does what a script says with `say`; it is not asked to be vLLM."""
    return in_vllms_place(tmp_path, monkeypatch)


DONE = {"is": "done", "tokens": [5], "steps_s": [], "about": {"version": "9.9"}}


def test_what_the_child_says_becomes_a_timeline(child, model):
    parts = [["interpreter", 0, 1], ["Load weights", 1, 2], ["Allocate KV cache", 2, 4]]
    child(f"say(**{DONE | {'parts': parts}!r} | {{'about': asked}})\ntime.sleep(60)")
    found = measure(model, prompt=(3, 4), tokens=1, arguments={"max_model_len": 64}, caches=model / "kept")
    assert found.seconds == {"interpreter": 1.0, "load weights": 1.0, "KV cache": 2.0}
    assert (found.tokens, found.kept_caches, found.model) == ((5,), True, model.name)
    asked = found.about
    assert asked["prompt"] == [3, 4]
    assert asked["arguments"]["enforce_eager"] is True
    assert (asked["arguments"]["max_model_len"], asked["arguments"]["model"]) == (64, str(model))
    assert 0 <= time.monotonic() - asked["began"] < 60


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("say(**{'is': 'at', 'name': 'Load weights'})\nsay(**{'is': 'error', 'text': 'OSError: no'})\ntime.sleep(9)",
         "failed while starting, in Load weights: OSError: no"),
        ("say(**{'is': 'at', 'name': 'import vLLM'})\nprint('a last word')\nsys.exit(3)",
         "ended with code 3 at 'starting, in import vLLM'. Its log ends: a last word"),
        (f"say(**{DONE | {'parts': [['Load weights', 0, 1]]}!r})", r"9\.9 marks its start differently, without All"),
    ],
)  # fmt: skip
def test_failures_are_named(child, model, script, said):
    child(script)
    with pytest.raises(StartFailed, match=said):
        measure(model)


def test_a_compilation_that_nobody_saw_is_no_warm_up(child, model):
    parts = [["Load weights", 0, 1], ["Allocate KV cache", 1, 2]]
    child(f"say(**{DONE | {'parts': parts}!r})")
    with pytest.raises(StartFailed, match="without compilation"):
        measure(model, compiling=True)
    parts.append(["compilation", 2, 3])
    child(f"say(**{DONE | {'parts': parts}!r})")
    assert measure(model, compiling=True).graphable_s == 1.0


def test_silence_and_lateness_are_named_and_leave_nothing(child, model, monkeypatch):
    child("time.sleep(60)")
    monkeypatch.setattr(vllm_phases, "SILENCE_S", 0.2)
    before = set(psutil.Process().children())
    with pytest.raises(StartFailed, match="said nothing for 0 s at 'starting vLLM'"):
        measure(model)
    monkeypatch.setattr(vllm_phases, "SILENCE_S", 60)
    monkeypatch.setattr(vllm_phases, "LIMIT_S", 0.3)
    with pytest.raises(StartFailed, match=r"did not come up within 0 s, starting vLLM"):
        measure(model)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        measure(model, stop)
    going = starting(model)
    next(going)
    going.close()
    assert set(psutil.Process().children()) == before


def test_bad_input_is_named_before_anything_starts(child, model, monkeypatch):
    child("")
    with pytest.raises(ValueError, match=r"no config\.json"):
        next(starting(model / "nowhere"))
    for wrong in ({"tokens": 0}, {"prompt": ()}):
        with pytest.raises(ValueError, match="ask for 1 or more"):
            next(starting(model, **wrong))
    monkeypatch.setattr(vllm_phases.backends, "backend", lambda name: Backend(name, False, "gone", "make setup"))
    with pytest.raises(BackendUnavailable, match="'vllm' is not available: gone; make setup"):
        next(starting(model))


# -- the real one ----------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.model
@pytest.mark.timeout(400)
def test_a_real_start_of_smollm2():
    """Every phase is there, once and in order, they add up to the time that passed, and the model speaks."""
    from workbench import lm
    from workbench.lm.tokenizer import FileTokenizer

    folder = lm.path("smollm2")
    tokenizer = FileTokenizer(folder)
    prompt = tokenizer.encode("The capital of France is")
    began = time.monotonic()
    found = measure(folder, prompt=prompt, tokens=3, dtype="float32")
    passed_s = time.monotonic() - began
    order = [
        "interpreter", "import torch", "import vLLM", "configure", "workers", "build the model",
        "load weights", "pack weights", "KV cache", "first token",
    ]  # fmt: skip
    in_several_places = ("engine", "other")
    assert [name for name in found.seconds if name not in in_several_places] == order
    assert found.seconds["engine"] > 0
    assert sum(found.seconds.values()) == pytest.approx(found.total_s)
    assert found.total_s + sum(found.steps_s) < passed_s  # the rest is the end of the process
    assert found.seconds.get("other", 0.0) < 0.2 * found.total_s
    assert not set(GRAPHABLE) & set(found.seconds)  # eager: nothing that an archive could spare
    assert " Paris" in tokenizer.decode(found.tokens)
    assert (len(found.tokens), len(found.steps_s)) == (3, 2)
    assert found.about["device"] == "cpu"
    assert found.about["dtype"] == "float32"

